"""Gemma 3n with images and sound: what the tests of all families do not see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers.modeling_outputs import BaseModelOutputWithPooling

from keras_hub_torch import generate
from keras_hub_torch.models import Backbone, Gemma3nBackbone
from keras_hub_torch.presets.transformers import gemma3n as tables

from . import oracle
from .cases.gemma3n import AUDIO, CASES, IMAGE, SMALL_VISION, SOUND, TEXT, TOWERS, seen_and_heard
from .conftest import Reference, reference_of

# Of four layers the last two use the keys of the first two.
CONFIG: dict[str, Any] = {
    **TEXT,
    **TOWERS,
    "num_hidden_layers": 4,
    "intermediate_size": [8] * 4,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
}
LENGTH = 17


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    model = Gemma3nBackbone(**CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    return model


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    """Of two rows, with places from the third token on."""
    make = seen_and_heard(2, LENGTH, images=(2, 3, 3, 3), sounds=(2, 6, 9))
    given = oracle.tensors(make(np.random.default_rng(0)))
    del given["padding_mask"]
    return given


def without(inputs: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in names}


SOUNDS = ("input_features", "input_features_mask")


@torch.no_grad()
def test_with_a_cache(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """Images in the first piece, sound in the second, then several tokens and one at a time."""
    ids = inputs["token_ids"] % 30
    ids[:, 1:3], ids[:, 5:11] = IMAGE, SOUND
    whole = model({**inputs, "token_ids": ids})
    cache = model.make_cache(2, LENGTH)
    assert len(cache.layers) == 2
    assert [layer.keys.shape[2] for layer in cache.layers] == [4, LENGTH]
    pieces = [
        model(token_ids=ids[:, :4], images=inputs["images"], cache=cache),
        model(
            token_ids=ids[:, 4:11],
            **{name: inputs[name] for name in SOUNDS},
            cache=cache,
            cache_update_index=4,
        ),
        model(token_ids=ids[:, 11:14], cache=cache, cache_update_index=torch.tensor(11)),
        *(
            model(token_ids=ids[:, i : i + 1], cache=cache, cache_update_index=torch.tensor([i, i]))
            for i in range(14, LENGTH)
        ),
    ]
    oracle.assert_close(torch.cat(pieces, 1), oracle.named(whole))


@torch.no_grad()
def test_generation(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    prompts = {**inputs, "padding_mask": torch.ones(2, LENGTH)}
    # A row that begins later; there are no places where it has padding.
    prompts["token_ids"] = torch.nn.functional.pad(inputs["token_ids"], (2, 0), value=7)
    prompts["padding_mask"] = torch.nn.functional.pad(prompts["padding_mask"], (2, 0))
    prompts["token_ids"][0, :2], prompts["padding_mask"][0, :2] = 3, 1
    found = generate(model, prompts, max_new_tokens=4)["token_ids"]
    for row in range(2):
        alone = {k: v[row : row + 1] for k, v in inputs.items()}
        alone["token_ids"] = prompts["token_ids"][row : row + 1, 0 if row == 0 else 2 :]
        for _ in range(4):
            logits = model.token_embedding(model(alone)[:, -1], reverse=True)
            next_ids = logits.argmax(-1, keepdim=True).int()
            alone["token_ids"] = torch.cat((alone["token_ids"], next_ids), 1)
        assert torch.equal(found[row, 0 if row == 0 else 2 :], alone["token_ids"][0].long())
    beams = generate(model, prompts, 23, "beam")["token_ids"]
    assert torch.equal(beams[:, :19], found[:, :19])
    with pytest.raises(
        ValueError, match=r"input_features and input_features_mask; there is .*more"
    ):
        generate(model, {**prompts, "more": 1}, 23)


@torch.no_grad()
def test_ways_to_call(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    expected = model(inputs)
    ids, images, *sounds = inputs.values()
    assert torch.equal(model([ids, torch.ones_like(ids), images, *sounds]), expected)
    # As in KerasHub's own pipeline, where nothing is seen or heard.
    text = {"token_ids": ids % 30}
    nothing = {
        "images": torch.zeros(2, 0, 3, 3, 3),
        "input_features": torch.zeros(2, 0, 0, 9),
        "input_features_mask": torch.zeros(2, 0, 0),
    }
    assert torch.equal(model({**text, **nothing}), model(text))
    assert torch.equal(model({**inputs, **text}), model(text))  # no places
    towers = ("vision_encoder_config", "audio_encoder_config")
    blind = Gemma3nBackbone(**without(CONFIG, *towers)).eval()
    state = {k: v for k, v in model.state_dict().items() if "language_model" in k}
    blind.load_state_dict(state)
    assert torch.equal(blind(text), model(text))
    assert list(blind.input_specs)[:3] == ["token_ids", "padding_mask", "cache"]
    all_heard = {**inputs, "input_features_mask": torch.zeros(2, 2, 6)}
    without_mask = without(inputs, "input_features_mask")
    assert torch.equal(model(all_heard), model(without_mask))


@torch.no_grad()
def test_blank_images_at_the_end(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    """KerasHub's pipeline fills up images that a prompt lacks, and sounds as well."""
    one = {name: value[:1] for name, value in inputs.items()}
    expected = model(one)
    images = torch.cat((one["images"], torch.zeros(1, 3, 3, 3, 3)), 1)
    oracle.assert_close(model({**one, "images": images}), oracle.named(expected))


def test_bad_inputs(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    def refused(message: str, **changes: torch.Tensor) -> None:
        cache = model.make_cache(2, LENGTH)
        with pytest.raises(ValueError, match=message):
            model({**inputs, **changes}, cache=cache)
        assert cache.visible.all()

    ids = inputs["token_ids"]
    more, fewer = ids.clone(), ids.clone()
    more[:, -1] = IMAGE
    refused(r"images give 2 tokens a row, but token_ids have places for \[3, 3\]", token_ids=more)
    fewer[0, (ids[0] == SOUND).nonzero()[0]] = 5
    refused(
        r"input_features give 6 tokens a row, but token_ids have places for \[5, 6\]",
        token_ids=fewer,
    )
    refused("images must be 3 × 3 × 3 each, not 3 × 4 × 3", images=torch.zeros(2, 2, 3, 4, 3))
    refused("must have 9 mel bins, not 8", input_features=torch.zeros(2, 2, 6, 8))
    refused(
        "of 13 frames give 4 tokens a clip, more than audio_soft_tokens_per_image=3",
        input_features=torch.zeros(2, 2, 13, 9),
        input_features_mask=torch.zeros(2, 2, 13),
    )
    refused(
        "input_features_mask has frames 5, but input_features has frames 6",
        input_features_mask=torch.zeros(2, 2, 5),
    )
    blind = Gemma3nBackbone(**TEXT)
    with pytest.raises(ValueError, match="images needs vision_encoder, which this Gemma3nBackbone"):
        blind(without(inputs, *SOUNDS))
    with pytest.raises(ValueError, match="input_features needs audio_encoder"):
        blind(without(inputs, "images"))
    config = {**CONFIG, "vision_vocab_size": 2}
    with pytest.raises(ValueError, match="token_ids from 30 to 35 have 2 embeddings; there is 35"):
        Gemma3nBackbone(**config)(torch.tensor([[35, 31]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_types": ["full_attention"]}, "layer_types must be 4 of"),
        ({"layer_types": [*["full_attention"] * 3, "sliding_attention"]}, "none of their type"),
        ({"intermediate_size": [8]}, r"intermediate_size=\[8\] must be of 4 blocks"),
        ({"activation_sparsity_pattern": [1.0] * 4}, "must be below 1"),
        ({"num_key_value_heads": 2}, "num_key_value_heads=2 must divide num_attention_heads=3"),
        ({"altup_active_idx": 3}, "altup_active_idx=3 must be one of 3 streams"),
        ({"vision_hidden_size": 7}, "vision_hidden_size=7 must be that of the tower, 8"),
        ({"audio_hidden_size": 7}, "audio_hidden_size=7 must be that of the tower, 8"),
        ({"audio_encoder_config": {**AUDIO, "hidden_size": 9}}, "hidden_size=9 must be divisible"),
        (
            {"audio_encoder_config": {**AUDIO, "sscp_conv_channel_size": [3]}},
            r"sscp_conv_channel_size=\[3\] must be of two",
        ),
        (
            {
                "audio_encoder_config": {
                    **AUDIO,
                    "input_feat_size": 2,
                    "sscp_conv_kernel_size": [[3, 5]] * 2,
                }
            },
            "input_feat_size=2 is smaller than the kernels",
        ),
        ({"vision_encoder_config": {**SMALL_VISION, "more": 1}}, "has no argument 'more'"),
    ],
)
def test_configurations_that_are_refused(changes: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        Gemma3nBackbone(**{**CONFIG, **changes})


def test_resized(model: Any, inputs: dict[str, torch.Tensor]) -> None:
    expected = model(inputs)
    model.resize_token_embeddings(50)
    assert model.text_vocab_size == model.vocabulary_size == 50
    assert model.token_embedding(expected, reverse=True).shape[-1] == 50
    assert torch.equal(model(inputs), expected)


def test_lora(preset_folder: Path, tmp_path: Path) -> None:
    """On KerasHub's names, to it and back; TensorFlow's order is in `test_lora.py`."""
    reference: Reference = reference_of("gemma3n-towers", preset_folder)
    names = ["q_proj", "v_proj", "gate_proj", "per_layer_projection", "pos_proj", "linear_start"]
    names += ["embedding_projection", "altup_projection_1"]
    model = reference.load()
    with pytest.raises(ValueError, match="no layer that takes LoRA"):
        model.enable_lora(2)
    model.enable_lora(2, names)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_kernel" in name:
                parameter.normal_()
    model.save_lora_weights(tmp_path / "x.lora.h5", order="torch")
    theirs = oracle.keras_hub.models.Backbone.from_preset(str(reference.preset))
    theirs.enable_lora(2, target_layer_names=names)
    theirs.load_lora_weights(str(tmp_path / "x.lora.h5"))
    again = reference.load()
    again.load_lora_weights(tmp_path / "x.lora.h5")
    with torch.no_grad():
        outputs = oracle.named(model(reference.inputs))
        oracle.assert_close(again(reference.inputs), outputs)
    oracle.assert_close(outputs["output"], oracle.keras_outputs(theirs, reference.inputs), 1e-4)


class Tower(torch.nn.Module):
    """Stands for timm's in transformers, which needs timm: ours, with its outputs in their form."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.hidden = [tower]  # or transformers would draw its weights anew

    def forward(self, pixel_values: torch.Tensor, **options: Any) -> BaseModelOutputWithPooling:
        features = self.hidden[0](pixel_values.permute(0, 2, 3, 1))
        return BaseModelOutputWithPooling(last_hidden_state=features.permute(0, 3, 1, 2))


@torch.no_grad()
def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decoder and the tower of sound are transformers', logits included."""
    small = {**SMALL_VISION, "num_features": 8}
    monkeypatch.setitem(tables.TOWERS, "small", small)
    audio = {**AUDIO, "rms_norm_eps": 1e-6}
    config = {**CONFIG, "vision_encoder_config": small, "audio_encoder_config": audio}
    config |= {"num_attention_heads": 4, "vision_soft_tokens_per_image": 1}
    config |= {"final_logit_soft_cap": 5.0, "activation_sparsity_pattern": [0.5] * 4}
    config |= {"altup_coef_clip": 120.0}
    model = Gemma3nBackbone(**config).eval()
    for name, parameter in model.named_parameters():
        parameter.normal_(0, 0.3)
        if ".vision_encoder." in name and name.endswith(".bias"):
            parameter.zero_()  # timm has none
    model.export_to_transformers(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match="GELU's tanh form"):
        again = Backbone.from_preset(tmp_path)
    unused = [f"transformer_layers.{i}.attention.{n}" for i in (2, 3) for n in ("k_", "v_")]
    for name, tensor in again.state_dict().items():
        if any(part in name for part in unused):
            assert not tensor.any()
        else:
            assert torch.equal(tensor, model.state_dict()[name]), name
    mine, theirs = again.get_config(), model.get_config()
    assert mine.pop("vision_encoder_config").pop("image_shape") == small["image_shape"]
    theirs.pop("vision_encoder_config")
    assert mine == theirs

    module = transformers.models.gemma3n.modeling_gemma3n
    auto = module.AutoModel.from_config
    monkeypatch.setattr(
        module.AutoModel,
        "from_config",
        lambda config: (
            Tower(model.vision_encoder) if "vision" in config.model_type else auto(config)
        ),
    )
    config = module.Gemma3nConfig(**json.loads((tmp_path / "config.json").read_text()))
    theirs = module.Gemma3nForConditionalGeneration(config).eval()
    rest = {name: value for name, value in saved.items() if ".vision_tower." not in name}
    expected = [name for name in theirs.state_dict() if ".vision_tower." not in name]
    assert sorted([*rest, "lm_head.weight"]) == sorted(expected)
    theirs.load_state_dict(rest, strict=False)
    theirs.tie_weights()
    make = seen_and_heard(3, 20, images=(2, 3, 3, 3), sounds=(2, 7, 9), shortest=5)
    inputs = oracle.tensors(make(np.random.default_rng(1)))
    inputs["padding_mask"][:, :2] = 1
    outputs = theirs(
        input_ids=inputs["token_ids"].long(),
        attention_mask=inputs["padding_mask"],
        pixel_values=inputs["images"].flatten(0, 1).permute(0, 3, 1, 2),
        input_features=inputs["input_features"].flatten(0, 1),
        input_features_mask=~inputs["input_features_mask"].flatten(0, 1),
    )
    seen = inputs["padding_mask"].bool()
    hidden = model(inputs)
    logits = model.token_embedding(hidden, reverse=True)
    oracle.assert_close(logits[seen], oracle.named(outputs.logits[seen]))
    oracle.assert_close(again(inputs)[seen], oracle.named(hidden[seen]))


def test_peft(tmp_path: Path) -> None:
    """Adapters of projections that nothing uses, and that transformers lacks, are left out."""
    case = next(case for case in CASES if case.id == "gemma3n")
    model = Gemma3nBackbone(**case.config).eval()
    model.export_to_transformers(tmp_path / "base")
    model.enable_lora(2, ["v_proj"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_kernel" in name:
                parameter.normal_()
    model.save_lora_weights(tmp_path / "adapter", format="peft")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    theirs = peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")
    again = Gemma3nBackbone.from_preset(tmp_path / "base")
    again.load_lora_weights(tmp_path / "adapter")
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        logits = oracle.named(theirs(input_ids=ids).logits)
        oracle.assert_close(model.logits(model(ids)), logits)
        oracle.assert_close(again.logits(again(ids)), logits)
