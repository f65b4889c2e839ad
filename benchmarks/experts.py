"""Milliseconds of one mixture of 8 experts, 2 for each token.

It has a quarter of Mixtral's width, and its experts an eighth of their inner one. Beside it a dense
network of the size that one token meets, and transformers' MixtralSparseMoeBlock with its two ways
to compute the experts; all in turn, on this machine's device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from keras_hub_torch.backbones.mixtral import MixtralSparseMoeBlock

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HIDDEN, INTERMEDIATE, EXPERTS, TOP_K = 1024, 1792, 8, 2


class Dense(nn.Module):
    """The gated network with as many weights as one token's experts have together."""

    def __init__(self, hidden: int, intermediate: int) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(hidden, intermediate, bias=False) for _ in range(2))
        self.down = nn.Linear(intermediate, hidden, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    print(f"{DEVICE}, {torch.get_num_threads()} threads, {arguments.dtype}")
    torch.manual_seed(0)
    ours = MixtralSparseMoeBlock(HIDDEN, INTERMEDIATE, EXPERTS, TOP_K, 0.0).to(DEVICE, dtype)
    models = {
        "dense": Dense(HIDDEN, TOP_K * INTERMEDIATE).to(DEVICE, dtype),
        "keras_hub_torch": ours,
    }
    for how in ("eager", "grouped_mm"):
        block = models[f"transformers, {how}"] = theirs(ours, how)
        x = torch.randn(1, 5, HIDDEN, device=DEVICE, dtype=dtype)
        with torch.no_grad():
            difference = (block(x) - ours(x)).abs().max().item()
        print(f"transformers, {how}: outputs differ by {difference:.1e}")
    for tokens in (1, 64, 1024):
        x = torch.randn(1, tokens, HIDDEN, device=DEVICE, dtype=dtype)
        for training in (False, True):
            print(f"{tokens} tokens, {'training step' if training else 'forward'}")
            step = train if training else infer
            compare({name: step(model, x) for name, model in models.items()}, arguments.runs)


def theirs(ours: MixtralSparseMoeBlock, how: str) -> nn.Module:
    """transformers' block with our weights."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock as Theirs

    experts = ours.experts
    number, hidden, intermediate = experts.gate.shape
    config = MixtralConfig(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_local_experts=number,
        num_experts_per_tok=ours.top_k,
    )
    config._experts_implementation = how
    block = Theirs(config).to(experts.gate)
    fused = torch.cat((experts.gate, experts.intermediate), dim=2).mT
    state: dict[str, Any] = {
        "gate.weight": ours.sparse_feedforward_gate_dense.weight,
        "experts.gate_up_proj": fused,
        "experts.down_proj": experts.output.mT,
    }
    block.load_state_dict(state)
    return block


def infer(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def call() -> None:
        model(x)

    return call


def train(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    x = x.clone().requires_grad_()

    def call() -> None:
        model(x).square().mean().backward()
        model.zero_grad()

    return call


def compare(calls: dict[str, Callable[[], None]], runs: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(runs + 2):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            if i >= 2:
                times[name].append(1000 * (time.perf_counter() - start))
    for name, values in times.items():
        ratio = statistics.median(a / b for a, b in zip(values, times["dense"]))
        print(f"  {name:24} {statistics.median(values):8.2f} ms   ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
