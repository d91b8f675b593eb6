"""How the groups are chosen, and what else a norm can be set to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from normbench.errors import UsageError
from normbench.norms import NORMS
from normbench.norms.group import GroupNorm, GroupNormConfig
from tests.norm_checks import close, moved, randn

AUTO_GROUPS = {
    **{4: 2, 6: 3, 8: 4, 9: 3, 10: 5, 12: 6, 14: 7, 15: 5, 16: 8, 20: 10, 21: 7, 24: 12, 25: 5},
    **{32: 16, 48: 24, 49: 7, 62: 31, 64: 32, 66: 22, 68: 17, 74: 2, 96: 32, 128: 32, 160: 32},
    **{192: 32, 256: 32, 384: 32, 512: 32, 576: 32, 960: 32, 1280: 32, 2048: 32},
}


def test_auto_takes_the_largest_number_of_groups_that_leaves_two_channels_in_each() -> None:
    assert {c: GroupNormConfig().num_groups(c) for c in AUTO_GROUPS} == AUTO_GROUPS


@settings(max_examples=200, deadline=None)
@given(channels=st.integers(1, 600), max_groups=st.integers(2, 64))
def test_auto_never_becomes_layer_or_instance_norm(channels: int, max_groups: int) -> None:
    proper = [g for g in range(2, channels) if channels % g == 0 and g <= max_groups]
    config = GroupNormConfig(max_groups=max_groups)
    if proper:
        assert config.num_groups(channels) == max(proper)
        assert config.build(channels).axes == "(C/G)·H·W"
    else:
        with pytest.raises(UsageError, match=r"norm\.groups=auto"):
            config.build(channels)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 13, 31, 127])
def test_auto_is_an_error_where_nothing_but_the_extremes_divides(channels: int) -> None:
    with pytest.raises(UsageError) as caught:
        GroupNormConfig().build(channels)
    message = str(caught.value)
    assert f"{channels} channels" in message
    assert "norm=layer, norm=instance or another rule, norm.groups=gcd32" in message
    assert GroupNormConfig(groups="gcd32").num_groups(channels)
    assert "\n" not in message


@pytest.mark.parametrize("groups", [1, 2, 3, 4, 6, 12])
def test_groups_by_hand_are_taken_as_they_are(groups: int) -> None:
    layer = GroupNormConfig(groups=groups).build(12)
    assert layer.num_groups == groups
    same = GroupNormConfig(channels_per_group=12 // groups).build(12)
    assert same.num_groups == groups


def test_groups_that_do_not_divide_are_an_error_that_names_those_that_do() -> None:
    with pytest.raises(UsageError, match=r"^norm\.groups=5 does not divide 12 channels;") as caught:
        GroupNormConfig(groups=5).build(12)
    assert str(caught.value).endswith("allowed: 1, 2, 3, 4, 6, 12")
    with pytest.raises(
        UsageError, match=r"^norm\.channels_per_group=8 does not divide 12"
    ) as caught:
        GroupNormConfig(channels_per_group=8).build(12)
    assert str(caught.value).endswith("allowed: 1, 2, 3, 4, 6, 12")
    with pytest.raises(UsageError, match="num_groups=5 does not divide 12"):
        GroupNorm(12, 5)


def test_rules_for_groups_are_those_of_other_people_s_code() -> None:
    channels = (16, 24, 32, 48, 64, 256, 512)
    gcd32 = [GroupNormConfig(groups="gcd32").num_groups(c) for c in channels]
    assert gcd32 == [16, 8, 32, 16, 32, 32, 32]
    sixteenth = [GroupNormConfig(groups="C//16").num_groups(c) for c in channels]
    assert sixteenth == [1, 1, 2, 3, 4, 16, 32]


def test_a_rule_that_degenerates_is_told() -> None:
    assert "instance norm" in (GroupNormConfig(groups="gcd32").note(16) or "")
    assert "layer norm" in (GroupNormConfig(groups="C//16").note(16) or "")
    assert GroupNormConfig(groups="gcd32").note(64) is None


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (8, r"norm\.groups=C//16 gives 0 groups, .* 8 channels; allowed: 1, 2, 4, 8$"),
        (56, r"norm\.groups=C//16 gives 3 groups, .* 56 channels; allowed: 1, 2, 4, 7"),
    ],
)
def test_a_rule_that_gives_no_divisor_is_an_error(channels: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        GroupNormConfig(groups="C//16").build(channels)


def test_another_rule_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"^norm\.groups=half: must be auto or gcd32 or C//16 or"):
        GroupNormConfig(groups="half")


def test_groups_and_channels_per_group_together_are_an_error() -> None:
    with pytest.raises(
        UsageError, match=r"norm\.groups=2 and norm\.channels_per_group=4: give one"
    ):
        GroupNormConfig(groups=2, channels_per_group=4)


@pytest.mark.public(**dict.fromkeys(("layer", "instance", "group"), "torch `GroupNorm`"))
@pytest.mark.parametrize(("name", "groups"), [("layer", 1), ("instance", 12), ("group", 4)])
def test_the_reference_is_torch_s_group_norm(name: str, groups: int) -> None:
    chosen = {"groups": groups} if name == "group" else {}
    config = NORMS[name](name=name, **chosen)  # type: ignore[arg-type]
    theirs = nn.GroupNorm(groups, 12).double()
    moved(theirs)
    x = randn(3, 12, 4, 3)
    close(config.reference(x, dict(theirs.state_dict()), act=False), theirs(x), name)
    relu = config.reference(x, dict(theirs.state_dict()), act=True)
    close(relu, theirs(x).relu(), f"{name} with its activation")


def test_the_axes_are_named_after_what_group_norm_has_become() -> None:
    assert [GroupNorm(8, groups).axes for groups in (1, 2, 8)] == ["C·H·W", "(C/G)·H·W", "H·W"]
    notes = [GroupNormConfig(groups=groups).note(8) for groups in (1, 2, 8)]
    assert notes[1] is None
    assert "layer norm" in str(notes[0])
    assert "instance norm" in str(notes[2])
