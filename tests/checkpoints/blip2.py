from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..cases.common import ids
from . import Checkpoint, Interface

VOCABULARY = 31
IMAGE = VOCABULARY - 1
QUERIES = 3  # in the cases, too


def besides(inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What stands before the text there, too, as tokens of images."""
    two_sided = "encoder_token_ids" in inputs
    side = "encoder_" if two_sided else ""

    def behind(name: str, value: int) -> torch.Tensor:
        return F.pad(inputs[side + name].long(), (QUERIES, 0), value=value)

    given: dict[str, Any] = {
        "input_ids": behind("token_ids", IMAGE),
        "attention_mask": behind("padding_mask", 1),
        "output_hidden_states": True,
    }
    if two_sided:
        given["decoder_input_ids"] = inputs["decoder_token_ids"].long()
        given["decoder_attention_mask"] = inputs["decoder_padding_mask"].long()
    return given


def last_states(outputs: Any) -> torch.Tensor:
    states = outputs.get("decoder_hidden_states", outputs.get("hidden_states"))
    found: torch.Tensor = states[-1]
    return found


def adapted(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """No padding, whose positions transformers counts otherwise, and no text that is an image."""
    return {
        name: torch.ones_like(value)
        if name.endswith("padding_mask")
        else value % IMAGE
        if name.endswith("token_ids")
        else value
        for name, value in inputs.items()
    }


BLIP2 = Interface(
    {"images": "pixel_values"},
    {"output": ("language_model_outputs", None)},
    adapt=adapted,
    forms={"images": lambda images: images.permute(0, 3, 1, 2), "output": last_states},
    besides=besides,
)


def draw(batch: int, *lengths: int) -> Callable[..., Any]:
    """Padding in encoders alone, for transformers counts the positions of tokens only."""
    sides = ("encoder_", "decoder_") if len(lengths) > 1 else ("",)

    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        given = {"images": rng.standard_normal((batch, 9, 9, 3)).astype("float32")}
        for side, length in zip(sides, lengths):
            mask = np.ones((batch, length), "int32")
            if side == "encoder_":
                mask[1, length // 2 :] = 0
            given[f"{side}token_ids"] = ids(rng, batch, length, IMAGE)
            given[f"{side}padding_mask"] = mask
        return given

    return make


CONFIG: dict[str, Any] = {
    "vision_config": {
        "image_size": 9,
        "patch_size": 4,
        "num_attention_heads": 2,
        "hidden_size": 10,
        "num_hidden_layers": 2,
        "intermediate_size": 14,
    },
    "qformer_config": {
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "hidden_size": 8,
        "intermediate_size": 12,
    },
    "num_query_tokens": QUERIES,
    "image_token_index": IMAGE,
}
OPT = {
    "model_type": "opt",
    "vocab_size": VOCABULARY,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "ffn_dim": 20,
    "word_embed_proj_dim": 12,
    "max_position_embeddings": 23,
}
T5 = {
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "num_layers": 2,
    "num_heads": 3,
    "d_model": 12,
    "d_ff": 18,
    "d_kv": 5,
    "feed_forward_proj": "gated-gelu_python",
    "tie_word_embeddings": False,
}


def untie(model: Any) -> None:
    head = model.language_model.lm_head
    head.weight = nn.Parameter(head.weight.detach().clone())
    for module in (model, model.language_model):
        for name in [n for n in module.all_tied_weights_keys if n.endswith("lm_head.weight")]:
            module.all_tied_weights_keys.pop(name)


CHECKPOINTS = [
    Checkpoint(
        "blip2",
        "Blip2ForConditionalGeneration",
        "BLIP2Backbone",
        {**CONFIG, "text_config": OPT},
        BLIP2,
        draw(3, 7),
    ),
    Checkpoint(
        "blip2-flan-t5",
        "Blip2ForConditionalGeneration",
        "BLIP2Backbone",
        {**CONFIG, "text_config": T5},
        BLIP2,
        draw(3, 6, 4),
        change=untie,
    ),
]
INEXPRESSIBLE = {
    "blip2-flan-t5": "use_class_token of the vision_encoder is False",
    "blip2-text": "vision_encoder is None; transformers has no model of text alone",
}
REFUSED = [
    (
        "blip2",
        {"text_config": {**OPT, "model_type": "gpt2"}},
        "text_config.model_type is 'gpt2'; only opt and t5",
    ),
    (
        "blip2",
        {"vision_config": {**CONFIG["vision_config"], "qkv_bias": False}},
        "vision_config.qkv_bias is False",
    ),
    (
        "blip2",
        {"qformer_config": {**CONFIG["qformer_config"], "use_qformer_text_input": True}},
        "use_qformer_text_input is True",
    ),
    (
        "blip2-flan-t5",
        {"text_config": {**T5, "feed_forward_proj": "relu"}},
        "feed_forward_proj is 'relu'; only gated-gelu",
    ),
    (
        "blip2-flan-t5",
        {"text_config": {**T5, "tie_word_embeddings": True}},
        "tie_word_embeddings is True",
    ),
]
