from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ..cases.gpt2 import inputs
from . import DECODER, Checkpoint

CONFIG = {
    "vocab_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "ffn_dim": 20,
    "word_embed_proj_dim": 12,
    "max_position_embeddings": 17,
}


def padded_at_the_end(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """transformers counts the positions of the tokens that are no padding, KerasHub all."""
    mask = inputs["padding_mask"].sort(descending=True).values
    return {**inputs, "padding_mask": mask}


def draw(batch: int, length: int) -> Any:
    def make(rng: Any) -> Any:
        drawn = inputs(batch, length)(rng)
        return {**drawn, "padding_mask": -torch.tensor(-drawn["padding_mask"]).sort()[0].numpy()}

    return make


INTERFACE = replace(
    DECODER, zeroed={"model.decoder.embed_positions.weight": 2}, adapt=padded_at_the_end
)


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "OPTBackbone", config, INTERFACE, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("opt", "OPTForCausalLM", draw(4, 9)),
    checkpoint("opt-bare", "OPTModel", draw(4, 17), dropout=0.3, word_embed_proj_dim=None),
    checkpoint("opt-classifier", "OPTForSequenceClassification", draw(1, 1)),
]
HEADS = [("OPTForQuestionAnswering", CONFIG)]
REFUSED = [
    ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before is False"),
    ("opt", {"_remove_final_layer_norm": True}, "_remove_final_layer_norm is True"),
    ("opt", {"word_embed_proj_dim": 7}, "word_embed_proj_dim is 7; only hidden_size 12"),
    ("opt", {"enable_bias": False}, "enable_bias is False"),
    ("opt", {"layer_norm_elementwise_affine": False}, "layer_norm_elementwise_affine is False"),
    ("opt", {"activation_function": "gelu"}, "activation_function is 'gelu'"),
    ("opt", {"tie_word_embeddings": False}, "tie_word_embeddings is False"),
]
