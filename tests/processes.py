"""Scripts that start several processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
# Seen once in some 150 runs, with a corrupted heap, while PyTorch 2.13's gloo gathered tensors.
CRASH = re.compile(r"exitcode: -(6|11)\b|ended with \[.*-(6|11)\b")


def run(*command: str | Path, timeout: float) -> str:
    """Standard output of Python with these arguments.

    A run of which the memory broke says nothing of what was computed, so there is a second one.
    Where it breaks again, the stacks of all threads are shown.
    """
    for attempt in range(2):
        done = subprocess.run(
            [sys.executable, "-X", "faulthandler", *map(str, command)],
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "PYTHONFAULTHANDLER": "1",
            },
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode == 0:
            return done.stdout
        if attempt or not CRASH.search(done.stderr):
            break
        sys.stderr.write(done.stderr)
    raise AssertionError(done.stderr[-12000:])
