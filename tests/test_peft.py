"""Adapters exchanged with the peft library, on the transformers export of the same backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from keras_hub_torch.lora import adapters
from keras_hub_torch.presets.files import read_json

from . import oracle
from .conftest import Reference, reference_of
from .test_lora import adapted

CASES = ["bert", "gpt2", "gemma", "gemma2", "falcon", "phi3"]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


def full(case: Reference) -> dict[str, torch.Tensor]:
    """Inputs without padding, which transformers treats otherwise in hidden rows."""
    return {
        name: torch.ones_like(value) if "mask" in name else value.long()
        for name, value in case.tensors.items()
    }


def theirs(folder: Path) -> Any:
    if read_json(folder / "config.json")["model_type"] == "bert":
        return transformers.AutoModel.from_pretrained(folder).eval()
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def hidden(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    names = {
        "token_ids": "input_ids",
        "segment_ids": "token_type_ids",
        "padding_mask": "attention_mask",
    }
    given = {names[name]: value for name, value in inputs.items()}
    return model(**given, output_hidden_states=True).hidden_states[-1]


def ours(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs = model(inputs)
    return outputs["sequence_output"] if isinstance(outputs, dict) else outputs


def test_to_peft_and_back(case: Reference, tmp_path: Path) -> None:
    case.load().export_to_transformers(tmp_path / "base")
    model = adapted(case, lora_alpha=1.5)
    model.save_lora_weights(tmp_path / "adapter", format="peft")
    tuned = peft.PeftModel.from_pretrained(theirs(tmp_path / "base"), tmp_path / "adapter")
    inputs = full(case)
    with torch.no_grad():
        expected = oracle.named(ours(model, inputs))
        oracle.assert_close(hidden(tuned, inputs), expected)
    again = case.load()
    again.load_lora_weights(tmp_path / "adapter")
    assert adapters(again).keys() == adapters(model).keys()
    assert {layer.rank for layer in adapters(again).values()} == {3}
    with torch.no_grad():
        oracle.assert_close(ours(again, inputs), expected)


@pytest.mark.parametrize("rank", [1, 5])
def test_from_peft(case: Reference, tmp_path: Path, rank: int) -> None:
    """An adapter made by peft on queries and values, which knows nothing of heads."""
    case.load().export_to_transformers(tmp_path / "base")
    names = {
        "bert": ["query", "value"],
        "gpt2": ["c_attn"],
        "falcon": ["query_key_value"],
        "phi3": ["qkv_proj", "o_proj"],
    }
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=3,
        target_modules=names.get(case.case.id, ["q_proj", "v_proj"]),
        alpha_pattern={} if case.case.id == "gpt2" else {"0.self_attn.q_proj": 7},
    )
    tuned = peft.get_peft_model(theirs(tmp_path / "base"), config).eval()
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tuned.save_pretrained(tmp_path / "adapter")
    model = case.load()
    model.load_lora_weights(tmp_path / "adapter")
    inputs = full(case)
    with torch.no_grad():
        oracle.assert_close(ours(model, inputs), oracle.named(hidden(tuned, inputs)))
    # And on to KerasHub.
    model.save_lora_weights(tmp_path / "x.lora.h5")
    again = case.load()
    again.load_lora_weights(tmp_path / "x.lora.h5")
    with torch.no_grad():
        oracle.assert_close(ours(again, inputs), oracle.named(ours(model, inputs)))


def test_errors(bert: Reference, tmp_path: Path, preset_folder: Path) -> None:
    model = bert.load()
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json"):
        model.load_lora_weights(tmp_path)
    with pytest.raises(ValueError, match="projections"):
        adapted(bert, target_layer_names=["token_embedding"]).save_lora_weights(
            tmp_path / "x", format="peft"
        )
    adapted(bert).save_lora_weights(tmp_path / "adapter", format="peft")
    with pytest.raises(ValueError, match="do not fit"):
        reference_of("gpt2", preset_folder).load().load_lora_weights(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    text = config.read_text()
    config.write_text(text.replace('"bias": "none"', '"bias": "all", "use_dora": true'))
    with pytest.raises(ValueError, match=r"bias='all', use_dora=True"):
        model.load_lora_weights(tmp_path / "adapter")
    config.write_text(text.replace("LORA", "IA3"))
    with pytest.raises(ValueError, match="IA3"):
        model.load_lora_weights(tmp_path / "adapter")
