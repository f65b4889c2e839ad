"""Wall time and peak memory of loading presets, each run in a fresh process, in turn.

The presets are made here with random weights: BERT base (418 MiB, float32) and Gemma-shaped ones
(1.4 and 6 GiB, bfloat16; the large one asks for 13 GiB of memory and of disk). Peers: reading the
same bytes with h5py, KerasHub, and transformers with the same BERT in safetensors.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

import torch

import keras_hub_torch

GEMMA = {
    "vocabulary_size": 64000,
    "num_query_heads": 8,
    "num_key_value_heads": 1,
    "hidden_dim": 2048,
    "intermediate_dim": 13312,
    "head_dim": 256,
}
PRESETS = {
    "bert": (
        "BertBackbone",
        "float32",
        {
            "vocabulary_size": 30522,
            "num_layers": 12,
            "num_heads": 12,
            "hidden_dim": 768,
            "intermediate_dim": 3072,
        },
    ),
    "gemma": ("GemmaBackbone", "bfloat16", {**GEMMA, "num_layers": 12}),
    "large": ("GemmaBackbone", "bfloat16", {**GEMMA, "num_layers": 36}),
}
MEASURE = """
import json, resource, sys, time
{setup}
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
before = peak()
start = time.perf_counter()
{work}
print(json.dumps({{"seconds": time.perf_counter() - start, "megabytes": peak() - before}}))
"""
OURS = (
    "import h5py, safetensors.torch, keras_hub_torch.presets.loading\n"
    "import keras_hub_torch.presets.sources; keras_hub_torch.models.{cls}"
)
LOAD = "model = keras_hub_torch.models.Backbone.from_preset({folder}, dtype={{dtype!r}}{more})"
# Beside which the numbers of others are given.
BASES = ("h5py", "transformers")
WAYS = {
    "h5py": (
        "import h5py, numpy",
        """
kept = []
def read(name, item):
    if isinstance(item, h5py.Dataset):
        kept.append(item[()])
with h5py.File({preset!r} + "/model.weights.h5") as file:
    file.visititems(read)
""",
    ),
    "keras_hub_torch": (OURS, LOAD.format(folder="{preset!r}", more="")),
    "keras_hub_torch, mmap=True": (OURS, LOAD.format(folder="{preset!r}", more=", mmap=True")),
    "safetensors": (OURS, LOAD.format(folder="{preset!r} + '/tensors'", more="")),
    "safetensors, mmap=False": (
        OURS,
        LOAD.format(folder="{preset!r} + '/tensors'", more=", mmap=False"),
    ),
    "transformers": (
        "from transformers import BertModel",
        "model = BertModel.from_pretrained({preset!r} + '/transformers')",
    ),
    "keras_hub": (
        "import keras_hub",
        "model = keras_hub.models.Backbone.from_preset({preset!r}, dtype={dtype!r})",
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=PRESETS)
    arguments = parser.parse_args()
    for name, (cls, dtype, config) in PRESETS.items():
        if arguments.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                measure(name, cls, dtype, config, folder, arguments.runs)


def measure(
    name: str, cls: str, dtype: str, config: dict[str, int], folder: str, runs: int
) -> None:
    model = getattr(keras_hub_torch.models, cls)(**config, dtype=dtype)
    model.save_to_preset(folder)
    model.save_to_preset(f"{folder}/tensors", format="safetensors")
    left_out = {"large": {"keras_hub", "transformers"}, "gemma": {"transformers"}}.get(name, set())
    if "transformers" not in left_out:
        model.export_to_transformers(f"{folder}/transformers")
    megabytes = sum(p.numel() * p.itemsize for p in model.parameters()) / 1024**2
    largest = max(p.numel() * p.itemsize for p in model.parameters()) / 1024**2
    del model
    print(f"{name}: {megabytes:,.0f} MiB of weights in {dtype}, the largest {largest:,.0f} MiB")
    results: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS if way not in left_out}
    for i in range(runs + 1):
        for way in results:
            setup, work = WAYS[way]
            if way == "keras_hub" and i == 0:
                continue
            code = MEASURE.format(
                setup=setup.format(cls=cls), work=work.format(preset=folder, dtype=dtype)
            )
            environment = os.environ | {"KERAS_BACKEND": "torch"}
            done = subprocess.run(
                [sys.executable, "-c", code],
                check=True,
                capture_output=True,
                text=True,
                env=environment,
            )
            if i:  # the first round warms the disk cache
                results[way].append(json.loads(done.stdout.splitlines()[-1]))
    for way, values in results.items():
        seconds = statistics.median(value["seconds"] for value in values)
        ratios = "".join(
            f"{_ratio(values, results[base]):6.2f} × {base}" for base in BASES if base in results
        )
        memory = max(value["megabytes"] for value in values)
        print(
            f"  {way:28} {seconds:7.2f} s {ratios}  "
            f"peak memory {memory:7,.0f} MiB, weights {memory - megabytes:+,.0f}"
        )


def _ratio(values: list[dict[str, float]], others: list[dict[str, float]]) -> float:
    return statistics.median(a["seconds"] / b["seconds"] for a, b in zip(values, others))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
