"""Bytes read, peak memory and time of each process that loads its part of a preset, for 1, 2 and 4
processes and both plans; gloo, on the CPU.

`--gigabytes 1.5` is the size of the preset, in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import json, os, sys, time
from pathlib import Path
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from keras_hub_torch.models import LlamaBackbone

folder, plan = sys.argv[1:]
dist.init_process_group("gloo")
mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tensor",))
LlamaBackbone(16, 1, 4, 16, 16, 4).save_to_preset(Path(folder) / f"small{dist.get_rank()}")
LlamaBackbone.from_preset(  # what is made and imported once
    Path(folder) / f"small{dist.get_rank()}", device_mesh=mesh, plan=plan
)
counts, read = [], os.preadv

def counted(*args):
    counts.append(read(*args))
    return counts[-1]

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024

os.preadv = counted
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the peak begins anew
before = status("VmRSS")
dist.barrier()
start = time.perf_counter()
model = LlamaBackbone.from_preset(Path(folder) / "large", device_mesh=mesh, plan=plan)
seconds = time.perf_counter() - start
peak = status("VmHWM") - before
held = sum(p.to_local().nbytes for p in model.parameters())
found = {"held": held, "read": sum(counts), "reads": len(counts), "peak": peak, "seconds": seconds}
(Path(folder) / f"{dist.get_rank()}.json").write_text(json.dumps(found))
dist.barrier()
os._exit(0)
"""
WRITE = """
import sys
from keras_hub_torch.models import LlamaBackbone
layers = max(round((float(sys.argv[2]) * 2**30 - 2**29) / (46 * 2**22)), 1)
LlamaBackbone(32000, layers, 16, 2048, 5632, 8).save_to_preset(sys.argv[1])
"""


def measure(folder: str, plan: str, count: int) -> list[dict[str, float]]:
    script = Path(folder) / "measure.py"
    script.write_text(MEASURE)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    subprocess.run(
        [*command, f"--nproc-per-node={count}", str(script), folder, plan],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=1.5)
    size = parser.parse_args().gigabytes
    with tempfile.TemporaryDirectory() as folder:
        large = str(Path(folder) / "large")
        subprocess.run([sys.executable, "-c", WRITE, large, str(size)], check=True)
        for plan in ("fsdp", "tensor"):
            for count in (1, 2, 4):
                found = measure(folder, plan, count)
                most = {key: max(one[key] for one in found) for key in found[0]}
                print(
                    f"{plan}, {count}: holds {most['held'] / 2**20:.0f} MiB, "
                    f"reads {most['read'] / 2**20:.0f} MiB in {most['reads']:.0f} pieces, "
                    f"peak {most['peak'] / 2**20:.0f} MiB, {most['seconds']:.1f} s",
                    flush=True,
                )


if __name__ == "__main__":
    main()
