"""Run by the tests in a process of its own: models of timm, made, read and computed.

timm needs torchvision, whose build on PyPI is made for another torch than the one for CPUs: it
registers kernels for operators of a library that is not there. Where the operators are declared
beforehand it can be imported, though not used. Both are kept out of the environment's own packages,
because others, transformers among them, would import torchvision too and fail.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

PACKAGES = Path(sys.prefix, "timm")


@functools.cache
def import_timm() -> Any:
    sys.path.append(str(PACKAGES))
    global _library  # what it declares lives on
    _library = library = torch.library.Library("torchvision", "DEF")
    while True:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = re.search(r"operator torchvision::(\w+) does not exist", str(error))
            if missing is None:
                raise
            library.define(f"{missing[1]}() -> ()")
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
        else:
            return importlib.import_module("timm")


@torch.no_grad()
def randomise(model: torch.nn.Module) -> None:
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.ndim == 1 and tensor.is_floating_point():  # norms
            tensor.normal_(float(name.endswith("weight")), 0.2)
        elif tensor.ndim > 1:
            tensor.normal_(0, tensor[0].numel() ** -0.5)


def images_for(model: torch.nn.Module, folder: Path) -> torch.Tensor:
    """`images.safetensors` beside the folder, as large as the model takes them."""
    stem = next(layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d))
    images = load_file(folder.parent / "images.safetensors")[str(stem.in_channels)]
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return images if size is None else images[..., : size[0], : size[1]]


@torch.no_grad()
def compute(model: torch.nn.Module, folder: Path, module: str | None) -> None:
    """Features of the images.

    They are what `timm_features(model, images)` of a module says, one tensor or several by name,
    which may import torch only, and `model.forward_features(images)` without one.
    """
    images = images_for(model, folder)
    model.eval()
    if module is None:
        features = model.forward_features(images)
    else:
        features = runpy.run_path(module)["timm_features"](model, images)
    features = features if isinstance(features, dict) else {"output": features}
    features = {name: feature.contiguous() for name, feature in features.items()}
    save_file(features, f"{folder}.features.safetensors")


@torch.no_grad()
def compute_intermediates(model: torch.nn.Module, folder: Path) -> None:
    """What blocks or stages give, without the norm behind them and with it: `True.0`."""
    images = images_for(model, folder)
    found = {
        f"{norm}.{i}": x.contiguous()
        for norm in (False, True)
        for i, x in enumerate(
            model.forward_intermediates(images, norm=norm, intermediates_only=True)
        )
    }
    save_file(found, f"{folder}.intermediates.safetensors")


def make(folder: Path, models: dict[str, list[Any]]) -> None:
    """Write checkpoints: name of a folder → architecture, its arguments, module."""
    timm = import_timm()
    torch.manual_seed(0)
    images = {str(channels): torch.rand(2, channels, 65, 58) for channels in (3, 5)}
    save_file(images, folder / "images.safetensors")
    for name, (architecture, arguments, module) in models.items():
        model = timm.create_model(architecture, **arguments)
        randomise(model)
        timm.models.save_for_hf(
            model, folder / name, model_args=arguments or None, safe_serialization="both"
        )
        compute(model, folder / name, module)
        if hasattr(model, "forward_intermediates"):
            compute_intermediates(model, folder / name)


def look(folder: Path, settings: dict[str, dict[str, Any]]) -> None:
    """Write pixels of pictures as timm makes them: name → what `pretrained_cfg` says of them."""
    timm = import_timm()
    from PIL import Image

    pictures = load_file(folder / "pictures.safetensors")
    found = {}
    for name, config in settings.items():
        config = timm.data.resolve_data_config(pretrained_cfg=config)
        transform = timm.data.create_transform(**config, is_training=False)
        for key, picture in pictures.items():
            found[f"{name}.{key}"] = transform(Image.fromarray(picture.numpy()))
    save_file(found, folder / "pixels.safetensors")


def read(folder: Path, models: dict[str, str | None]) -> None:
    """Compute what timm reads from checkpoints: name of a folder → module."""
    timm = import_timm()
    for name, module in models.items():
        model = timm.create_model(f"local-dir:{folder / name}", pretrained=True)
        compute(model, folder / name, module)


def shapes(folder: Path, architectures: list[str]) -> None:
    """Write the shapes of all tensors of these models."""
    timm = import_timm()
    found = {}
    for architecture in architectures:
        with torch.device("meta"):
            model = timm.create_model(architecture)
        found[architecture] = {name: list(t.shape) for name, t in model.state_dict().items()}
    (folder / "shapes.json").write_text(json.dumps(found))


if __name__ == "__main__":
    command, place, given = sys.argv[1:]
    {"make": make, "look": look, "read": read, "shapes": shapes}[command](
        Path(place), json.loads(given)
    )
