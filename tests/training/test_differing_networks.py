"""A table of networks that are refused together, for what they share or how they differ."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.training.networks import (
    PLAIN,
    Row,
    assert_refused,
    conv,
    net,
    sequential,
    tied_convolutions,
)


def same_weight_in_first(models: list[Any]) -> None:
    models[0][2].weight = models[0][0].weight


def view_of_another(models: list[Any]) -> None:
    models[0][0].weight = nn.Parameter(models[0][0].weight.data)
    models[1][0].weight = nn.Parameter(models[0][0].weight.data)


def set_first(path: str, value: Any) -> Callable[[list[Any]], None]:
    """Changes one attribute in the first network only."""

    def change(models: list[Any]) -> None:
        owner, _, name = path.rpartition(".")
        setattr(models[0].get_submodule(owner), name, value)

    return change


DIFFERING = [
    Row(
        "weights untied in one network",
        tied_convolutions,
        "weight of Conv2d at 2 is used in several places",
        then=lambda m: setattr(m[1][2], "weight", nn.Parameter(torch.ones(3, 3, 3, 3))),
    ),
    Row(
        "weights tied in one network only",
        sequential(conv(3, 3, 1), nn.ReLU, conv(3, 3, 1)),
        "weight of Conv2d at 2 is used in several places in some",
        then=same_weight_in_first,
    ),
    Row(
        "a module shared in one network only",
        sequential(conv(3, 3, 1), nn.ReLU, conv(3, 3, 1)),
        "Conv2d at 2 is used in several places in some",
        then=lambda m: m[0].__setitem__(2, m[0][0]),
    ),
    Row(
        "weights shared among the networks",
        PLAIN,
        "0.weight of network 0 and 0.weight of network 1 share memory",
        then=lambda m: setattr(m[1][0], "weight", m[0][0].weight),
    ),
    Row("a network twice", PLAIN, "share memory", then=lambda m: m.__setitem__(1, m[0])),
    Row("memory shared among the networks", PLAIN, "share memory", then=view_of_another),
    Row(
        "another requires_grad",
        PLAIN,
        "requires_grad of weight of Conv2d at 0 is False in network 0",
        then=lambda m: m[0][0].weight.requires_grad_(False),
    ),
    Row(
        "another mode of one layer",
        PLAIN,
        "training of BatchNorm2d at 1 is False in network 0",
        then=lambda m: m[0][1].eval(),
    ),
    Row(
        "another dtype",
        PLAIN,
        "dtype of weight of Conv2d at 0 is torch.float64",
        then=lambda m: m[0].double(),
    ),
    Row(
        "another count of batches",
        PLAIN,
        "num_batches_tracked of BatchNorm2d at 1 is 1 in network 0",
        then=lambda m: m[0][1](torch.ones(2, 4, 2, 2)),
    ),
    Row(
        "another stride",
        PLAIN,
        r"stride of Conv2d at 0 is \(2, 2\)",
        then=set_first("0.stride", (2, 2)),
    ),
    Row("another epsilon", PLAIN, "eps of BatchNorm2d at 1 is 0.1", then=set_first("1.eps", 0.1)),
    Row(
        "another size",
        PLAIN,
        "kernel_size of Conv2d at 0",
        then=lambda m: m[0].__setitem__(0, nn.Conv2d(3, 4, 1)),
    ),
    Row(
        "another layer",
        PLAIN,
        "class of ReLU at 2 is ReLU in network 0 and Tanh",
        then=lambda m: m[1].__setitem__(2, nn.Tanh()),
    ),
    Row(
        "another number of layers",
        PLAIN,
        "layers below it of Sequential",
        then=lambda m: m[0].append(nn.ReLU()),
    ),
    Row(
        "another function",
        net(lambda _, x: x),
        "between of Net",
        then=set_first("between", torch.tanh),
    ),
]


@pytest.mark.parametrize("row", DIFFERING, ids=lambda row: row.name)
def test_networks_that_do_not_go_together_are_refused_with_a_reason(row: Row) -> None:
    assert_refused(row)
