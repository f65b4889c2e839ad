"""Queries that see no key, in every decoder, and windows: as KerasHub on TensorFlow has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import keras_hub_torch

from . import decoders_on_tensorflow, oracle

CASES = decoders_on_tensorflow.decoders()


@pytest.fixture
def folder(on_tensorflow: Callable[[str], Path]) -> Path:
    return on_tensorflow("decoders_on_tensorflow")


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_rows_without_a_visible_key(case: oracle.Case, folder: Path) -> None:
    model = getattr(keras_hub_torch.models, case.cls)(**case.config).eval()
    model.load_weights(folder / f"{case.id}.weights.h5")
    inputs = case.make_inputs()
    expected = {"output": np.load(folder / f"{case.id}.npy")}
    with torch.no_grad():  # other kernels than with gradients
        oracle.assert_close(model(inputs), expected)
    outputs = model(inputs)
    oracle.assert_close(outputs, expected)
    outputs.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    half = model.to(torch.bfloat16)(inputs)
    half.float().square().sum().backward()
    assert half.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
