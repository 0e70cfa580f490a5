"""Precisions, recomputed activations and parts of a batch: against the step as it is without."""

import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

from datasets.faults import InputRefused
from datasets.samples.batch import Batch, PointBatch
from datasets.samples.sample import MAP_CLASSES
from perception.detector import Detector
from perception.fusion.late import LateFusionConfig
from perception.heads.quality import QualityConfig
from perception.heads.query_head import QueryHeadConfig
from perception.tasks.depth import DepthTaskConfig
from perception.tasks.segmentation import SegmentationConfig
from tests.random_batch import random_batch
from tests.small_run import small_config, small_detector
from tools.training.activations import recompute_activations
from tools.training.compiled_parts import compile_dense_parts
from tools.training.config import Precision
from tools.training.optimizer import make_optimizer
from tools.training.processes import Processes
from tools.training.step import LossOfBatch, StepResult, put_scale_back, scale_of, seed_step, training_step

ALONE = Processes(1, 0, torch.device("cpu"))
BATCH = random_batch(2, torch.Generator().manual_seed(0))


def step_of(
    detector: Detector, precision: Precision, broken: bool = False, scaled: dict[str, float] | None = None
) -> tuple[StepResult, list[torch.Tensor]]:
    """A step's result and the gradients that were left; `scaled`: how fp16's scale must stand after it."""
    config = small_config(1).training
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0) if precision == "fp16" else None
    model = LossOfBatch(detector, precision)
    hook = next(detector.parameters()).register_hook(lambda gradient: gradient * torch.inf) if broken else None
    result = training_step(
        model,
        make_optimizer(detector, config),
        [BATCH],
        config,
        learning_rate=0.0,
        generator=seed_step(0, 0, 0),
        processes=ALONE,
        scaler=scaler,
    )
    if hook is not None:
        hook.remove()
    if scaler is not None:
        assert scale_of(scaler) == scaled
    return result, [p.grad.clone() for p in detector.parameters() if p.grad is not None]


def seeded() -> Detector:
    torch.manual_seed(3)
    return Detector(small_detector()).train()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_near_full_precision(precision: Precision) -> None:
    full, exact = step_of(seeded(), "fp32")
    half, rounded = step_of(seeded(), precision, scaled={"loss_scale": 1024.0, "loss_scale_steps": 1})
    assert half.finite
    assert half.loss == pytest.approx(full.loss, rel=0.03)
    assert half.loss != full.loss
    assert len(exact) == len(rounded)
    assert all(gradient.dtype == torch.float32 for gradient in rounded)
    whole, near = (torch.cat([gradient.flatten() for gradient in gradients]) for gradients in (exact, rounded))
    assert torch.nn.functional.cosine_similarity(whole, near, dim=0) > {"bf16": 0.93, "fp16": 0.99}[precision]


def test_a_gradient_too_large_for_fp16_lowers_the_scale() -> None:
    result, gradients = step_of(seeded(), "fp16", broken=True, scaled={"loss_scale": 512.0, "loss_scale_steps": 0})
    assert not result.finite
    assert gradients == []
    scaler = torch.amp.GradScaler("cpu")
    put_scale_back(scaler, 512.0, 7)
    assert scale_of(scaler) == {"loss_scale": 512.0, "loss_scale_steps": 7}


def test_a_loss_that_is_not_finite_says_nothing_of_the_scale() -> None:
    detector = seeded()
    next(detector.head.parameters()).data.fill_(torch.nan)
    result, gradients = step_of(detector, "fp16", scaled={"loss_scale": 1024.0, "loss_scale_steps": 0})
    assert not result.finite
    assert gradients == []


def test_losses_are_float32_in_any_precision() -> None:
    seen: dict[str, torch.dtype] = {}
    detector = seeded()
    detector.head.regress[0].register_forward_hook(lambda module, inputs, output: seen.update(head=output.dtype))
    detector.camera.backbone.out.register_forward_hook(lambda module, inputs, output: seen.update(camera=output.dtype))
    assert LossOfBatch(detector, "bf16")(BATCH).total.dtype == torch.float32
    assert seen == {"head": torch.float32, "camera": torch.bfloat16}


def test_recomputed_activations_give_the_same_gradients_and_statistics() -> None:
    kept, again = seeded(), seeded()
    recompute_activations(again)
    names = list(again.state_dict())
    assert names == list(kept.state_dict())
    calls = []
    again.camera.backbone.resnet.register_forward_hook(lambda module, inputs, output: calls.append(1))
    (first, expected), (second, found) = step_of(kept, "fp32"), step_of(again, "fp32")
    assert len(calls) == 2
    assert first == second
    assert all(a.equal(b) for a, b in zip(expected, found, strict=True))
    # Batch norms have seen the batch once.
    assert all(a.equal(b) for a, b in zip(kept.state_dict().values(), again.state_dict().values(), strict=True))


COMPILED = """
import copy, torch
from tests.test_training_engine import seeded, step_of
from tools.training.compiled_parts import compile_dense_parts
torch.set_num_threads(1)
kept, compiled = seeded(), seeded()
# What inductor makes of the graphs is torch's to test, and takes minutes.
compile_dense_parts(compiled, backend="aot_eager")
assert list(compiled.state_dict()) == list(kept.state_dict())
(first, expected), (second, found) = step_of(kept, "fp32"), step_of(compiled, "fp32")
assert torch._dynamo.utils.counters["frames"]["ok"] >= 6, torch._dynamo.utils.counters
torch.testing.assert_close(second.loss, first.loss, atol=0, rtol=1e-5)
for a, b in zip(expected, found, strict=True):
    torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
# A copy, as the moving average is one, is not compiled.
assert copy.deepcopy(compiled).camera.backbone._compiled_call_impl is None
"""


def test_compiled_parts_learn_the_same_and_keep_their_names() -> None:
    """In a process without the check of shapes, which the compiler would trace."""
    subprocess.run([sys.executable, "-W", "ignore", "-c", COMPILED], check=True, cwd=Path(__file__).parents[1])


def test_without_a_compiler_the_cpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(InputRefused, match="needs a C\\+\\+ compiler"):
        compile_dense_parts(seeded())


QUERIES = QueryHeadConfig(channels=8, hidden=16, queries=5, heads=2, feedforward=16, quality=QualityConfig())
DETECTORS = {
    "center, depth, map": replace(
        small_detector(), depth=DepthTaskConfig(max_age=0.5), segmentation=SegmentationConfig(8, 1, dice_weight=0.0)
    ),
    "queries": replace(small_detector(), head=QUERIES),
    "queries of each sensor": replace(small_detector(), head=QUERIES, fusion=LateFusionConfig()),
}


@pytest.mark.parametrize("kind", DETECTORS)
def test_the_mean_loss_of_parts_is_the_loss_of_the_whole_batch(kind: str) -> None:
    torch.manual_seed(1)
    config = DETECTORS[kind]
    detector = Detector(config).eval()  # batch norms by their statistics
    generator = torch.Generator().manual_seed(4)
    parts = [random_batch(1, generator, boxes=count) for count in (1, 9, 0)]
    if config.segmentation is not None:
        masks = [torch.rand(1, len(MAP_CLASSES), *config.grid.shape, generator=generator) > 0.5 for _ in parts]
        known = [torch.rand(1, *config.grid.shape, generator=generator) > share for share in (0.1, 0.5, 0.9)]
        parts = [replace(p, map_masks=m, map_known=k) for p, m, k in zip(parts, masks, known, strict=True)]
    parts[1] = parts[1].without("radar")
    parts[2] = parts[2].without("lidar")
    whole = together(parts)
    counts = [detector.loss_counts(part) for part in parts]
    assert all(one.keys() == counts[0].keys() for one in counts)
    mean = {name: sum(one[name] for one in counts) / len(parts) for name in counts[0]}
    of_whole = detector.loss_counts(whole)
    assert {name: float(count) for name, count in of_whole.items()} == pytest.approx(
        {name: 3 * float(count) for name, count in mean.items()}
    )
    expected = detector.losses(detector(whole), whole).total.detach()
    found = sum(detector.losses(detector(part), part, counts=mean).total.detach() for part in parts) / len(parts)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    # Without them it is another loss: parts with few objects would count as much as those with many.
    assert float(sum(detector.losses(detector(p), p).total.detach() for p in parts) / len(parts)) != pytest.approx(
        float(expected), rel=1e-2
    )


def together(parts: list[Batch]) -> Batch:
    def cloud(name: str) -> PointBatch:
        return PointBatch.of([getattr(part, name).points for part in parts])

    def stacked(name: str) -> torch.Tensor | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    tensors = {
        field.name: stacked(field.name)
        for field in fields(Batch)
        if field.name not in ("tokens", "scene_names", "lidar", "radar", "boxes", "previous")
    }
    return Batch(
        tokens=tuple(token for part in parts for token in part.tokens),
        scene_names=tuple(name for part in parts for name in part.scene_names),
        lidar=cloud("lidar"),
        radar=cloud("radar"),
        boxes=tuple(boxes for part in parts for boxes in part.boxes or ()),
        **tensors,
    )
