"""Loading int8 and int4 presets beside bfloat16, each in a process of its own with its peak memory,
and the forward pass, in turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from keras_hub_torch.models import Backbone, LlamaBackbone
from keras_hub_torch.quantizers import Int4QuantizationConfig, Int8QuantizationConfig

CONFIGS = {
    "int8": lambda: Int8QuantizationConfig(),
    "int8, weights alone": lambda: Int8QuantizationConfig(activation_quantizer=None),
    "int4": lambda: Int4QuantizationConfig(),
}
LOAD = """
import json, sys, time
from keras_hub_torch.models import Backbone
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
import keras_hub_torch.presets.loading
before, start = peak(), time.perf_counter()
model = Backbone.from_preset(sys.argv[1], dtype="bfloat16")
print(json.dumps([time.perf_counter() - start, peak() - before]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    plain = LlamaBackbone(
        32000, options.layers, 16, 1024, 2816, 8, dtype="bfloat16", trainable=False
    ).eval()
    with tempfile.TemporaryDirectory() as folder:
        plain.save_to_preset(Path(folder, "bfloat16"))
        report("bfloat16", Path(folder, "bfloat16"), options.rounds)
        for name, config in CONFIGS.items():
            model = Backbone.from_preset(Path(folder, "bfloat16"), dtype="bfloat16")
            model.quantize(config=config())
            if "," not in name:
                model.save_to_preset(Path(folder, name))
                report(name, Path(folder, name), options.rounds)
            variants = {name: model} | ({f"{name}, fused": model.fuse()} if name == "int4" else {})
            for what, one in variants.items():
                for length in (1, 128):
                    compare(f"{what}, 1 × {length}", one, plain, length, options.rounds)


def report(name: str, preset: Path, rounds: int) -> None:
    """Print how long loading takes and what it needs at its peak, above the import."""
    runs = []
    for _ in range(rounds):
        command = [sys.executable, "-c", LOAD, str(preset)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout))
    seconds, peak = (statistics.median(column) for column in zip(*runs))
    size = sum(file.stat().st_size for file in preset.glob("*.h5")) / 2**20
    print(f"{name}: {size:.0f} MiB, loaded in {seconds:.2f} s, peak {peak:.0f} MiB", flush=True)


@torch.inference_mode()
def compare(
    name: str,
    model: torch.nn.Module,
    plain: torch.nn.Module,
    length: int,
    rounds: int,
) -> None:
    ids = {"token_ids": torch.randint(1, 32000, (1, length))}
    times: list[list[float]] = [[], []]
    for _ in range(rounds + 1):
        for one, found in zip((model, plain), times):
            start = time.perf_counter()
            one(ids)
            found.append(time.perf_counter() - start)
    ratios = [mine / other for mine, other in zip(*(found[1:] for found in times))]
    mine, other = (statistics.median(found[1:]) for found in times)
    ratio = statistics.median(ratios)
    print(f"{name}: {mine:.3f} s, bfloat16 {other:.3f} s ({ratio:.2f})", flush=True)


if __name__ == "__main__":
    main()
