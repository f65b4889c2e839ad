from __future__ import annotations

from ..cases.gemma3n import text
from . import DECODER, Checkpoint

CONFIG = {
    "vocab_size": 41,
    "hidden_size": 12,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "intermediate_size": [14, 10, 8, 9],
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "sliding_window": 3,
    "vocab_size_per_layer_input": 30,
    "hidden_size_per_layer_input": 5,
    "altup_num_inputs": 3,
    "laurel_rank": 2,
    "activation_sparsity_pattern": [0.6, 0.0, 0.3, 0.0],
    "num_kv_shared_layers": 2,
    "attention_bias": True,
    "altup_active_idx": 1,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0},
        "sliding_attention": {"rope_type": "linear", "rope_theta": 20.0, "factor": 4.0},
    },
}
BARE = {
    **CONFIG,
    "num_hidden_layers": 2,
    "intermediate_size": 14,
    "hidden_activation": "silu",
    "layer_types": None,
    "activation_sparsity_pattern": None,
    "num_kv_shared_layers": 0,
    "rope_parameters": None,
    "rms_norm_eps": 1e-4,
}


def checkpoint(name: str, architecture: str, config: object, length: int) -> Checkpoint:
    return Checkpoint(
        name,
        architecture,
        "Gemma3nBackbone",
        config,  # type: ignore[arg-type]
        DECODER,
        text(4, length),
        in_keras_hub=False,  # it reads models with towers only
    )


CHECKPOINTS = [
    checkpoint("gemma3n", "Gemma3nForCausalLM", CONFIG, 11),
    checkpoint("gemma3n-bare", "Gemma3nTextModel", BARE, 7),
]
INEXPRESSIBLE = {
    "gemma3n-towers": "vision_encoder_config is not that of mobilenetv5_300m_enc",
    "gemma3n-odd": "vision_encoder_config is not that of mobilenetv5_300m_enc",
}
OLD = [
    (
        "gemma3n-bare",
        {"rope_parameters": ..., "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0},
    ),
]
REFUSED = [
    ("gemma3n", {"hidden_activation": "gelu_fast"}, "hidden_activation is 'gelu_fast'"),
    ("gemma3n", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "rope_scaling is of an"),
    (
        "gemma3n",
        {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2.0}}},
        "rope_parameters are 'yarn' by 2.0",
    ),
    ("gemma3n", {"num_kv_shared_layers": 3}, "blocks have none of their type"),
]
