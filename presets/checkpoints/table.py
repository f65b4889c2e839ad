"""The language of tables: what a family's configuration and weights are called elsewhere.

A `Table` says it of one family and one library. Every statement in it is read in both directions,
so that export is the inverse of import. Good ones to begin with are `transformers/bert.py` and
`timm/resnet.py`.

Keys: config.json and the constructor's arguments
    A name there may have dots: `text_config.hidden_size` is a key of an inner object. So may an
    argument: `image_encoder.num_layers` is one of a model within the model (`Table.parts`).

    key("vocab_size", "vocabulary_size")                one key, one argument
    key("hidden_act", "activation", "gelu", to, back)   with a default, and another form there
    shared(("dropout", "attention_dropout"), "dropout") one argument for several keys
    either(("num_experts", "experts"), "num_experts")   one argument under one of several keys
    heads("num_heads", "num_heads", "hidden_dim")       a number that must divide a width
    override("model_args.img_size", "image_size")       an argument that the variant gives, too
    activation("act", "activation", "gelu", NAMES)      a function: NAMES has theirs → ours
    constant(use_bias=True)                             an argument that is the same in all models
    within("text_config.", KEYS)                        the same keys in an inner object
    within("vision_config.", KEYS, "image_encoder")     likewise, of a model within the model
    Key({"a": 1, "b": 2}, ("ours",), load, save)        anything else: functions of all values

    Four verbs are for keys without an argument, of which the model can compute one value only:

                                       absent there is     another value is    export writes it
    fixed("hidden_act", "gelu")        "gelu"              an error            yes
    only("is_decoder", False)          False               an error            no
    demanded("bias", True, False)      True, an error      an error            yes, as False
    assumed("layer_norm_eps", 1e-12)   1e-12               a warning           yes

    `fixed`, `only` and `demanded` take further values that mean the same.

Rules: tensors
    `{}` stands for a number, the same on both sides; `{+1}` there is one more than ours. `[]`
    stands for every number below an argument (`Rule.count`).

    rule("pooler.weight", "pooled.weight")              one tensor
    rule("lm_head.weight", "reverse", TRANSPOSE)        in another form: an `Operation`
    rule("qkv.weight", ("q.weight", "k.weight"), FUSE)  several of ours in one of theirs
    rule("a.weight", "b.weight", use_bias=True)         only in models with this argument
    layer("dense", "dense")                             weight and bias
    norm("layer{+1}.bn1", "stack{}.bn1")                weight, bias and moving statistics
    under("encoder.{}.", "blocks.{}.", RULES)           rules with prefixes
    of("image_encoder", "vision_model.", RULES)         rules of a model within the model

    An operation is a pair of functions, one the inverse of the other: TRANSPOSE, FUSE,
    HALVES, EXPERTS, BATCHED, skip(2), interleave("num_heads").

Other templates, of a table's own fields, may have `*` for anything: `dropped=("classifier.*",)`.

Models that are known by a name rather than by keys are `variants` of a table: name → arguments.
They are read forward, keys after them; an export looks for the variant whose arguments are equal,
and writes keys for the arguments that differ.
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...backbones.layers.activations import activation_name

if TYPE_CHECKING:
    from ...backbones._model import Model

REQUIRED: Any = object()
Tensors = Sequence[torch.Tensor]
Arguments = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """Keys of config.json (`inner.key` in an object there) and the constructor's arguments.

    Attributes:
        theirs: key → the value that an absent one has, or `REQUIRED`.
        ours: arguments.
        load: the values of all keys → those of the arguments; a ValueError refuses them.
        save: back again. Either one may leave out the last values.
    """

    theirs: Mapping[str, Any]
    ours: tuple[str, ...]
    load: Callable[..., tuple[Any, ...]]
    save: Callable[..., tuple[Any, ...]]


def key(
    theirs: str,
    ours: str,
    default: Any = REQUIRED,
    load: Callable[[Any], Any] = lambda value: value,
    save: Callable[[Any], Any] = lambda value: value,
) -> Key:
    """One key for one argument."""

    def write(value: Any) -> tuple[Any]:
        return (like(default, save(value)),)

    return Key({theirs: default}, (ours,), lambda value: (load(value),), write)


def like(default: Any, value: Any) -> Any:
    """A number, or those of a list, as floats where the default value is one: transformers may
    refuse whole numbers there.
    """
    if isinstance(default, (list, tuple)) and default and isinstance(value, (list, tuple)):
        return [like(default[0], one) for one in value]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if isinstance(default, float) and whole else value


def shared(theirs: Sequence[str], ours: str, default: Any = REQUIRED) -> Key:
    """Several keys for one argument: the first is read, all are written."""
    return Key(
        dict.fromkeys(theirs, default),
        (ours,),
        lambda *values: values[:1],
        lambda value: (value,) * len(theirs),
    )


def either(theirs: Sequence[str], ours: str) -> Key:
    """A key with several names: any one is read, the first is written."""

    def load(*values: Any) -> tuple[Any]:
        given = [value for value in values if value is not None]
        if not given:
            raise ValueError(f"{theirs[0]} missing")
        if any(value != given[0] for value in given):
            raise ValueError(f"{' and '.join(theirs)} are {' and '.join(map(str, given))}")
        return (given[0],)

    return Key(dict.fromkeys(theirs), (ours,), load, lambda value: (value,))


def override(
    theirs: str,
    ours: str,
    load: Callable[[Any], Any] = lambda value: value,
    save: Callable[[Any], Any] = lambda value: value,
) -> Key:
    """As `key`, for an argument that the variant gives: where the key is absent, it stands."""
    return Key(
        {theirs: None},
        (ours,),
        lambda value: () if value is None else (load(value),),
        lambda value: (save(value),),
    )


def heads(theirs: str, ours: str, width: str, default: Any = REQUIRED) -> Key:
    """A number of heads, into which the argument `width` is divided evenly."""

    def check(count: int, size: int) -> tuple[int]:
        if size % count:
            raise ValueError(f"{width} {size} is not divisible by {ours} {count}")
        return (count,)

    return Key({theirs: default}, (ours, width), lambda count: (count,), check)


def activation(theirs: str, ours: str, default: Any, known: Mapping[str, str]) -> Key:
    """An activation that has one of the `known` names there, and the name behind it here; the first
    for a function is written.
    """

    def load(name: Any) -> str:
        if name not in known:
            raise ValueError(f"{theirs} is {name!r}; only {', '.join(known)} can be computed")
        return known[name]

    def save(given: Any) -> str:
        wanted = activation_name(given)
        for name, function in known.items():
            if activation_name(function) == wanted:
                return name
        raise ValueError(f"{ours} is {wanted!r}; only {', '.join(known)} can be written")

    return key(theirs, ours, default, load, save)


def fixed(theirs: str, *values: Any) -> Key:
    """A key with few possible values; the first is the default, and written."""
    return replace(only(theirs, *values), save=lambda: values[:1])


def demanded(theirs: str, default: Any, *values: Any) -> Key:
    """As `fixed`, where an absent key means `default`, which is not among the values."""
    return replace(fixed(theirs, *values), theirs={theirs: default})


def only(theirs: str, *values: Any) -> Key:
    """As `fixed`, but need not be written."""

    def check(value: Any) -> tuple[Any, ...]:
        if value not in values:
            known = " or ".join(map(repr, values))
            raise ValueError(f"{theirs} is {value!r}; only {known} can be computed")
        return ()

    return Key({theirs: values[0]}, (), check, tuple)


def assumed(theirs: str, value: Any) -> Key:
    """A key whose value the model has built in; another one makes a small difference."""

    def check(given: Any) -> tuple[Any, ...]:
        if given != value:
            warnings.warn(
                f"{theirs} is {given!r}, but the model computes with {value!r}.", stacklevel=2
            )
        return ()

    return Key({theirs: value}, (), check, lambda: (value,))


def tanh_gelu(theirs: str, *written: str) -> Key:
    """A key for the activation of models that KerasHub computes with gelu's tanh form, whatever the
    checkpoint says; the first of `written` is written.
    """

    def load(kind: str) -> tuple[Any, ...]:
        if kind == "gelu":
            warnings.warn(
                f"{theirs} is 'gelu', the exact form; as in KerasHub the model computes the tanh "
                "form, which changes outputs by about 2e-3.",
                stacklevel=2,
            )
        return only(theirs, "gelu", *written).load(kind)

    return Key({theirs: "gelu"}, (), load, lambda: written[:1])


def constant(**arguments: Any) -> Key:
    """Arguments without a key, that have one value in all models of the family."""

    def check(*values: Any) -> tuple[Any, ...]:
        for (name, wanted), value in zip(arguments.items(), values):
            if value != wanted:
                raise ValueError(f"{name} is {value!r}; only {wanted!r} can be written")
        return ()

    return Key({}, tuple(arguments), lambda: tuple(arguments.values()), check)


def within(prefix: str, keys: Iterable[Key], part: str = "") -> tuple[Key, ...]:
    """The keys of an inner object of config.json, and of the model that the argument `part` is."""
    owner = part and f"{part}."
    return tuple(
        replace(
            key,
            theirs={prefix + name: default for name, default in key.theirs.items()},
            ours=tuple(owner + name for name in key.ours),
        )
        for key in keys
    )


@dataclass(frozen=True)
class Operation:
    """A change of tensors and its inverse.

    Attributes:
        save: ours → theirs.
        load: back again, given the shapes to return.
    """

    save: Callable[[Tensors], list[torch.Tensor]]
    load: Callable[[Tensors, Sequence[torch.Size]], list[torch.Tensor]]


TRANSPOSE = Operation(
    save=lambda tensors: [tensor.mT for tensor in tensors],
    load=lambda tensors, shapes: [tensor.mT for tensor in tensors],
)
# Several of ours are one of theirs, one after the other along the first axis.
FUSE = Operation(
    save=lambda tensors: [torch.cat(list(tensors))],
    load=lambda tensors, shapes: list(torch.split(tensors[0], [shape[0] for shape in shapes])),
)

# One of ours is two of theirs, one after the other along the last axis.
HALVES = Operation(
    save=lambda tensors: [half for tensor in tensors for half in tensor.chunk(2, dim=-1)],
    load=lambda tensors, shapes: [
        torch.cat(list(pair), dim=-1) for pair in zip(tensors[::2], tensors[1::2])
    ],
)
# Each of ours is one of theirs for each expert, transposed.
EXPERTS = Operation(
    save=lambda tensors: [matrix for tensor in tensors for matrix in tensor.mT],
    load=lambda tensors, shapes: [
        torch.stack([one.mT for one in tensors[i : i + len(tensors) // len(shapes)]])
        for i in range(0, len(tensors), len(tensors) // len(shapes))
    ],
)


# One of ours has an axis of size one before the others there.
BATCHED = Operation(
    save=lambda tensors: [tensor[None] for tensor in tensors],
    load=lambda tensors, shapes: [tensor[0] for tensor in tensors],
)


def skip(count: int) -> Operation:
    """The first rows of theirs are not ours; they are written as zeros. Only the first tensor."""
    return Operation(
        save=lambda tensors: [nn.functional.pad(tensors[0], (0, 0, count, 0)), *tensors[1:]],
        load=lambda tensors, shapes: [tensors[0][count:], *tensors[1:]],
    )


def interleave(num_heads: str) -> Callable[[Arguments], Operation]:
    """Several of ours are one of theirs, in which each head has its rows of all of them together.

    `num_heads` is the argument for their number.
    """

    def make(arguments: Arguments) -> Operation:
        count = arguments[num_heads]
        return Operation(
            save=lambda tensors: [
                torch.stack([t.unflatten(0, (count, -1)) for t in tensors], dim=1).flatten(0, 2)
            ],
            load=lambda tensors, shapes: [
                part.flatten(0, 1)
                for part in tensors[0].unflatten(0, (count, len(shapes), -1)).unbind(1)
            ],
        )

    return make


@dataclass(frozen=True)
class Rule:
    """Weights there and here.

    Attributes:
        theirs, ours: templates, all with the same `{}`; none of theirs for what is not stored.
        operations: from ours to theirs, in this order; none where they are equal. One that
            depends on the model is a function of its arguments.
        when: arguments of the models for which the rule holds: a value, or a function that is true
            of it.
        count: the argument for how many `[]` are.
        where: of which number in the place of the first `{}` the rule holds, in a model of these
            arguments; by default of all.
        numbers: those there for those here, where blocks are counted in another way.
    """

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    operations: tuple[Operation | Callable[[Arguments], Operation], ...] = ()
    when: Mapping[str, Any] = field(default_factory=dict)
    count: str = ""
    where: Callable[[int, Arguments], bool] | None = None
    numbers: Callable[[Sequence[str], Arguments], Sequence[str]] | None = None

    def holds(self, arguments: Arguments) -> bool:
        """For a model of these arguments."""
        return all(
            wanted(arguments[name]) if callable(wanted) else wanted == arguments[name]
            for name, wanted in self.when.items()
        )

    def names(
        self, numbers: Sequence[str], arguments: Arguments
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Theirs and ours for these `{}`."""
        there = numbers if self.numbers is None else self.numbers(numbers, arguments)
        theirs = [filled(template, there) for template in self.theirs]
        if self.count:
            every = range(arguments[self.count])
            theirs = [name.replace("[]", str(i)) for name in theirs for i in every]
        return tuple(theirs), tuple(filled(template, numbers) for template in self.ours)


def rule(
    theirs: str,
    ours: str | tuple[str, ...],
    *operations: Operation | Callable[[Arguments], Operation],
    **when: Any,
) -> Rule:
    """One weight there; `when` are the arguments of models that have it."""
    return Rule((theirs,), (ours,) if isinstance(ours, str) else ours, operations, when)


def layer(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """The weight and the bias of a layer."""
    return rule(f"{theirs}.weight", f"{ours}.weight"), rule(f"{theirs}.bias", f"{ours}.bias")


def norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The weights and the moving statistics of a batch norm."""
    names = ("weight", "bias", "running_mean", "running_var")
    return tuple(rule(f"{theirs}.{name}", f"{ours}.{name}") for name in names)


def under(theirs: str, ours: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules with these prefixes before their names."""
    return tuple(
        replace(
            inner,
            theirs=tuple(theirs + name for name in inner.theirs),
            ours=tuple(ours + name for name in inner.ours),
        )
        for inner in rules
    )


def of(part: str, theirs: str, rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """The rules of the model that the argument `part` is, under a prefix there."""

    def own(arguments: Arguments) -> dict[str, Any]:
        return {
            name.removeprefix(owner): value
            for name, value in arguments.items()
            if name.startswith(owner)
        }

    def inner(
        operation: Operation | Callable[[Arguments], Operation],
    ) -> Operation | Callable[[Arguments], Operation]:
        if isinstance(operation, Operation):
            return operation
        return lambda arguments: operation(own(arguments))

    def numbered(function: Callable[[Any, Arguments], Any] | None) -> Any:
        return function and (lambda number, arguments: function(number, own(arguments)))

    owner = f"{part}."
    return tuple(
        replace(
            rule,
            operations=tuple(map(inner, rule.operations)),
            when={owner + name: wanted for name, wanted in rule.when.items()},
            count=rule.count and owner + rule.count,
            where=numbered(rule.where),
            numbers=numbered(rule.numbers),
        )
        for rule in under(theirs, owner, rules)
    )


@dataclass(frozen=True, kw_only=True)
class Table:
    """A family of another library as one of our classes.

    Attributes:
        model_types: the names of models that it reads; the first is written.
        variants: in place of `model_types` the names that stand for some of the constructor's
            arguments, with these; of several with equal ones the first is written.
        parts: arguments that are models themselves → their classes.
        architecture: in transformers the class whose checkpoints are written.
        instead: rules for weights that some files hold in another form; read, never written.
        quantized: values of `quant_method` whose weights are read as floats without being asked.
        input_first: matrices `[in, out]` there, which are `[out, in]` where they are quantized.
        also: classes that are written in the same way, and read again as `backbone`.
        ignored: keys of config.json that do not matter to a backbone.
        renames: other names of weights → those that the rules use.
        dropped: weights that a backbone does not have: heads, buffers.
        tied: copies of weights that a checkpoint may hold → names of these weights.
        optional: our weights that some checkpoints lack, all of one template together; they are
            then drawn at random.
        extra: what else is written into config.json.
        folders: of a checkpoint in several, each with weights in the first of some files. Keys and
            weights have a folder's name and a dot before their own.
        check: refuses arguments, by a ValueError, of which the library computes something else.
    """

    backbone: type[Model]
    model_types: tuple[str, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parts: Mapping[str, type[Model]] = field(default_factory=dict)
    architecture: str = ""
    config: tuple[Key, ...]
    weights: tuple[Rule, ...]
    instead: tuple[Rule, ...] = ()
    quantized: tuple[str, ...] = ()
    input_first: tuple[str, ...] = ()
    also: tuple[type[Model], ...] = ()
    ignored: tuple[str, ...] = ()
    renames: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    check: Callable[[Arguments], None] = lambda arguments: None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The names of all models that it reads."""
        return (*self.model_types, *self.variants)

    def renamed(self, name: str) -> str:
        """The name that the rules use for a weight of a checkpoint."""
        return renamed(self.renames, name)

    def for_names(self, names: Iterable[str]) -> Table:
        """The table for a file with these weights."""
        names = list(names)
        found = [r for r in self.instead if any(matches(r.theirs, name) for name in names)]
        replaced = {rule.ours for rule in found}
        kept = [rule for rule in self.weights if rule.ours not in replaced]
        return replace(self, weights=(*kept, *found))


_NUMBER = re.compile(r"\{(?:[+-]\d+)?\}")


def filled(template: str, numbers: Sequence[str]) -> str:
    """A template with numbers in its places, each shifted as it says there."""
    rest = iter(numbers)
    return _NUMBER.sub(lambda match: str(int(next(rest)) + int(match[0][1:-1] or 0)), template)


def renamed(renames: Iterable[tuple[str, str]], name: str) -> str:
    """A name after all changes that apply to it, one after the other."""
    for theirs, ours in renames:
        found = parts(theirs, name)
        if found is not None:
            name = ours.replace("*", "{}").format(*found)
    return name


def parts(template: str, name: str) -> tuple[str, ...] | None:
    """What stands in the places of a template; `None` if the name is not of this form."""
    match = _pattern(template).fullmatch(name)
    return None if match is None else match.groups()


def matches(templates: Iterable[str], name: str) -> bool:
    """Whether any of the templates fits a name."""
    return any(parts(template, name) is not None for template in templates)


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    pieces = [re.escape(piece).replace(r"\*", "(.*)") for piece in _NUMBER.split(template)]
    return re.compile(r"(\d+)".join(pieces))
