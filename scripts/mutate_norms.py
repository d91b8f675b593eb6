"""Breaks the layers of the norms on purpose: the tests of every norm must notice each change.

``python scripts/mutate_norms.py [NORM ...]`` changes one operator, number, condition, function,
statement or tensor at a time in the classes of each norm's file, and runs the checks of
``tests/norm_checks.py`` on what the norm's configuration then builds. A mutant that passes them all
is printed; the exit code is 1 if it is not among those that are known to compute the same
(``EQUIVALENT``). ``--sample N`` tries N of them, chosen by ``--seed``.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import inspect
import random
import signal
import sys
import types
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # for the tests; the package stays the installed one

from normbench.norms import NORMS, NormConfig  # noqa: E402
from normbench.norms.parts import Part  # noqa: E402
from tests.norm_checks import CHANNELS, CHECKS, default, variants  # noqa: E402

OPERATORS: dict[type[ast.AST], type[Any]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult},
    **{ast.Pow: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add},
    **{ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
    **{ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt},
    **{ast.And: ast.Or, ast.Or: ast.And},
}
FUNCTIONS = {
    **{"maximum": "minimum", "minimum": "maximum", "max": "min", "min": "max"},
    **{"amax": "amin", "amin": "amax", "rsqrt": "sqrt", "sqrt": "rsqrt", "square": "abs"},
    **{"abs": "clone", "mean": "sum", "sum": "mean", "ones": "zeros", "zeros": "ones"},
    **{"sigmoid": "tanh", "tanh": "sigmoid", "clamp_min": "clamp_max", "clamp_max": "clamp_min"},
    **{"add_": "sub_", "sub_": "add_", "mul_": "div_", "div_": "mul_", "exp": "abs"},
    **{"mean_over": "torch.sum", "detach": "clone"},
}
SECONDS = 60.0
"""Of the processor's time, in which the checks must end, or the mutant is noticed; those of sound
layers take 5 at most. By the clock, a busy machine would be taken for a mutant's doing."""

# What people read, and what no check can see from outside.
# Of ``correction``, tests/training/test_precise_bn.py is the check.
UNREAD = {"extra_repr", "axes", "_cause", "suffix", "setting", "correction"}

EQUIVALENT: dict[str, str] = {
    "ChannelLayerNorm.values_per_statistic: self.channels // self.replicas →"
    " self.channels * self.replicas": "the same for the one replica that is asked",
    "ChannelLayerNorm.normalize: 1 → 2": "the slower way computes the same; one channel, which is"
    " refused, is a test of its own",
    "CentredConv.prepare: fan_in(self) → pass": "it refuses convolutions with one weight an output,"
    " which is a test of its own, in tests/norms/test_moving_batch.py",
    "LateFrozenBatchNorm.set_share: share >= self.freeze_at → share < self.freeze_at": "it is two"
    " norms, one after the other, which is a test of its own, in tests/norms/test_batch.py",
    "LateFrozenBatchNorm.normalize: x.is_cuda and torch.cuda.is_current_stream_capturing() →"
    " x.is_cuda or torch.cuda.is_current_stream_capturing()": "the same on a CPU",
    "GroupNorm.normalize: 0 → 1": "the same where there is more than one value",
    **{
        f"GroupNorm.normalize: {mutant}": "the same by another kernel"
        for mutant in (
            "self._num_groups == self.channels and (not x.is_contiguous()) →"
            " self._num_groups == self.channels or not x.is_contiguous()",
            "self._num_groups == self.channels → self._num_groups != self.channels",
            "not x.is_contiguous() → x.is_contiguous()",
        )
    },
}


@dataclass(frozen=True)
class Mutant:
    """A change of one node in a class of a norm's file.

    Attributes:
        module: the file's module.
        name: the class and method, and what has become what.
        source: the whole file with the change.
        target: the class.
    """

    module: types.ModuleType
    name: str
    source: str
    target: str


def mutants(module: types.ModuleType, tensors: Mapping[str, bool]) -> Iterator[Mutant]:
    """Every mutant of the layers of a module, whose tensors are these (True: learned)."""
    tree = ast.parse(inspect.getsource(module))
    for cls in tree.body:
        if isinstance(cls, ast.ClassDef) and _is_part(getattr(module, cls.name)):
            for place, parent, field, index, node in _nodes(cls):
                for new in _changes(node, parent, tensors):
                    name = f"{cls.name}.{place}: {ast.unparse(node)} → {ast.unparse(new)}"
                    source = _with(tree, parent, field, index, new)
                    yield Mutant(module, name.replace("\n", " "), source, cls.name)


def _is_part(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Part)


Place = tuple[str, ast.AST, str, int | None, ast.AST]


def _nodes(cls: ast.ClassDef) -> Iterator[Place]:
    """The nodes of a class that compute, each with its method, its parent and its place there."""
    for member in cls.body:
        if isinstance(member, ast.FunctionDef) and member.name not in UNREAD:
            yield from _below(member, member.name)
        elif isinstance(member, ast.AnnAssign | ast.Assign) and member.value is not None:
            targets = [member.target] if isinstance(member, ast.AnnAssign) else member.targets
            if (name := ast.unparse(targets[0])) not in UNREAD:
                yield from _below(member, name)


def _below(node: ast.AST, place: str) -> Iterator[Place]:
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "args") and not isinstance(
            node, ast.Call
        ):
            continue
        children = list(enumerate(value)) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if isinstance(child, ast.Raise | ast.Assert | ast.JoinedStr):
                continue
            if isinstance(child, ast.AST):
                yield place, node, field, index, child
                yield from _below(child, place)


def _changes(node: ast.AST, parent: ast.AST, tensors: Mapping[str, bool]) -> Iterator[ast.AST]:
    match node:
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield ast.BinOp(left, OPERATORS[type(op)](), right)
        case ast.BoolOp(op, values):
            yield ast.BoolOp(OPERATORS[type(op)](), values)
        case ast.Compare(left, [op], others) if type(op) in OPERATORS:
            yield ast.Compare(left, [OPERATORS[type(op)]()], others)
        case ast.UnaryOp(_, operand):
            yield operand
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Call(ast.Name(name), arguments, keywords) if name in FUNCTIONS:
            yield ast.Call(ast.parse(FUNCTIONS[name], mode="eval").body, arguments, keywords)
        case ast.Call(ast.Attribute(value, name), arguments, keywords) if name in FUNCTIONS:
            new = ast.Attribute(value, FUNCTIONS[name], ast.Load())
            yield ast.Call(new, arguments, keywords)
        case ast.Attribute(ast.Name("self"), name, ast.Load()) if name in tensors:
            if not isinstance(parent, ast.Compare | ast.Attribute):
                yield ast.parse(f"torch.zeros_like({ast.unparse(node)})", mode="eval").body
                if tensors[name]:
                    yield ast.parse(f"{ast.unparse(node)}.detach()", mode="eval").body
        case ast.Tuple(elements) if all(isinstance(e, ast.Constant) for e in elements):
            for element in elements:
                yield ast.Tuple([e for e in elements if e is not element], ast.Load())
        case ast.Expr(ast.Call()) | ast.AugAssign() if "super()" not in ast.unparse(node):
            yield ast.Pass()


def _with(tree: ast.Module, parent: ast.AST, field: str, index: int | None, new: ast.AST) -> str:
    """The source of ``tree`` with one node in another's place."""
    before = getattr(parent, field)
    if index is None:
        setattr(parent, field, new)
    else:
        setattr(parent, field, [*before[:index], new, *before[index + 1 :]])
    try:
        return ast.unparse(ast.fix_missing_locations(tree))
    finally:
        setattr(parent, field, before)


@contextmanager
def put_in(mutant: Mutant) -> Iterator[None]:
    """The module with the mutated class in the original's place; configurations stay sound."""
    made = types.ModuleType(mutant.module.__name__)
    registered = dict(NORMS.items())
    NORMS._classes.clear()  # the file registers its configurations again
    sys.modules[made.__name__], sound = made, sys.modules[made.__name__]
    try:
        exec(compile(mutant.source, mutant.name, "exec"), made.__dict__)
    finally:
        sys.modules[made.__name__] = sound
        NORMS._classes.clear()
        NORMS._classes.update(registered)
    original = getattr(mutant.module, mutant.target)
    setattr(mutant.module, mutant.target, getattr(made, mutant.target))
    try:
        yield
    finally:
        setattr(mutant.module, mutant.target, original)


def survives(mutant: Mutant, configs: Sequence[NormConfig]) -> bool:
    """Whether all checks pass with the mutant."""
    try:
        with put_in(mutant), warnings.catch_warnings():
            warnings.simplefilter("error")
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            for check in CHECKS:
                for config in configs:
                    check(config)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return False
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return True


def every_mutant(names: Sequence[str]) -> Iterator[tuple[Mutant, list[NormConfig]]]:
    """The mutants of the files of these norms, with the configurations they are tried on."""
    for path in dict.fromkeys(NORMS[name].__module__ for name in names):
        own = [name for name, cls in NORMS.items() if cls.__module__ == path]
        configs = [variant for name in own for variant in variants(default(name))]
        made = [config.build(CHANNELS) for config in configs]
        tensors = {key: False for layer in made for key, _ in layer.named_buffers()}
        tensors |= {key: True for layer in made for key, _ in layer.named_parameters()}
        module = importlib.import_module(path)
        for mutant in mutants(module, tensors):
            yield mutant, configs


def unchanged(mutant: Mutant) -> Mutant:
    """The file of a mutant as it is: what passes must be sound, or nothing is shown by failing."""
    return replace(mutant, name="unchanged", source=inspect.getsource(mutant.module))


def main() -> int:
    """Tries the mutants; the exit code tells whether one was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("norms", nargs="*", metavar="NORM", default=sorted(NORMS))
    parser.add_argument("--sample", type=int, help="how many mutants are tried; all by default")
    parser.add_argument("--seed", type=int, default=0, help="chooses the sample")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGVTALRM, late)
    pairs = list(every_mutant(arguments.norms))
    if arguments.sample is not None:
        pairs = random.Random(arguments.seed).sample(pairs, min(arguments.sample, len(pairs)))
    for mutant, configs in {mutant.module: (mutant, configs) for mutant, configs in pairs}.values():
        if not survives(unchanged(mutant), configs):
            raise SystemExit(f"{mutant.module.__name__}: the checks fail without any mutant")
    surviving = [mutant.name for mutant, configs in pairs if survives(mutant, configs)]
    for name in surviving:
        print(f"{name}\n    {EQUIVALENT.get(name, 'NOT NOTICED')}")
    print(f"{len(pairs)} mutants, {len(pairs) - len(surviving)} noticed")
    return int(any(name not in EQUIVALENT for name in surviving))


if __name__ == "__main__":
    sys.exit(main())
