"""Milliseconds of models of several inputs, beside transformers'.

CLIP ViT-B/16 on 8 images and 32 texts of 77 tokens: forward, both together and each tower alone.
A PaliGemma of 8 narrower layers: an image of 224 pixels and 32 tokens read into the cache, then a
token at a time. The text part of a Gemma 4 of 10 narrower layers, a token at a time: layers with
windows, per-layer embeddings, and the last four share keys and values. All eager and compiled, the
two models in turn, on this machine's device.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from decode import compile_step, measure, our_step, wait

import keras_hub_torch

PARTS = ("CLIP", "PaliGemma", "Gemma 4")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
VISION = {
    "patch_size": 16,
    "hidden_dim": 768,
    "num_layers": 12,
    "num_heads": 12,
    "intermediate_dim": 3072,
}
TEXT = {
    "vocabulary_size": 49408,
    "embedding_dim": 512,
    "hidden_dim": 512,
    "num_layers": 12,
    "num_heads": 8,
    "intermediate_dim": 2048,
}

PALI_GEMMA = {
    "text_config": {
        "model_type": "gemma",
        "vocab_size": 32000,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 1,
        "head_dim": 96,
        "num_image_tokens": 256,
    },
    "vision_config": {
        "model_type": "siglip_vision_model",
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "image_size": 224,
        "patch_size": 14,
        "projection_dim": 768,
        "vision_use_head": False,
    },
    "image_token_index": 31999,
    "projection_dim": 768,
}
GEMMA4: dict[str, Any] = {
    "vocab_size": 32000,
    "vocab_size_per_layer_input": 32000,
    "hidden_size": 768,
    "hidden_size_per_layer_input": 128,
    "intermediate_size": 3072,
    "num_hidden_layers": 10,
    "num_kv_shared_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 96,
    "global_head_dim": 192,
    "sliding_window": 128,
    "layer_types": 2 * [*4 * ["sliding_attention"], "full_attention"],
    "use_double_wide_mlp": False,
}
LENGTH = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--layers", type=int, default=12, help="of each tower of CLIP")
    parser.add_argument("--only", choices=PARTS)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(f"{DEVICE}, {torch.get_num_threads()} threads")
    if arguments.only in (None, "CLIP"):
        clip(arguments.images, arguments.texts, arguments.layers, arguments.runs)
    if arguments.only in (None, "PaliGemma"):
        pali_gemma(arguments.runs)
    if arguments.only in (None, "Gemma 4"):
        theirs = transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**GEMMA4))
        decoding("Gemma 4", imported(theirs), theirs.to(DEVICE).eval(), arguments.runs)


def clip(images: int, texts: int, layers: int, runs: int) -> None:
    models = keras_hub_torch.models
    ours = models.CLIPBackbone(
        models.CLIPVisionEncoder(**{**VISION, "num_layers": layers}),
        models.CLIPTextEncoder(**{**TEXT, "num_layers": layers}),
        projection_dim=512,
    )
    depth = {"num_hidden_layers": layers}
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=depth, vision_config={**depth, "patch_size": 16})
    )
    ours, theirs = ours.to(DEVICE).eval(), theirs.to(DEVICE).eval()
    pixels = torch.rand(images, 224, 224, 3, device=DEVICE)
    planes = pixels.permute(0, 3, 1, 2).contiguous()
    ids = torch.randint(0, 49407, (texts, 77), device=DEVICE)
    ids[:, -1] = 49407

    def compare_all(what: str, wrap: Callable[[Any], Any]) -> None:
        for part, our, their in (
            ("both", lambda: ours(pixels, ids), lambda: theirs(ids, planes)),
            (
                "images",
                lambda: ours.get_vision_embeddings(pixels),
                lambda: theirs.get_image_features(planes),
            ),
            (
                "texts",
                lambda: ours.get_text_embeddings(ids),
                lambda: theirs.get_text_features(ids),
            ),
        ):
            compare(f"CLIP {part}, {what}", wrap(our), wrap(their), runs)

    compare_all("eager", lambda call: call)
    compare_all("compiled", torch.compile)


def imported(theirs: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return keras_hub_torch.models.Backbone.from_preset(folder, mmap=False).to(DEVICE)


def pali_gemma(runs: int) -> None:
    config = transformers.PaliGemmaConfig(**PALI_GEMMA)
    theirs = transformers.PaliGemmaForConditionalGeneration(config)
    ours, theirs = imported(theirs), theirs.to(DEVICE).eval()
    pixels = torch.rand(1, 224, 224, 3, device=DEVICE)
    planes = pixels.permute(0, 3, 1, 2).contiguous()
    ids = torch.randint(0, 31999, (1, 32), device=DEVICE)
    places = torch.full((1, 256), 31999, device=DEVICE)
    all_ids, ones = torch.cat((places, ids), dim=1), torch.ones(1, 288, device=DEVICE)
    cache = ours.make_cache(1, 288)

    def our_prefill() -> Any:
        return ours.logits(ours({"token_ids": ids, "images": pixels}, cache=cache)[:, -1])

    def their_prefill() -> Any:
        return theirs(
            input_ids=all_ids, pixel_values=planes, attention_mask=ones, logits_to_keep=1
        ).logits

    compare("PaliGemma prefill, eager", our_prefill, their_prefill, runs)
    compiled = torch.compile(our_prefill), torch.compile(their_prefill)
    compare("PaliGemma prefill, compiled", *compiled, runs)
    decoding("PaliGemma", ours, theirs, runs)


def decoding(name: str, ours: Any, theirs: Any, runs: int) -> None:
    """A token at a time for one row, from the middle of the cache on."""
    for how in ("eager", "compiled"):
        steps = our_step(ours, 1, LENGTH, how == "compiled"), their_step(theirs, how == "compiled")
        calls = [lambda step=step: measure(*step, 1, LENGTH, 20) for step in steps]
        report(f"{name}, a token, {how}", calls[0], calls[1], runs)


def their_step(model: Any, compiled: bool) -> Any:
    cache = transformers.StaticCache(config=model.config, max_cache_len=LENGTH)
    ones = torch.ones(1, 1, dtype=torch.long, device=DEVICE)

    def step(tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        positions = index.reshape(1, 1)
        return model(tokens, past_key_values=cache, position_ids=positions).logits[:, -1]

    def rewind(position: int) -> None:
        cache.reset()
        model(ones.expand(1, position), past_key_values=cache, use_cache=True)

    return (compile_step(step) if compiled else step), rewind


def compare(what: str, ours: Callable[[], Any], theirs: Callable[[], Any], runs: int) -> None:
    with torch.no_grad():
        report(what, lambda: seconds(ours), lambda: seconds(theirs), runs)


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def report(what: str, ours: Callable[[], float], theirs: Callable[[], float], runs: int) -> None:
    """Of calls that give seconds, in turn and each first every other time; two warm up."""
    pairs = []
    for turn in range(runs + 2):
        pairs.append((ours(), theirs()) if turn % 2 else (theirs(), ours())[::-1])
    pairs = pairs[2:]
    mine, other = (1000 * statistics.median(times) for times in zip(*pairs))
    ratios = sorted(one / two for one, two in pairs)
    print(
        f"{what:30} keras_hub_torch {mine:8.1f} ms   transformers {other:8.1f} ms   "
        f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


if __name__ == "__main__":
    main()
