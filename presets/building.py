"""A model of a configuration that may say anything, and values into its places."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..backbones._configuration import check_arguments
from ..backbones._model import Model
from ..backbones.layers.layer import Layer
from ..backbones.layers.vision import PositionGrid
from .refusals import cause, escaped

ModelType = TypeVar("ModelType", bound=Model)

# Of PyTorch's functions while a model is built: a transformer's layer takes fifty to a hundred.
MAX_CALLS = 60_000
# What an argument may say; the deepest models have about a hundred layers.
MAX_LAYERS = 1_000
MAX_ITEMS = 10_000
MAX_CHARACTERS = 10_000
MAX_NUMBER = 10**12
LAYERS = re.compile(
    r"(?<![a-z])(layer|depth|block|repeat|repetition|group|iteration|level|quantizer|num_input)s?"
    r"(?![a-z])"
)
NOT_LAYERS = re.compile(r"norm|_(size|dim|width|filter|channel)s?(?![a-z])")
BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def construct(
    cls: type[ModelType], arguments: Mapping[str, Any], device: str | torch.device
) -> ModelType:
    """A model of a configuration that may say anything.

    Raises:
        ValueError: no model can be built so.
    """
    try:
        check_amounts(arguments)
        with torch.device("meta"), _Bounded():
            model = cls(**arguments)
        if torch.device(device).type == "meta":
            return model
        nbytes = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        if nbytes > BYTES:
            raise ValueError(f"it takes {nbytes:,} bytes, the memory has {BYTES:,}")
        with torch.device(device):
            return cls(**arguments)
    except (NotImplementedError, ImportError, torch.OutOfMemoryError, Warning):
        raise
    except Exception as error:
        reason = str(error) if type(error) in (ValueError, TypeError) else cause(error)
        raise ValueError(f"No {cls.__name__} can be built as configured: {reason}") from error


def check_amounts(config: Any, name: str = "") -> None:
    """Refuse what no model has, before anything loops over it.

    A number is one of layers, or of what else a model is built of, by the name of its argument.

    Raises:
        ValueError: it names the argument.
    """
    waiting = [(name, config)]
    while waiting:
        name, value = waiting.pop()
        trouble = ""
        if isinstance(value, Mapping):
            waiting += [(f"{name}.{key}" if name else key, one) for key, one in value.items()]
            if any(not key.isprintable() for key in value):
                trouble = "has keys that cannot be printed"
        elif isinstance(value, (list, tuple)):
            waiting += [(name, one) for one in value[:MAX_ITEMS]]
        if isinstance(value, (list, tuple, Mapping)) and len(value) > MAX_ITEMS:
            trouble = f"has {len(value):,} items; {MAX_ITEMS:,} are the most"
        elif isinstance(value, str) and len(value) > MAX_CHARACTERS:
            trouble = f"has {len(value):,} characters; {MAX_CHARACTERS:,} are the most"
        elif isinstance(value, str) and not value.isprintable():
            trouble = f"is '{escaped(value)}', which cannot be printed"
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            leaf = name.rpartition(".")[2]
            layers = LAYERS.search(leaf) and not NOT_LAYERS.search(leaf)
            most = MAX_LAYERS if layers else MAX_NUMBER
            if (layers or isinstance(value, int)) and abs(value) > most:
                trouble = f"is {reprlib.repr(value)}; {most:,} is the most"
        if trouble:
            raise ValueError(f"{reprlib.repr(name)[1:-1]} {trouble}.")


@contextlib.contextmanager
def changing(model: Model) -> Iterator[None]:
    """Where weights are replaced one after the other: a model with some of both is marked."""
    try:
        yield
    except BaseException as error:
        for module in model.modules():
            if isinstance(module, Model):
                module.broken = (
                    f"Reading weights into this {module.class_name} failed half-way ({error}), so "
                    "some are new and some are not. It works again when load_weights, or "
                    "load_state_dict, has read all of them."
                )
        raise
    model.mend()


def split_sizes(
    cls: type[Model], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Those arguments for which `resized` is called, and the rest.

    Raises:
        TypeError: unknown ones among the rest, or values of wrong types.
    """
    sizes = {name: overrides[name] for name in cls.resampled if name in overrides}
    others = {name: value for name, value in overrides.items() if name not in sizes}
    check_arguments(cls, others)
    return sizes, others


def sized(
    cls: type[Model], arguments: Mapping[str, Any], sizes: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The arguments of a model for images of another size.

    Raises:
        ValueError: no model can be built with the old ones.
        TypeError: sizes of wrong types.
    """
    return construct(cls, arguments, "meta").config_for(sizes) if sizes else arguments


@torch.no_grad()
def resized(model: ModelType, arguments: Mapping[str, Any]) -> ModelType:
    """A model for images of another size, of the weights of one that it takes the place of.

    Tables of positions are resampled, all other weights are the same.

    Raises:
        ValueError: no model can be built so.
    """
    if not arguments:
        return model
    other = blank_resized(model, arguments)
    resampled = resampling(model, other)
    blank = other.state_dict(keep_vars=True)
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name in resampled:
            tensor = resampled[name]()
        check_resized(arguments, name, tensor, blank[name])
        owner, _, leaf = name.rpartition(".")
        place(other.get_submodule(owner), leaf, tensor.detach())
    return other


def blank_resized(model: ModelType, arguments: Mapping[str, Any]) -> ModelType:
    """As `resized`, on the meta device.

    Raises:
        ValueError: no model can be built so.
    """
    other = construct(type(model), model.config_for(arguments), "meta").train(model.training)
    other.build_parts(model.state_dict(keep_vars=True))
    return other


def resampling(model: Model, other: Model) -> dict[str, Callable[[], torch.Tensor]]:
    """Name of each table of positions → what makes the other model's of it."""
    before = {path: m for path, m in model.named_modules() if isinstance(m, PositionGrid)}
    return {
        f"{path}.{name}": functools.partial(module.resample, name, before[path])
        for path, module in other.named_modules()
        if isinstance(module, PositionGrid)
        for name in module.tables()
    }


def check_resized(
    arguments: Mapping[str, Any], name: str, tensor: torch.Tensor, expected: torch.Tensor
) -> None:
    """Raises ValueError: the arguments ask for other channels, too."""
    if tensor.shape != expected.shape:
        raise ValueError(
            f"{', '.join(arguments)} can change sizes, not channels: {name} would be "
            f"{tuple(expected.shape)} and is {tuple(tensor.shape)}."
        )


class _Bounded(TorchFunctionMode):
    """Ends the building of a model that has no end."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.calls += 1
        if self.calls > MAX_CALLS:
            raise RuntimeError("it has too many layers")
        return func(*args, **kwargs or {})


def complete(model: Model) -> None:
    """Tell all layers that weights have been read."""
    for module in model.modules():
        if isinstance(module, Layer):
            module.loaded()


def check_class(found: type[Model], cls: type[Model]) -> None:
    """Raises ValueError: what was found is no `cls`."""
    if not issubclass(found, cls):
        raise ValueError(
            f"The preset is of class {found.__name__}, which is not a {cls.__name__}. Call "
            f"{found.__name__}.from_preset, or Backbone.from_preset."
        )


@torch.no_grad()
def assign(
    module: nn.Module, name: str, value: torch.Tensor, device: torch.device, keep: bool
) -> None:
    """Copy a value into a parameter or buffer; in place of a `meta` one it may be `kept` itself.

    What is made anew is contiguous and shares its memory with nothing.
    """
    old = getattr(module, name)
    if not old.is_meta:
        old.copy_(value)
        return
    moved = value.to(device, old.dtype)  # rearranged there
    place(module, name, alone(moved, copy=moved is value and not keep))


def alone(value: torch.Tensor, copy: bool = False) -> torch.Tensor:
    """The value, contiguous and with all of its memory; copied if it is not, or if asked for."""
    whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
    if whole and not copy:
        return value
    return torch.empty_like(value, memory_format=torch.contiguous_format).copy_(value)


def place(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace a parameter or buffer by one with this value."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        module._parameters[name] = nn.Parameter(value, old.requires_grad)
    else:
        module._buffers[name] = value
