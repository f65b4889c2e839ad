"""Data types: what weights are stored in and what a model computes in."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar, cast

import torch

FLOATS: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}

HALVES = (torch.float16, torch.bfloat16)
Function = TypeVar("Function", bound=Callable[..., Any])


def in_float32(function: Function) -> Function:
    """A function of tensors that computes in float32 or wider, matrix products included, under
    autocast too.
    """

    @functools.wraps(function)
    def computed(first: torch.Tensor, *rest: Any) -> Any:
        wide = [_wide(argument) for argument in (first, *rest)]
        if first.is_meta:  # which autocast does not know
            return function(*wide)
        with torch.autocast(first.device.type, enabled=False):
            return function(*wide)

    return cast(Function, computed)


def autocast_dtype(x: torch.Tensor) -> torch.dtype | None:
    """What autocast computes matrix products of `x` in; none where it is off."""
    device = x.device.type
    on = device != "meta" and torch.is_autocast_enabled(device)  # of meta torch cannot say
    return torch.get_autocast_dtype(device) if on else None


def in_compute_dtype(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` in `dtype`; but what autocast has narrowed stays so, as it would narrow it again."""
    narrow = x.dtype in HALVES and dtype == torch.float32 and autocast_dtype(x) is not None
    return x if narrow else x.to(dtype)


def for_projections(x: torch.Tensor) -> torch.Tensor:
    """`x` as several projections take it, narrowed once for all where autocast is on."""
    dtype = autocast_dtype(x) if x.dtype == torch.float32 else None
    return x if dtype is None else x.to(dtype)


def _wide(argument: Any) -> Any:
    """A tensor of at least float32."""
    narrow = isinstance(argument, torch.Tensor) and argument.dtype in HALVES
    return argument.float() if narrow else argument


# Keras's classes for policies that are but a name.
PLAIN = ("DTypePolicy", "FloatDTypePolicy", "Policy")


@dataclass(frozen=True)
class DTypePolicy:
    """A Keras dtype policy: `float32`, `bfloat16`, …, or `mixed_bfloat16` / `mixed_float16`."""

    name: str = "float32"

    def __post_init__(self) -> None:
        if self.name.removeprefix("mixed_") not in FLOATS:
            raise ValueError(
                f"Unknown dtype {self.name!r}. Known: {', '.join(FLOATS)}, mixed_bfloat16, "
                "mixed_float16, or a floating torch.dtype."
            )

    @property
    def compute_dtype(self) -> torch.dtype:
        return FLOATS[self.name.removeprefix("mixed_")]

    @property
    def variable_dtype(self) -> torch.dtype:
        return torch.float32 if self.name.startswith("mixed_") else self.compute_dtype

    def serialize(self) -> dict[str, Any]:
        return {
            "module": "keras",
            "class_name": "DTypePolicy",
            "config": {"name": self.name},
            "registered_name": None,
        }

    @classmethod
    def get(cls, dtype: DTypeLike) -> DTypePolicy:
        """Read any spelling; `None` is float32, as in Keras.

        Raises:
            ValueError: no such policy.
        """
        if isinstance(dtype, DTypePolicy):
            return dtype
        if dtype is None:
            return cls()
        if isinstance(dtype, torch.dtype):
            return cls(str(dtype).removeprefix("torch."))
        if isinstance(dtype, str):
            named = getattr(torch, dtype.removeprefix("torch."), None)  # also `half`
            return cls.get(named) if isinstance(named, torch.dtype) else cls(dtype)
        if isinstance(dtype, Mapping) and isinstance(dtype.get("config"), Mapping):
            return cls._deserialize(dtype.get("class_name"), dtype["config"])
        raise ValueError(f"Cannot read a dtype policy from {dtype!r}.")

    @classmethod
    def _deserialize(cls, class_name: Any, config: Mapping[str, Any]) -> DTypePolicy:
        if class_name in PLAIN:
            return cls(str(config.get("name")))
        if class_name == "DTypePolicyMap":
            return DTypePolicyMap.read(config)
        raise ValueError(f"Cannot read a dtype policy of class {class_name!r}.")


MODES = ("int8", "int4", "float8", "gptq", "awq")


@dataclass(frozen=True)
class Quantization:
    """How a layer's weights are stored.

    Attributes:
        group_size: how many inputs have a scale in common; -1 for all.
    """

    mode: str
    bits: int = 8
    group_size: int = -1
    amax_history_length: int = 1024

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> Quantization:
        """From the `config` of a serialized policy.

        Raises:
            ValueError: it is none of a quantized layer.
        """
        text = config.get("mode")
        mode, *numbers = text.split("/") if isinstance(text, str) else [""]
        wanted = {"int8": 0, "float8": 0, "int4": len(numbers[:1]), "gptq": 2, "awq": 2}
        length = config.get("amax_history_length", 1024)
        if mode not in wanted or len(numbers) != wanted[mode]:
            raise ValueError(f"Unknown quantization mode {text!r}.")
        if not all(re.fullmatch("-1|[1-9][0-9]{0,8}", number) for number in numbers):
            raise ValueError(f"The quantization mode {text!r} has sizes that no layer can have.")
        if isinstance(length, bool) or not isinstance(length, int) or not 0 < length < 10**6:
            raise ValueError(f"amax_history_length must be a positive number, not {length!r}.")
        sizes = [int(number) for number in numbers]
        bits = sizes.pop(0) if len(sizes) == 2 else 4 if mode == "int4" else 8
        if bits not in ((4,) if mode in ("int4", "awq") else (2, 3, 4, 8)):
            raise ValueError(
                f"The quantization mode {text!r} has {bits} bits, which Keras has not."
            )
        return cls(mode, bits, sizes[0] if sizes else -1, length)

    def serialize(self) -> dict[str, Any]:
        """The policy as Keras writes it for a layer of a model."""
        kinds = {"int4": "Int4DTypePolicy", "gptq": "GPTQDTypePolicy", "awq": "AWQDTypePolicy"}
        kinds["float8"] = "QuantizedFloat8DTypePolicy"
        sizes = {"int4": f"/{self.group_size}"}
        sizes |= dict.fromkeys(("gptq", "awq"), f"/{self.bits}/{self.group_size}")
        config: dict[str, Any] = {
            "mode": self.mode + sizes.get(self.mode, ""),
            "source_name": None,
        }
        if self.mode == "float8":
            config["amax_history_length"] = self.amax_history_length
        return {
            "module": "keras.dtype_policies",
            "class_name": kinds.get(self.mode, "QuantizedDTypePolicy"),
            "config": config,
            "registered_name": None,
        }


@dataclass(frozen=True)
class DTypePolicyMap(DTypePolicy):
    """The policy of a quantized model: how some layers are, by path, and one for the rest."""

    modes: Mapping[str, Quantization] = field(default_factory=dict, hash=False)
    config: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> DTypePolicyMap:
        """From the `config` of a serialized `DTypePolicyMap`.

        Raises:
            ValueError: it is none.
        """
        default = config.get("default_policy")
        policies = config.get("policy_map")
        if not isinstance(policies, Mapping):
            raise ValueError(f"Cannot read a dtype policy map from {config!r}.")
        modes = {}
        for path, policy in policies.items():
            inner = policy.get("config") if isinstance(policy, Mapping) else None
            if not isinstance(inner, Mapping) or not isinstance(inner.get("mode"), str):
                raise ValueError(f"The policy {policy!r} of {path} has no quantization mode.")
            modes[path] = Quantization.read(inner)
        return cls(DTypePolicy.get(default).name, modes, config)

    @classmethod
    def of(cls, modes: Mapping[str, Quantization], rest: DTypePolicy) -> DTypePolicyMap:
        """As Keras writes it for a model that it has quantized."""
        policies = {path: one.serialize() for path, one in modes.items()}
        return cls(rest.name, modes, {"default_policy": None, "policy_map": policies})

    def part(self, paths: Mapping[str, str]) -> DTypePolicyMap:
        """The same for some of the layers, that have other paths there."""
        policies = {own: self.config["policy_map"][path] for path, own in paths.items()}
        modes = {own: self.modes[path] for path, own in paths.items()}
        return replace(self, modes=modes, config={**self.config, "policy_map": policies})

    def of_dtype(self, rest: DTypePolicy) -> DTypePolicyMap:
        """The same where the rest of the model has this policy."""
        return replace(
            self, name=rest.name, config={**self.config, "default_policy": rest.serialize()}
        )

    def serialize(self) -> dict[str, Any]:
        return {
            "module": "keras.dtype_policies",
            "class_name": "DTypePolicyMap",
            "config": dict(self.config),
            "registered_name": None,
        }


DTypeLike: TypeAlias = str | torch.dtype | Mapping[str, Any] | DTypePolicy | None
