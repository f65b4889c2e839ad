"""The contract that every family keeps."""

from __future__ import annotations

import difflib
import functools
import inspect
import math
import numbers
import os
import re
import reprlib
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, TypeVar

import numpy as np
import torch
from torch import nn

from .inputs import Input, as_tensors, check_keys, check_tensors, inputs_of
from .layers.activations import ActivationLike, serialize_activation
from .layers.cache import Cache
from .layers.core import PositionEmbedding
from .layers.dtypes import DTypeLike, DTypePolicy, DTypePolicyMap
from .layers.layout import Layout, keras_children
from .layers.quantized import quantize_layers

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

BackboneType = TypeVar("BackboneType", bound="Backbone")


class BackboneOptions(TypedDict, total=False):
    """What every backbone's constructor takes besides its own arguments."""

    trainable: bool
    name: str | None


class classproperty:
    """A read-only property of a class."""

    def __init__(self, get: Callable[[Any], Any]) -> None:
        self.get = get

    def __get__(self, instance: object, owner: type) -> Any:
        return self.get(owner)


def snake_case(name: str) -> str:
    """`GPT2Backbone` → `gpt2_backbone`, by Keras's rule."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


class Backbone(nn.Module):
    """A pretrained model without a task head.

    Subclasses take their whole configuration as typed arguments; `get_config` gives it back.

    Args:
        dtype: of the weights and the computation; float32 by default.
        trainable: whether the weights require gradients.
        name: as in Keras; the class's name in snake case by default.
    """

    layout: ClassVar[Layout] = Layout()
    # Arguments that KerasHub leaves out of its configurations, with the values it stands for.
    unsaved: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # Arguments that older presets have, with the value that changes nothing.
    former: ClassVar[Mapping[str, Any]] = {}
    # What each layer of a decoder keeps of the tokens it has seen: objects with an `allocate`.
    cache_shapes: Sequence[Any] = ()
    _inputs: Mapping[str, Input] = {}
    _arguments: dict[str, Any]

    def __init__(self, dtype: DTypeLike = None, **options: Unpack[BackboneOptions]) -> None:
        super().__init__()
        self._policy = DTypePolicy.get(dtype)
        self._trainable = options.get("trainable", True)
        self.name = options.get("name") or snake_case(type(self).__name__)
        self._inputs = type(self)._inputs  # torch 2.6 exports no dictionaries of classes

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in cls.__dict__:
            cls.__init__ = _configured(cls.__init__)  # type: ignore[method-assign]
        if "forward" in cls.__dict__:
            cls._inputs = inputs_of(cls.forward, cls._inputs)

    # Calling

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Run the model on a mapping of inputs, on keyword arguments, or on one tensor.

        NumPy arrays are accepted.

        Raises:
            ValueError: missing or unknown inputs, wrong ranks or sizes.
            TypeError: not tensors, ids that are no integers, or an input given twice.
        """
        known = self._inputs
        if isinstance(inputs, Mapping):
            given, surplus = dict(inputs), args
        else:
            positional = () if inputs is None and not args else (inputs, *args)
            given = dict(zip(known, positional))
            surplus = positional[len(given) :]
        if surplus or any(name in given for name in kwargs):
            raise TypeError(
                f"{type(self).__name__} takes the inputs {', '.join(known)}, each once."
            )
        given = check_keys({**given, **kwargs}, known, type(self).__name__)
        if not torch.compiler.is_compiling():
            given = self._tensors(given)
        return super().__call__(**given)

    def _tensors(self, given: Mapping[str, Any]) -> dict[str, Any]:
        tensors = as_tensors(given, self._inputs, next(self.parameters()).device)
        check_tensors(tensors, self._inputs)
        return tensors

    # Generation

    def make_cache(
        self,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
    ) -> Cache:
        """Memory for the keys and values of `max_length` positions.

        With `cache=…, cache_update_index=i` the model takes its tokens for those from position i
        on (a number, a tensor, or one for each row in `[batch]`), and they see what earlier calls
        left in the cache. A tensor rather than a number saves compiled code from recompiling.

        Args:
            dtype: of keys and values; by default what the model computes in.
            device: by default that of the weights.

        Raises:
            NotImplementedError: the model is no decoder, or has no cache here.
            ValueError: the model has fewer positions.
        """
        if not self.cache_shapes:
            raise NotImplementedError(f"{type(self).__name__} has no cache.")
        for module in self.modules():
            room = module.sequence_length if isinstance(module, PositionEmbedding) else max_length
            if room < max_length:
                raise ValueError(f"max_length is {max_length}, but the position table has {room}.")
        dtype = dtype or self.dtype_policy.compute_dtype
        where = next(self.parameters()).device if device is None else torch.device(device)
        return Cache(self.cache_shapes, batch_size, max_length, dtype, where)

    # Configuration

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as Keras would save them, all of them JSON."""
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype_policy.serialize(),
        }
        return config | {
            key: _serialize(value)
            for key, value in self._arguments.items()
            if value not in self.unsaved.get(key, ())
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        return cls(**config)

    # Presets

    @classproperty
    def presets(cls: Any) -> dict[str, dict[str, Any]]:
        """Built-in presets of this class and its subclasses, by id."""
        from ..presets.builtin import presets_of
        from . import import_all

        if cls is Backbone:
            return presets_of()
        found = import_all().values()
        return presets_of({other.__name__ for other in found if issubclass(other, cls)})

    @classmethod
    def from_preset(
        cls: type[BackboneType],
        preset: str | os.PathLike[str],
        load_weights: bool = True,
        *,
        device: str | torch.device | None = None,
        mmap: bool | None = None,
        **kwargs: Any,
    ) -> BackboneType:
        """Build the model of a preset, in `eval()` mode.

        On `Backbone` itself the subclass is taken from the preset.

        Args:
            preset: a built-in id, `kaggle://org/model/keras/variant[/version]`, `hf://org/model`,
                `modelscope://org/model`, or a folder, in Keras or transformers format.
            load_weights: whether to read the weights; otherwise they are drawn at random.
            device: where the weights go.
            mmap: whether weights that need no conversion stay in the file, mapped into memory and
                read when first used; by default safetensors are and `.weights.h5` are not. Then
                the file must not change: rewritten in place it changes the model, and shortened
                it ends the process. Training does not write to it. Matrices mapped from
                `.weights.h5` are transposed views; all others are contiguous.
            kwargs: constructor arguments that replace those of the preset, `dtype` and
                `trainable` among them.

        Raises:
            ValueError: unknown or broken preset, a class other than this one, weights that do not
                fit the model.
            TypeError: unknown arguments.
            OSError: files that are missing or cannot be fetched.
        """
        from ..presets.loading import load_backbone

        return load_backbone(cls, preset, load_weights, device, mmap, kwargs)

    def save_to_preset(
        self,
        preset_dir: str | os.PathLike[str],
        max_shard_size: float | None = 10,
        *,
        format: str = "keras",
    ) -> None:
        """Save configuration and weights to a folder that KerasHub and `from_preset` load.

        Args:
            max_shard_size: in GiB; larger models are split into several files.
            format: of the weights, `keras` (`.weights.h5`) or `safetensors` (which only
                `from_preset` here reads).
        """
        from ..presets.saving import save_backbone

        save_backbone(self, preset_dir, max_shard_size, format)

    def export_to_transformers(self, path: str | os.PathLike[str]) -> None:
        """Save a folder that transformers loads.

        Raises:
            NotImplementedError: transformers has no such model, or it is not supported here.
        """
        from ..presets.saving import export_to_transformers

        export_to_transformers(self, path)

    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Read `.weights.h5`, `.weights.json` (shards) or `.safetensors` into this model.

        Raises:
            ValueError: the file's weights are not exactly this model's.
        """
        from ..presets.loading import load_weights

        load_weights(self, filepath)

    def save_weights(
        self, filepath: str | os.PathLike[str], max_shard_size: float | None = None
    ) -> None:
        """Write `.weights.h5`, `.weights.json` with shards of `max_shard_size` GiB, or
        `.safetensors`.
        """
        from ..presets.saving import save_weights

        save_weights(self, filepath, max_shard_size)

    # Layers and weights

    if TYPE_CHECKING:
        token_embedding: Any
    else:

        @property
        def token_embedding(self) -> nn.Module | None:
            """The embedding of token ids; with `reverse=True` it maps hidden states to logits."""
            return self._modules.get("token_embedding")

    @property
    def dtype_policy(self) -> DTypePolicy:
        """The policy given, or after `.to(dtype)` the dtype of the weights."""
        actual = self.dtype
        return self._policy if actual == self._policy.variable_dtype else DTypePolicy.get(actual)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    @property
    def trainable(self) -> bool:
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        self.requires_grad_(self._trainable)

    def count_params(self) -> int:
        """Number of weights, statistics included."""
        return sum(tensor.numel() for tensor in self._weights())

    def get_layer(self, name: str | None = None, index: int | None = None) -> nn.Module:
        """A layer by its Keras name, or by its place among the layers that hold weights.

        Raises:
            ValueError: no such layer, or not exactly one of `name` and `index`.
        """
        layers = {c.name: c.module for c in keras_children(self) if c.module is not None}
        if (name is None) == (index is None):
            raise ValueError("Give either a name or an index.")
        if name in layers:
            return layers[name]
        weighted = [layer for layer in layers.values() if layer.state_dict(keep_vars=True)]
        if index is not None and -len(weighted) <= index < len(weighted):
            return weighted[index]
        wanted = f"index {index}" if name is None else repr(name)
        raise ValueError(f"No layer {wanted} among {', '.join(layers)}.")

    def summary(self) -> None:
        """Print the layers with their shapes and numbers of weights."""
        from ..presets.summary import print_summary

        print_summary(self)

    def _weights(self) -> Iterator[torch.Tensor]:
        yield from self.parameters()
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:
                    yield buffer

    # LoRA

    def default_lora_layer_names(self) -> list[str]:
        return ["query_dense", "value_dense", "query", "value"]

    def enable_lora(
        self,
        rank: int,
        target_layer_names: list[str] | None = None,
        lora_alpha: float | None = None,
    ) -> None:
        """Freeze the weights and add trainable adapters to some layers.

        Args:
            rank: inner dimension of the adapters.
            target_layer_names: names of the layers, `default_lora_layer_names()` by default.
            lora_alpha: the adapters' output is scaled by `lora_alpha / rank`; `rank` by default.

        Raises:
            ValueError: no layer has such a name, or LoRA is enabled already.
        """
        from ..lora import enable_lora

        enable_lora(self, rank, target_layer_names, lora_alpha)

    def save_lora_weights(
        self, filepath: str | os.PathLike[str], *, format: str = "keras", order: str = "jax"
    ) -> None:
        """Write the adapters.

        Args:
            filepath: a `.lora.h5` file, or for PEFT a folder.
            format: `keras` or `peft`.
            order: how `.lora.h5` counts layers: as KerasHub does on `jax` (and TensorFlow) or on
                `torch`; they differ for some encoder-decoders.
        """
        from ..lora import save_lora_weights

        save_lora_weights(self, filepath, format, order)

    def load_lora_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Read adapters, a `.lora.h5` file or a PEFT folder, enabling LoRA where it is not.

        Raises:
            ValueError: the file was made for other layers, shapes or another rank.
        """
        from ..lora import load_lora_weights

        load_lora_weights(self, filepath)

    def merge_lora(self) -> None:
        """Add the adapters into the weights, as the fastest form for inference."""
        from ..lora import merge_lora

        merge_lora(self)

    def unmerge_lora(self) -> None:
        """Take merged adapters out of the weights again."""
        from ..lora import unmerge_lora

        unmerge_lora(self)

    def _quantize(self) -> None:
        """Give int8 weights to the layers that a quantized model's policy names."""
        if not isinstance(self._policy, DTypePolicyMap):
            return
        missing = self._policy.modes.keys() - set(quantize_layers(self, self._policy.modes))
        if missing:
            raise ValueError(f"The dtype policy is for other layers: {', '.join(sorted(missing))}.")


class Component(Backbone):
    """A model that KerasHub has only within other models, and that is no backbone there.

    Attributes:
        keras_module: where KerasHub defines it.
        registered_name: what KerasHub calls it in configurations, if not by its rule.
    """

    keras_module: ClassVar[str]
    registered_name: ClassVar[str | None] = None


class FeaturePyramidBackbone(Backbone):
    """A backbone of images that gives feature maps of several resolutions."""

    def pyramid_levels(self) -> list[str]:
        """Names of the levels, `P2` for a quarter of the image's resolution and so on."""
        raise NotImplementedError

    def forward_pyramid(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The feature map of each level."""
        raise NotImplementedError

    @property
    def pyramid_outputs(self) -> PyramidOutputs:
        return PyramidOutputs(self)


class PyramidOutputs(Mapping[str, Callable[[Any], torch.Tensor]]):
    """The levels of a feature pyramid: call it on images for all of them, or one level alone."""

    def __init__(self, backbone: FeaturePyramidBackbone) -> None:
        self._backbone = backbone

    def __call__(self, images: Any) -> dict[str, torch.Tensor]:
        name = next(iter(self._backbone._inputs))
        return self._backbone.forward_pyramid(self._backbone._tensors({name: images})[name])

    def __getitem__(self, level: str) -> Callable[[Any], torch.Tensor]:
        if level not in self._backbone.pyramid_levels():
            raise KeyError(level)
        return lambda images: self(images)[level]

    def __iter__(self) -> Iterator[str]:
        return iter(self._backbone.pyramid_levels())

    def __len__(self) -> int:
        return len(self._backbone.pyramid_levels())


def _configured(init: Callable[..., None]) -> Callable[..., None]:
    """Wrap a constructor: keep its arguments as the configuration, then set dtype and training."""
    signature = inspect.signature(init)
    parameters = dict(list(signature.parameters.items())[1:])
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]

    @functools.wraps(init)
    def construct(self: Backbone, *args: Any, **kwargs: Any) -> None:
        if "_arguments" in self.__dict__:  # the call of a subclass's constructor
            init(self, *args, **kwargs)
            return
        args = tuple(map(_plain, args))
        kwargs = {name: _plain(value) for name, value in kwargs.items()}
        check_arguments(type(self), {**dict(zip(positional, args)), **kwargs})
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, parameter in parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                arguments |= bound.arguments[name]
            else:
                arguments[name] = bound.arguments[name]
        for name in ("dtype", *BackboneOptions.__annotations__):
            arguments.pop(name, None)
        for name, parameter in constructor_arguments(type(self)).items():
            if parameter.annotation == ActivationLike and name in arguments:
                arguments[name] = serialize_activation(arguments[name])
        self.__dict__["_arguments"] = arguments
        init(self, *args, **kwargs)
        self._quantize()
        _apply_policy(self, self._policy)
        if not self._trainable:
            self.requires_grad_(False)

    return construct


def constructor_arguments(cls: type[Backbone]) -> dict[str, inspect.Parameter]:
    """What a constructor takes, by name; what its `**kwargs` hands on to a base class included."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        init = base.__dict__.get("__init__")
        if init is None:
            continue
        hints = _hints(init)
        rest = None
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                rest = parameter.annotation
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                found.setdefault(name, parameter.replace(annotation=hints.get(name, Any)))
        if rest is None:
            return found
        if rest == "Unpack[BackboneOptions]":
            break
    keyword = inspect.Parameter.KEYWORD_ONLY
    for name, hint in _hints(BackboneOptions).items():
        found[name] = inspect.Parameter(name, keyword, annotation=hint)
    return found


def check_arguments(cls: type[Backbone], given: Mapping[str, Any]) -> None:
    """Compare arguments with a constructor.

    Raises:
        TypeError: unknown names, or values of wrong types; it lists them all.
    """
    known = constructor_arguments(cls)
    problems = []
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}."
            problems.append(f"{cls.__name__} has no argument {name!r}; {hint}")
        elif not _fits(value, known[name].annotation):
            kind = inspect.formatannotation(known[name].annotation)
            problems.append(f"{cls.__name__}'s {name} must be {kind}, not {reprlib.repr(value)}.")
    if problems:
        raise TypeError("\n".join(problems))


def _hints(item: Any) -> dict[str, Any]:
    # `Unpack` is known to type checkers alone; its stand-in is looked at by nobody.
    try:
        return typing.get_type_hints(item, localns={"Unpack": list})
    except NameError:  # the names of a subclass elsewhere may be for type checkers, too
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be meant by a type hint; `None` and whole floats always may."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if value is None or kind is Any:
        return True
    if kind in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if kind in (tuple, list, Sequence):
        return isinstance(value, (list, tuple)) and all(
            any(_fits(item, argument) for argument in arguments) for item in value
        )
    if kind in (int, float, bool):
        if not isinstance(value, numbers.Real):
            return False
        whole = isinstance(value, numbers.Integral) or float(value).is_integer()
        return whole or (kind is float and math.isfinite(value))
    # A model within the model may be given as its configuration.
    return not isinstance(kind, type) or issubclass(kind, nn.Module) or isinstance(value, kind)


def inner_model(value: Any, cls: type[BackboneType]) -> BackboneType:
    """A model within a model: the one given, or that of a serialized configuration.

    Raises:
        TypeError: neither, or of another class.
        ValueError: no configuration of a model.
    """
    if isinstance(value, Mapping):
        from ..presets.loading import keras_config

        found, arguments = keras_config(value, f"The configuration of a {cls.__name__}", cls)
        if not issubclass(found, cls):
            raise TypeError(f"This must be a {cls.__name__}, not a {found.__name__}.")
        return found(**arguments)
    if not isinstance(value, cls):
        raise TypeError(f"This must be a {cls.__name__}, not {type(value).__name__}.")
    return value


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python, which JSON knows."""
    return value.item() if isinstance(value, np.generic) else value


def _serialize(value: Any) -> Any:
    if isinstance(value, Backbone):
        from ..presets.saving import serialize_backbone

        return serialize_backbone(value)
    if isinstance(value, (list, tuple)):
        return [_serialize(item) for item in value]
    return value


def _apply_policy(module: nn.Module, policy: DTypePolicy) -> None:
    """Give every part the dtype asked for, but those that fix their own (`fixed_dtype`)."""
    policy = DTypePolicy.get(getattr(module, "fixed_dtype", None) or policy)
    if isinstance(module, Backbone):
        module._policy = policy
    if hasattr(module, "compute_dtype"):
        mixed = policy.compute_dtype != policy.variable_dtype
        dtype = policy.compute_dtype if mixed else None
        module.compute_dtype = dtype  # type: ignore[assignment]
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is None or not tensor.is_floating_point():
                continue
            if tensor.dtype != policy.variable_dtype:
                tensors[name] = _cast(tensor, policy.variable_dtype)  # type: ignore[assignment]
    for child in module.children():
        _apply_policy(child, policy)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().to(dtype), tensor.requires_grad)
    return tensor.to(dtype)
