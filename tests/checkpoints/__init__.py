"""Checkpoints of transformers and timm to read and write, all weights random."""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ..oracle import Inputs


@dataclass(frozen=True, eq=False)
class Interface:
    """How a model is called there and here.

    Attributes:
        inputs: ours → those of transformers.
        outputs: ours → theirs, and the input that masks them.
        unmatched: weights that only one of both has.
        zeroed: weights → how many first rows are read by no one, and written as zeros.
        adapt: from any inputs to those of which transformers makes the same.
        forms: inputs that are no integers, and of which transformers wants another form; and
            outputs that it gives in another form than we do.
        besides: from our inputs to what only transformers must be told.
        attention: the implementation in transformers that is compared.
        auto: what loads a folder there.
        call: the model there and its inputs → outputs by name.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, tuple[str, str | None]]
    unmatched: tuple[str, ...] = ()
    zeroed: Mapping[str, int] = field(default_factory=dict)
    adapt: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = lambda inputs: inputs
    forms: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = field(default_factory=dict)
    besides: Callable[[Mapping[str, torch.Tensor]], dict[str, torch.Tensor]] = lambda inputs: {}
    attention: str = "eager"
    auto: Any = transformers.AutoModel
    call: Callable[[Any, dict[str, torch.Tensor]], Any] = lambda model, given: model(**given)


ENCODER = Interface(
    {"token_ids": "input_ids", "segment_ids": "token_type_ids", "padding_mask": "attention_mask"},
    {
        "sequence_output": ("last_hidden_state", None),
        "pooled_output": ("pooler_output", None),
    },
)
UNPOOLED = Interface(
    {"token_ids": "input_ids", "padding_mask": "attention_mask"},
    {"output": ("last_hidden_state", None)},
)
DECODER = Interface(
    {"token_ids": "input_ids", "padding_mask": "attention_mask"},
    {"output": ("last_hidden_state", "padding_mask")},
)
ENCODER_DECODER = Interface(
    {
        "encoder_token_ids": "input_ids",
        "encoder_padding_mask": "attention_mask",
        "decoder_token_ids": "decoder_input_ids",
        "decoder_padding_mask": "decoder_attention_mask",
    },
    {
        "encoder_sequence_output": ("encoder_last_hidden_state", None),
        "decoder_sequence_output": ("last_hidden_state", "decoder_padding_mask"),
    },
)


@dataclass(frozen=True)
class Checkpoint:
    """A model of transformers.

    Attributes:
        architecture: its class there.
        backbone: the class here.
        change: what else is done to the model.
        in_keras_hub: whether KerasHub can read it too.
    """

    id: str
    architecture: str
    backbone: str
    config: dict[str, Any]
    interface: Interface
    inputs: Callable[[np.random.Generator], Inputs]
    change: Callable[[Any], None] = lambda model: None
    in_keras_hub: bool = True

    @property
    def seed(self) -> int:
        return zlib.crc32(self.id.encode())

    def make_inputs(self) -> dict[str, torch.Tensor]:
        inputs = self.inputs(np.random.default_rng(self.seed))
        assert isinstance(inputs, dict)
        return {name: torch.from_numpy(value) for name, value in inputs.items()}

    def save(self, folder: Path, **options: Any) -> Path:
        make_model(self.architecture, self.config, self.seed, self.change).save_pretrained(
            folder, **options
        )
        return folder


def make_model(
    architecture: str,
    config: dict[str, Any],
    seed: int = 0,
    change: Callable[[Any], None] = lambda model: None,
) -> Any:
    cls = getattr(transformers, architecture)
    model = cls(cls.config_class(**config)).eval()
    change(model)
    randomise(model, seed)
    return model


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.normal_(0, 0.3, generator=generator)
        if parameter.ndim == 1 and name.endswith("weight"):  # norms
            parameter += 1


def load(
    folder: Path,
    auto: Any = transformers.AutoModel,
    unmatched: tuple[str, ...] = (),
    attention: str = "eager",
) -> Any:
    """The folder as transformers loads it, with every weight of it and no other."""
    model, info = auto.from_pretrained(
        folder, output_loading_info=True, attn_implementation=attention
    )
    assert not any(set(names) - set(unmatched) for names in info.values()), info
    return exact(model).eval()


def exact(model: Any) -> Any:
    """The model with experts one by one, because the kernel for all at once wants round sizes."""
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")
    return model


@torch.no_grad()
def call(
    model: Any, interface: Interface, inputs: Mapping[str, torch.Tensor], **options: Any
) -> Any:
    """What transformers makes of our inputs."""
    given = {
        interface.inputs[name]: interface.forms.get(name, torch.Tensor.long)(value)
        for name, value in inputs.items()
        if name in interface.inputs
    }
    return interface.call(exact(model), {**given, **interface.besides(inputs), **options})


def outputs_of(
    model: Any, interface: Interface, inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    found = call(model, interface, inputs)
    return {
        ours: interface.forms.get(ours, torch.Tensor.clone)(found[theirs])
        for ours, (theirs, _) in interface.outputs.items()
    }


def visible(
    outputs: Any, interface: Interface, inputs: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Outputs where they do not belong to padding."""
    if not isinstance(outputs, dict):
        outputs = {"output": outputs}
    return {
        name: outputs[name] if mask is None else outputs[name][inputs[mask].bool()]
        for name, (_, mask) in interface.outputs.items()
        if name in outputs
    }


def all_checkpoints() -> list[Checkpoint]:
    return [
        checkpoint for module in _modules() for checkpoint in getattr(module, "CHECKPOINTS", [])
    ]


@dataclass(frozen=True)
class TimmCheckpoint:
    """A model of timm.

    Attributes:
        module: the file with its `timm_features`, if it has that.
        in_keras_hub: whether KerasHub can read it too.
    """

    architecture: str
    arguments: dict[str, Any]
    module: str | None
    in_keras_hub: bool


def all_timm() -> dict[str, TimmCheckpoint]:
    """By the name of its folder."""
    return {
        folder: TimmCheckpoint(
            architecture,
            arguments,
            module.__file__ if hasattr(module, "timm_features") else None,
            folder in getattr(module, "TIMM_IN_KERAS_HUB", ()),
        )
        for module in _modules()
        for folder, (architecture, arguments) in getattr(module, "TIMM", {}).items()
    }


def all_inexpressible() -> dict[str, str]:
    """Cases that transformers has no model for → why."""
    return {
        case: reason
        for module in _modules()
        for case, reason in getattr(module, "INEXPRESSIBLE", {}).items()
    }


def all_refused() -> list[tuple[str, dict[str, Any], str]]:
    """Checkpoint, changes of its config.json, and what the error says."""
    return [refused for module in _modules() for refused in getattr(module, "REFUSED", [])]


def all_old() -> list[tuple[str, dict[str, Any]]]:
    """Checkpoint, and what older versions of transformers write in its config.json."""
    return [old for module in _modules() for old in getattr(module, "OLD", [])]


def all_heads() -> list[tuple[str, dict[str, Any]]]:
    """Classes of transformers with heads, and configurations."""
    return [head for module in _modules() for head in getattr(module, "HEADS", [])]


def _modules() -> list[Any]:
    return [
        importlib.import_module(f".{module.name}", __name__)
        for module in pkgutil.iter_modules(__path__)
    ]
