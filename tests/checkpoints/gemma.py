from __future__ import annotations

from ..cases.gemma import inputs
from . import DECODER, Checkpoint

CONFIG = {
    "vocab_size": 41,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "hidden_size": 24,
    "intermediate_size": 18,
    "head_dim": 10,
}
GEMMA2 = {
    **CONFIG,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "query_pre_attn_scalar": 10,
    "sliding_window": 4,
    "attn_logit_softcapping": 5.0,
    "final_logit_softcapping": 3.0,
}
CHECKPOINTS = [
    Checkpoint("gemma", "GemmaForCausalLM", "GemmaBackbone", CONFIG, DECODER, inputs(4, 9)),
    Checkpoint("gemma2", "Gemma2ForCausalLM", "GemmaBackbone", GEMMA2, DECODER, inputs(4, 13)),
    Checkpoint(
        "gemma2-bare",
        "Gemma2Model",
        "GemmaBackbone",
        {**GEMMA2, "attn_logit_softcapping": None, "num_key_value_heads": 4},
        DECODER,
        inputs(1, 6),
        in_keras_hub=False,  # it wants the names of the model with a head
    ),
]
INEXPRESSIBLE = {
    "gemma-window": "use_sliding_window_attention is True",
    "gemma-odd": "intermediate_dim is 15",
}
