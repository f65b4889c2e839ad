"""Adapters exchanged with the peft library, on the transformers export of the same backbone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import keras_hub_torch
from keras_hub_torch.lora import adapters
from keras_hub_torch.presets.files import read_json

from . import oracle
from .conftest import Reference, reference_of
from .test_lora import adapted, randomise

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
        alpha_pattern={} if case.case.id in names else {"0.self_attn.q_proj": 7},
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


# PEFT's settings


def tuned(case: Reference, folder: Path, **kwargs: Any) -> Any:
    """A model with an adapter that peft has made and trained, and saved in `adapter`."""
    case.load().export_to_transformers(folder / "base")
    names = {"bert": ["query", "value"], "gpt2": ["c_attn"]}
    given = {"r": 4, "target_modules": names.get(case.case.id, ["q_proj", "v_proj"]), **kwargs}
    model = peft.get_peft_model(theirs(folder / "base"), peft.LoraConfig(**given)).eval()
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder / "adapter")
    return model


PATTERNS = {
    "bert": r"layer\.1\..*(query|value)",
    "gemma": r"^model.layers.1.self_attn.q_proj",
    "gemma2": r".*\.1\.self_attn\.(q|v)_proj",
}


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_and_scales(name: str, rslora: bool, preset_folder: Path, tmp_path: Path) -> None:
    case, pattern = reference_of(name, preset_folder), PATTERNS[name]
    expected = tuned(
        case,
        tmp_path,
        lora_alpha=3,
        alpha_pattern={pattern: 11},
        rank_pattern={pattern: 2},
        use_rslora=rslora,
    )
    model, inputs = case.load(), full(case)
    model.load_lora_weights(tmp_path / "adapter")
    assert {layer.rank for layer in adapters(model).values()} == {2, 4}
    with torch.no_grad():
        oracle.assert_close(ours(model, inputs), oracle.named(hidden(expected, inputs)))
    model.save_lora_weights(tmp_path / "again", format="peft")
    same_files(tmp_path / "again", tmp_path / "adapter")
    base = theirs(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "again")
    with torch.no_grad():
        oracle.assert_close(hidden(again, inputs), oracle.named(hidden(expected, inputs)))


def same_files(folder: Path, other: Path) -> None:
    one, two = (load_file(path / "adapter_model.safetensors") for path in (folder, other))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", CASES)
def test_resumed_at_its_rank(name: str, preset_folder: Path, tmp_path: Path) -> None:
    """Loaded, trained beside PEFT's own, and saved: the same numbers at the same rank."""
    case, inputs = reference_of(name, preset_folder), full(reference_of(name, preset_folder))
    layers = {"phi3": ["qkv_proj"], "falcon": ["query_key_value"]}
    given = {"target_modules": layers[name]} if name in layers else {}
    expected = tuned(case, tmp_path, lora_alpha=7, **given)
    model = case.load()
    fused = name in ("gpt2", "phi3", "falcon")
    suffix = "_dense" if name == "falcon" else ""
    names = [f"{part}{suffix}" for part in ("query", "key", "value")]
    model.enable_lora(4, names if fused else None, lora_alpha=7)
    model.load_lora_weights(tmp_path / "adapter")
    assert {layer.rank for layer in adapters(model).values()} == {4}
    for trained, run in ((model, ours), (expected, hidden)):
        trained.double().requires_grad_(False)
        factors = [p for n, p in trained.named_parameters() if "lora_" in n]
        for factor in factors:
            factor.requires_grad_(True)
        optimizer = torch.optim.SGD(factors, lr=1e-3)
        run(trained, inputs).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        oracle.assert_close(ours(model, inputs), oracle.named(hidden(expected, inputs)))
    model.save_lora_weights(tmp_path / "again", format="peft")
    assert read_json(tmp_path / "again" / "adapter_config.json")["r"] == 4
    one, two = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("again", "adapter"))
    assert {k: v.shape for k, v in one.items()} == {k: v.shape for k, v in two.items()}
    base = theirs(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "again")
    with torch.no_grad():
        oracle.assert_close(hidden(again, inputs), oracle.named(ours(model, inputs)))


@pytest.mark.parametrize("format", ["keras", "peft"])
def test_untrained(case: Reference, tmp_path: Path, format: str) -> None:
    model = case.load()
    model.enable_lora(3, format=format)
    model.save_lora_weights(tmp_path / "adapter", format="peft")
    again = case.load()
    again.enable_lora(3, format=format)
    again.load_lora_weights(tmp_path / "adapter")
    for path, layer in adapters(model).items():
        assert torch.equal(layer.lora_kernel_a, adapters(again)[path].lora_kernel_a)
    again = case.load()
    again.load_lora_weights(tmp_path / "adapter")
    with torch.no_grad():
        oracle.assert_close(ours(again, full(case)), oracle.named(ours(model, full(case))))


@pytest.mark.parametrize("name", ["bert", "gpt2", "gemma"])
def test_auto_peft_model(name: str, preset_folder: Path, tmp_path: Path) -> None:
    case = reference_of(name, preset_folder)
    case.load().export_to_transformers(tmp_path / "base")
    model = keras_hub_torch.models.Backbone.from_preset(tmp_path / "base")
    model.enable_lora(2)
    randomise(model)
    model.save_lora_weights(tmp_path / "adapter", format="peft")
    cls = peft.AutoPeftModelForCausalLM
    if name == "bert":
        cls = peft.AutoPeftModelForFeatureExtraction
    with torch.no_grad():
        found = hidden(cls.from_pretrained(tmp_path / "adapter").eval(), full(case))
        oracle.assert_close(found, oracle.named(ours(model, full(case))))
    # One from a Keras preset does not know, and is told.
    other = adapted(case)
    other.save_lora_weights(tmp_path / "adapter", format="peft")
    config = read_json(tmp_path / "adapter" / "adapter_config.json")
    assert config["base_model_name_or_path"] is None
    other.save_lora_weights(tmp_path / "adapter", format="peft", base_model="me/mine")
    config = read_json(tmp_path / "adapter" / "adapter_config.json")
    assert config["base_model_name_or_path"] == "me/mine"


def test_whole_weights(preset_folder: Path, tmp_path: Path) -> None:
    """Embeddings and norms that were trained whole come along, and go along."""
    case = reference_of("bert", preset_folder)
    expected = tuned(case, tmp_path, modules_to_save=["word_embeddings", "1.output.LayerNorm"])
    model, inputs = case.load(), full(case)
    model.load_lora_weights(tmp_path / "adapter")
    with torch.no_grad():
        oracle.assert_close(ours(model, inputs), oracle.named(hidden(expected, inputs)))
    model.save_lora_weights(tmp_path / "again", format="peft")
    same_files(tmp_path / "again", tmp_path / "adapter")
    base = theirs(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "again").eval()
    with torch.no_grad():
        oracle.assert_close(hidden(again, inputs), oracle.named(hidden(expected, inputs)))


def test_a_classifier_is_left_out_on_request(bert: Reference, tmp_path: Path) -> None:
    bert.load().export_to_transformers(tmp_path / "base")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, task_type="SEQ_CLS", target_modules=["query", "value"])
    peft.get_peft_model(classifier, config).save_pretrained(tmp_path / "adapter")
    model = bert.load()
    with pytest.raises(ValueError, match=r"classifier\.weight[\s\S]*ignore=\['classifier\.\*'\]"):
        model.load_lora_weights(tmp_path / "adapter")
    assert not adapters(model)
    model.load_lora_weights(tmp_path / "adapter", ignore=["classifier.*"])
    assert {layer.rank for layer in adapters(model).values()} == {2}


def test_pickled(bert: Reference, tmp_path: Path) -> None:
    expected = tuned(bert, tmp_path)
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save(state, tmp_path / "adapter" / "adapter_model.bin")
    model = bert.load()
    model.load_lora_weights(tmp_path / "adapter")
    with torch.no_grad():
        found = oracle.named(hidden(expected, full(bert)))
        oracle.assert_close(ours(model, full(bert)), found)
    torch.save({"x": print}, tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(ValueError, match="pickle"):
        bert.load().load_lora_weights(tmp_path / "adapter")


def test_an_adapter_is_no_preset(bert: Reference, tmp_path: Path) -> None:
    tuned(bert, tmp_path)
    with pytest.raises(ValueError, match=r"adapter of PEFT[\s\S]*base[\s\S]*load_lora_weights"):
        keras_hub_torch.models.Backbone.from_preset(tmp_path / "adapter")


# Strangers

PLAIN = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["query"]}
QUERY = "encoder.layer.0.attention.self.query"
REFUSED = {
    "bias": "all",
    "use_dora": True,
    "use_qalora": True,
    "lora_bias": True,
    "layer_replication": [[0, 1]],
    "trainable_token_indices": [1, 2],
    "target_parameters": ["x"],
    "alora_invocation_tokens": [1],
    "init_lora_weights": "pissa_niter_4",
    "lora_alpha": None,
    "r": 0,
    "rank_pattern": {"query": 3},
    "alpha_pattern": {"query": "x"},
    "exclude_modules": ["query"],
    "layers_to_transform": [1],
    "target_modules": ["key"],
    "peft_type": ["LORA"],
}
ODD = {
    "init_lora_weights": ["olora", "PiSSA", "corda", "loftq", "lora_ga", "mica", 3, ["x"]],
    "lora_alpha": [0, True, "8", [8], {}, 10**400, float("inf"), float("nan"), 1e308],
    "r": [None, -1, 2.5, "2", 10**400, True, [2], 3],
    "rank_pattern": [["query"], "query", {"query": 0}, {"query": None}, {"(": 2}, {"(?=q)": 2}],
    "alpha_pattern": [3, {"(a+)+": True}, {"query": float("nan")}, {"(" * 3000: 2}, {"[": 1}],
    "target_modules": [3, {}, [3], "(", "((a+)+)+b"],
    "layers_to_transform": ["x", {}, [None]],
    "exclude_modules": [3, ".*query"],
    "peft_type": [None, 3, "IA3"],
}
SETTINGS = [*REFUSED.items(), *((name, value) for name, values in ODD.items() for value in values)]


@pytest.mark.parametrize(("name", "value"), SETTINGS, ids=lambda value: str(value)[:30])
def test_settings_that_are_refused(bert: Reference, tmp_path: Path, name: str, value: Any) -> None:
    folder = stranger(tmp_path, {**PLAIN, name: value})
    model = bert.load()
    with pytest.raises(ValueError, match=re.escape(str(folder))) as error:
        model.load_lora_weights(folder)
    if REFUSED.get(name) is value:
        assert name in str(error.value)
    assert not adapters(model)


def stranger(folder: Path, config: Any, tensors: Any = None) -> Path:
    folder = folder / "stranger"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if tensors is None:
        tensors = {f"{QUERY}.lora_A.weight": (2, 12), f"{QUERY}.lora_B.weight": (12, 2)}
    save_file(
        {
            f"base_model.model.{name}": one if torch.is_tensor(one) else torch.ones(one)
            for name, one in tensors.items()
        },
        folder / "adapter_model.safetensors",
    )
    return folder


def test_neutral_settings(bert: Reference, tmp_path: Path) -> None:
    neutral = {"use_dora": False, "bias": "none", "layers_to_transform": [0], "fresh": None}
    model = bert.load()
    model.load_lora_weights(stranger(tmp_path, {**PLAIN, **neutral}))
    assert len(adapters(model)) == 1
    (tmp_path / "other").mkdir()
    folder = stranger(tmp_path / "other", {**PLAIN, "use_magic": True})
    with pytest.warns(UserWarning, match="use_magic=True"):
        bert.load().load_lora_weights(folder)


FACTORS: dict[str, dict[str, Any]] = {
    "of a norm": {
        "embeddings.LayerNorm.lora_A.weight": (2, 12),
        "embeddings.LayerNorm.lora_B.weight": (12, 2),
    },
    "of an embedding": {
        "embeddings.word_embeddings.lora_embedding_A": (2, 37),
        "embeddings.word_embeddings.lora_embedding_B": (12, 2),
    },
    "of a matrix that is an embedding's": {
        "embeddings.word_embeddings.lora_A.weight": (2, 12),
        "embeddings.word_embeddings.lora_B.weight": (37, 2),
    },
    "of rank 0": {f"{QUERY}.lora_A.weight": (0, 12), f"{QUERY}.lora_B.weight": (12, 0)},
    "without axes": {f"{QUERY}.lora_A.weight": (), f"{QUERY}.lora_B.weight": ()},
    "alone": {f"{QUERY}.lora_A.weight": (2, 12)},
    "twice": {
        f"{QUERY}.lora_A.weight": (2, 12),
        f"{QUERY}.lora_A.default.weight": (2, 12),
        f"{QUERY}.lora_B.weight": (12, 2),
    },
    "complex": {
        f"{QUERY}.lora_A.weight": torch.ones(2, 12, dtype=torch.complex64),
        f"{QUERY}.lora_B.weight": (12, 2),
    },
    "whole numbers": {
        f"{QUERY}.lora_A.weight": torch.ones(2, 12, dtype=torch.int64),
        f"{QUERY}.lora_B.weight": (12, 2),
    },
    "infinite": {
        f"{QUERY}.lora_A.weight": torch.full((2, 12), torch.inf),
        f"{QUERY}.lora_B.weight": (12, 2),
    },
    "of no layer": {"nowhere.lora_A.weight": (2, 12), "nowhere.lora_B.weight": (12, 2)},
    "of DoRA": {f"{QUERY}.lora_magnitude_vector": (12,)},
    "of whole weights alone": {"embeddings.word_embeddings.weight": (3, 3)},
    "none": {},
}


@pytest.mark.parametrize("kind", FACTORS)
def test_factors_that_are_refused(bert: Reference, tmp_path: Path, kind: str) -> None:
    folder = stranger(tmp_path, {**PLAIN, "target_modules": None}, FACTORS[kind])
    model = bert.load()
    with pytest.raises(ValueError, match=re.escape(str(folder))):
        model.load_lora_weights(folder)
    assert not adapters(model)
