"""Images per second of converters, beside KerasHub's."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import time
from collections.abc import Callable
from typing import Any

import keras_hub
import numpy as np
import torch

from keras_hub_torch import layers

SETTINGS: dict[str, dict[str, Any]] = {
    "bilinear, crop": {},
    "bicubic, crop": {"interpolation": "bicubic"},
    "bicubic, antialias": {
        "interpolation": "bicubic",
        "antialias": True,
        "crop_to_aspect_ratio": False,
    },
}
SCALED = {"scale": [1 / 58.4, 1 / 57.1, 1 / 57.4], "offset": [-2.1, -2.0, -1.8]}


def per_second(call: Callable[[Any], Any], images: Any, seconds: float = 1.0) -> float:
    """How many images of a batch are converted in a second."""
    call(images)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        call(images)
        count += len(images)
    return count / (time.perf_counter() - start)


def main() -> None:
    images = np.random.default_rng(0).integers(0, 256, (16, 480, 640, 3), dtype=np.uint8)
    print(f"{torch.get_num_threads()} threads; 480 × 640 → 224 × 224")
    for name, options in SETTINGS.items():
        config = {"image_size": (224, 224), **SCALED, **options}
        ours = per_second(layers.ImageConverter(**config), images)
        theirs = per_second(keras_hub.layers.ImageConverter(**config), images)
        print(f"{name}: {ours:.0f} images/s, KerasHub {theirs:.0f}")


if __name__ == "__main__":
    main()
