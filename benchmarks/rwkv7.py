"""Milliseconds of RWKV-7's recurrence by length: in chunks, and token by token, in turn.

One layer of 12 heads of 64, as in the model of 0.1 billion weights, batch 1; forward, and with the
gradients of everything. Then a token of the whole model, from its state.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from keras_hub_torch.backbones.layers.delta_rule import CHUNK, delta_rule
from keras_hub_torch.models import RWKV7Backbone

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HEADS, SIZE = 12, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="*", default=[128, 512, 2048])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{DEVICE}, {torch.get_num_threads()} threads, chunks of {CHUNK}")
    for length in arguments.lengths:
        inputs = drawn(length)
        for training in (False, True):
            compare(
                f"{length:5} tokens, {'with gradients' if training else 'forward'}",
                lambda inputs=inputs, t=training: run(delta_rule, inputs, t),
                lambda inputs=inputs, t=training: run(naive, inputs, t),
                arguments.runs,
            )
    generate(arguments.lengths, arguments.runs)


def drawn(length: int) -> list[torch.Tensor]:
    """r, log w, k, v, a, b and the state, as a model makes them."""
    r, w, k, v, a, b = torch.randn(6, 1, length, HEADS, SIZE, device=DEVICE)
    kk = a / a.norm(dim=-1, keepdim=True)
    log_w = -torch.exp(-0.5 - torch.nn.functional.softplus(w))
    state = torch.zeros(1, HEADS, SIZE, SIZE, device=DEVICE)
    return [r, log_w, k, v, -kk, kk * b.sigmoid(), state]


def naive(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token by token."""
    outputs = []
    for now in zip(*(x.split(1, dim=1) for x in (r, log_w, k, v, a, b))):
        out, state = delta_rule(*now, state)
        outputs.append(out)
    return torch.cat(outputs, dim=1), state


def run(rule: Callable[..., tuple[torch.Tensor, ...]], inputs: list[torch.Tensor], t: bool) -> None:
    if not t:
        with torch.inference_mode():
            rule(*inputs)
        return
    leaves = [x.clone().requires_grad_() for x in inputs]
    sum(out.square().sum() for out in rule(*leaves)).backward()


def compare(what: str, chunked: Callable[[], None], loop: Callable[[], None], runs: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(runs + 1):
        for call, values in zip((chunked, loop), times):
            start = time.perf_counter()
            call()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            if i:
                values.append(1000 * (time.perf_counter() - start))
    first, second = (statistics.median(values) for values in times)
    print(f"{what:28} chunks {first:8.1f} ms   loop {second:8.1f} ms   {second / first:5.1f} ×")


def generate(lengths: list[int], runs: int) -> None:
    """A token costs the same after any number of tokens."""
    model = RWKV7Backbone(768, 64, 12, 65536, 3072).to(DEVICE).eval()
    ids = torch.randint(0, 65536, (1, max(lengths) + runs + 1), device=DEVICE)
    cache = model.make_cache(1, ids.shape[1])
    for length in lengths:
        with torch.inference_mode():
            model(ids[:, :length], cache=cache)
            times = []
            for i in range(length, length + runs + 1):
                start = time.perf_counter()
                model(ids[:, i : i + 1], cache=cache, cache_update_index=i)
                if DEVICE == "cuda":
                    torch.cuda.synchronize()
                times.append(1000 * (time.perf_counter() - start))
        print(f"{length:5} tokens, then one more: {statistics.median(times[1:]):6.1f} ms")


if __name__ == "__main__":
    main()
