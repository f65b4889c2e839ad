"""`presets/builtin.json` says what the installed KerasHub says."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import keras_hub
from keras_hub.models import Backbone
from keras_hub.src.utils import preset_utils

from keras_hub_torch.preprocessing._layer import PreprocessingLayer
from keras_hub_torch.presets import builtin

MAKE = runpy.run_path(str(Path(__file__).with_name("make_builtin.py")))


@pytest.fixture(scope="module")
def facts():
    return MAKE["facts"]()


def subclasses(cls):
    own = getattr(sys.modules[cls.__module__], cls.__name__, None) is cls
    return ({cls} if own else set()).union(*map(subclasses, cls.__subclasses__()))


def test_the_file_is_up_to_date(facts):
    assert MAKE["BUILTIN"].read_text(encoding="utf-8") == MAKE["dumps"](facts)
    assert json.loads(MAKE["BUILTIN"].read_text(encoding="utf-8")) == facts


def test_every_class_shows_the_presets_of_keras_hub(facts):
    classes = subclasses(Backbone)
    assert len(classes) > 80
    for cls in classes:
        names = None if cls is Backbone else {c.__name__ for c in subclasses(cls)}
        ours = builtin.presets_of(names)
        theirs = cls.presets
        assert ours.keys() == theirs.keys(), cls
        for preset_id, preset in theirs.items():
            assert ours[preset_id]["kaggle_handle"] == preset["kaggle_handle"]
            assert ours[preset_id]["metadata"]["params"] == preset["metadata"].get("params")
            assert builtin.handle_of(preset_id) == preset["kaggle_handle"]
    assert len(builtin.presets_of()) == len(Backbone.presets) == 497


def test_every_id_keras_hub_can_load_has_a_handle_and_a_backbone():
    exported = set(vars(keras_hub.models))
    for preset_id, preset in preset_utils.BUILTIN_PRESETS.items():
        assert builtin.handle_of(preset_id) == preset["kaggle_handle"]
        assert builtin.class_of(preset_id) in exported


def test_modules_and_tasks_are_those_keras_hub_saves(facts, tmp_path, monkeypatch):
    saver = preset_utils.KerasPresetSaver(str(tmp_path))
    for cls in subclasses(Backbone) - {Backbone}:
        assert builtin.keras_module(cls.__name__) == cls.__module__
        # The saver asks only for the class and the parameter count, so no model is built.
        monkeypatch.setattr(cls, "count_params", lambda self: 0)
        saver._save_metadata(cls.__new__(cls))
        metadata = json.loads((tmp_path / "metadata.json").read_text())
        assert builtin.tasks(cls.__name__) == metadata["tasks"], cls


def test_serialized_module():
    vit_det = keras_hub.models.ViTDetBackbone(
        hidden_size=4,
        num_layers=1,
        intermediate_dim=4,
        num_heads=1,
        global_attention_layer_indices=[0],
        image_shape=(16, 16, 3),
        patch_size=8,
        num_output_channels=2,
        window_size=2,
    )
    config = keras.saving.serialize_keras_object(vit_det)
    assert builtin.keras_module("ViTDetBackbone") == config["module"]


def test_aliases():
    aliases = {n: c.__name__ for n, c in vars(keras_hub.models).items() if hasattr(c, "presets")}
    aliases = {n: c for n, c in aliases.items() if n.endswith("Backbone") and n != c}
    assert len(aliases) == 3
    assert aliases == {n: builtin.canonical_name(n) for n in aliases}
    assert builtin.keras_module("Qwen2Backbone") == builtin.keras_module("QwenBackbone")
    assert builtin.canonical_name("BertBackbone") == "BertBackbone"


def test_unknown_names():
    assert builtin.handle_of("bert_huge_klingon") is None
    assert builtin.class_of("bert_huge_klingon") is None
    assert builtin.keras_module("KlingonBackbone") is None
    assert builtin.tasks("KlingonBackbone") == []
    assert builtin.presets_of({"KlingonBackbone"}) == {}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("bert_base_en_uncase", "bert_base_en_uncased"),
        ("gemma-2b-en", "gemma_2b_en"),
        ("resnet50_imagenet", "resnet_50_imagenet"),
    ],
)
def test_nearest(typed, meant):
    assert meant in builtin.nearest(typed)
    assert len(builtin.nearest(typed, n=1)) == 1
    assert builtin.nearest("zzzzzzzz") == []


def test_answers_are_copies():
    builtin.tasks("BertBackbone").append("Cooking")
    builtin.presets_of()["bert_base_en"]["metadata"]["params"] = 0
    assert "Cooking" not in builtin.tasks("BertBackbone")
    assert builtin.presets_of()["bert_base_en"]["metadata"]["params"] > 0


def test_other_classes_of_kerashub() -> None:
    from keras_hub_torch import models

    for name in ("BertTextClassifier", "GemmaCausalLM", "CausalLM"):
        with pytest.raises(NotImplementedError, match=f"not {name}: "):
            getattr(models, name)
    others = [name for name in dir(keras_hub.models) if name[0].isupper()]
    for name in others:
        kinds = (torch.nn.Module, PreprocessingLayer)
        assert not hasattr(models, name) or issubclass(getattr(models, name), kinds)
    for name in ("KlingonCausalLM", "BertLinear", "Nope"):
        with pytest.raises(AttributeError) as caught:
            getattr(models, name)
        assert not isinstance(caught.value, NotImplementedError)
    with pytest.raises(AttributeError, match="did you mean 'BertBackbone'"):
        models.BertBackbon  # noqa: B018
