"""Milliseconds of models of several inputs, beside transformers'.

CLIP ViT-B/16 on 8 images and 32 texts of 77 tokens: forward, eager and compiled, both together and
each tower alone; the two models in turn, on this machine's device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel

import keras_hub_torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VISION = {
    "patch_size": 16,
    "hidden_dim": 768,
    "num_layers": 12,
    "num_heads": 12,
    "intermediate_dim": 3072,
}
TEXT = {
    "vocabulary_size": 49408,
    "embedding_dim": 512,
    "hidden_dim": 512,
    "num_layers": 12,
    "num_heads": 8,
    "intermediate_dim": 2048,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12, help="of each tower")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{DEVICE}, {torch.get_num_threads()} threads")
    clip(arguments.images, arguments.texts, arguments.layers, arguments.runs)


def clip(images: int, texts: int, layers: int, runs: int) -> None:
    models = keras_hub_torch.models
    ours = models.CLIPBackbone(
        models.CLIPVisionEncoder(**{**VISION, "num_layers": layers}),
        models.CLIPTextEncoder(**{**TEXT, "num_layers": layers}),
        projection_dim=512,
    )
    depth = {"num_hidden_layers": layers}
    theirs = CLIPModel(CLIPConfig(text_config=depth, vision_config={**depth, "patch_size": 16}))
    ours, theirs = ours.to(DEVICE).eval(), theirs.to(DEVICE).eval()
    pixels = torch.rand(images, 224, 224, 3, device=DEVICE)
    planes = pixels.permute(0, 3, 1, 2).contiguous()
    ids = torch.randint(0, 49407, (texts, 77), device=DEVICE)
    ids[:, -1] = 49407

    def compare_all(what: str, wrap: Callable[[Any], Any]) -> None:
        for part, our, their in (
            ("both", lambda: ours(pixels, ids), lambda: theirs(ids, planes)),
            (
                "images",
                lambda: ours.get_vision_embeddings(pixels),
                lambda: theirs.get_image_features(planes),
            ),
            (
                "texts",
                lambda: ours.get_text_embeddings(ids),
                lambda: theirs.get_text_features(ids),
            ),
        ):
            compare(f"CLIP {part}, {what}", wrap(our), wrap(their), runs)

    compare_all("eager", lambda call: call)
    compare_all("compiled", torch.compile)


def compare(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], runs: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for i in range(runs + 2):
            for call, values in zip((ours, theirs), times):
                start = time.perf_counter()
                call()
                if DEVICE == "cuda":
                    torch.cuda.synchronize()
                if i >= 2:
                    values.append(1000 * (time.perf_counter() - start))
    ratio = statistics.median(a / b for a, b in zip(*times))
    print(
        f"{what:24} keras_hub_torch {statistics.median(times[0]):8.1f} ms   "
        f"transformers {statistics.median(times[1]):8.1f} ms   ratio {ratio:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
