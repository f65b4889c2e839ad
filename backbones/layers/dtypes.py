"""Data types: what weights are stored in and what a model computes in."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class DTypePolicyMap(DTypePolicy):
    """The policy of a quantized model: modes (`int8`) of some layers by path, one for the rest."""

    modes: Mapping[str, str] = field(default_factory=dict, hash=False)
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
            modes[path] = inner["mode"]
        return cls(DTypePolicy.get(default).name, modes, config)

    def serialize(self) -> dict[str, Any]:
        return {
            "module": "keras.dtype_policies",
            "class_name": "DTypePolicyMap",
            "config": dict(self.config),
            "registered_name": None,
        }


DTypeLike: TypeAlias = str | torch.dtype | Mapping[str, Any] | DTypePolicy | None
