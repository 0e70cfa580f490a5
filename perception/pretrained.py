"""Pretrained weights of a network of transformers, from files that cannot carry code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from datasets.faults import InputRefused

# What an image classifier has beyond its backbone: these weights are not used.
_HEAD = ("classifier.", "pooler.", "layernorm.", "norm.", "head.")
# Norms that transformers puts behind the stages of a backbone. Classifiers have none: the norms begin as the identity.
_NORMS_OF_STAGES = "hidden_states_norms."


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file: safetensors, or what torch.save has written (.pth, .pt, .bin; `weights_only`).

    Raises InputRefused where it cannot be read.
    """
    try:
        if path.suffix in (".pth", ".pt", ".bin"):
            state = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
                raise InputRefused(f"{path}: expected a dictionary of tensors; save the network's state_dict()")
            return dict(state)
        return load_file(path)
    except (OSError, safetensors.SafetensorError, UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputRefused(
            f"{path}: the backbone's weights cannot be read ({error}); give a safetensors file"
        ) from error


def downloaded_weights(repository: str) -> Path:
    """The safetensors file of a repository on the Hugging Face hub, from the hub's own cache where it lies there.

    Raises InputRefused where it is in neither: without a network, say.
    """
    from huggingface_hub import hf_hub_download  # as transformers: not for commands that build no network

    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except (OSError, RuntimeError, ValueError) as error:
        raise InputRefused(
            f"the weights of {repository} cannot be downloaded ({type(error).__name__}): download model.safetensors "
            f"from https://huggingface.co/{repository} on a machine with a network, and name that file as `weights`"
        ) from error


def pretrained_backbone(config: Any, path: Path) -> nn.Module:
    """The backbone that a config of transformers describes, float32, with the weights of a file.

    The file may be of the backbone or of an image classifier that holds it, as the hub has them, in the names of any
    version of transformers. Raises InputRefused, naming a tensor, where the file lacks one of the backbone's, has one
    in another shape, or has one that belongs to neither: no weight is left random.
    """
    from transformers import AutoBackbone  # takes seconds: not for commands that build no network

    with torch.device("meta"):
        kind: Any = type(AutoBackbone.from_config(config))
    with _silence():
        model, found = kind.from_pretrained(
            None,
            config=config,
            state_dict=read_weights(path),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are refused below, with the file's name
            output_loading_info=True,
        )
    prefix = f"{kind.base_model_prefix}."
    missing = sorted(name for name in found["missing_keys"] if not name.startswith(_NORMS_OF_STAGES))
    unknown = sorted(name for name in found["unexpected_keys"] if not name.removeprefix(prefix).startswith(_HEAD))
    misshapen = sorted(str(mismatch[0]) for mismatch in found["mismatched_keys"])
    for problem, names in (("lacks", missing), ("has the unknown", unknown), ("has in another shape", misshapen)):
        if names:
            raise InputRefused(
                f"{path}: the file {problem} {names[0]} ({len(names)} such keys), so its weights are not of this "
                f"backbone: give those of the {config.model_type} that the config describes, or change the config"
            )
    network: nn.Module = model.train()
    return network


@contextmanager
def _silence() -> Iterator[None]:
    """transformers reports what it found in the file; what matters of it is in our own sentence."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
