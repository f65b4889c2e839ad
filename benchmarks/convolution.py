"""Convolutional backbones beside timm's (both in `channels_last`) and KerasHub's: forward and
training step, paired with the peer's in turns, and the peak memory of a training step.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import torch

# Class here and in KerasHub, its preset's id in `tests/cases`, timm's name.
MODELS = {
    "ResNet-50": ("ResNetBackbone", "resnet_50_imagenet", "resnet50"),
    "EfficientNet-B0": ("EfficientNetBackbone", "efficientnet_b0_ra_imagenet", "efficientnet_b0"),
    "MobileNetV3-large": (
        "MobileNetBackbone",
        "mobilenet_v3_large_100_imagenet",
        "mobilenetv3_large_100",
    ),
}


def build(who: str, name: str) -> tuple[Any, Callable[[torch.Tensor], torch.Tensor]]:
    """A model, and how it takes images whose channels come last."""
    import keras_hub_torch
    from keras_hub_torch.tests import timm_models
    from keras_hub_torch.tests.cases import all_presets

    cls, preset, architecture = MODELS[name]
    if who == "timm":
        timm = timm_models.import_timm()
        model = timm.create_model(architecture, num_classes=0)
        model = model.to(memory_format=torch.channels_last)
        return model, lambda images: model.forward_features(images.permute(0, 3, 1, 2))
    if who == "KerasHub":
        import keras_hub

        model = getattr(keras_hub.models, cls)(**all_presets()[preset])
        return model, lambda images: model(images, training=model.training)
    model = getattr(keras_hub_torch.models, cls)(**all_presets()[preset])
    model = model.to(memory_format=torch.channels_last)
    return model, model


def step(call: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> None:
    call(images).square().mean().backward()


@torch.no_grad()
def forward(call: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> None:
    call(images)


def seconds(work: Callable[..., None], call: Any, images: torch.Tensor) -> float:
    start = time.perf_counter()
    work(call, images)
    return time.perf_counter() - start


def paired(work: Callable[..., None], ours: Any, theirs: Any, images: Any, rounds: int) -> str:
    for call in (ours, theirs):
        work(call, images)
    pairs = [(seconds(work, ours, images), seconds(work, theirs, images)) for _ in range(rounds)]
    ratios = sorted(mine / other for mine, other in pairs)
    mine, other = (statistics.median(times) for times in zip(*pairs))
    return (
        f"{mine:.2f} s beside {other:.2f} s, ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def peak(who: str, name: str, batch: int) -> float:
    """MiB that a training step needs above the model, in a process of its own."""
    command = [sys.executable, __file__, "--peak", who, "--only", name, "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def resident() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=MODELS)
    parser.add_argument("--keras", action="store_true", help="beside KerasHub, too")
    parser.add_argument("--peak", choices=("ours", "timm"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.manual_seed(0)
    images = torch.rand(options.batch, 224, 224, 3)
    if options.peak:
        model, call = build(options.peak, options.only)
        model.train()
        before = resident()
        step(call, images)
        print(resident() - before)
        return
    for name in MODELS:
        if options.only not in (None, name):
            continue
        model, ours = build("ours", name)
        peers = {"timm": build("timm", name)}
        if options.keras:
            peers["KerasHub"] = build("KerasHub", name)
        for peer, (other, theirs) in peers.items():
            model.eval()
            other.eval()
            found = paired(forward, ours, theirs, images, options.rounds)
            print(f"{name}, forward, {peer}: {found}")
            if peer == "timm":
                found = paired(forward, model.fuse(), theirs, images, options.rounds)
                print(f"{name}, fused, {peer}: {found}")
                compiled = torch.compile(model.fuse()), torch.compile(theirs)
                found = paired(forward, *compiled, images, options.rounds)
                print(f"{name}, fused and compiled, {peer} compiled: {found}")
            model.train()
            other.train()
            found = paired(step, ours, theirs, images, options.rounds)
            print(f"{name}, training step, {peer}: {found}")
        memory = {who: peak(who, name, options.batch) for who in ("ours", "timm")}
        print(f"{name}, peak of a step: {memory['ours']:.0f} MiB, timm {memory['timm']:.0f} MiB")


if __name__ == "__main__":
    main()
