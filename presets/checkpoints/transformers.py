"""How transformers writes its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import transformers
from .dialect import Dialect
from .table import Table

# Keys of any config.json that do not change what a backbone computes.
GENERIC = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures
    attn_implementation chunk_size_feed_forward dtype finetuning_task gradient_checkpointing
    id2label initializer_factor initializer_range is_encoder_decoder label2id model_type
    name_or_path num_labels output_attentions output_hidden_states output_past problem_type
    return_dict task_specific_params tie_encoder_decoder tokenizer_class torch_dtype torchscript
    transformers_version use_bfloat16 use_cache

    bos_token_id decoder_start_token_id eos_token_id pad_token_id sep_token_id

    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_scores prefix quantization_config remove_invalid_values
    repetition_penalty return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    """.split()  # noqa: SIM905 (sixty lines otherwise)
)

# Encoders of models that have a decoder, too, under the same `model_type`.
ENCODERS, ENCODER = (["T5EncoderModel"],), "+encoder"


class Transformers(Dialect):
    """config.json has a `model_type`, and a key for every argument."""

    name = "transformers"
    packages = (transformers,)

    def recognises(self, config: Mapping[str, Any]) -> bool:
        return "model_type" in config and "registered_name" not in config

    def kind(self, config: Mapping[str, Any]) -> str:
        encoder = config.get("architectures") in ENCODERS
        return str(config["model_type"]) + ENCODER * encoder

    def title(self, config: Mapping[str, Any]) -> str:
        return str((config.get("architectures") or ["Model"])[0])

    def ignores(self, key: str) -> bool:
        return not GENERIC.isdisjoint(key.split("."))

    def problems(
        self, config: Mapping[str, Any], unknown: Sequence[str], table: Table
    ) -> list[str]:
        return []

    def quantization(self, config: Mapping[str, Any]) -> Any:
        for inner in (config, config.get("text_config")):
            if isinstance(inner, Mapping) and inner.get("quantization_config"):
                return inner["quantization_config"]
        return None

    def heading(self, table: Table, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        return {
            "architectures": [table.architecture],
            "model_type": kind.removesuffix(ENCODER),
            "torch_dtype": str(dtype).removeprefix("torch."),
        }


TRANSFORMERS = Transformers()
