"""Dynamic tanh; as a norm it is tested with every norm."""

import pytest
import torch

from normbench.norms.dyt import DynamicTanhConfig
from normbench.training.stacking import stack, unstack
from tests.norm_checks import network, randn


def test_a_layer_has_one_alpha_and_a_stack_one_for_each_replica() -> None:
    assert DynamicTanhConfig().build(8).state_dict()["alpha"].tolist() == [0.5]
    models = [network(DynamicTanhConfig(), seed=seed) for seed in range(3)]
    joint = stack(models, randn(2, 3, 8, 8))
    alphas = [value for name, value in joint.state_dict().items() if name.endswith("alpha")]
    assert [alpha.shape for alpha in alphas] == [(3,)] * len(alphas)
    assert len({alpha.item() for alpha in alphas[0]}) == 3
    for part in unstack(joint):
        assert all(p.shape == (1,) for name, p in part.named_parameters() if "alpha" in name)


@pytest.mark.public(dyt="torch `tanh`")
@pytest.mark.parametrize("scale", [1e-3, 1.0, 100.0])
def test_in_float32_it_is_torch_s_tanh(scale: float) -> None:
    layer, x = DynamicTanhConfig().build(8, act=False), randn(4, 8, 5, dtype=torch.float32) * scale
    torch.testing.assert_close(layer(x), torch.tanh(0.5 * x), rtol=0, atol=2e-7)
