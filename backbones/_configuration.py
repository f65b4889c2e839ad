"""What makes a constructor a configuration: its arguments are compared with their types, kept, and
given back as Keras would save them.
"""

from __future__ import annotations

import difflib
import functools
import inspect
import itertools
import math
import numbers
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from torch import nn

from . import _registry
from ._inputs import Input
from .layers.activations import ActivationLike, activation_name, serialize_activation
from .layers.dtypes import PLAIN, DTypeLike, DTypePolicy

ConfigurableType = TypeVar("ConfigurableType", bound="Configurable")
# Of every constructor, with their types; the rest are a family's own.
COMMON: Mapping[str, Any] = {"name": str | None, "trainable": bool, "dtype": DTypeLike}
PACKAGES = ("keras_hub", "keras_nlp", "")
# Of arguments in a message, and of a name that is compared with others.
MOST_PROBLEMS, LONGEST_NAME = 20, 256
# The least and the largest number, by what an argument is called: the first that fits counts.
BOUNDS: Mapping[str, tuple[float, float]] = {
    r"dropout|drop_path|momentum|decay$": (0, 1),
    r"^stackwise_force": (-math.inf, math.inf),  # none, if not positive
    r"^stackwise|^axes|window|depth(?!wise|_divisor)|_per_layer_input$|"
    r"(epsilon|eps|ratios?|expansion|cap|capping)$": (0, math.inf),
    r"(^|_)(dims?|sizes?|shape|lengths?|resolution|heads|filters?|channels|groups|strides?|divisor|features|"
    r"classes|labels|embeddings|queries|frames|mels|quantizers|rank|frequency|wavelength|theta|"
    r"dilation_rates|growth_rate|top_k)$": (1, math.inf),
    r"^num_|_num_": (0, math.inf),
}
# Numbers that divide another one, and numbers that are not above it → names that this may have.
DIVISORS: Mapping[str, tuple[str, ...]] = {
    r"key_value_heads$": ("query_heads", "attention_heads", "heads"),
    r"linear_num_key_heads$": ("linear_num_value_heads",),
}
CHOSEN: Mapping[str, tuple[str, ...]] = {r"^top_k$|^num_experts_per_token$": ("num_experts",)}


class Configured(type):
    """What happens around the constructor of every model."""

    def __call__(cls: type[ConfigurableType], *args: Any, **kwargs: Any) -> ConfigurableType:  # type: ignore[misc]
        """Build a model.

        The arguments are compared with the constructor's types and brought into one form
        (serialized models become models, numbers of NumPy Python's); they are attributes already
        when the family's `__init__` sees them. After it the dtype reaches every part.

        Raises:
            TypeError: unknown or missing arguments, or values of wrong types.
        """
        bound, values = bind_arguments(cls, args, kwargs)
        model = cls.__new__(cls)
        attributes = {k: v for k, v in values.items() if not isinstance(v, nn.Module)}
        model.__dict__.update(attributes, argument_names=tuple(values), configured_class=cls)
        cls.__init__(model, *bound.args[1:], **bound.kwargs)
        model.finish()
        return model

    @property
    def __signature__(cls) -> inspect.Signature:
        signature = inspect.signature(cls.__init__)  # type: ignore[misc]
        return signature.replace(parameters=list(signature.parameters.values())[1:])


class Configurable(metaclass=Configured):
    """A typed constructor that is the configuration: every argument is also an attribute."""

    # Where KerasHub defines the class, and what it calls it in configurations, if not by its rule.
    keras_module: ClassVar[str | None] = None
    registered_name: ClassVar[str | None] = None
    # Arguments that KerasHub leaves out of its configurations, with the values it stands for.
    unsaved: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    # Arguments that older presets have, with the value that changes nothing.
    obsolete: ClassVar[Mapping[str, Any]] = {}
    # Arguments that another value may be given for at loading: tables of positions are resampled.
    # Where the constructor has none of that name, a model within this one has.
    resampled: ClassVar[Sequence[str]] = ()
    # The parameters of `forward`.
    input_specs: Mapping[str, Input] = {}
    argument_names: tuple[str, ...]
    # As it was built; wrappers such as FSDP's change the class of an instance.
    configured_class: type[Configurable]
    name: str
    trainable: bool

    def finish(self) -> None:
        """What is done when a constructor has run."""

    @property
    def class_name(self) -> str:
        return self.configured_class.__name__

    @property
    def dtype_policy(self) -> DTypePolicy:
        raise NotImplementedError

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's own arguments as they stand, models within the model included."""
        return {name: getattr(self, name) for name in self.argument_names}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments as Keras would save them, all of them JSON."""
        config = {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": self.dtype_policy.serialize(),
        }
        return config | {
            key: _serialize(value)
            for key, value in self.arguments.items()
            if value not in self.unsaved.get(key, ())
        }

    def config_for(self, sizes: Mapping[str, Any]) -> dict[str, Any]:
        """`get_config` of a model for images of other sizes, arguments in `resampled`.

        Raises:
            TypeError: values of wrong types.
        """
        own = {name: size for name, size in sizes.items() if name in self.argument_names}
        check_arguments(self.configured_class, own)
        config, left = {**self.get_config(), **own}, sizes.keys() - own
        for name, part in self.arguments.items():
            if isinstance(part, Configurable):
                inner = {key: size for key, size in sizes.items() if key in part.resampled}
                config[name] = {**config[name], "config": part.config_for(inner)}
                left -= inner.keys()
        if left:
            raise TypeError(f"No part of this {self.class_name} has {', '.join(left)}.")
        return config

    @classmethod
    def from_config(cls: type[ConfigurableType], config: Mapping[str, Any]) -> ConfigurableType:
        return cls(**config)

    def serialize(self) -> dict[str, Any]:
        """The object that Keras writes for a model, alone or in another one's configuration."""
        return {
            "module": self.keras_module or _keras_module(self.configured_class),
            "class_name": self.class_name,
            "config": self.get_config(),
            "registered_name": self.registered_name or f"keras_hub>{self.class_name}",
        }


def snake_case(name: str) -> str:
    """`GPT2Backbone` → `gpt2_backbone`, by Keras's rule."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _keras_module(cls: type[Configurable]) -> str:
    """`backbones.bert` → `keras_hub.src.models.bert.bert_backbone`; by name, as of a subclass
    elsewhere its family's.
    """
    families = (base.__module__.rpartition("backbones.")[2] for base in cls.__mro__)
    family = next((found for found in families if found), "").partition(".")[0]
    return f"keras_hub.src.models.{family}.{family}_backbone"


# Arguments


def bind_arguments(
    cls: type[Configurable], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[inspect.BoundArguments, dict[str, Any]]:
    """A constructor's call with all arguments in one form, and its family's own ones by name.

    Raises:
        TypeError: unknown or missing arguments, or values of wrong types.
    """
    signature = inspect.signature(cls.__init__)
    parameters = list(signature.parameters.values())[1:]
    known = constructor_arguments(cls)
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    args = tuple(map(_plain, args))
    kwargs = {name: _plain(value) for name, value in kwargs.items()}
    passed = {**dict(zip(positional, args)), **kwargs}
    check_arguments(cls, passed)
    check_values(cls, passed)
    bound = signature.bind(None, *args, **kwargs)
    bound.apply_defaults()
    values: dict[str, Any] = {}
    around = {name: bound.arguments[name] for name in cls.unsaved if name in bound.arguments}
    for parameter in parameters:
        name = parameter.name
        if parameter.kind is parameter.VAR_KEYWORD:
            given = bound.arguments[name].items()
            rest = {k: _in_form(k, v, known[k].annotation, around) for k, v in given}
            bound.arguments[name] = rest
            values |= rest
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            value = _in_form(name, bound.arguments[name], known[name].annotation, around)
            bound.arguments[name] = values[name] = value
    return bound, {name: value for name, value in values.items() if name not in COMMON}


@functools.cache
def constructor_arguments(cls: type[object]) -> dict[str, inspect.Parameter]:
    """What a constructor takes, by name; what its `**kwargs` hands on to a base class included."""
    found: dict[str, inspect.Parameter] = {}
    for base in cls.__mro__:
        init = base.__dict__.get("__init__")
        if init is None:
            continue
        hands_on = False
        for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                hands_on = True
            elif parameter.kind is not inspect.Parameter.VAR_POSITIONAL:
                found.setdefault(name, parameter.replace(annotation=_hints(init).get(name, Any)))
        if not hands_on:
            break
    for name, common in COMMON.items():
        if name in found:  # however narrow a subclass annotates it
            found[name] = found[name].replace(annotation=common)
    return found


def check_arguments(cls: type[object], given: Mapping[str, Any]) -> None:
    """Compare arguments with a constructor.

    Raises:
        TypeError: unknown names, or values of wrong types; it lists them all.
    """
    known = constructor_arguments(cls)  # type: ignore[arg-type]
    problems: list[str] = []
    for name, value in given.items():
        if len(problems) == MOST_PROBLEMS:
            problems.append("And perhaps more.")
            break
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"it has {', '.join(known)}."
            problems.append(f"{cls.__name__} has no argument {name!r}; {hint}")
        elif not _fits(value, known[name].annotation) and value is not known[name].default:
            kind = re.sub(r"[\w.]+\.(?=\w)", "", inspect.formatannotation(known[name].annotation))
            shown = type(value).__name__ if isinstance(value, nn.Module) else reprlib.repr(value)
            problems.append(f"{cls.__name__}'s {name} must be {kind}, not {shown}.")
    if problems:
        raise TypeError("\n".join(problems))


def check_values(cls: type[Configurable], given: Mapping[str, Any]) -> None:
    """Compare arguments of the right types with what a model may be made of.

    Raises:
        ValueError: numbers out of `BOUNDS` or that do not go together, or unknown activations; it
            lists them all.
    """
    problems: list[str] = []
    for name, value in given.items():
        default = constructor_arguments(cls)[name].default
        if not isinstance(value, (numbers.Real, str, list, tuple)) or value == default:
            continue
        given_as = f"{cls.__name__}'s {name}={reprlib.repr(value)}"
        bounds = (bounds for pattern, bounds in BOUNDS.items() if re.search(pattern, name))
        least, most = next(bounds, (-math.inf, math.inf))
        leaves = list(_leaves(value))
        found = [x for x in leaves if isinstance(x, (int, float)) and not isinstance(x, bool)]
        if not all(least <= x <= most for x in found):
            wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            problems.append(f"{given_as} must be {wanted}.")
        for leaf in leaves if "activation" in name or "act_layer" in name else ():
            try:
                activation_name(leaf if isinstance(leaf, str) else None)
            except ValueError as error:
                problems.append(f"{given_as}: {error}")
    defaults = {name: known.default for name, known in constructor_arguments(cls).items()}
    values = {**defaults, **given}
    for name, number, other in _pairs(values, DIVISORS):
        if values[other] % number:
            problems.append(
                f"{cls.__name__}'s {name}={number} must divide {other}={values[other]}."
            )
    for name, number, other in _pairs(values, CHOSEN):
        if number > values[other]:
            problems.append(
                f"{cls.__name__}'s {name}={number} must be at most {other}={values[other]}."
            )
    if problems:
        raise ValueError("\n".join(problems[:MOST_PROBLEMS]))


def _pairs(
    values: Mapping[str, Any], patterns: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, int, str]]:
    """Positive integers whose names have a pattern, and the other that each goes with."""
    numbers_of = {k: v for k, v in values.items() if isinstance(v, int) and v > 0}
    for name, (pattern, others) in itertools.product(numbers_of, patterns.items()):
        if re.search(pattern, name):
            found = (re.sub(pattern, other, name) for other in others)
            for other in [one for one in found if one in numbers_of][:1]:
                yield name, numbers_of[name], other


def _leaves(value: Any) -> Iterator[Any]:
    """What is in a list, and in lists within it."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, (list, tuple)):
            yield from _leaves(item)
        else:
            yield item


def nearest(name: str, known: Iterable[str]) -> str:
    """The one of the known names that is most like a name, if any is."""
    near = difflib.get_close_matches(name, known, 1) if len(name) <= LONGEST_NAME else []
    return near[0] if near else ""


def _hints(item: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(item)
    except NameError:  # the names of a subclass elsewhere may be for type checkers
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value may be meant by a type hint; whole floats always may be."""
    kind, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if kind is Any:
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
    if isinstance(kind, type) and issubclass(kind, Configurable):
        return isinstance(value, (kind, Mapping))
    return not isinstance(kind, type) or isinstance(value, kind)


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python, which JSON knows."""
    return value.item() if isinstance(value, np.generic) else value


def _in_form(name: str, value: Any, hint: Any, around: Mapping[str, Any]) -> Any:
    """An argument as the family's constructor sees it.

    Args:
        around: what KerasHub does not save of this model; a serialized one within it, of which it
            is not saved either, has the same.
    """
    if hint == ActivationLike:
        return serialize_activation(value)
    kinds = tuple(_kinds(hint))
    if int in kinds and float not in kinds:
        return whole(value)
    models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Configurable)]
    if models and isinstance(value, Mapping):
        found, arguments = deserialize(value, f"The configuration of {name}", models)
        return found(**{k: v for k, v in around.items() if k in found.unsaved} | arguments)
    return value


def _kinds(hint: Any) -> Iterator[Any]:
    """A type hint and those within it."""
    yield hint
    for inner in typing.get_args(hint):
        yield from _kinds(inner)


def whole(value: Any) -> Any:
    """Whole numbers, also those in lists, as integers; JSON has but one kind of number."""
    if isinstance(value, (list, tuple)):
        return type(value)(map(whole, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


class UnknownClass(ValueError):
    """A configuration of a class that is not in this package.

    Attributes:
        class_name: as the configuration has it.
        is_keras_hubs: whether it claims to be KerasHub's.
    """

    def __init__(self, where: str, registered: str) -> None:
        package, _, class_name = registered.rpartition(">")
        near = nearest(class_name, _registry.public_classes(Configurable))
        hint = f" The nearest is {near}." if near else ""
        super().__init__(f"{where} is of the unknown class {registered!r}.{hint}")
        self.class_name = class_name
        self.is_keras_hubs = package in PACKAGES


def deserialize(
    config: Mapping[str, Any], where: str, expected: Sequence[type[Any]] = ()
) -> tuple[type[Any], dict[str, Any]]:
    """The class, one of this package or of those expected, and the constructor arguments that a
    Keras configuration describes.

    Raises:
        ValueError: no configuration of a model, or of one that is not known.
        TypeError: of a class other than those expected.
    """
    registered = config.get("registered_name") or config.get("class_name")
    arguments = config.get("config")
    if not isinstance(registered, str) or not isinstance(arguments, dict):
        raise ValueError(
            f"{where} is no configuration of a model: it has no Keras class (registered_name and "
            "config)."
        )
    package, _, name = registered.rpartition(">")
    found: type[Any] | None = next((cls for cls in expected if cls.__name__ == name), None)
    if found is None and package in PACKAGES:
        found = _registry.find_class(name, Configurable)
    if found is None or not found.input_specs:
        raise UnknownClass(where, registered)
    if expected and not issubclass(found, tuple(expected)):
        wanted = " or ".join(cls.__name__ for cls in expected)
        raise TypeError(f"{where} is that of a {found.__name__}; it must be of {wanted}.")
    obsolete = found.obsolete
    arguments = {
        key: value
        for key, value in arguments.items()
        if key not in obsolete or value != obsolete[key]
    }
    try:
        check_arguments(found, arguments)
    except TypeError as error:
        raise ValueError(
            f"The config.json of {where} does not fit; it may have been saved by a newer "
            f"KerasHub. {error}"
        ) from error
    dtype = arguments.get("dtype")
    if isinstance(dtype, dict) and dtype.get("class_name") not in PLAIN:
        DTypePolicy.get(dtype)
    else:
        arguments["dtype"] = None  # float32 whatever it was saved in, as in Keras
    return found, arguments


def _serialize(value: Any) -> Any:
    if isinstance(value, Configurable):
        return value.serialize()
    if isinstance(value, (list, tuple)):
        return [_serialize(item) for item in value]
    return value
