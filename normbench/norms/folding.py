"""Folds norms into the convolutions before them: in inference nothing is left of them."""

from collections import Counter

import torch
from torch import Tensor, nn
from torch.fx import Tracer
from torch.nn.utils.fusion import fuse_conv_bn_weights

from normbench.norms.base import Norm, NormConfig
from normbench.norms.parts import CONVOLUTIONS, NormConv


class Activation(nn.Module):
    """What is left of a folded norm: its activation, if it has one. It works in place."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, C, ...] to the same shape."""
        return self.norm.activate(x) if self.norm.act else x


@torch.no_grad()
def fold_norms(model: nn.Module, norm: NormConfig) -> nn.Module:
    """Folds, in place, each norm that stands behind a convolution into it; for evaluation only.

    A norm that folds is one factor and one term a channel in evaluation, whatever the input. One
    that stands elsewhere, as behind a residual addition, stays, and so does one whose convolution
    is not for it alone.

    Args:
        model: a network that ``torch.fx`` can trace and whose norms are those of ``norm``; it is
            put into evaluation mode.
        norm: where its ``folds`` is false, nothing is done.

    Returns:
        ``model``.
    """
    for conv_name, name in _pairs(model.eval()) if norm.folds else []:
        conv, layer = model.get_submodule(conv_name), model.get_submodule(name)
        assert isinstance(conv, CONVOLUTIONS)
        assert isinstance(layer, Norm)
        weight, bias = conv.used() if isinstance(conv, NormConv) else (conv.weight, conv.bias)
        zeros = weight.new_zeros(1, len(weight), 1, 1)
        term = layer.normalize(zeros).flatten()
        factor = layer.normalize(zeros + 1).flatten() - term
        made = conv.plain() if isinstance(conv, NormConv) else conv
        made.weight, made.bias = fuse_conv_bn_weights(
            weight, bias, torch.zeros_like(term), torch.ones_like(term), 0.0, factor, term
        )
        model.set_submodule(conv_name, made)
        model.set_submodule(name, Activation(layer))
    return model


class _Tracer(Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not any(m.children())


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """The names of each convolution and of the norm that alone takes its output."""
    layers = dict(model.named_modules())
    calls = [node for node in _Tracer().trace(model).nodes if node.op == "call_module"]
    uses = Counter(node.target for node in calls)
    pairs = []
    for node in calls:
        if not isinstance(layers[node.target], Norm):
            continue
        (before,) = node.all_input_nodes
        alone = len(before.users) == uses[before.target] == uses[node.target] == 1
        if alone and isinstance(layers.get(str(before.target)), CONVOLUTIONS):
            pairs.append((str(before.target), str(node.target)))
    return pairs
