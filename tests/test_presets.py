"""The contract of `from_preset`, `save_to_preset` and the configuration."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import warnings
from pathlib import Path
from typing import Any

import h5py
import keras
import keras_hub
import numpy as np
import pytest
import torch
from torch import nn

import keras_hub_torch
from keras_hub_torch.backbones._registry import public_classes

from . import oracle
from .cases import all_cases
from .conftest import Reference
from .test_families import dump

models = keras_hub_torch.models
Backbone = models.Backbone
BertBackbone = models.BertBackbone

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}
IDS = torch.tensor([[3, 1, 4, 1, 5]])
CONFIG = "config.json"


def policy(name: str) -> dict[str, Any]:
    return {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": name},
        "registered_name": None,
    }


def pooled(model: Any) -> torch.Tensor:
    with torch.no_grad():
        value: torch.Tensor = model(IDS)["pooled_output"]
    return value


# Data types


SPELLINGS = [
    ("bfloat16", "bfloat16", torch.bfloat16),
    (torch.bfloat16, "bfloat16", torch.bfloat16),
    (policy("bfloat16"), "bfloat16", torch.bfloat16),
    (
        {"class_name": "FloatDTypePolicy", "config": {"name": "bfloat16"}},
        "bfloat16",
        torch.bfloat16,
    ),
    (torch.half, "float16", torch.float16),
    ("mixed_bfloat16", "mixed_bfloat16", torch.float32),
    (policy("mixed_float16"), "mixed_float16", torch.float32),
    ("float64", "float64", torch.float64),
    (torch.float32, "float32", torch.float32),
    (None, "float32", torch.float32),
]


@pytest.mark.parametrize(("dtype", "name", "expected"), SPELLINGS)
@pytest.mark.parametrize("load_weights", [True, False])
def test_dtypes(
    bert: Reference, dtype: Any, name: str, expected: torch.dtype, load_weights: bool
) -> None:
    loaded = Backbone.from_preset(bert.preset, load_weights, dtype=dtype)
    for model in (loaded, BertBackbone(**SMALL, dtype=dtype), copy.deepcopy(loaded)):
        assert model.dtype == expected
        assert model.dtype_policy.name == name
        assert {tensor.dtype for tensor in model.state_dict().values()} == {expected}
        assert model.get_config()["dtype"] == policy(name)
        again = type(model).from_config(json.loads(json.dumps(model.get_config())))
        assert again.dtype_policy == model.dtype_policy
    compute = getattr(torch, name.removeprefix("mixed_"))
    assert loaded(IDS)["pooled_output"].dtype == compute


@pytest.mark.parametrize("dtype", ["float31", torch.int8, "int8", policy("x"), torch.float8_e4m3fn])
def test_unknown_dtypes(bert: Reference, dtype: Any) -> None:
    for load_weights in (True, False):
        with pytest.raises(ValueError, match="dtype"):
            Backbone.from_preset(bert.preset, load_weights, dtype=dtype)


@pytest.mark.parametrize("dtype", [7, ["float32"], BertBackbone])
def test_dtypes_that_are_none(bert: Reference, dtype: Any) -> None:
    with pytest.raises(TypeError, match="BertBackbone's dtype must be"):
        Backbone.from_preset(bert.preset, dtype=dtype)


@pytest.mark.parametrize(
    ("convert", "name"),
    [
        (lambda model: model.to(torch.bfloat16), "bfloat16"),
        (lambda model: model.half(), "float16"),
        (lambda model: model.bfloat16().float(), "float32"),
        (lambda model: model.double(), "float64"),
    ],
)
@pytest.mark.parametrize("before", ["float32", "mixed_bfloat16", "float16"])
def test_saved_after_conversion(
    bert: Reference, tmp_path: Path, convert: Any, name: str, before: str
) -> None:
    model = convert(Backbone.from_preset(bert.preset, dtype=before))
    if before.startswith("mixed_") and name == "float32":
        name = before  # float32 are the weights of that policy
    assert model.dtype_policy.name == name
    model.save_to_preset(tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["config"]["dtype"] == policy(name)
    again = Backbone.from_preset(tmp_path, dtype=name)
    oracle.assert_same(again, model)
    assert Backbone.from_preset(tmp_path).dtype == torch.float32


def test_bfloat16_files_are_kerashubs(bert: Reference, tmp_path: Path) -> None:
    keras.utils.clear_session()
    theirs = keras_hub.models.Backbone.from_preset(str(bert.preset), dtype="bfloat16")
    theirs.save_to_preset(str(tmp_path / "theirs"))
    ours = Backbone.from_preset(bert.preset, dtype="bfloat16")
    ours.save_to_preset(tmp_path / "ours")
    name = "model.weights.h5"
    assert dump(tmp_path / "ours" / name) == dump(tmp_path / "theirs" / name)
    config = json.loads((tmp_path / "ours" / CONFIG).read_text())
    assert config == json.loads((tmp_path / "theirs" / CONFIG).read_text())
    with h5py.File(tmp_path / "ours" / name) as file:
        assert file["layers/dense/vars/0"].dtype == "V2"
    for folder in ("ours", "theirs"):
        oracle.assert_same(Backbone.from_preset(tmp_path / folder, dtype="bfloat16"), ours)
        model = Backbone.from_preset(tmp_path / folder)
        assert model.dtype == torch.float32
        oracle.assert_same(model.bfloat16(), ours)
    again = keras_hub.models.Backbone.from_preset(str(tmp_path / "ours"), dtype="bfloat16")
    for mine, weight in zip(again.weights, theirs.weights):
        assert torch.equal(mine.value, weight.value)


@pytest.fixture
def default_dtype() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("default_dtype")
def test_default_dtype(bert: Reference, tmp_path: Path) -> None:
    """PyTorch's default is not Keras's: without a `dtype` models are float32."""
    for model in (
        Backbone.from_preset(bert.preset),
        Backbone.from_preset(bert.preset, load_weights=False),
        BertBackbone(**SMALL),
    ):
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
        outputs = model(IDS)
        assert {value.dtype for value in outputs.values()} == {torch.float32}
        model.save_to_preset(tmp_path)
    model = Backbone.from_preset(bert.preset)
    with torch.no_grad():
        oracle.assert_close(model(bert.inputs), bert.outputs)


# Devices


@pytest.fixture
def default_device() -> Any:
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


@pytest.mark.usefixtures("default_device")
def test_default_device(bert: Reference, tmp_path: Path) -> None:
    model = Backbone.from_preset(bert.preset, device="cpu")
    torch.set_default_device(None)
    oracle.assert_same(model, Backbone.from_preset(bert.preset))
    torch.set_default_device("meta")
    model.save_to_preset(tmp_path)
    model.load_weights(tmp_path / "model.weights.h5")
    assert Backbone.from_preset(tmp_path).token_embedding.weight.is_meta


def test_devices(bert: Reference) -> None:
    for device in ("cpu", torch.device("cpu"), "cpu:0"):
        assert Backbone.from_preset(bert.preset, device=device).token_embedding.weight.is_cpu
    with torch.device("meta"):
        within = Backbone.from_preset(bert.preset)
    for model in (
        within,
        Backbone.from_preset(bert.preset, device="meta"),
        Backbone.from_preset(bert.preset, load_weights=False, device="meta"),
    ):
        assert all(tensor.is_meta for tensor in model.state_dict().values())
        assert not model.training
    model.to_empty(device="cpu").load_state_dict(Backbone.from_preset(bert.preset).state_dict())
    with torch.no_grad():
        oracle.assert_close(model(bert.inputs), bert.outputs)
    with pytest.raises(RuntimeError, match="nowhere"):
        Backbone.from_preset(bert.preset, device="nowhere")


def test_meta_models_are_checked(bert: Reference) -> None:
    with pytest.raises(ValueError, match="does not fit the model"):
        Backbone.from_preset(bert.preset, device="meta", num_layers=3)


# Arguments of from_preset


def test_modes(bert: Reference) -> None:
    for load_weights in (True, False):
        model = Backbone.from_preset(bert.preset, load_weights)
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in BertBackbone(**SMALL).modules())


def test_trainable(bert: Reference, tmp_path: Path) -> None:
    for load_weights in (True, False):
        model = Backbone.from_preset(bert.preset, load_weights, trainable=False)
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert model.trainable is False
    model.save_to_preset(tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["config"]["trainable"] is False
    assert not Backbone.from_preset(tmp_path).trainable
    model = Backbone.from_preset(tmp_path, trainable=True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.trainable = False
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.get_config()["trainable"] is False


def test_parts_of_a_frozen_model() -> None:
    """Their configuration says what they are by themselves, as KerasHub's does."""
    case = next(case for case in all_cases() if case.cls == "CLIPBackbone")
    theirs = keras_hub.models.CLIPBackbone(**case.keras_config, trainable=False)
    model = models.CLIPBackbone(**copy.deepcopy(case.config), trainable=False)
    for _ in range(2):
        for name in ("vision_encoder", "text_encoder"):
            expected = theirs.get_config()[name]["config"]["trainable"]
            assert model.get_config()[name]["config"]["trainable"] is expected
        theirs.trainable = model.trainable = False  # theirs, too
    assert not models.CLIPBackbone.from_config(model.get_config()).text_encoder.trainable


def test_without_weights(bert: Reference, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text((bert.preset / CONFIG).read_text())
    with pytest.raises(FileNotFoundError, match=r"no weights: none of model\.weights\.h5"):
        Backbone.from_preset(tmp_path)
    torch.manual_seed(0)
    first = Backbone.from_preset(tmp_path, load_weights=False)
    torch.manual_seed(0)
    oracle.assert_same(first, Backbone.from_preset(tmp_path, False))
    assert first.token_embedding.weight.std() > 0


def test_structural_overrides(bert: Reference) -> None:
    model = Backbone.from_preset(bert.preset, dropout=0.5, name="other")
    assert model.get_config()["dropout"] == 0.5
    assert model.name == "other"
    oracle.assert_same(model, Backbone.from_preset(bert.preset))
    model = Backbone.from_preset(bert.preset, load_weights=False, num_layers=3)
    assert len(model.transformer_layers) == 3


def test_names(bert: Reference, tmp_path: Path) -> None:
    assert Backbone.from_preset(bert.preset).name == bert.model.name == "bert_backbone"
    model = BertBackbone(**SMALL, name="mine")
    model.save_to_preset(tmp_path)
    assert Backbone.from_preset(tmp_path).name == "mine"
    assert keras_hub.models.Backbone.from_preset(str(tmp_path)).name == "mine"


def test_presets_of_every_class() -> None:
    for name, cls in public_classes(Backbone).items():
        if not hasattr(keras_hub.models, name) and name not in oracle.UNEXPORTED:
            assert all("keras_hub" in facts["metadata"] for facts in cls.presets.values()), name
            continue
        theirs = getattr(keras_hub.models, name, keras_hub.models.Backbone).presets
        if name in oracle.UNEXPORTED:
            theirs = oracle.UNEXPORTED[name].presets
        if name == "FeaturePyramidBackbone":  # here those of the families that are there
            theirs = {preset: theirs[preset] for preset in cls.presets}
        assert cls.presets.keys() == theirs.keys(), name
        for preset, facts in cls.presets.items():
            assert facts["kaggle_handle"] == theirs[preset]["kaggle_handle"]
            assert facts["metadata"]["params"] == theirs[preset]["metadata"]["params"]


# Configuration and constructor


def test_configuration(bert: Reference) -> None:
    model = Backbone.from_preset(bert.preset)
    config = model.get_config()
    assert config == json.loads((bert.preset / CONFIG).read_text())["config"]
    for again in (BertBackbone.from_config(config), BertBackbone(**config)):
        assert again.get_config() == config
    config["num_layers"] = 7
    assert model.get_config()["num_layers"] == 2


def test_positional_arguments() -> None:
    model = BertBackbone(37, 2, 2, 12, 20, 0.3, max_sequence_length=17)
    assert model.get_config() == BertBackbone(**SMALL, dropout=0.3).get_config()
    with pytest.raises(TypeError, match="num_layers must be int, not 'two'"):
        BertBackbone(37, "two", 2, 12, 20)
    with pytest.raises(TypeError, match="too many positional arguments"):
        BertBackbone(37, 2, 2, 12, 20, 0.3, 17, 2, None, True, "mine", 1)
    with pytest.raises(TypeError, match="missing a required argument: 'intermediate_dim'"):
        BertBackbone(37, 2, 2, 12)
    with pytest.raises(TypeError, match="multiple values for argument 'num_layers'"):
        BertBackbone(37, 2, 2, 12, 20, num_layers=2)


def test_unknown_arguments() -> None:
    with pytest.raises(TypeError, match="no argument 'num_layer'; did you mean 'num_layers'"):
        BertBackbone(**SMALL, num_layer=3)
    with pytest.raises(TypeError, match="no argument 'xyz'; it has vocabulary_size"):
        BertBackbone(**SMALL, xyz=3)
    with pytest.raises(TypeError, match=r"'abc'(.|\n)*'xyz'(.|\n)*num_layers must be int"):
        BertBackbone(abc=1, xyz=2, num_layers=())


def test_numbers_of_other_kinds() -> None:
    numpy = {name: np.int64(value) for name, value in SMALL.items()}
    model = BertBackbone(**numpy, dropout=np.float32(0.5), trainable=np.True_)
    assert model(IDS)["pooled_output"].shape == (1, 12)
    config = BertBackbone(**SMALL, dropout=0.5).get_config()
    assert json.loads(json.dumps(model.get_config())) == config
    assert BertBackbone(**SMALL, dropout=0)(IDS)["pooled_output"].shape == (1, 12)


def test_layers_and_counts(bert: Reference) -> None:
    model = Backbone.from_preset(bert.preset)
    assert model.count_params() == bert.model.count_params()
    weighted = [layer.name for layer in bert.model.layers if layer.weights]
    for i, name in enumerate(weighted):
        assert model.get_layer(name) is model.get_layer(index=i)
        count = sum(parameter.numel() for parameter in model.get_layer(name).parameters())
        assert count == bert.model.get_layer(name).count_params()
    assert model.get_layer("token_embedding") is model.token_embedding
    assert model.get_layer(index=-1) is model.pooled_dense
    for arguments, message in (
        ({"name": "nowhere"}, "No layer 'nowhere' among token_embedding, "),
        ({"index": len(weighted)}, f"No layer index {len(weighted)}"),
        ({"index": -len(weighted) - 1}, "No layer index"),
        ({}, "either a name or an index"),
        ({"name": "token_embedding", "index": 0}, "either a name or an index"),
    ):
        with pytest.raises(ValueError, match=message):
            model.get_layer(**arguments)


def test_trained_and_saved(bert: Reference, tmp_path: Path) -> None:
    """An optimizer goes on with the parameters it knows when weights are loaded into a model."""
    model = Backbone.from_preset(bert.preset)
    model.pooled_dense.requires_grad_(False)
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    before = pooled(model)
    for _ in range(2):
        model(IDS)["sequence_output"].square().sum().backward()
        optimizer.step()
    assert not torch.equal(pooled(model), before)
    model.save_weights(tmp_path / "trained.weights.h5")
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_weights(bert.preset / "model.weights.h5")
    assert all(parameters[name] is value for name, value in model.named_parameters())
    assert torch.equal(pooled(model), before)
    assert not model.pooled_dense.weight.requires_grad
    assert model.token_embedding.weight.requires_grad
    model.load_weights(str(tmp_path / "trained.weights.h5"))
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    model.half().load_weights(bert.preset / "model.weights.h5")
    assert model.dtype == torch.float16
    oracle.assert_same(model, Backbone.from_preset(bert.preset, dtype="float16"))


# What else is done with modules


def test_copies(bert: Reference, tmp_path: Path) -> None:
    model = Backbone.from_preset(bert.preset, dtype="mixed_bfloat16", name="mine", trainable=False)
    torch.save(model, tmp_path / "model.pt")
    copies = [
        copy.deepcopy(model),
        copy.copy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(tmp_path / "model.pt", weights_only=False),
    ]
    for other in copies:
        assert type(other) is BertBackbone
        oracle.assert_same(other, model)
        assert other.get_config() == model.get_config()
        assert not other.training
        assert not any(parameter.requires_grad for parameter in other.parameters())
        assert torch.equal(pooled(other), pooled(model))
    with torch.no_grad():
        copies[0].token_embedding.weight.zero_()
    assert model.token_embedding.weight.abs().sum() > 0


@pytest.mark.parametrize(
    "case", {case.cls: case for case in all_cases()}.values(), ids=lambda case: case.id
)
def test_every_class_can_be_pickled(case: oracle.Case) -> None:
    model = getattr(models, case.cls)(**case.config)
    other = pickle.loads(pickle.dumps(model))
    oracle.assert_same(other, model)
    assert json.dumps(other.get_config()) == json.dumps(model.get_config())


def test_state_dicts(bert: Reference, tmp_path: Path) -> None:
    model = Backbone.from_preset(bert.preset)
    torch.save(model.state_dict(), tmp_path / "state.pt")
    other = BertBackbone(**SMALL)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    oracle.assert_same(other, model)
    with torch.device("meta"):
        empty = BertBackbone(**SMALL)
    empty.load_state_dict(model.state_dict(), assign=True)
    oracle.assert_same(empty, model)


def test_loading_in_threads(bert: Reference, tmp_path: Path) -> None:
    expected = Backbone.from_preset(bert.preset)
    results: list[Any] = []
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(3):
                model = Backbone.from_preset(bert.preset, dtype=["float32", "bfloat16"][number % 2])
                model.save_to_preset(tmp_path / str(number))
                results.append(Backbone.from_preset(tmp_path / str(number), device="cpu"))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(results) == 18
    rounded = expected.state_dict()["pooled_dense.weight"].bfloat16().float()
    kinds = [model.pooled_dense.weight.equal(rounded) for model in results]
    assert sum(kinds) == 9
    assert (
        sum(model.pooled_dense.weight.equal(expected.pooled_dense.weight) for model in results) == 9
    )


def test_nothing_to_warn_about(bert: Reference, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = Backbone.from_preset(bert.preset)
        model(bert.inputs)
        model.save_to_preset(tmp_path)
        model.save_to_preset(tmp_path, format="safetensors")
        Backbone.from_preset(tmp_path)


# Subclasses in the code of users


class Classifier(BertBackbone):  # type: ignore[misc, valid-type]
    """A head of its own, and a `forward` without our annotations."""

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.head = nn.Linear(kwargs["hidden_dim"], num_classes)

    def forward(self, token_ids, padding_mask=None, temperature=1.0):  # type: ignore[no-untyped-def]
        pooled = super().forward(token_ids, None, padding_mask)["pooled_output"]
        return self.head(pooled) / temperature


class Pooled(BertBackbone):  # type: ignore[misc, valid-type]
    """The same arguments and inputs."""

    def forward(self, **inputs: Any) -> torch.Tensor:
        value: torch.Tensor = super().forward(**inputs)["pooled_output"]
        return value


class Tiny(BertBackbone):  # type: ignore[misc, valid-type]
    """Arguments of its own only."""

    def __init__(self, width: int = 4, **options: Any) -> None:
        super().__init__(37, 1, 2, width, 2 * width, **options)


def test_subclass_with_a_head(tmp_path: Path) -> None:
    model = Classifier(num_classes=3, **SMALL, dropout=0.0, trainable=False, dtype="bfloat16")
    assert model.name == "classifier"
    assert model.head.weight.dtype == torch.bfloat16
    assert not model.head.weight.requires_grad
    assert model(IDS).shape == (1, 3)
    expected = model(IDS, IDS * 0 + 1) / 2
    assert torch.equal(model({"token_ids": IDS, "padding_mask": IDS}, temperature=2.0), expected)
    assert torch.equal(model(IDS.numpy(), temperature=2.0), expected)
    with pytest.raises(TypeError, match="token_ids must hold integers"):
        model(IDS.float())
    config = model.get_config()
    assert {**SMALL, "num_classes": 3, "dropout": 0.0}.items() <= config.items()
    assert Classifier.from_config(config).get_config() == config
    with pytest.raises(TypeError, match="no argument 'num_clases'; did you mean 'num_classes'"):
        Classifier(num_clases=3, **SMALL)
    with pytest.raises(TypeError, match="num_layers must be int"):
        Classifier(3, **{**SMALL, "num_layers": "2"})
    model.save_to_preset(tmp_path)
    oracle.assert_same(Classifier.from_preset(tmp_path, dtype="bfloat16"), model)
    with pytest.raises(ValueError, match="unknown class 'keras_hub>Classifier'"):
        Backbone.from_preset(tmp_path)


def test_other_subclasses(bert: Reference, tmp_path: Path) -> None:
    model = Pooled(**SMALL)
    assert model(IDS).shape == (1, 12)
    assert model({"token_ids": IDS, "padding_mask": IDS}).shape == (1, 12)
    with pytest.raises(ValueError, match="missing: token_ids"):
        model({"padding_mask": IDS})
    oracle.assert_same(pickle.loads(pickle.dumps(model)), model)
    tiny = Tiny(8, name="x")
    assert tiny.get_config()["width"] == 8
    tiny.save_to_preset(tmp_path)
    oracle.assert_same(Tiny.from_preset(tmp_path), tiny)
    for cls in (Pooled, Tiny):
        with pytest.raises(ValueError, match="of class BertBackbone, which is not a"):
            cls.from_preset(bert.preset)


def test_kerashub_loads_what_was_trained(bert: Reference, tmp_path: Path) -> None:
    """There and back again, by the weights file alone, too."""
    model = Backbone.from_preset(bert.preset)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_weights(tmp_path / "x.weights.h5")
    keras.utils.clear_session()
    theirs = keras_hub.models.BertBackbone(**bert.case.config)
    theirs.load_weights(str(tmp_path / "x.weights.h5"))
    with torch.no_grad():
        oracle.assert_close(model(bert.inputs), oracle.keras_outputs(theirs, bert.inputs))
    theirs.save_weights(str(tmp_path / "y.weights.h5"))
    other = BertBackbone(**bert.case.config)
    other.load_weights(tmp_path / "y.weights.h5")
    oracle.assert_same(other, model)
