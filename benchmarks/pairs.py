"""Two image models in turns: forward and training step, and the peak memory of a step."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch

Call = Callable[[torch.Tensor], torch.Tensor]


class Built(NamedTuple):
    """A model, and how it takes images `[batch, height, width, channels]`."""

    model: torch.nn.Module
    call: Call


def main(
    about: str | None,
    build: Callable[[str, str], Built],
    models: dict[str, tuple[str, int, int]],
) -> None:
    """Args:
    build: of who ("ours", "KerasHub" or the peer) and the name of a model.
    models: name → peer, images of a batch, their side.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=models)
    parser.add_argument("--keras", action="store_true", help="beside KerasHub, too")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name, (peer, batch, side) in models.items():
        if options.only not in (None, name):
            continue
        torch.manual_seed(0)
        images = torch.rand(batch, side, side, 3)
        if options.peak:
            print(peak_of_step(build(options.peak, name), images))
            return
        ours = build("ours", name)
        compare(name, peer, ours, build(peer, name), images, options.rounds)
        if options.keras:
            compare(name, "KerasHub", ours, build("KerasHub", name), images, options.rounds)
        mine, theirs = (separate_peak(who, name) for who in ("ours", peer))
        print(f"{name}, peak of a step: {mine:.0f} MiB, {peer} {theirs:.0f} MiB", flush=True)


def compare(
    name: str, peer: str, ours: Built, theirs: Built, images: torch.Tensor, rounds: int
) -> None:
    for built in (ours, theirs):
        built.model.eval()
    report(f"{name}, forward, {peer}", forward, ours.call, theirs.call, images, rounds)
    compiled = tuple(torch.compile(built.call) for built in (ours, theirs))
    if peer != "KerasHub":  # whose graphs break
        report(f"{name}, compiled, {peer} compiled", forward, *compiled, images, rounds)
        if any(isinstance(layer, torch.nn.BatchNorm2d) for layer in ours.model.modules()):
            fused = ours.model.fuse()
            report(f"{name}, fused, {peer}", forward, fused, theirs.call, images, rounds)
            both = torch.compile(fused), compiled[1]
            report(f"{name}, fused, compiled, {peer} compiled", forward, *both, images, rounds)
    for built in (ours, theirs):
        built.model.train()
    report(f"{name}, training step, {peer}", step, ours.call, theirs.call, images, rounds)


def step(call: Call, images: torch.Tensor) -> None:
    call(images).square().mean().backward()


@torch.no_grad()
def forward(call: Call, images: torch.Tensor) -> None:
    call(images)


def report(
    what: str,
    work: Callable[[Call, torch.Tensor], None],
    ours: Call,
    theirs: Call,
    images: torch.Tensor,
    rounds: int,
) -> None:
    pairs = []
    for turn in range(rounds + 2):  # each goes first every other time
        order = (ours, theirs) if turn % 2 else (theirs, ours)
        times = tuple(seconds(work, order, images))
        pairs.append(times if turn % 2 else times[::-1])
    pairs = pairs[2:]
    ratios = sorted(mine / other for mine, other in pairs)
    mine, other = (statistics.median(times) for times in zip(*pairs))
    print(
        f"{what}: {mine:.2f} s beside {other:.2f} s, ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def seconds(work: Any, calls: Iterable[Call], images: torch.Tensor) -> Iterable[float]:
    for call in calls:
        start = time.perf_counter()
        work(call, images)
        yield time.perf_counter() - start


def separate_peak(who: str, name: str) -> float:
    """MiB that a training step needs above the model, in a process of its own."""
    command = [sys.executable, sys.argv[0], "--peak", who, "--only", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak_of_step(built: Built, images: torch.Tensor) -> float:
    built.model.train()
    before = resident()
    step(built.call, images)
    return resident() - before


def resident() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
