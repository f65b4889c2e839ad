from __future__ import annotations

from typing import Any

from ..oracle import Case
from .common import ids, padding


def inputs(batch: int, length: int, vocabulary: int = 41) -> Any:
    return lambda rng: {
        "token_ids": ids(rng, batch, length, vocabulary),
        "padding_mask": padding(rng, batch, length),
    }


SMALL = {
    "vocabulary_size": 41,
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 1,
    "hidden_dim": 24,
    "intermediate_dim": 36,
    "head_dim": 6,
}
GEMMA2 = {
    **SMALL,
    "num_layers": 3,
    "num_key_value_heads": 2,
    "use_post_ffw_norm": True,
    "use_post_attention_norm": True,
    "attention_logit_soft_cap": 5,
    "final_logit_soft_cap": 3.0,
    "use_sliding_window_attention": True,
    "sliding_window_size": 4,
}
CASES = [
    Case("gemma", "GemmaBackbone", SMALL, inputs(5, 9)),
    Case("gemma2", "GemmaBackbone", GEMMA2, inputs(6, 13)),
    Case(
        "gemma-window",
        "GemmaBackbone",
        {**SMALL, "use_sliding_window_attention": True, "sliding_window_size": 3, "dropout": 0.2},
        inputs(6, 8),
    ),
    Case(
        "gemma-odd",
        "GemmaBackbone",
        {
            **SMALL,
            "num_query_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 10,
            "intermediate_dim": 15,
            "layer_norm_epsilon": 1e-2,
            "query_head_dim_normalize": False,
            "attention_logit_soft_cap": 2.5,
        },
        inputs(2, 1),
    ),
]
