"""Tokens per second and share of the memory's bandwidth, one token at a time for 1 and 16 rows.

Beside transformers with a static cache, eager and compiled, the two in turn. The bandwidth is that
of a copy measured in the same run; a step must read every weight and the cache once. Weights are
random. On a CPU the shape is SmolLM2-135M's in float32, on a GPU Gemma 2B's and Llama 3 8B's in
bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import keras_hub_torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "model_type": "llama",
        "vocab_size": 49152,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "tie_word_embeddings": True,
    },
    "Gemma 2B": {
        "model_type": "gemma",
        "vocab_size": 256000,
        "num_hidden_layers": 18,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "hidden_size": 2048,
        "intermediate_size": 16384,
    },
    "Llama 3 8B": {
        "model_type": "llama",
        "vocab_size": 128256,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "tie_word_embeddings": False,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=SHAPES, action="append")
    parser.add_argument("--length", type=int, default=256, help="of the cache")
    parser.add_argument("--tokens", type=int, default=30, help="per measurement")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    cpu = DEVICE.type == "cpu"
    dtype = torch.float32 if cpu else torch.bfloat16
    bandwidth = copy_bandwidth()
    print(f"{DEVICE.type}, {torch.get_num_threads()} threads, copies {bandwidth / 1e9:.1f} GB/s")
    for name in arguments.model or (["SmolLM2-135M"] if cpu else ["Gemma 2B", "Llama 3 8B"]):
        ours, theirs = our_model(SHAPES[name], dtype), their_model(SHAPES[name], dtype)
        for batch in (1, 16):
            for compiled in (False, True):
                steps = (
                    our_step(ours, batch, arguments.length, compiled),
                    their_step(theirs, batch, arguments.length, compiled),
                )
                times: tuple[list[float], ...] = ([], [])
                for run in range(arguments.runs + 1):
                    for step, found in zip(steps, times):
                        seconds = measure(*step, batch, arguments.length, arguments.tokens)
                        if run:  # the first one compiles
                            found.append(seconds)
                size = step_bytes(ours, batch, arguments.length)
                how = "compiled" if compiled else "eager"
                for side, found in zip(("ours", "transformers"), times):
                    seconds = statistics.median(found)
                    print(
                        f"{name}, batch {batch:2}, {how:8}, {side:12}: {batch / seconds:8.1f} "
                        f"tokens/s, {size / seconds / bandwidth:4.0%} of the bandwidth"
                    )


def copy_bandwidth() -> float:
    """Bytes read and written per second."""
    source = torch.ones(2**28 if DEVICE.type == "cuda" else 2**26, device=DEVICE)
    target = torch.empty_like(source)
    times = []
    for _ in range(5):
        wait()
        start = time.perf_counter()
        target.copy_(source)
        wait()
        times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times)


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def our_model(shape: dict[str, Any], dtype: torch.dtype) -> Any:
    arguments = {
        "vocabulary_size": shape["vocab_size"],
        "num_layers": shape["num_hidden_layers"],
        "num_query_heads": shape["num_attention_heads"],
        "num_key_value_heads": shape["num_key_value_heads"],
        "hidden_dim": shape["hidden_size"],
        "intermediate_dim": shape["intermediate_size"],
        "dtype": dtype,
    }
    if shape["model_type"] == "gemma":
        arguments |= {"head_dim": shape["head_dim"]}
        arguments["intermediate_dim"] *= 2  # counts gate and value together
        cls = keras_hub_torch.models.GemmaBackbone
    else:
        arguments |= {"tie_word_embeddings": shape["tie_word_embeddings"]}
        cls = keras_hub_torch.models.Llama3Backbone
    with DEVICE:
        return cls(**arguments).eval()


def their_model(shape: dict[str, Any], dtype: torch.dtype) -> Any:
    import transformers

    config = transformers.AutoConfig.for_model(**shape)
    with DEVICE:
        return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def step_bytes(model: Any, batch: int, length: int) -> int:
    """What a step must read: every weight, and the cache."""
    cache = model.make_cache(batch, length, device="meta")
    size = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return size + sum(p.nbytes for p in model.parameters())


Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Rewind = Callable[[int], None]


def our_step(model: Any, batch: int, length: int, compiled: bool) -> tuple[Step, Rewind]:
    cache = model.make_cache(batch, length)

    def step(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        hidden = model(tokens, cache=cache, cache_update_index=index)
        return model.token_embedding(hidden[:, -1], reverse=True)

    return (compile_step(step) if compiled else step), lambda position: None


def their_step(model: Any, batch: int, length: int, compiled: bool) -> tuple[Step, Rewind]:
    import transformers

    cache = transformers.StaticCache(config=model.config, max_cache_len=length)
    heads, dim = model.config.num_key_value_heads, model.config.head_dim
    dtype = next(model.parameters()).dtype
    cache.early_initialization(batch, heads, dim, dtype, DEVICE)

    def step(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        positions = index.reshape(1, 1).expand(batch, 1)
        return model(tokens, past_key_values=cache, position_ids=positions).logits[:, -1]

    def rewind(position: int) -> None:
        for layer in cache.layers:
            layer.cumulative_length.fill_(position)

    return (compile_step(step) if compiled else step), rewind


def compile_step(step: Step) -> Step:
    torch._dynamo.reset()
    mode = "reduce-overhead" if DEVICE.type == "cuda" else None
    return torch.compile(step, fullgraph=True, mode=mode)


@torch.no_grad()
def measure(step: Step, rewind: Rewind, batch: int, length: int, count: int) -> float:
    """Seconds per step, the likeliest token fed back."""
    rewind(length // 2)
    tokens = torch.ones((batch, 1), dtype=torch.long, device=DEVICE)
    start = torch.tensor(length // 2, device=DEVICE)
    for i in range(2):
        step(tokens, start + i)
    wait()
    began = time.perf_counter()
    for i in range(2, count + 2):
        tokens = step(tokens, start + i).argmax(-1, keepdim=True)
    wait()
    return (time.perf_counter() - began) / count


if __name__ == "__main__":
    main()
