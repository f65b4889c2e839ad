"""Models that compare images with texts: CLIP, MetaCLIP 2, SigLIP."""

from __future__ import annotations

import re
import weakref
from pathlib import Path
from typing import Any

import h5py
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import keras_hub_torch.models as models

from . import oracle
from .cases import all_cases
from .checkpoints import all_checkpoints, outputs_of, visible
from .test_lora import randomise

CASES = {case.id: case for case in all_cases()}
INTERFACES = {checkpoint.backbone: checkpoint.interface for checkpoint in all_checkpoints()}
BOTH = ("clip", "metaclip2", "siglip")


def build(name: str, **changes: dict[str, Any]) -> Any:
    """The case's model, with changes of its towers' configurations."""
    case = CASES[name]
    config = {
        key: {**value, "config": {**value["config"], **changes.get(key, {})}}
        if isinstance(value, dict)
        else value
        for key, value in case.config.items()
    }
    return getattr(models, case.cls)(**config).eval()


@pytest.mark.parametrize("name", BOTH)
@torch.no_grad()
def test_each_alone(name: str) -> None:
    """Embeddings of one kind, of which the cosines are the logits."""
    model, inputs = build(name), oracle.tensors(CASES[name].make_inputs())
    vision = model.get_vision_embeddings(inputs["images"])
    text = model.get_text_embeddings(inputs["token_ids"])
    logits = model(inputs)["text_logits"]
    head = next(m for m in model.children() if hasattr(m, "logit_scale"))
    cosines = torch.cosine_similarity(text[:, None], vision, dim=-1)
    oracle.assert_close(logits, oracle.named(cosines * head.logit_scale.exp()))


@pytest.mark.parametrize("name", BOTH)
def test_nothing_is_kept(name: str) -> None:
    """What one tower computes within is gone when the other one runs."""
    model, inputs = build(name), oracle.tensors(CASES[name].make_inputs())
    kept: list[Any] = []
    for block in model.vision_encoder.encoder_layers.children():
        block.register_forward_hook(lambda *args: kept.append(weakref.ref(args[-1])))
    model.text_encoder.register_forward_pre_hook(lambda *args: kept.append([one() for one in kept]))
    with torch.inference_mode():
        model(inputs)
    *outputs, found = kept
    assert len(outputs) == len(found)
    assert found == [None] * len(found)


@pytest.mark.parametrize("name", BOTH)
@torch.no_grad()
def test_images_of_another_size(name: str, tmp_path: Path) -> None:
    """`from_preset` hands `image_shape` on to the tower, whose positions are resampled."""
    model = build(name)
    model.save_to_preset(tmp_path / "both")
    model.vision_encoder.save_to_preset(tmp_path / "vision")
    shape = (12, 20, 3)
    images = torch.rand(2, *shape)
    larger = models.Backbone.from_preset(tmp_path / "both", image_shape=shape)
    alone = models.Backbone.from_preset(tmp_path / "vision", image_shape=shape)
    assert tuple(larger.vision_encoder.image_shape) == shape
    oracle.assert_close(larger.vision_encoder(images), oracle.named(alone(images)))
    blank = models.Backbone.from_preset(tmp_path / "both", load_weights=False, image_shape=shape)
    assert blank.get_config() == larger.get_config()
    with pytest.raises(ValueError, match="image_shape"):
        models.Backbone.from_preset(tmp_path / "both", image_shape=(1, 8, 3))
    with pytest.raises(TypeError, match="image_shape must be"):
        models.Backbone.from_preset(tmp_path / "both", image_shape="large")
    with pytest.raises(TypeError, match="no argument 'patch_size'"):
        models.Backbone.from_preset(tmp_path / "both", patch_size=2)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_numbers_of_positions_from_tensorflow(name: str, tmp_path: Path) -> None:
    """There they are int64. Such that no table has are refused."""
    path = tmp_path / "model.weights.h5"
    model = build(name)
    model.save_weights(path)
    with h5py.File(path, "a") as file:
        found: list[str] = []
        file.visititems(
            lambda key, item: found.append(key) if getattr(item, "dtype", 0) == "int32" else None
        )
        assert found
        for key in found:
            value = file[key][()][:, ::-1]
            del file[key]
            file[key] = value.astype("int64")
    model.load_weights(path)
    with h5py.File(path, "a") as file:
        file[key][0, 0] = 99
    with pytest.raises(ValueError, match="to 99, but the position table has"):
        build(name).load_weights(path)
    ids = model.vision_encoder.embedding.position_ids
    assert ids.dtype == torch.int32
    assert ids[0].tolist() == list(reversed(range(ids.shape[1])))


@pytest.mark.parametrize("name", BOTH)
def test_bad_inputs(name: str) -> None:
    model, inputs = build(name), oracle.tensors(CASES[name].make_inputs())
    images, ids = inputs["images"], inputs["token_ids"]
    with pytest.raises(ValueError, match="height, width and channels 8 × 8 × 3"):
        model(images[:, :4], ids)
    longest = model.text_encoder.max_sequence_length
    with pytest.raises(ValueError, match=rf"{longest + 1}.*position table has room for {longest}"):
        model(images, torch.zeros(2, longest + 1, dtype=torch.int32))
    with pytest.raises(ValueError, match="missing: token_ids"):
        model(images)
    with pytest.raises(ValueError, match="missing: images"):
        model(token_ids=ids)


@pytest.mark.parametrize("name", BOTH)
def test_bad_configurations(name: str) -> None:
    case = CASES[name]
    other = CASES["siglip" if name == "clip" else "clip"]
    cls, config = getattr(models, case.cls), case.config
    for tower in ("vision_encoder", "text_encoder"):
        wanted = config[tower]["class_name"]
        with pytest.raises(TypeError, match=rf"must be of {wanted}"):
            cls(**{**config, tower: other.config[tower]})
        with pytest.raises(TypeError, match=rf"{tower} must be {wanted}"):
            cls(**{**config, tower: models.CLIPBackbone(**CASES["clip"].config)})
        with pytest.raises(ValueError, match="is not divisible by num_heads=7"):
            build(name, **{tower: {"num_heads": 7}})
    with pytest.raises(ValueError, match="embedding_dim=5 must be hidden_dim"):
        build(name, text_encoder={"embedding_dim": 5})
    with pytest.raises(ValueError, match=re.escape("(3, 8, 3) needs a height of at least")):
        build(name, vision_encoder={"image_shape": (3, 8, 3)})
    if name == "siglip":
        with pytest.raises(ValueError, match="projection_dim=5 must be the vision_encoder's"):
            build(name, text_encoder={"projection_dim": 5})
        return
    for tower in ("vision_encoder", "text_encoder"):
        with pytest.raises(ValueError, match=f"{tower} must have one output"):
            build(name, **{tower: {"intermediate_output_index": 0}})
        with pytest.raises(ValueError, match="intermediate_output_index=-3 is none"):
            build(name, **{tower: {"intermediate_output_index": -3}})


@pytest.mark.parametrize("name", BOTH)
def test_peft(name: str, tmp_path: Path) -> None:
    """The pooling attention of SigLIP is one module of transformers."""
    case = CASES[name]
    model = getattr(models, case.cls)(**case.config).eval()
    model.export_to_transformers(tmp_path / "base")
    again = models.Backbone.from_preset(tmp_path / "base")
    model.enable_lora(3, lora_alpha=2.0)
    randomise(model)
    model.save_lora_weights(tmp_path / "adapter", format="peft")
    interface = INTERFACES[case.cls]
    base = interface.auto.from_pretrained(tmp_path / "base").eval()
    tuned = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").base_model.model
    again.load_lora_weights(tmp_path / "adapter")
    inputs = oracle.tensors(case.make_inputs())
    with torch.no_grad():
        outputs = model(inputs)
        oracle.assert_close(again(inputs), oracle.named(outputs))
    theirs = outputs_of(tuned, interface, inputs)
    oracle.assert_close(theirs, oracle.named(visible(outputs, interface, inputs)))


def test_what_peft_computes_twice(tmp_path: Path) -> None:
    """Its adapters of the projection out of an `nn.MultiheadAttention`."""
    model = build("siglip")
    model.enable_lora(2, ["attention_output"])
    with pytest.raises(
        ValueError, match=r"vision_encoder\.head\.attention\.attention_output twice"
    ):
        model.save_lora_weights(tmp_path / "adapter", format="peft")
    model = build("siglip")
    model.enable_lora(2)
    model.save_lora_weights(tmp_path / "adapter", format="peft")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(path)
    assert sum(".base_layer.out_proj." in name for name in tensors) == 2
    save_file({name: torch.ones_like(tensor) for name, tensor in tensors.items()}, path)
    with pytest.raises(ValueError, match=r"head\.attention\.base_layer\.out_proj twice"):
        build("siglip").load_lora_weights(tmp_path / "adapter")
