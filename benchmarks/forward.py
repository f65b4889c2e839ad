"""Milliseconds of BERT base on 8 × 128 tokens, 22 % padding, beside transformers' BertModel.

Forward and training step, eager and compiled; the two models in turn, on this machine's device.
Then graph breaks and compilations over three shapes, for KerasHub too.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import torch
from torch._dynamo.utils import counters
from transformers import BertConfig, BertModel

import keras_hub_torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CONFIG = {
    "vocabulary_size": 30522,
    "num_layers": 12,
    "num_heads": 12,
    "hidden_dim": 768,
    "intermediate_dim": 3072,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--keras", action="store_true", help="count KerasHub's graph breaks too")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    ours = keras_hub_torch.models.BertBackbone(**CONFIG).to(DEVICE)
    theirs = BertModel(BertConfig(hidden_act="gelu_new")).to(DEVICE)
    token_ids = torch.randint(0, 30522, (8, 128), device=DEVICE)
    mask = (
        torch.arange(128, device=DEVICE) < torch.linspace(72, 128, 8)[:, None].to(DEVICE)
    ).long()
    print(f"{DEVICE}, {torch.get_num_threads()} threads, padding {1 - mask.float().mean():.0%}")

    def our(model: Any) -> torch.Tensor:
        return model(token_ids=token_ids, padding_mask=mask)["sequence_output"]

    def their(model: Any) -> torch.Tensor:
        return model(input_ids=token_ids, attention_mask=mask).last_hidden_state

    for compiled in (False, True):
        models = [torch.compile(m) if compiled else m for m in (ours, theirs)]
        for training in (False, True):
            ours.train(training)
            theirs.train(training)
            step = train if training else infer
            compare(
                f"{'training step' if training else 'forward'}"
                f"{', compiled' if compiled else ', eager'}",
                lambda step=step, models=models: step(our, models[0]),
                lambda step=step, models=models: step(their, models[1]),
                arguments.runs,
            )
    if arguments.keras:
        count_breaks()


def infer(call: Callable[[Any], torch.Tensor], model: Any) -> None:
    with torch.inference_mode():
        call(model)


def train(call: Callable[[Any], torch.Tensor], model: Any) -> None:
    call(model).square().mean().backward()
    model.zero_grad()


def compare(what: str, ours: Callable[[], None], theirs: Callable[[], None], runs: int) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(runs + 2):
        for call, values in zip((ours, theirs), times):
            start = time.perf_counter()
            call()
            if DEVICE == "cuda":
                torch.cuda.synchronize()
            if i >= 2:
                values.append(1000 * (time.perf_counter() - start))
    ratio = statistics.median(a / b for a, b in zip(*times))
    print(
        f"{what:24} keras_hub_torch {statistics.median(times[0]):8.1f} ms   "
        f"transformers {statistics.median(times[1]):8.1f} ms   ratio {ratio:.2f}",
        flush=True,
    )


def count_breaks() -> None:
    """Graphs and graph breaks of both BERTs over three batch sizes and lengths."""
    import keras_hub

    config = {**CONFIG, "num_layers": 2}
    for name, cls in (
        ("keras_hub_torch", keras_hub_torch.models.BertBackbone),
        ("keras_hub", keras_hub.models.BertBackbone),
    ):
        torch._dynamo.reset()
        counters.clear()
        model = cls(**config)
        compiled = torch.compile(model, dynamic=True, backend="aot_eager")
        for batch, length in ((2, 16), (3, 24), (5, 40)):
            ids = torch.ones(batch, length, dtype=torch.int32)
            inputs = {"token_ids": ids, "segment_ids": torch.zeros_like(ids), "padding_mask": ids}
            with torch.no_grad():
                compiled(inputs)
        graphs = counters["stats"]["unique_graphs"]
        breaks = sum(counters["graph_break"].values())
        print(f"{name:16} graphs {graphs}, graph breaks {breaks}")


if __name__ == "__main__":
    main()
