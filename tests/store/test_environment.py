"""On what a training ran, also where it went on elsewhere."""

import torch

from normbench.store.environment import environment, gone_on, rounding

NOW = environment(torch.device("cpu"))


def test_what_goes_on_as_it_began_is_described_as_it_is() -> None:
    assert gone_on(None, NOW) == NOW
    assert gone_on(NOW, NOW) == NOW


def test_each_machine_that_it_ran_on_is_kept() -> None:
    first = NOW | {"processor": "one"}
    second = gone_on(first, NOW | {"processor": "two"})
    third = gone_on(second, NOW | {"processor": "three"})

    assert second == NOW | {"processor": "two", "before": [first]}
    assert [each["processor"] for each in third["before"]] == ["one", "two"]
    assert gone_on(third, NOW | {"processor": "three"}) == third


def test_what_moves_rounding_is_told_from_what_does_not() -> None:
    assert rounding(NOW | {"commit": "another"}) == rounding(NOW)
    for changed in ({"threads": 77}, {"packages": {"torch": "1.0"}}, {"processor": "another"}):
        assert rounding(NOW | changed) != rounding(NOW)
