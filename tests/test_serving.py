"""What vLLM and SGLang read of an exported folder: config.json by transformers' `AutoConfig`, and
tensors by the names that transformers writes. Neither of them runs without a GPU.
"""

from __future__ import annotations

from . import oracle  # isort: skip  # noqa: F401  # before Keras

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors import safe_open

from keras_hub_torch import models
from keras_hub_torch.models import Backbone

from .cases import all_cases
from .test_tokenizer_files import saved

# Class → the name in the registries of both, and whether its positions are rotary.
SERVED = {
    "FalconBackbone": ("FalconForCausalLM", False),
    "GPT2Backbone": ("GPT2LMHeadModel", False),
    "GPTNeoXBackbone": ("GPTNeoXForCausalLM", True),
    "Gemma3Backbone": ("Gemma3ForCausalLM", True),
    "GemmaBackbone": ("GemmaForCausalLM", True),
    "GptOssBackbone": ("GptOssForCausalLM", True),
    "Llama3Backbone": ("LlamaForCausalLM", True),
    "MistralBackbone": ("MistralForCausalLM", True),
    "MixtralBackbone": ("MixtralForCausalLM", True),
    "OPTBackbone": ("OPTForCausalLM", False),
    "PaliGemmaBackbone": ("PaliGemmaForConditionalGeneration", True),
    "Phi3Backbone": ("Phi3ForCausalLM", True),
    "Qwen3Backbone": ("Qwen3ForCausalLM", True),
    "Qwen3MoeBackbone": ("Qwen3MoeForCausalLM", True),
    "QwenBackbone": ("Qwen2ForCausalLM", True),
    "QwenMoeBackbone": ("Qwen2MoeForCausalLM", True),
    "SmolLM3Backbone": ("SmolLM3ForCausalLM", True),
    "WhisperBackbone": ("WhisperForConditionalGeneration", False),
}


def exported(name: str, folder: Path) -> Any:
    """A model of the class, of the first case that transformers has a model for."""
    for case in all_cases():
        if case.cls == name:
            model = getattr(models, name)(**{**case.config, "dtype": "bfloat16"})
            try:
                model.export_to_transformers(folder, carry=False)
            except ValueError:
                continue
            return model
    raise AssertionError(name)


def tensors(folder: Path) -> dict[str, tuple[list[int], str]]:
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                header = file.get_slice(name)
                found[name] = (header.get_shape(), header.get_dtype())
    return found


@pytest.mark.parametrize("name", SERVED)
def test_what_loaders_read(name: str, tmp_path: Path) -> None:
    architecture, rotary = SERVED[name]
    model = exported(name, tmp_path / "ours")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "ours")
    assert config.architectures == [architecture]
    assert config.dtype == torch.bfloat16
    # The model that names them, and no other tensors or shapes.
    theirs, info = getattr(transformers, architecture).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info.values())
    theirs.save_pretrained(tmp_path / "theirs")
    found, expected = tensors(tmp_path / "ours"), tensors(tmp_path / "theirs")
    assert found == expected
    assert {dtype for _, dtype in found.values()} <= {"BF16", "F32"}
    # The size of the cache, and the longest text.
    text = config.get_text_config(decoder=True)
    assert text.vocab_size == model.vocabulary_size
    assert text.num_hidden_layers == model.num_layers
    counts = ("num_query_heads", "num_heads", "num_attention_heads")
    heads = {getattr(model, count) for count in counts if hasattr(model, count)}
    assert heads == {text.num_attention_heads}
    if hasattr(model, "num_key_value_heads"):
        assert text.num_key_value_heads == model.num_key_value_heads
    lengths = ("max_position_embeddings", "n_positions", "max_target_positions")
    assert any(getattr(text, length, None) for length in lengths)
    if rotary:
        rope = text.rope_parameters
        assert "rope_theta" in (rope if "rope_type" in rope else next(iter(rope.values())))
    tied = getattr(theirs.config, "tie_word_embeddings", True)
    assert ("lm_head.weight" in found) is not tied or name == "WhisperBackbone"


# KerasHub does not close the files of its assets.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_text_ends_with(tmp_path: Path) -> None:
    tokenizer = saved("Llama3", tmp_path / "preset")
    ends = [tokenizer.end_token_id, tokenizer.token_to_id("<|eot_id|>")]
    Backbone.from_preset(tmp_path / "preset").export_to_transformers(tmp_path / "served")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "served")
    assert config.bos_token_id == tokenizer.start_token_id
    assert config.eos_token_id == ends  # and not those of the first Llama
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "served")
    assert generation.eos_token_id == ends

    # A checkpoint's own settings go along, and into the folder that it comes from, too.
    path = tmp_path / "served" / "config.json"
    settings = json.loads(path.read_text())
    length, first = {"max_position_embeddings": 77}, {"eos_token_id": ends[:1]}
    path.write_text(json.dumps({**settings, **length, **first}))
    other = tmp_path / "served" / "generation_config.json"
    other.write_text(json.dumps({**json.loads(other.read_text()), "temperature": 0.6}))
    model = Backbone.from_preset(tmp_path / "served")
    for folder in ("tuned", "served"):
        model.export_to_transformers(tmp_path / folder)
        config = transformers.AutoConfig.from_pretrained(tmp_path / folder)
        assert config.max_position_embeddings == 77
        assert config.eos_token_id == ends[:1]
        generation = transformers.GenerationConfig.from_pretrained(tmp_path / folder)
        assert (generation.eos_token_id, generation.temperature) == (ends, 0.6)
        assert transformers.AutoTokenizer.from_pretrained(tmp_path / folder)("a")["input_ids"]
