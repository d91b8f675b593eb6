"""Which test holds for which norm, as the tests have it: ``python scripts/norms_tests.py``.

Writes ``results/norms-tests.md``. A box comes from what the tests run over: their parameters, the
checks of ``tests/norm_checks.py``, what these find a norm to refuse, and the mark ``public``. A box
that nothing fills is an error that names it.
"""

from __future__ import annotations

import importlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # for the tests; the package stays the installed one

from normbench.norms import NORMS, NormConfig  # noqa: E402
from tests import norm_checks  # noqa: E402
from tests.norm_checks import default, refusal  # noqa: E402
from tests.norms import test_every_norm as every  # noqa: E402

Test = Callable[..., None]

LAYOUTS = {"N×C": "NC", "1-D": "NCL", "2-D": "NCHW", "3-D": "NCDHW", "batch of one": "N=1"}
TESTS: dict[str, tuple[Test, ...]] = {
    "reference": (norm_checks.check_definition,),
    "gradients": (norm_checks.check_gradients,),
    "stack": (norm_checks.check_stack,),
    "resume": (norm_checks.check_resume, norm_checks.check_forgotten),
    "swap": (
        every.test_a_swapped_network_is_the_one_that_would_have_been_built,
        every.test_swapping_a_norm_out_leaves_nothing_of_it,
    ),
    "torchvision": (every.test_a_torchvision_network_is_given_every_norm_or_told_what_it_lacks,),
}
PUBLIC = "public implementation"
TEXT = """\
Made by `python scripts/norms_tests.py` from the tests themselves, each norm in its default setting;
`tests/norms` runs the checks in the others, too.

- *{layouts}*: output, gradients and buffers in
  training and in evaluation are those of the definition (*reference*), in float64 to 1e-10; or
  training is refused, for the reason below.
- *gradients*: by finite differences; *as defined*: the norm's backward pass is not the derivative
  but the paper's own, which the reference spells out.
- *stack*: each of three replicas is trained as alone. *resume*: from the saved state to the same
  end, and to another without any part of it.
- *swap*: put into this package's networks, and taken out. *torchvision*: put into three of its
  networks, or refused for want of a place that those do not have.
- *{public}*: an independent one with which values are compared; where neither torch nor
  timm has the norm, what takes its place."""


def marks(test: Test, name: str) -> list[Any]:
    """The marks of a test with this name."""
    return [mark for mark in getattr(test, "pytestmark", ()) if mark.name == name]


def parameters(test: Test) -> Iterator[object]:
    """All that a test is parametrized over, tuples taken apart."""
    for mark in marks(test, "parametrize"):
        for value in mark.args[1]:
            yield from value if isinstance(value, tuple) else (value,)


def norms_of(test: Test) -> set[str]:
    """The norms that a test runs over; a check's are those of the test that runs the checks."""
    if test.__module__ == norm_checks.__name__:
        runner = every.test_every_norm_in_every_setting
        return norms_of(runner) if test in parameters(runner) else set()
    values = list(parameters(test))
    configs = {value.name for value in values if isinstance(value, NormConfig)}
    return configs | {value for value in values if isinstance(value, str) and value in NORMS}


def public() -> dict[str, list[str]]:
    """What each norm is compared with, from the marks ``public`` of the tests."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for path in sorted((ROOT / "tests" / "norms").glob("test_*.py")):
        module = importlib.import_module(f"tests.norms.{path.stem}")
        for name in sorted(vars(module)):
            for mark in marks(getattr(module, name), "public"):
                for norm, text in mark.kwargs.items():
                    found[norm][text] = None
    return {norm: list(texts) for norm, texts in found.items()}


def table(norms: Iterable[str] = tuple(NORMS)) -> str:
    """The whole page, of these norms.

    Raises:
        SystemExit: a box that nothing fills.
    """
    compared, reasons = public(), {}
    lines = []
    for norm in sorted(norms):
        config, boxes = default(norm), {}
        for column, layout in LAYOUTS.items():
            reason = refusal(config, layout)
            boxes[column] = "yes" if reason is None else "refused"
            if reason is not None:
                reasons[norm, column] = reason
        for column, tests in TESTS.items():
            boxes[column] = "yes" if all(norm in norms_of(test) for test in tests) else ""
        if not config.differentiable:
            boxes["gradients"] = "as defined"
        if config.needs:
            boxes["torchvision"] = f"refused: lacks {config.needs}"
        boxes[PUBLIC] = "; ".join(compared.get(norm, ()))
        if empty := [column for column, box in boxes.items() if not box]:
            raise SystemExit(f"{norm}: nothing is tested for {', '.join(empty)}")
        lines.append(f"| `{norm}` | {' | '.join(boxes.values())} |")
    head = f"| norm | {' | '.join(boxes)} |\n|{'---|' * (len(boxes) + 1)}"
    told = [f"- `{norm}`, {column}: {reason}" for (norm, column), reason in reasons.items()]
    text = TEXT.format(layouts=", ".join(LAYOUTS), public=PUBLIC)
    parts = ["# What is tested of each norm", text, "\n".join([head, *lines])]
    return "\n\n".join([*parts, "Refused, in the layer's words:", "\n".join(told)]) + "\n"


if __name__ == "__main__":
    (ROOT / "results" / "norms-tests.md").write_text(table(), encoding="utf-8")
