"""Norms that a network computes with and does not have as layers, so that none can replace them."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode

from normbench.norms import Norm
from normbench.norms.foreign import foreign_norm
from normbench.norms.parts import CONVOLUTIONS

_FUNCTIONS = {
    *(F.batch_norm, F.group_norm, F.instance_norm, F.layer_norm, F.rms_norm),
    *(torch.batch_norm, torch.group_norm, torch.instance_norm, torch.layer_norm, torch.rms_norm),
}

_OWN = (Norm, nn.Linear, *CONVOLUTIONS)
"""Layers that may use these functions: some convolutions standardize their weights by them."""


class HiddenNorms(TorchFunctionMode):
    """Within it, forward passes of ``model`` are watched. A norm written out in sums is not seen.

    Attributes:
        layers: the classes of norms that compute and are none of the network's layers.
        functions: norms of :mod:`torch.nn.functional` that are called outside of any norm.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layers: list[str] = []
        self.functions: list[str] = []
        self._known = {*model.modules()}
        self._within = 0
        self._hooks = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as hooks:
            hooks.enter_context(register_module_forward_pre_hook(self._enters))
            hooks.enter_context(register_module_forward_hook(self._leaves, always_call=True))
            super().__enter__()  # type: ignore[no-untyped-call]
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _enters(self, module: nn.Module, _: Any) -> None:
        if isinstance(module, _OWN):
            self._within += 1
        elif module not in self._known and foreign_norm(module) is not None:
            self.layers.append(type(module).__name__)

    def _leaves(self, module: nn.Module, _: Any, __: Any) -> None:
        self._within -= isinstance(module, _OWN)

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Notes what is a norm, and computes it."""
        if not self._within and function in _FUNCTIONS:
            self.functions.append(f"F.{function.__name__}")
        return function(*args, **(kwargs or {}))
