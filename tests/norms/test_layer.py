"""Layer norm over the channels of each position; as a norm it is tested with every norm."""

import pytest
import torch.nn.functional as F

from normbench.errors import UsageError
from normbench.norms.layer import LayerNormConfig, Over
from tests.norm_checks import close, randn


@pytest.mark.public(layer="torch `layer_norm`")
def test_over_channels_it_is_torch_s_layer_norm_of_each_position() -> None:
    layer, x = LayerNormConfig(over=Over.channels).build(8, act=False).double(), randn(2, 8, 3, 2)
    wanted = F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)
    close(layer(x), wanted, "the output")
    assert layer.axes == "C"
    assert layer.values_per_statistic(x.shape) == 8


def test_one_channel_is_refused_whatever_the_image() -> None:
    with pytest.raises(UsageError, match=r"means over C: .* single value .* use more channels"):
        LayerNormConfig(over=Over.channels).build(1)(randn(2, 1, 8, 8))
