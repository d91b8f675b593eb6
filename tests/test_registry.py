"""How values are typed: Hydra's own parser reads what was meant."""

from enum import Enum
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import QuotedString
from hypothesis import example, given, settings
from hypothesis import strategies as st

from normbench.launch.compose import parse
from normbench.registry import as_override
from normbench.training.optim import Scaling

AWKWARD = st.text(st.sampled_from("'\"\\ ,=[]{}():;~#%*?@!|&<>$\t\n-+._/a1éμ\0"))
TEXTS = st.one_of(
    AWKWARD,
    st.text(),
    st.sampled_from(["null", "True", "FALSE", "nan", "-inf", "Inf", "1e3", "007", "2026_11_23"]),
    st.from_regex(r"[a-z0-9_/.+-]*", fullmatch=True),
)
PLAIN = st.one_of(
    TEXTS, st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.just("${x}")
)
VALUES = st.recursive(PLAIN, lambda values: st.lists(values, max_size=4), max_leaves=8)


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(each) for each in value]
    return value.text if isinstance(value, QuotedString) else value


def read(text: str) -> Any:
    """What Hydra reads behind the equals sign."""
    return plain(OverridesParser.create().parse_override(f"key={text}").value())


def same(one: Any, other: Any) -> bool:
    """Whether they are equal and of the same types: 1 is neither 1.0 nor True."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(VALUES)
@example('/data/"a"')
@example("a\\b")
@example("\\'")
@example("it's, in\\ 'quotes'\\\\")
@settings(max_examples=500, deadline=None)
def test_hydra_reads_back_the_value_that_was_typed(value: Any) -> None:
    assert same(read(as_override(value)), value)


@given(TEXTS.filter(lambda text: "${" not in text))
@example("1e3")
@settings(max_examples=200, deadline=None)
def test_so_do_the_commands(text: str) -> None:
    assert parse(f"data.name={as_override(text)}").value == text


@pytest.mark.parametrize(
    "text", ["group", "C//16", "cuda:1", "/data/set-2/x.pt", "../net.py", "resnet18", "my_name"]
)
def test_what_needs_no_quotes_has_none(text: str) -> None:
    assert as_override(text) == text


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (None, "null"),
        (True, "true"),
        (1.0, "1.0"),
        (1e-08, "1e-08"),
        ("a b", "'a b'"),
        ("7", "'7'"),
        (Scaling.sqrt, "sqrt"),
        (Enum("Kind", {"null": 1}).null, "'null'"),  # type: ignore[attr-defined]
        ([[0.1, 5e-4], (2, "x,y")], "[[0.1,0.0005],[2,'x,y']]"),
    ],
)
def test_values_are_typed_as_a_person_does(value: object, typed: str) -> None:
    assert as_override(value) == typed
