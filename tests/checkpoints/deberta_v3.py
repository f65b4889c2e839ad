from __future__ import annotations

from typing import Any

from ..cases.gpt2 import inputs
from . import Checkpoint, Interface

CONFIG = {
    "vocab_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 12,
    "intermediate_size": 20,
    "max_position_embeddings": 20,
    "position_buckets": 6,
    "relative_attention": True,
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "pos_att_type": "p2c|c2p",
}
INTERFACE = Interface(
    {"token_ids": "input_ids", "padding_mask": "attention_mask"},
    {"output": ("last_hidden_state", "padding_mask")},
)


def checkpoint(name: str, architecture: str, inputs: Any, **others: Any) -> Checkpoint:
    config = {**CONFIG, **others}
    return Checkpoint(
        name, architecture, "DebertaV3Backbone", config, INTERFACE, inputs, in_keras_hub=False
    )


CHECKPOINTS = [
    checkpoint("deberta-v3", "DebertaV2Model", inputs(4, 9)),
    checkpoint("deberta-v3-masked", "DebertaV2ForMaskedLM", inputs(4, 17), num_hidden_layers=12),
    checkpoint(
        "deberta-v3-classifier",
        "DebertaV2ForSequenceClassification",
        inputs(4, 13),
        max_relative_positions=10,
        pooler_hidden_size=12,
    ),
]
HEADS = [
    ("DebertaV2ForTokenClassification", CONFIG),
    ("DebertaV2ForQuestionAnswering", CONFIG),
    ("DebertaV2ForMultipleChoice", CONFIG),
]
REFUSED = [
    ("deberta-v3", changes, message)
    for changes, message in (
        ({"position_biased_input": True}, "position_biased_input is True; only False"),
        ({"position_biased_input": ...}, "position_biased_input is True; only False"),
        ({"relative_attention": ...}, "relative_attention is False; only True"),
        ({"share_att_key": ...}, "share_att_key is False; only True"),
        ({"norm_rel_ebd": ...}, "norm_rel_ebd is 'none'; only 'layer_norm'"),
        ({"pos_att_type": "p2c"}, "pos_att_type is 'p2c'"),
        ({"position_buckets": ...}, "position_buckets is -1"),
        ({"type_vocab_size": 2}, "type_vocab_size is 2; only 0"),
        ({"conv_kernel_size": 3}, "conv_kernel_size is 3; only 0"),
        ({"embedding_size": 7}, "embedding_size is 7; only hidden_size 12"),
        ({"attention_head_size": 5}, "attention_head_size is 5; only 4"),
    )
]
