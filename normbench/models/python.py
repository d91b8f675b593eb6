"""A network of one's own: a function in a Python file."""

import linecache
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from torch import nn

from normbench.errors import UsageError
from normbench.models.base import MODELS, pinned
from normbench.models.files import content_of
from normbench.models.foreign import ForeignConfig

MOST_PLACES = 3
"""How many lines of the file an error names: where it was raised, and what called that."""


@MODELS.register("python")
@dataclass(kw_only=True, slots=True)
class PythonConfig(ForeignConfig):
    """A network that a function of a Python file makes; the file is run.

    The function takes the number of classes and gives a module from images [N, 3, H, W] to logits
    [N, classes], with torch's norms or with this package's ``Slot`` and ``BranchEnd``. It draws its
    weights with torch. Cells are told apart by the content of the file, not by those it imports.
    """

    name: str = "python"

    file: str = field(default="", metadata=pinned("file_sha256"))
    """The path of the Python file."""

    file_sha256: str | None = None
    """The SHA-256 of its content; filled in, or what it has to be."""

    function: str = "build"
    """The function in it."""

    paper: ClassVar[str] = "-"

    @property
    def title(self) -> str:
        return f"{self.function} of {Path(self.file).name}"

    @property
    def said(self) -> str:
        return f"model.file={self.file}"

    def network(self, classes: int) -> nn.Module:
        build = self._function()
        model = self.run(lambda: build(classes), f"{self.function}({classes})")
        if not isinstance(model, nn.Module):
            raise UsageError(
                f"{self.said}: {self.function}({classes}) must give an nn.Module; it gave"
                f" a {type(model).__name__}"
            )
        return model

    def _function(self) -> Callable[..., Any]:
        """The function that makes the network, which takes the number of classes."""
        module = self._module()
        build: Callable[..., Any] | None = getattr(module, self.function, None)
        if not callable(build):
            own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == self._name]
            there = f"; it has {', '.join(own)}" if own else ""
            raise UsageError(
                f"{self.said}: it has no function {self.function}{there}; model.function=NAME"
            )
        try:
            signature(build).bind(1)
        except (TypeError, ValueError):
            raise UsageError(
                f"{self.said}: {self.function} must take the number of classes, as"
                f" def {self.function}(classes)"
            ) from None
        return build

    def misfit(self, error: Exception, size: tuple[int, int], taken: int | None) -> UsageError:
        other = "" if taken is None else f" (it takes {taken}×{taken}: import with --size {taken})"
        what = f"the network, given images of {size[0]}×{size[1]} pixels{other},"
        return self._raised(error, what)

    def run(self, code: Callable[[], Any], what: str) -> Any:
        """What ``code`` of the file gives; what it raises becomes a UsageError with its place.

        It may import what lies beside the file.
        """
        try:
            with _importing_from(Path(self.file).expanduser().absolute().parent):
                return code()
        except UsageError:
            raise
        except (Exception, SystemExit) as error:
            raise self._raised(error, what) from None

    @property
    def _name(self) -> str:
        """What the file is called as a module: the same wherever it lies."""
        return f"normbench_file_{self.file_sha256}"

    def _module(self) -> ModuleType:
        """The file as a module, run once in a process."""
        if not self.file:
            raise UsageError("model=python: say which file makes the network, model.file=FILE.py")
        if self.file_sha256 is None:
            self.pin()
        assert self.file_sha256 is not None
        content = content_of("model.file", self.file, self.file_sha256)
        name = self._name
        if name not in sys.modules:
            module = sys.modules[name] = ModuleType(name)  # dataclasses look for their module there
            module.__file__ = self.file
            try:
                self.run(lambda: exec(compile(content, self.file, "exec"), vars(module)), "it")
            except BaseException:
                del sys.modules[name]
                raise
        return sys.modules[name]

    def _raised(self, error: BaseException, what: str) -> UsageError:
        """The error in a line, with the last lines of the file that led to it."""
        reason = traceback.format_exception_only(error)[-1].strip().partition("\n")[0]
        places = [
            (line, f", in {frame.f_code.co_name}")
            for frame, line in traceback.walk_tb(error.__traceback__)
            if frame.f_globals.get("__name__") == self._name
        ]
        if isinstance(error, SyntaxError) and error.lineno:
            places = [(error.lineno, "")]
        said = ", ".join(f"line {line}{where}" for line, where in places[-MOST_PLACES:])
        linecache.checkcache(self.file)
        code = linecache.getline(self.file, places[-1][0]).strip() if places else ""
        at = f"; {said}: {code}" if code else ""
        return UsageError(f"{self.said}: {what} raised {reason}{at}")


_beside: dict[Path, dict[str, ModuleType]] = {}
"""What files have imported from beside them, by their folder and by name."""


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Lets code import what is in ``folder``, as a program that is run from there can.

    Where two folders hold modules of one name, each folder's files get their own.
    """
    for name, module in chain.from_iterable(own.items() for own in _beside.values()):
        if sys.modules.get(name) is module:
            del sys.modules[name]
    own = _beside.setdefault(folder, {})
    sys.modules.update(own)
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        new = [(name, module) for name, module in sys.modules.items() if name not in before]
        own.update((name, module) for name, module in new if _lies_in(folder, name, module))


def _lies_in(folder: Path, name: str, module: ModuleType) -> bool:
    """Whether an imported module is one of ``folder``, not of something that is installed there."""
    top = folder / name.partition(".")[0]
    files = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    places = [Path(file) for file in files if file is not None]
    own = {top, top.with_suffix(".py")}
    return any(not own.isdisjoint([place, *place.parents]) for place in places)
