"""Activations are Keras's, under Keras's names."""

from __future__ import annotations

import keras
import pytest
import torch
from keras.src.activations import ALL_OBJECTS_DICT

from keras_hub_torch.backbones.layers.activations import (
    ACTIVATIONS,
    Activation,
    MapActivation,
    serialize_activation,
)

from . import oracle

# One halves its vector, one has arguments, one sorts.
WITHOUT = {"glu", "threshold", "sparsemax"}
NAMES = sorted(ALL_OBJECTS_DICT.keys() - WITHOUT)


def test_as_in_keras() -> None:
    x = torch.linspace(-5, 5, 41).view(1, -1)
    for name in NAMES:
        theirs = keras.activations.get(name)
        oracle.assert_close(Activation(name)(x), oracle.named(theirs(x)))
        assert serialize_activation(name) == keras.activations.serialize(theirs)
    assert {name for name in ACTIVATIONS if ">" not in name} <= set(NAMES)


def test_of_vectors() -> None:
    for name in ("softmax", "log_softmax"):
        with pytest.raises(ValueError, match=f"Maps have no activation '{name}'"):
            MapActivation(name)
