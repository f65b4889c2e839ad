"""The first case of every family on a GPU: as on the CPU, and its gradients under autocast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

try:  # the cases are written with KerasHub
    from ..cases import all_cases
    from ..oracle import Case, flat
except ModuleNotFoundError as error:
    pytest.skip(f"needs {error.name}", allow_module_level=True)

from keras_hub_torch.backbones._model import Model
from keras_hub_torch.backbones._registry import find_class

from .precision import DEVICE, assert_as_accurate, exact

# Each device has an exponential of its own, and angles are a thousand times such a frequency.
MAGNIFIED = {"FluxBackbone": 1000, "MMDiT": 1000, "StableDiffusion3Backbone": 1000}
FIRST = {case.cls: case for case in reversed(all_cases())}


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def random_model(case: Case) -> Any:
    torch.manual_seed(0)
    model = find_class(case.cls, Model).from_config(case.config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * case.deviation / 3)
    return model


def moved(inputs: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if isinstance(inputs, dict):
        return {key: moved(value, device, dtype) for key, value in inputs.items()}
    tensor = torch.as_tensor(np.asarray(inputs))
    return tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype)


def tensors(outputs: Any) -> list[torch.Tensor]:
    found = []
    for value in flat(outputs).values():
        found += list(value.values()) if isinstance(value, dict) else [value]
    return [value for value in found if value is not None]


@pytest.mark.parametrize("name", FIRST)
@torch.no_grad()
def test_as_on_the_cpu(name: str) -> None:
    case = FIRST[name]
    model, inputs = random_model(case), case.make_inputs()
    cpu = torch.device("cpu")
    true = tensors(exact(model)(moved(inputs, cpu, torch.float64)))
    peers = tensors(model(moved(inputs, cpu, torch.float32)))
    found = tensors(model.to(DEVICE)(moved(inputs, DEVICE, torch.float32)))
    assert_as_accurate(found, peers, true, MAGNIFIED.get(name, 1))


@pytest.mark.parametrize("name", FIRST)
def test_gradients_under_autocast(name: str) -> None:
    case = FIRST[name]
    model = random_model(case).train().to(DEVICE)
    with torch.autocast(DEVICE.type, torch.bfloat16):
        outputs = tensors(model(moved(case.make_inputs(), DEVICE, torch.float32)))
    loss = sum(y.float().square().mean() for y in outputs if y.requires_grad)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
