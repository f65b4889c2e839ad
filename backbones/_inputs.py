"""The inputs of backbones: what `forward` annotates and what callers pass."""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch

from .layers.cache import Cache


@dataclass(frozen=True)
class Input:
    """One argument of `forward`.

    Attributes:
        kind: `ids` (integers), `places` (integers, too: of tokens in their row), `mask` (nonzero
            is true), `values` (any real numbers), `images` (no integers, which nobody has scaled),
            `any`, or `state` for what is no input of the Keras model.
        axes: names of the axes; axes of one name have one size.
        remembered: whether a cache has what is made of it, so that later calls do without.
        required: whether `forward` has no default for it.
    """

    kind: str
    axes: tuple[str, ...]
    remembered: bool = False
    required: bool = True


TokenIds = Annotated[torch.Tensor, Input("ids", ("batch", "length"))]
PaddingMask = Annotated[torch.Tensor, Input("mask", ("batch", "length"))]
EncoderTokenIds = Annotated[
    torch.Tensor, Input("ids", ("batch", "encoder_length"), remembered=True)
]
EncoderPaddingMask = Annotated[torch.Tensor, Input("mask", ("batch", "encoder_length"))]
Images = Annotated[torch.Tensor, Input("images", ("batch", "height", "width", "channels"))]
CacheState = Annotated[Cache, Input("state", ())]
CacheIndex = Annotated[int | torch.Tensor, Input("state", ())]
INTEGERS = ("ids", "places")
NARROW = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.uint32, torch.uint64)
ANY = Input("any", ())
# Names in transformers and timm.
SYNONYMS = {
    "input_ids": "token_ids",
    "attention_mask": "padding_mask",
    "token_type_ids": "segment_ids",
    "pixel_values": "images",
    "input_features": "features",
}


def inputs_of(forward: Callable[..., Any], inherited: Mapping[str, Input]) -> dict[str, Input]:
    """The parameters of a `forward`, in order.

    Those without annotation, in a subclass elsewhere, are as `inherited` or else `any`.
    """
    try:
        hints = typing.get_type_hints(forward, include_extras=True)
    except NameError:  # hints for type checkers alone
        hints = {}
    found: dict[str, Input] = {}
    for name, parameter in list(inspect.signature(forward).parameters.items())[1:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found = {**found, **inherited, **found}
        elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
            spec = next(iter(_annotations(hints.get(name))), inherited.get(name, ANY))
            required = parameter.default is inspect.Parameter.empty
            found[name] = replace(spec, required=required)
    return found


def _annotations(hint: Any) -> list[Input]:
    if typing.get_origin(hint) is Annotated:
        return [spec for spec in typing.get_args(hint)[1:] if isinstance(spec, Input)]
    return [spec for argument in typing.get_args(hint) for spec in _annotations(argument)]


def check_keys(
    given: Mapping[str, Any], inputs: Mapping[str, Input], where: str, partly: bool = False
) -> dict[str, Any]:
    """Those of `given` that the model takes.

    As in Keras, further keys are passed over, but for those that look like another spelling of an
    input that is not there.

    Args:
        partly: whether some of the required ones may be missing; they are `None` then.

    Raises:
        ValueError: a required input is missing, or misspelt.
    """
    wanted = [name for name, spec in inputs.items() if spec.kind != "state"]
    cache = given.get("cache")
    remembers = isinstance(cache, Cache) and cache.has_encoded
    required = [name for name in wanted if inputs[name].required]
    remembered = [name for name in required if remembers and inputs[name].remembered]
    needed = [name for name in required if name not in remembered]
    missing = [name for name in needed if given.get(name) is None]
    absent = [name for name in wanted if given.get(name) is None]
    unknown = [str(name) for name in given if name not in inputs]
    # Written out, since compilers know no assignments within expressions.
    hints = []
    for name in unknown:
        meant = _meant(name, absent)
        if meant is not None:
            hints.append(f"{name!r} must be {meant!r}")
    if hints or (missing and not (partly and len(missing) < len(required))):
        raise ValueError(
            f"{where} takes the inputs {', '.join(wanted)}"
            + (f"; missing: {', '.join(missing)}" if missing else "")
            + (f"; unknown: {', '.join(unknown)}" if unknown else "")
            + (f" ({'; '.join(hints)})" if hints else "")
            + "."
        )
    known = {name: value for name, value in given.items() if name in inputs}
    return {**dict.fromkeys([*missing, *remembered]), **known}


def _meant(name: str, absent: Sequence[str]) -> str | None:
    """The input that is not there which a name stands for elsewhere, or is close to."""
    for theirs, ours in SYNONYMS.items():
        if name.endswith(theirs):
            exact = name.removesuffix(theirs) + ours
            found = [one for one in absent if one == exact or one.endswith(ours)]
            if found:
                return found[0]
    near = difflib.get_close_matches(name, absent, 1, 0.75)
    return near[0] if near else None


def as_tensors(
    given: Mapping[str, Any], inputs: Mapping[str, Input], device: torch.device
) -> dict[str, Any]:
    """NumPy arrays as tensors on `device`, and ids of narrow types as int64.

    Raises:
        TypeError: an array of something else than numbers.
    """
    tensors = dict(given)
    for name, value in given.items():
        if hasattr(value, "__array__") and not isinstance(value, torch.Tensor):
            array = np.asarray(value)
            if array.dtype.kind not in "biufc":
                raise TypeError(f"{name} must hold numbers, not {array.dtype}.")
            # A copy, because PyTorch takes no reversed, read-only or big-endian arrays.
            array = array.astype(array.dtype.newbyteorder("="), order="C")
            value = torch.from_numpy(array).to(device)
        if inputs[name].kind in INTEGERS and getattr(value, "dtype", None) in NARROW:
            value = value.long()
        tensors[name] = value
    return tensors


def check_tensors(given: Mapping[str, Any], inputs: Mapping[str, Input]) -> None:
    """Refuse wrong dtypes, ranks and sizes that do not go together; these not while compiling.

    Raises:
        TypeError: not a tensor, ids that are no integers, or images that are.
        ValueError: a wrong rank, or two inputs that disagree about an axis.
    """
    sizes: dict[str, tuple[int, str]] = {}
    compiling = torch.compiler.is_compiling()
    for name, spec in inputs.items():
        tensor = given.get(name)
        if tensor is None or spec.kind in ("any", "state"):
            continue
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(
                f"{name} must be a tensor or a NumPy array, not {type(tensor).__name__}."
            )
        if spec.kind in INTEGERS and tensor.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"{name} must hold integers, not {tensor.dtype}.")
        additive = spec.kind == "mask" and tensor.is_floating_point()
        if additive and not (compiling or tensor.is_meta) and bool((tensor < 0).any()):
            raise ValueError(
                f"{name} is nonzero for what is real; one to be added to scores, with 0 for real "
                "tokens and large negative numbers for padding, is another thing: give `mask == 0`."
            )
        if spec.kind == "images" and not (tensor.is_floating_point() or tensor.is_complex()):
            raise TypeError(
                f"{name} must hold floating-point numbers, not {tensor.dtype}: pixels are scaled "
                f"as the weights were trained, say by `{name}.float() / 255`."
            )
        if tensor.is_complex():
            raise TypeError(f"{name} must hold real numbers, not {tensor.dtype}.")
        if tensor.ndim != len(spec.axes):
            raise ValueError(
                f"{name} must have {len(spec.axes)} axes ({', '.join(spec.axes)}), "
                f"not shape {tuple(tensor.shape)}."
            )
        for axis, size in zip(spec.axes, () if compiling else tensor.shape):
            first, other = sizes.setdefault(axis, (size, name))
            if size != first:
                raise ValueError(f"{name} has {axis} {size}, but {other} has {axis} {first}.")
