"""What each part of a detector costs: parameters, operations, memory kept for the gradients, its share of a step."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from datasets.samples.batch import Batch
from perception.detector import Detector
from perception.sparse import SparseConv, SparseTensor
from tools.training.config import TrainingConfig
from tools.training.optimizer import make_optimizer
from tools.training.step import LossOfBatch

# Parts of a detector in the order in which they run: what the row is called, and the modules that belong to it.
_PARTS: Mapping[str, tuple[str, ...]] = {
    "camera": ("camera.backbone", "camera.lift_splat", "camera.sampling", "camera.neck"),
    "painting": ("painting",),
    "lidar": ("lidar",),
    "radar": ("radar",),
    "pose": ("pose",),
    "fusion": ("fusion",),
    "temporal": ("temporal",),
    "head": ("head",),
    "tasks": ("segmentation", "cross_modal"),
}
_REST, _OPTIMIZER = "losses, rest", "optimizer"


@dataclass(frozen=True)
class PartCost:
    """One part, for one sample, forward. `gflop`: two for each multiply-add of convolutions and matrix products, the
    sparse ones included; norms, activations, softmax, sorting, voxels and lookups are not counted. `kept_mib`: what
    autograd would keep until the backward pass, parameters and geometry left out.
    """

    parameters: int
    gflop: float
    kept_mib: float


@dataclass(frozen=True)
class StepShare:
    """CPU milliseconds of one part in a training step, the mean over the steps, and what share of a step they are."""

    forward: float
    backward: float
    share: float


class _Parts:
    """Says which part of a detector is at work, by hooks on its modules."""

    def __init__(self, detector: Detector) -> None:
        self.modules: list[tuple[str, nn.Module]] = []
        named = dict(detector.named_modules())
        for part, names in _PARTS.items():
            self.modules += [(part, named[name]) for name in names if name in named]

    @contextmanager
    def watched(self, begins: Callable[[str], None], ends: Callable[[str, Any], None]) -> Iterator[None]:
        """Calls `begins` with the part before one of its modules runs, and `ends`, also with the output, after it."""
        hooks = []
        for part, module in self.modules:
            hooks.append(module.register_forward_pre_hook(lambda *_, part=part: begins(part)))
            hooks.append(module.register_forward_hook(lambda *given, part=part: ends(part, given[2])))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def part_costs(detector: Detector, batch: Batch) -> dict[str, PartCost]:
    """Of each part that the detector has; `batch` must hold one sample with all its sensors. Runs forward once.

    Nothing is kept for a backward pass, so that it fits where a training would not.
    """
    parts, at_work = _Parts(detector), [_REST]
    kept: dict[str, dict[StorageWeakRef, int]] = defaultdict(dict)
    own = {_storage(tensor) for tensor in (*detector.parameters(), *detector.buffers())}

    def keep(tensor: Tensor) -> None:
        # A weak reference: memory that is given away again must not be taken for another tensor's.
        storage = _storage(tensor)
        if storage not in own:
            kept[at_work[-1]].setdefault(storage, _values(tensor).untyped_storage().nbytes())

    sparse: dict[str, int] = defaultdict(int)

    def count(module: nn.Module, given: tuple[SparseTensor], out: SparseTensor) -> None:
        if isinstance(module, SparseConv):
            sparse[at_work[-1]] += 2 * kernel_pairs(module, given[0]) * module.conv.in_channels * module.out_channels

    hooks = [module.register_forward_hook(count) for module in detector.modules() if isinstance(module, SparseConv)]
    dense: dict[str, int] = defaultdict(int)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mm: _product_flop})
    counted = [0]

    def settle(part: str) -> None:
        dense[part] += counter.get_total_flops() - counted[0]
        counted[0] = counter.get_total_flops()

    def begins(part: str) -> None:
        settle(at_work[-1])
        at_work.append(part)

    def ends(part: str, _: Any) -> None:
        settle(part)
        at_work.pop()

    try:
        with parts.watched(begins, ends), torch.autograd.graph.saved_tensors_hooks(keep, _nothing_is_kept), counter:
            detector.train()(batch)
    finally:
        for hook in hooks:
            hook.remove()
    costs = {}
    for part in dict.fromkeys(part for part, _ in parts.modules):
        parameters = sum(p.numel() for name, module in parts.modules if name == part for p in module.parameters())
        gflop = (dense[part] + sparse[part]) / 1e9
        costs[part] = PartCost(parameters, gflop, sum(kept[part].values()) / 2**20)
    return costs


def step_shares(
    detector: Detector, batch: Batch, config: TrainingConfig, steps: int, warm_up: int = 1
) -> dict[str, StepShare]:
    """What each part takes of a training step on this annotated batch, after steps that do not count.

    Autograd works backwards through the parts in their order: where the gradient of a part's output is first needed,
    the part's backward pass begins and that of the part after it ends. The head's counts with the losses.
    """
    model, optimizer = LossOfBatch(detector.train()), make_optimizer(detector, config)
    forward: dict[str, float] = defaultdict(float)
    backward: dict[str, float] = defaultdict(float)
    begun: list[float] = []
    at_work, since = _REST, 0.0

    def turn(part: str, _: object = None) -> None:
        nonlocal at_work, since
        now = time.process_time()
        backward[at_work] += now - since
        at_work, since = part, now

    def ends(part: str, output: Any) -> None:
        forward[part] += time.process_time() - begun.pop()
        node = _gradient_of(output)
        if node is not None:
            node.register_prehook(lambda _: turn(part))

    for step in range(warm_up + steps):
        if step == warm_up:
            forward.clear()
            backward.clear()
        optimizer.zero_grad(set_to_none=True)
        start, before = time.process_time(), sum(forward.values())
        with _Parts(detector).watched(lambda _: begun.append(time.process_time()), ends):
            loss = model(batch).total
        at_work, since = _REST, time.process_time()
        forward[_REST] += since - start - (sum(forward.values()) - before)
        loss.backward()
        turn(_OPTIMIZER)
        optimizer.step()
        forward[_OPTIMIZER] += time.process_time() - since
    total = sum(forward.values()) + sum(backward.values())
    return {
        part: StepShare(
            1e3 * forward[part] / steps, 1e3 * backward[part] / steps, (forward[part] + backward[part]) / total
        )
        for part in (*_PARTS, _REST, _OPTIMIZER)
        if part in forward
    }


def kernel_pairs(conv: SparseConv, sites: SparseTensor) -> int:
    """How many pairs of a site and a site of the output meet in the kernel: the rulebook's length."""
    places = sites.indices.long()
    device = places.device
    if conv.stride is not None and conv.padding is not None:
        # Axis by axis, how many outputs a place reaches; the product, summed over the sites.
        reached = torch.ones(len(places), dtype=torch.int64, device=device)
        sizes = zip(conv.kernel, conv.stride, conv.padding, conv.out_shape(sites.shape), strict=True)
        for axis, (kernel, stride, padding, length) in enumerate(sizes):
            shifted = places[:, 1 + axis, None] + padding - torch.arange(kernel, device=device)
            out = torch.div(shifted, stride, rounding_mode="floor")
            reached *= ((shifted % stride == 0) & (out >= 0) & (out < length)).sum(dim=1)
        return int(reached.sum())
    # A border of empty cells around each grid, so that a neighbour beyond the edge is no other row's cell.
    lengths = [length + kernel - 1 for length, kernel in zip(sites.shape, conv.kernel, strict=True)]
    strides = [math.prod(lengths[axis:]) for axis in range(1, len(lengths) + 1)]
    numbers = places[:, 0] * math.prod(lengths)
    for axis, (stride, kernel) in enumerate(zip(strides, conv.kernel, strict=True)):
        numbers = numbers + (places[:, 1 + axis] + kernel // 2) * stride
    numbers = torch.sort(numbers).values
    offsets = torch.cartesian_prod(*[torch.arange(kernel) - kernel // 2 for kernel in conv.kernel])
    pairs = 0
    for offset in (offsets * torch.tensor(strides)).sum(dim=1).tolist():
        wanted = numbers + offset
        found = torch.searchsorted(numbers, wanted).clamp(max=max(len(numbers) - 1, 0))
        pairs += int((numbers[found] == wanted).sum())
    return pairs


def _product_flop(left: Tensor, right: Tensor, *, out_val: Tensor, **_: Any) -> int:
    """Two for each multiply-add of a matrix product; of a sparse matrix only the entries count."""
    if left.layout == torch.sparse_csr:
        return 2 * left.values().numel() * right.shape[1]
    return 2 * left.shape[0] * left.shape[1] * right.shape[1]


_product_flop._get_raw = True  # type: ignore[attr-defined]  # the counter then gives the tensors and not their shapes


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(_values(tensor).untyped_storage())  # type: ignore[no-untyped-call]


def _values(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.values()


def _nothing_is_kept(_: None) -> Tensor:
    raise RuntimeError("there is no backward pass")


def _gradient_of(output: Any) -> Any:
    """The node of the graph that an output, or the first of several, came from."""
    if isinstance(output, tuple):
        output = output[0]
    return output.grad_fn if isinstance(output, Tensor) else None
