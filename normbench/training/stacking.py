"""K networks of one architecture as one network, for little more than the price of one.

A small network at a small batch spends its time being launched, not computing. Side by side in the
channels of one network, [N, K·C, H, W], K replicas are launched once: a convolution becomes a
convolution in groups, batch norm over K·C channels is K batch norms, group norm with K·G groups is
K group norms, a linear layer becomes a batched product. The loss is the sum of the replicas' mean
losses, so that each gets exactly the gradient it would get alone, and a NaN in one stays there.
(Wang et al. 2021, "HFTA", arXiv 2102.02344, fuse models in the same way.)

This is right for networks whose channels mix in layers only. A forward pass that concatenates or
shuffles channels would be wrong without any error, so every stack proves itself before it is used
(:mod:`normbench.training.proof`). The proof is numerical. It misses

- what mixes replicas only for inputs, weights or a number of calls that it has not seen (a branch
  taken above a threshold, every hundredth call counted outside of the network);
- hooks on graph nodes, which leave no trace on layers or tensors.

Dropout draws what each replica would draw alone (:mod:`normbench.training.dropout`); where its
replicas are not side by side in the second dimension, as in [N, L, K·C], networks are not stacked.
In training by hand, its layers draw as PyTorch's do.

In float64 a replica is trained as it would be alone, to 1e-10. In float32 kernels sum in another
order for another number of channels, as they do for another number of threads, and training
multiplies what that rounds: ``scripts/stack_drift.py`` measures how far by norm.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from normbench.models.layout import with_layout_of
from normbench.training.alike import StackError, check_alike
from normbench.training.joining import join, share
from normbench.training.proof import prove

__all__ = ["Stack", "StackError", "stack", "unstack"]


class Stack(nn.Module):
    """K networks as one; made by :func:`stack`.

    Attributes:
        replicas: K.
        network: the stacked network.
    """

    def __init__(self, network: nn.Module, replicas: int) -> None:
        super().__init__()
        self.network = network
        self.replicas = replicas
        self.training = network.training

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, K·C, ...] to [N, K·classes], replica by replica."""
        y: Tensor = self.network(x)
        return y


def stack(
    models: Sequence[nn.Module], example: Tensor | None = None, *, proven: bool = False
) -> Stack:
    """Turns K networks of one architecture into one network, and proves that it is right.

    Parameters and layers that are used in several places of each network are so in the stack.

    Args:
        models: the networks; they are left as they are.
        example: a batch [N, C, ...] of the shape the networks take, for the proof; by default four
            random images of 32×32, or four vectors where the first layer is linear.
        proven: whether such networks have been stacked before, so that no proof is needed.

    Returns:
        A network for inputs [N, K·C, ...], replica k's channels being k·C to (k+1)·C, on the device
        and in the memory format of the networks.

    Raises:
        StackError: a layer is unknown or has hooks, or the networks differ in more than the values
            of their tensors (layer and setting are named), or the proof failed.
    """
    models = list(models)
    if not models:
        raise StackError("there is nothing to stack: the list of networks is empty")
    if example is not None and (example.dim() < 2 or not example.numel()):
        raise StackError(f"the example is no batch [N, C, ...]: its shape is {list(example.shape)}")
    if any(isinstance(module, Stack) for model in models for module in model.modules()):
        raise StackError("a stack cannot be stacked: unstack it first")
    check_alike(models)
    stacked = Stack(_joined(models), len(models))
    if not proven:
        prove(models, example, _joined)
    return stacked


def _joined(models: Sequence[nn.Module]) -> nn.Module:
    return with_layout_of(models[0], join(models))


def unstack(stacked: Stack) -> list[nn.Module]:
    """Turns a stack back into K ordinary networks with tensors of their own."""
    k = stacked.replicas
    own = stacked.network
    return [with_layout_of(own, share(own, replica, k)) for replica in range(k)]
