"""Linear layers that are arguments of a language model, serialized as Keras does it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from ..layers.core import Dense, EinsumDense
from ..layers.dtypes import DTypePolicy
from ..layers.quantized import Quantized

Serialized = Mapping[str, Any]


def _initializer(name: str, **config: Any) -> dict[str, Any]:
    return {
        "module": "keras.initializers",
        "class_name": name,
        "config": config,
        "registered_name": None,
    }


COMMON = {
    "trainable": True,
    "activation": "linear",
    "kernel_initializer": _initializer(
        "GlorotUniform", seed=None, input_axes=None, output_axes=None
    ),
    "bias_initializer": _initializer("Zeros"),
    "kernel_regularizer": None,
    "bias_regularizer": None,
    "kernel_constraint": None,
    "bias_constraint": None,
    "quantization_config": None,
}


def dense(name: str, units: int, use_bias: bool) -> Serialized:
    """Keras's `Dense`."""
    return _layer("Dense", {"name": name, "units": units, "use_bias": use_bias, **COMMON})


def einsum_dense(name: str, units: int) -> Serialized:
    """Keras's `EinsumDense` of the last axis, with a bias."""
    config = {
        "name": name,
        "equation": "btd,df->btf",
        "output_shape": [None, units],
        "bias_axes": "f",
        "activity_regularizer": None,
        **COMMON,
    }
    return _layer("EinsumDense", config)


def _layer(class_name: str, config: Mapping[str, Any]) -> Serialized:
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }


def built(argument: str, layer: Serialized, inputs: int, outputs: int) -> Dense:
    """The layer that a serialized one describes.

    Args:
        argument: whose value it is, for errors.

    Raises:
        ValueError: another class, an activation, or another width.
    """
    config = layer.get("config")
    if not isinstance(config, Mapping):
        raise ValueError(f"{argument} must be a serialized layer of Keras, with its config.")
    if config.get("activation") not in (None, "linear"):
        raise ValueError(f"{argument} must be linear, not {config['activation']!r}.")
    if layer.get("class_name") == "Dense":
        _check_width(argument, config.get("units"), outputs)
        return Dense(inputs, outputs, bool(config.get("use_bias", True)))
    equation = str(config.get("equation"))
    if layer.get("class_name") != "EinsumDense" or not re.fullmatch(
        r"(\w\w)(\w),\2(\w)->\1\3", equation
    ):
        raise ValueError(
            f"{argument} must be a Dense, or an EinsumDense of the last axis, not "
            f"{layer.get('class_name')} {config.get('equation', '')}".rstrip()
            + "."
        )
    shape = config.get("output_shape")
    _check_width(argument, shape[-1] if isinstance(shape, list | tuple) else shape, outputs)
    return EinsumDense(equation, inputs, outputs, config.get("bias_axes") is not None)


def _check_width(argument: str, given: Any, wanted: int) -> None:
    if given != wanted:
        raise ValueError(f"{argument} gives a width of {given}; it must be {wanted}.")


def serialized(layer: Serialized, policy: DTypePolicy, module: nn.Module | None) -> dict[str, Any]:
    """A layer as Keras writes it into the configuration of a model with this policy."""
    own = module.quantization if isinstance(module, Quantized) else policy
    return {**layer, "config": {**layer["config"], "dtype": own.serialize()}}


def name_of(layer: Serialized) -> str:
    return str(layer["config"].get("name") or "language_projection")
