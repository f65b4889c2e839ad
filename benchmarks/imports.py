"""Seconds to import, each in a fresh process, in turn: torch, this package, keras_hub."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

STATEMENTS = {
    "torch": "import torch",
    "keras_hub_torch": "import keras_hub_torch as k; k.models.Backbone",
    "keras_hub_torch, BERT": "import keras_hub_torch as k; k.models.BertBackbone",
    "keras_hub": "import keras_hub",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for i in range(runs + 1):
        for name, statement in STATEMENTS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)
            if i:  # the first round warms the disk cache
                seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, seconds["torch"]))
        print(f"{name:24} {statistics.median(values):6.2f} s   {ratio:5.2f} × torch")


if __name__ == "__main__":
    main()
