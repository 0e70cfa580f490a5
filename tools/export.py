"""Write the dense part of a run's detector as ONNX: only if onnxruntime gives what torch gives."""

import io
import json
import warnings
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

from datasets.atomic_file import write_atomically
from datasets.faults import InputRefused
from perception.dense_part import DenseInputs, DensePart, example_inputs, reference_outputs
from perception.detector import Detector
from tools.exit_codes import Disagreement
from tools.run_config import RunConfig, config_to_json
from tools.shipped_runs import folder_of_outputs, run_or_shipped
from tools.training.run_folder import load_detector

OPSET = 17
TOLERANCE = 1e-4
"""The largest difference between onnxruntime and torch in any output, relative to the output's largest number or 1."""


@dataclass(frozen=True)
class ExportArguments:
    """What `bevel export` takes."""

    run: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """The run folder of `bevel train`; tiny: the checkpoint that comes with Bevel."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Otherwise RUN/model.onnx."""


def export(arguments: ExportArguments) -> Path:
    """Write the graph and return its path (docs/export.md says what goes in and comes out).

    Raises InputRefused for a run that cannot be exported, or without onnx and onnxruntime, and Disagreement, with no
    file written, where onnxruntime and torch differ.
    """
    refuse_missing_packages()
    run = run_or_shipped(arguments.run)
    config, detector = load_detector(run)
    output = arguments.output or folder_of_outputs(run) / "model.onnx"
    if output.is_dir():
        raise InputRefused(f"{output} is a folder: name a file with --output.")
    try:
        part = DensePart(detector)
    except ValueError as error:
        raise InputRefused(f"{arguments.run}: {error}.") from error
    cases = parity_cases(config, detector)
    graph = onnx_bytes(part, cases[-1], config)
    differences = [largest_difference(graph, part, case) for case in cases]
    if not all(difference <= TOLERANCE for difference in differences):
        raise Disagreement(
            f"{output} is not written: "
            f"onnxruntime and torch differ by {max(differences):.2g}, more than {TOLERANCE:g}.",
            None,
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, graph)
    print(
        f"{len(graph) / 2**20:.1f} MiB, opset {OPSET}; onnxruntime differs from torch by at most "
        f"{max(differences):.1e} (relative, {len(cases)} inputs; allowed {TOLERANCE:g})"
    )
    return output


def refuse_missing_packages() -> None:
    """Raise InputRefused where the extra `export` is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputRefused(
            f"bevel export needs onnx and onnxruntime ({error}): pip install 'bevel[export]'."
        ) from error


def parity_cases(config: RunConfig, detector: Detector) -> list[DenseInputs]:
    """Inputs that both must agree on: everything there; and a camera, the radar and some ego states missing."""
    sample = config.sample
    size = (sample.image_height, sample.image_width)
    generator = torch.Generator().manual_seed(0)
    whole, other = (
        example_inputs(detector, len(sample.camera_channels), size, sample.ego_states, generator) for _ in range(2)
    )
    camera, states = other.camera_available.clone(), other.ego_motion_valid.clone()
    camera[:, -1], states[:, 0] = len(sample.camera_channels) == 1, sample.ego_states == 1
    missing = replace(
        other,
        camera_available=camera,
        radar_available=torch.zeros_like(other.radar_available),
        ego_motion_valid=states,
    )
    return [whole, missing]


def onnx_bytes(part: DensePart, inputs: DenseInputs, config: RunConfig) -> bytes:
    """The graph, with the run's config (JSON) in its metadata.

    inputs: an example with sensors missing, or the graph would be that of samples that have them all.
    """
    import onnx

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # Of the tracer, about shapes that are constants here; and that there is a newer exporter (it needs onnxscript).
        warnings.simplefilter("ignore")
        torch.onnx.export(
            part,
            tuple(as_tensors(inputs).values()),
            buffer,  # type: ignore[arg-type]  # torch writes into it, whatever its types say
            dynamo=False,
            opset_version=OPSET,
            input_names=list(as_tensors(inputs)),
            output_names=list(part.output_names),
        )
    model = onnx.load_from_string(buffer.getvalue())
    onnx.helper.set_model_props(model, {"bevel_config": json.dumps(json.loads(config_to_json(config)))})
    onnx.checker.check_model(model)
    graph: bytes = model.SerializeToString()
    return graph


def largest_difference(graph: bytes, part: DensePart, inputs: DenseInputs) -> float:
    """Between onnxruntime's outputs and the detector's, relative to the largest number of an output or 1."""
    expected = reference_outputs(part, inputs)
    found = run_graph(graph, inputs)
    differences = [
        (a.double() - b.double()).abs().max() / b.double().abs().max().clamp(min=1.0)
        for a, b in zip(found, expected, strict=True)
    ]
    # torch's maximum is NaN where one of them is; Python's may not be.
    return float(torch.stack(differences).max())


def run_graph(graph: bytes, inputs: DenseInputs) -> list[Tensor]:
    """onnxruntime's outputs, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    # An input that plays no part (the radar's BEV of a detector without radar) is not in the graph.
    wanted = {each.name for each in session.get_inputs()}
    fed = {name: tensor.numpy() for name, tensor in as_tensors(inputs).items() if name in wanted}
    return [torch.from_numpy(value) for value in session.run(None, fed)]


def as_tensors(inputs: DenseInputs) -> dict[str, Tensor]:
    """The inputs by the names that they have in the graph."""
    return {field.name: getattr(inputs, field.name) for field in fields(inputs)}
