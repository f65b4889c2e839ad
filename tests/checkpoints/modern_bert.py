from __future__ import annotations

from typing import Any

from ..cases.common import ids, padding
from . import UNPOOLED, Checkpoint

CONFIG = {
    "vocab_size": 37,
    "hidden_size": 12,
    "intermediate_size": 7,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "local_attention": 5,
    "norm_eps": 1e-3,
    "pad_token_id": 2,
}


def inputs(batch: int, length: int) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, 37),
        "padding_mask": padding(rng, batch, length),
    }


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "ModernBertBackbone", config, UNPOOLED, inputs, in_keras_hub=False
    )


ROPE = {
    "full_attention": {"rope_type": "default", "rope_theta": 50.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 7.0},
}
CHECKPOINTS = [
    checkpoint("modern-bert", "ModernBertModel", inputs(4, 9)),
    checkpoint(
        "modern-bert-masked",
        "ModernBertForMaskedLM",
        inputs(4, 11),
        layer_types=["full_attention", "sliding_attention"] * 2,
        rope_parameters=ROPE,
        local_attention=2,
    ),
    checkpoint(
        "modern-bert-classifier",
        "ModernBertForSequenceClassification",
        inputs(1, 1),
        num_hidden_layers=2,
    ),
]
REFUSED = [
    ("modern-bert", {"norm_bias": True}, "norm_bias is True"),
    ("modern-bert", {"layer_types": ["sliding_attention"] * 4}, "every n-th layer"),
    ("modern-bert", {"layer_types": ..., "global_attn_every_n_layers": 0}, "at least 1, not 0"),
    ("modern-bert", {"model_type": "modernbert-decoder"}, "modernbert-decoder"),
    (
        "modern-bert",
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}},
        "only default can be computed",
    ),
]
# As in the published files.
OLD = [
    (
        "modern-bert",
        {
            "layer_types": ...,
            "rope_parameters": ...,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "layer_norm_eps": 1e-5,
            "position_embedding_type": "absolute",
            "reference_compile": None,
            "repad_logits_with_grad": False,
        },
    )
]
HEADS = [("ModernBertForTokenClassification", CONFIG), ("ModernBertForQuestionAnswering", CONFIG)]
