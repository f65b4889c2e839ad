"""Peak memory and time of a training step with and without `gradient_checkpointing`, each in a
process of its own; what the optimizer keeps is left out.
"""

from __future__ import annotations

import json
import subprocess
import sys

MEASURE = """
import json, sys, time
import torch
from keras_hub_torch.models import BertBackbone, LlamaBackbone
torch.manual_seed(0)
if sys.argv[1] == "bert":
    model, length = BertBackbone(30522, 12, 12, 768, 3072, dropout=0.0), 256
else:
    model, length = LlamaBackbone(32000, 12, 12, 768, 2048, 12), 512
model.gradient_checkpointing(sys.argv[2] == "on")
ids = {"token_ids": torch.randint(1, 30000, (8, length))}

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

def step():
    out = model(ids)
    (out["sequence_output"] if isinstance(out, dict) else out).square().mean().backward()

for parameter in model.parameters():
    parameter.grad = torch.zeros_like(parameter)
before = peak()
start = time.perf_counter()
step()
print(json.dumps({"MiB": peak() - before, "seconds": time.perf_counter() - start}))
"""


def measure(model: str, checkpointed: str) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE, model, checkpointed]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    for model in ("bert", "llama"):
        off, on = measure(model, "off"), measure(model, "on")
        print(
            f"{model}: {off['MiB']:.0f} MiB in {off['seconds']:.1f} s, checkpointed "
            f"{on['MiB']:.0f} MiB in {on['seconds']:.1f} s"
        )


if __name__ == "__main__":
    main()
