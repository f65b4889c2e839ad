"""Heads that a configuration holds whole, as Keras serializes their layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .activations import MapActivation
from .convolution import BatchNormalization, Conv2D, SamePadding, pair, resize
from .core import Dropout
from .dtypes import DTypePolicy
from .layer import Layer
from .layout import Sequential


class UpSampling2D(Layer):
    """Enlarged by whole factors."""

    def __init__(self, size: Any, interpolation: str = "nearest") -> None:
        super().__init__()
        self.size = pair(size)
        self.interpolation = interpolation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = (x.shape[2] * self.size[0], x.shape[3] * self.size[1])
        return x if self.size == (1, 1) else resize(x, size, self.interpolation)


# What each class is understood with: option → the values that may be left out of account.
ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "Conv2D": {"data_format": ("channels_last", None), "padding": ("same", "valid")},
    "BatchNormalization": {"axis": (-1, 3, [-1], [3]), "center": (True,), "scale": (True,)},
    "Activation": {},
    "ReLU": {"max_value": (None,), "negative_slope": (0,), "threshold": (0,)},
    "UpSampling2D": {
        "data_format": ("channels_last", None),
        "interpolation": ("nearest", "bilinear", "bicubic"),
    },
    "MaxPooling2D": {"data_format": ("channels_last", None), "padding": ("valid",)},
    "Dropout": {},
}


def build_head(serialized: Mapping[str, Any], channels: int, argument: str) -> Sequential:
    """A serialized Keras `Sequential` of layers over images; `channels` come in.

    Args:
        argument: what an error calls it.

    Raises:
        ValueError: another class, or a layer or an option that is not known here.
    """
    if serialized.get("class_name") != "Sequential":
        raise ValueError(
            f"{argument} must be a serialized keras.Sequential, not a "
            f"{serialized.get('class_name')!r}: put its layers into one."
        )
    head = Sequential()
    for layer in serialized["config"]["layers"]:
        if layer["class_name"] == "InputLayer":
            continue
        parts, channels = _build(layer["class_name"], layer["config"], channels, argument)
        for suffix, part in parts.items():
            head.add_module(layer["config"]["name"].replace(".", "_") + suffix, part)
            part.requires_grad_(layer["config"].get("trainable", True))
            if layer["config"].get("dtype") is not None:
                part.fixed_dtype = DTypePolicy.get(layer["config"]["dtype"])  # type: ignore[assignment]
    return head


def output_channels(head: nn.Module, channels: int) -> int:
    """Of a head that `channels` come into."""
    convolutions = [child for child in head.children() if isinstance(child, Conv2D)]
    return convolutions[-1].out_channels if convolutions else channels


def _build(
    name: str, options: Mapping[str, Any], channels: int, argument: str
) -> tuple[dict[str, nn.Module], int]:
    """The modules of one Keras layer by suffixes to its name, and the channels that come out."""
    if name not in ONLY:
        raise ValueError(
            f"{argument} has a layer of class {name!r}; known are {', '.join(sorted(ONLY))}."
        )
    for option, values in ONLY[name].items():
        if option in options and options[option] not in values:
            raise ValueError(
                f"{argument} has a {name} with {option}={options[option]!r}, which must be "
                f"{' or '.join(map(repr, values))}."
            )
    if name == "Conv2D":
        return _conv(options, channels, argument), options["filters"]
    return {"": _plain(name, options, channels)}, channels


def _plain(name: str, options: Mapping[str, Any], channels: int) -> nn.Module:
    if name == "BatchNormalization":
        return BatchNormalization(
            channels, options.get("epsilon", 1e-3), options.get("momentum", 0.99)
        )
    if name == "UpSampling2D":
        return UpSampling2D(options.get("size", 2), options.get("interpolation", "nearest"))
    if name == "MaxPooling2D":
        size = pair(options.get("pool_size", 2))
        return nn.MaxPool2d(size, pair(options.get("strides") or size))
    if name == "Dropout":
        return Dropout(options["rate"])
    return MapActivation(options["activation"] if name == "Activation" else "relu")


def _conv(options: Mapping[str, Any], channels: int, argument: str) -> dict[str, nn.Module]:
    kernel_size, strides = pair(options["kernel_size"]), pair(options.get("strides", 1))
    dilation, same = pair(options.get("dilation_rate", 1)), options.get("padding") == "same"
    padded = same and max(strides) > 1
    uneven = strides[0] != strides[1] or kernel_size[0] != kernel_size[1]
    if dilation[0] != dilation[1] or (padded and uneven):
        raise ValueError(
            f"{argument} has a Conv2D with kernel_size={kernel_size}, strides={strides} and "
            f"dilation_rate={dilation}, which must be alike for height and width."
        )
    parts: dict[str, nn.Module] = {}
    if padded:
        parts["_padding"] = SamePadding(kernel_size[0], strides[0], dilation[0])
    parts[""] = Conv2D(
        channels,
        options["filters"],
        kernel_size,
        strides,
        "same" if same and not padded else "valid",
        dilation[0],
        options.get("groups", 1),
        options.get("use_bias", True),
    )
    if options.get("activation") not in (None, "linear"):
        parts["_activation"] = MapActivation(options["activation"])
    return parts


class DefaultHeads:
    """Serialized heads of a convolution each, as a new session of KerasHub names them."""

    def __init__(self, num_classes: int, policy: DTypePolicy) -> None:
        self.num_classes = num_classes
        self.policy = policy
        self.counts: dict[str, int] = {}

    def __call__(self, channels: int, scale: int) -> dict[str, Any]:
        """A 3 × 3 convolution, then enlargement."""
        shape = [None, None, None, channels]
        # The encoder and the model have the first two.
        number = self.counts.get("sequential", 0) + 2
        inputs = {
            "batch_shape": shape,
            "dtype": str(self.policy.compute_dtype).removeprefix("torch."),
            "sparse": False,
            "ragged": False,
            "name": f"input_layer_{number}",
            "optional": False,
        }
        conv = {
            **self._common("conv2d"),
            "filters": self.num_classes,
            "kernel_size": [3, 3],
            "strides": [1, 1],
            "padding": "same",
            "data_format": "channels_last",
            "dilation_rate": [1, 1],
            "groups": 1,
            "activation": "linear",
            "use_bias": True,
            "kernel_initializer": keras_object(
                "GlorotUniform",
                {"seed": None, "input_axes": None, "output_axes": None},
                "keras.initializers",
            ),
            "bias_initializer": keras_object("Zeros", {}, "keras.initializers"),
            "kernel_regularizer": None,
            "bias_regularizer": None,
            "activity_regularizer": None,
            "kernel_constraint": None,
            "bias_constraint": None,
        }
        built: dict[str, Any] = {"build_config": {"input_shape": shape}}
        layers = [
            keras_object("InputLayer", inputs, "keras.layers"),
            keras_object("Conv2D", conv, "keras.layers") | built,
        ]
        if scale > 1:
            enlarge = {
                **self._common("up_sampling2d"),
                "size": [scale, scale],
                "data_format": "channels_last",
                "interpolation": "bilinear",
            }
            layers.append(
                keras_object("UpSampling2D", enlarge, "keras.layers")
                | {"build_config": {"input_shape": [None, None, None, self.num_classes]}}
            )
        config = {**self._common("sequential"), "layers": layers, "build_input_shape": shape}
        return keras_object("Sequential", config, "keras") | built | {"compile_config": {}}

    def _common(self, name: str) -> dict[str, Any]:
        count = self.counts.get(name, 0)
        self.counts[name] = count + 1
        return {
            "name": f"{name}_{count}" if count else name,
            "trainable": True,
            "dtype": self.policy.serialize(),
        }


def keras_object(class_name: str, config: dict[str, Any], module: str) -> dict[str, Any]:
    """As Keras serializes an object."""
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": None,
    }
