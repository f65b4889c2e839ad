from __future__ import annotations

from ..cases.gpt2 import inputs
from . import DECODER, Checkpoint

CONFIG = {
    "vocab_size": 37,
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 12,
    "n_positions": 17,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
CHECKPOINTS = [
    Checkpoint("gpt2", "GPT2LMHeadModel", "GPT2Backbone", CONFIG, DECODER, inputs(4, 9)),
    Checkpoint("gpt2-bare", "GPT2Model", "GPT2Backbone", CONFIG, DECODER, inputs(4, 17)),
    Checkpoint(
        "gpt2-inner",
        "GPT2ForSequenceClassification",
        "GPT2Backbone",
        {**CONFIG, "n_inner": 10, "resid_pdrop": 0.3},
        DECODER,
        inputs(1, 1),
        in_keras_hub=False,  # it takes n_inner for 4 × n_embd
    ),
]
