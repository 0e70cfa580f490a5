"""Memory for time: what a part of the network computed on the way is computed again for the gradients."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from tools.training.network import Network


def recompute_activations(network: Network) -> None:
    """Let the camera backbone and the fusion, where most of the memory goes, compute again what they need."""
    for module in (network.camera and network.camera.backbone, getattr(network, "fusion", None)):
        if module is not None:
            _recompute(module)


def _recompute(module: nn.Module) -> None:
    forward = module.forward

    def checkpointed(*inputs: Any) -> Any:
        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_seen(module)

    # The module's own method and not a module around it: the weights keep their names.
    module.forward = checkpointed


@contextmanager
def _statistics_seen(module: nn.Module) -> Iterator[None]:
    """Batch norms do the same as before, but count the batch in copies of their statistics: they have seen it."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    before = [dict(norm.named_buffers(recurse=False)) for norm in norms]
    for norm, buffers in zip(norms, before, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, before, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
