"""KerasHub, the reference: models with random weights, saved as presets, and their outputs."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gc
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import torch
from keras_hub.src.models.rqvae.rqvae_backbone import RQVAEBackbone
from keras_hub.src.models.sam3 import sam3_geometry_encoder
from keras_hub.src.models.stable_diffusion_3.mmdit import MMDiT
from keras_hub.src.models.stable_diffusion_3.t5_encoder import T5Encoder as PlainT5Encoder
from keras_hub.src.models.vae.vae_backbone import VAEBackbone

from .roi_align import roi_align

Inputs = dict[str, np.ndarray] | np.ndarray


class T5Encoder(PlainT5Encoder, keras_hub.models.Backbone):  # type: ignore[misc]
    """KerasHub's is no backbone, and cannot be built on PyTorch."""


T5Encoder.__module__ = PlainT5Encoder.__module__
# KerasHub has these, but neither exports nor finds them.
UNEXPORTED = {cls.__name__: cls for cls in (MMDiT, RQVAEBackbone, T5Encoder, VAEBackbone)}
keras.saving.get_custom_objects().update(UNEXPORTED)
if keras.backend.backend() == "torch":  # where KerasHub takes torchvision's
    sam3_geometry_encoder.roi_align = roi_align


def models_built(config: dict[str, Any]) -> dict[str, Any]:
    return {name: _built(value) for name, value in config.items()}


def _built(value: Any) -> Any:
    if isinstance(value, dict) and "registered_name" in value:
        return keras.saving.deserialize_keras_object(value)
    return list(map(_built, value)) if isinstance(value, list) else value


@dataclass(frozen=True, eq=False)
class Case:
    """One configuration of one family, with inputs drawn from a random generator."""

    id: str
    cls: str
    config: dict[str, Any]
    inputs: Callable[[np.random.Generator], Inputs]
    # The id that hides its position, where a model masks by ids. KerasHub on TensorFlow then hides
    # queries in place of keys.
    pad_id: int | None = None
    # Whether KerasHub can build it under a mixed policy.
    mixed: bool = True
    # Of the weights: a deep network may need small ones, or its outputs are but rounding errors.
    deviation: float = 0.3
    # In which training is compared: many batch norms magnify the rounding of each one's sums.
    training_dtype: str = "float32"
    # Inputs that stay as many when rows of text become shorter: their places are not at the end.
    steady: tuple[str, ...] = ()
    # Of inputs for which rounding errors are compared, where KerasHub is slow.
    most_draws: int = 1024

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(zlib.crc32(self.id.encode()))

    @property
    def keras_config(self) -> dict[str, Any]:
        """The configuration with its models within the model built."""
        return models_built(self.config)

    def make_inputs(self) -> Inputs:
        return self.inputs(self.rng)


def keras_model(case: Case, **overrides: Any) -> Any:
    """The case's model in KerasHub, its names numbered from zero, every weight random."""
    keras.utils.clear_session()
    gc.freeze()  # what is left stays: most is imported, and searched for garbage each time
    # For the layers that KerasHub does not give the dtype.
    keras.config.set_dtype_policy(overrides.get("dtype", "float32"))
    cls = UNEXPORTED.get(case.cls) or getattr(keras_hub.models, case.cls)
    model = cls(**{**case.keras_config, **overrides})
    keras.config.set_dtype_policy("float32")
    randomise(model, case.rng, case.deviation)
    return model


def randomise(model: Any, rng: np.random.Generator, deviation: float = 0.3) -> None:
    for weight in sorted(model.weights, key=lambda weight: weight.path):  # as on any backend
        shape = tuple(weight.shape)
        if weight.path.endswith("position_ids"):  # any order, or a model could count by itself
            weight.assign(rng.permutation(shape[1])[None])
        if "int" in str(weight.dtype) or "seed" in weight.path:
            continue
        value = rng.standard_normal(shape) * deviation
        if weight.path.endswith("moving_variance"):
            value = rng.uniform(0.5, 1.5, shape)
        elif weight.path.endswith(("gamma", "scale", "scalar")):
            value = 1 + value
        elif weight.path.endswith(("_min", "_max")):  # bounds
            value = (1 + np.abs(value)) * (1 if weight.path.endswith("_max") else -1)
        weight.assign(value.astype("float32"))
    for layer in model._flatten_layers():
        if hasattr(layer, "interpolated_position_embeddings"):  # DINOv2's follow from others
            layer.interpolated_position_embeddings.assign(
                layer._interpolate_position_embeddings(
                    layer.position_embeddings,
                    layer.patch_size,
                    layer.position_embedding_shape,
                    layer.image_shape,
                    layer.antialias_in_interpolation,
                )
            )
        if hasattr(layer, "tiled_position_embeddings"):  # as SAM 3's do
            layer.tiled_position_embeddings.assign(
                layer._tile_position_embeddings(
                    layer.position_embeddings,
                    layer.patch_size,
                    layer.pretrain_image_shape,
                    layer.image_shape,
                )
            )


def called(model: Any, inputs: Inputs) -> Any:
    """What a model makes of inputs; of a single one it may want the name."""
    names = getattr(model, "_inputs_struct", None)
    if isinstance(names, dict) and len(names) == 1 and not isinstance(inputs, dict):
        inputs = dict.fromkeys(names, inputs)
    return model(inputs, training=False)


def keras_outputs(model: Any, inputs: Inputs) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = called(model, inputs)
    return named(outputs)


def draws(case: Case, outputs: dict[str, np.ndarray]) -> list[Inputs]:
    """Inputs, so many that rounding errors have a mean."""
    fewest = min(value.size for value in outputs.values())
    seeds = range(min(case.most_draws, max(4, 1024 // fewest)))
    return [case.inputs(np.random.default_rng(seed)) for seed in seeds]


def save_gradients(model: Any, path: Path) -> None:
    """Weights of the Keras model become its gradients, in a file to find them by."""
    for weight in model.weights:
        gradient = weight.value.grad
        weight.assign(torch.zeros_like(weight.value) if gradient is None else gradient)
    model.save_weights(str(path))


def text_inputs(model: Any, token_ids: Any) -> dict[str, Any]:
    """What a decoder, KerasHub's or ours, is called with for these tokens, none of them padding."""
    ids = torch.as_tensor(token_ids)
    inputs = {"token_ids": ids, "padding_mask": torch.ones_like(ids)}
    if "position_ids" in (getattr(model, "input_specs", None) or model.input):
        inputs["position_ids"] = torch.arange(ids.shape[1]).expand_as(ids)
    return inputs


def flat(outputs: Any) -> dict[str, Any]:
    """Outputs by name; those that are tuples as `name.0` and so on."""
    if not isinstance(outputs, dict):
        return {"output": outputs}
    found: dict[str, Any] = {}
    for key, value in outputs.items():
        if isinstance(value, (tuple, list)):
            found |= {f"{key}.{i}": one for i, one in enumerate(value)}
        else:
            found[key] = value
    return found


def named(outputs: Any) -> dict[str, np.ndarray]:
    return {
        key: value if isinstance(value, np.ndarray) else value.detach().float().cpu().numpy()
        for key, value in flat(outputs).items()
    }


def token_embedding(model: Any) -> Any:
    """What maps hidden states of a Keras model to logits."""
    found = model.token_embedding
    return model.language_model.token_embedding if found is None else found  # Gemma 3n's


def assert_close(ours: Any, theirs: dict[str, np.ndarray], tolerance: float = 2e-5) -> None:
    """Each output within `tolerance` of the reference, relative to its largest value above 1."""
    ours = named(ours)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        assert ours[key].shape == value.shape, key
        assert np.isfinite(ours[key]).all(), key
        error = np.abs(ours[key] - value).max()
        limit = tolerance * max(1.0, np.abs(value).max())
        assert error <= limit, f"{key}: {error:.3g} > {limit:.3g}"


def assert_same(model: Any, other: Any) -> None:
    """Two models have equal weights under equal names."""
    theirs = other.state_dict()
    assert model.state_dict().keys() == theirs.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, theirs[name]), name


def tensors(inputs: Inputs) -> Any:
    if isinstance(inputs, dict):
        return {key: torch.from_numpy(value) for key, value in inputs.items()}
    return torch.from_numpy(inputs)


def preset_of(model: Any, folder: Path) -> Path:
    model.save_to_preset(str(folder))
    return folder
