"""How the groups are chosen, and what else a norm can be set to."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normbench.errors import UsageError
from normbench.norms import NormConfig
from normbench.norms.batch import BatchNormConfig
from normbench.norms.group import GroupNorm, GroupNormConfig
from tests.norm_helpers import CHANNELS, CONFIGS, build, randn, sharing

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
    assert "norm.groups=1 (layer norm)" in message
    assert f"norm.groups={channels} (instance norm)" in message
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


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupNormConfig(groups=0), r"norm\.groups=0: must be at least 1"),
        (lambda: GroupNormConfig(groups=-4), r"norm\.groups=-4: must be at least 1"),
        (lambda: GroupNormConfig(groups="most"), r"norm\.groups=most: must be auto or a whole"),
        (lambda: GroupNormConfig(channels_per_group=0), r"norm\.channels_per_group=0: must be"),
        (lambda: GroupNormConfig(max_groups=0), r"norm\.max_groups=0: must be at least 1"),
        (
            lambda: GroupNormConfig(groups=2, channels_per_group=4),
            r"norm\.groups=2 and norm\.channels_per_group=4: give one of the two",
        ),
        (lambda: BatchNormConfig(momentum=0.0), r"norm\.momentum=0\.0: must be above 0"),
        (lambda: BatchNormConfig(momentum=1.5), r"norm\.momentum=1\.5: must be above 0"),
        (lambda: BatchNormConfig(momentum=float("nan")), r"norm\.momentum=nan: must be"),
        *(
            (lambda c=config, e=eps: c(eps=e), rf"norm\.eps={eps}: must be above 0 and below 1")
            for config in CONFIGS.values()
            for eps in (0.0, -1.0, 1.0, float("nan"))
        ),
    ],
)
def test_a_setting_out_of_range_is_an_error_that_names_key_value_and_range(
    make: Callable[[], NormConfig], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_eps_is_what_is_added_to_the_variance() -> None:
    x = randn(4, CHANNELS, 3, 3)
    for name in ("batch", "layer", "instance", "group"):
        y = build(name, eps=0.5, affine=False)(x).numpy().reshape(4, CHANNELS, -1)
        shared = sharing(name, 4, CHANNELS)
        first = x.numpy().reshape(4, CHANNELS, -1)[shared == shared[0, 0]]
        expected = (first - first.mean()) / np.sqrt(first.var() + 0.5)
        np.testing.assert_allclose(y[shared == shared[0, 0]], expected, rtol=0, atol=1e-10)
