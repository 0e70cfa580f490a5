"""What is installed, what works, what is missing and how to get it."""

import importlib
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from datasets.faults import InputRefused

_APT = "apt-get install -y --no-install-recommends libgl1 libegl1 libusb-1.0-0 libglib2.0-0"
_SPCONV = "spconv-cu120==2.3.6"
_NEEDED_GIGABYTES = 2.0  # of the disk: a run with its checkpoints, a synthetic dataset


@dataclass(frozen=True)
class DoctorArguments:
    """What `bevel doctor` takes: nothing."""


@dataclass(frozen=True)
class Finding:
    """What one check found. `remedy` is None where all is well, otherwise what to do."""

    name: str
    found: str
    remedy: str | None = None


def doctor(arguments: DoctorArguments) -> None:
    """Print what every check finds. Raises InputRefused (exit code 3) where something does not work."""
    findings = []
    for finding in examine():
        findings.append(finding)
        print(f"{'ok  ' if finding.remedy is None else 'FAIL'} {finding.name:<20} {finding.found}", flush=True)
        if finding.remedy is not None:
            print(f"     {'':<20} -> {finding.remedy}")
    broken = [finding.name for finding in findings if finding.remedy is not None]
    if broken:
        raise InputRefused(f"{len(broken)} of {len(findings)} checks failed ({', '.join(broken)}): see above.")
    print("Everything works.")


def examine() -> Iterator[Finding]:
    """Run one check after another; none of them raises."""
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", _python),
        ("cpu", _cpu),
        ("torch", _torch),
        ("numpy", _numpy),
        ("sparse convolution", _sparse_convolution),
        ("opencv", lambda: _import("opencv", "cv2", "opencv-python")),
        ("open3d", lambda: _import("open3d", "open3d", "open3d")),
        ("nuscenes-devkit", lambda: _import("nuscenes-devkit", "nuscenes", "nuscenes-devkit")),
        ("transformers", lambda: _import("transformers", "transformers", "transformers")),
        ("disk", _disk),
    )
    for name, check in checks:
        try:
            finding = check()
        except Exception as error:  # a diagnosis must not die of the disease
            finding = Finding(name, f"{type(error).__name__}: {error}", "install Bevel again: make setup")
        yield finding


def _python() -> Finding:
    found = f"{platform.python_version()} in {sys.prefix}"
    wrong = sys.version_info[:2] != (3, 11) and not _on_spconv_triton()
    return Finding("python", found, "use Python 3.11: spconv-cu120 has no wheel for another" if wrong else None)


def _cpu() -> Finding:
    return Finding("cpu", f"{os.cpu_count()} cores, {len(os.sched_getaffinity(0))} of them for this process")


def _torch() -> Finding:
    import torch

    if torch.cuda.is_available():
        device = f"CUDA {torch.version.cuda}: {torch.cuda.get_device_name()}"
    else:
        device = "no CUDA device: training runs on the CPU"
    return Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads, {device}")


def _numpy() -> Finding:
    import numpy as np

    wrong = int(np.__version__.split(".")[0]) >= 2 and not _on_spconv_triton()
    # Not a matter of taste: with numpy 2 spconv's CUDA path ends the process with SIGFPE.
    return Finding("numpy", np.__version__, "pip install 'numpy<2': spconv crashes with numpy 2" if wrong else None)


def _on_spconv_triton() -> bool:
    """Whether sparse convolutions are those of spconv-triton, which takes newer versions of Python and numpy."""
    return importlib.util.find_spec("spconv") is None and importlib.util.find_spec("spconv_triton") is not None


def _sparse_convolution() -> Finding:
    """One small convolution, forward and backward: a lone site meets the middle of the kernel only."""
    import torch

    from perception.sparse import SparseConv, SparseTensor

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    layer = SparseConv(4, 8, (3, 3), level="doctor").to(device)
    features = torch.ones(1, 4, device=device, requires_grad=True)
    indices = torch.tensor([[0, 1, 1]], dtype=torch.int32, device=device)
    out = layer(SparseTensor.of(features, indices, (3, 3), 1)).features
    out.sum().backward()
    middle = layer.conv.weight.detach()[:, 1, 1].sum(dim=1)
    if features.grad is None or not torch.allclose(out[0].detach(), middle, rtol=1e-2, atol=1e-4):
        return Finding("sparse convolution", f"wrong result on {device.type}", f"reinstall: pip install {_SPCONV}")
    backend = type(layer.conv).__module__.split(".")[0]
    return Finding("sparse convolution", f"{backend}, forward and backward right on {device.type}")


def _import(name: str, module: str, package: str) -> Finding:
    try:
        importlib.import_module(module)
    except ImportError as error:
        # "libGL.so.1: cannot open shared object file": a library of the system, not of Python.
        system = ".so" in str(error)
        return Finding(name, str(error), f"as root: {_APT}" if system else f"pip install {package}")
    try:
        return Finding(name, version(package))
    except PackageNotFoundError:
        return Finding(name, "installed, version unknown")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    remedy = f"free some space: a run needs about {_NEEDED_GIGABYTES:g} GB" if free < _NEEDED_GIGABYTES else None
    return Finding("disk", f"{free:.1f} GB free in {Path.cwd()}", remedy)
