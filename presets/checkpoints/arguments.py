"""config.json there, the constructor's arguments here: either from the other."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import torch

from ...backbones._configuration import check_arguments, whole
from ...backbones._model import Model
from ..building import check_amounts
from ..files import CONFIG
from ..refusals import shortened
from .dialect import Dialect, find_table
from .table import REQUIRED, Table, matches


def to_ours(
    dialect: Dialect, table: Table, config: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """The constructor's arguments for a config.json.

    Raises:
        ValueError: keys are missing, or describe a model that cannot be computed; it lists all.
    """
    used = {name for key in table.config for name in key.theirs} | table.extra.keys()
    unknown = [
        name
        for name in _leaves(config)
        if not any(name == known or name.startswith(f"{known}.") for known in used)
        and not matches(table.ignored, name)
        and not dialect.ignores(name)
    ]
    problems = dialect.problems(config, unknown, table)
    arguments = dict(table.variants.get(dialect.kind(config), {}))
    for key in table.config:
        values = [_look_up(config, name, default) for name, default in key.theirs.items()]
        absent = [name for name, value in zip(key.theirs, values) if value is REQUIRED]
        try:
            if absent:
                raise ValueError(f"{', '.join(absent)} missing")
            for name, value in zip(key.theirs, values):
                check_amounts(value, name)
            try:
                loaded = key.load(*values)
            except TypeError:  # perhaps for 2.0 in place of 2
                loaded = key.load(*map(whole, values))
            arguments |= zip(key.ours, loaded)
        except ValueError as error:
            problems.append(str(error))
        except (TypeError, ArithmeticError, LookupError) as error:
            problems.append(f"{', '.join(key.theirs)}: {error}")
    nested, parts = _nested(table, arguments)
    for cls, given in ((table.backbone, nested), *parts):
        try:
            check_arguments(cls, given)
        except TypeError as error:
            problems.append(str(error))
    if not problems:
        problems = _refused(table, arguments)
    if problems:
        raise ValueError(
            f"The {dialect.document} of {where} is none for {table.backbone.__name__}:\n  "
            + "\n  ".join(problems)
        )
    if unknown:
        warnings.warn(
            f"Keys in the config.json of {where} that are not known and have no effect: "
            f"{shortened(', '.join(unknown))}.",
            stacklevel=2,
        )
    return nested


def _refused(table: Table, arguments: Mapping[str, Any]) -> list[str]:
    try:
        table.check(arguments)
    except ValueError as error:
        return [str(error)]
    return []


def _nested(
    table: Table, arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], list[tuple[type[Model], dict[str, Any]]]]:
    """The arguments with models within the model as Keras would save them, and the arguments of
    each of these.
    """
    inner: dict[str, dict[str, Any]] = {part: {} for part in table.parts}
    own: dict[str, Any] = {}
    for name, value in arguments.items():
        part, dot, leaf = name.partition(".")
        (inner[part] if dot else own)[leaf or part] = value
    saved = {
        part: {"registered_name": f"keras_hub>{cls.__name__}", "config": inner[part]}
        for part, cls in table.parts.items()
    }
    return {**own, **saved}, [(cls, inner[part]) for part, cls in table.parts.items()]


def to_theirs(
    dialect: Dialect, table: Table, arguments: Mapping[str, Any], dtype: torch.dtype
) -> dict[str, Any]:
    """config.json for a model with these arguments.

    Raises:
        ValueError: the library has no such model; it lists all reasons.
    """
    kind, same, problems = _look_up_kind(table, arguments)
    problems += _refused(table, arguments)
    config = dialect.heading(table, kind, dtype)
    for key in table.config:
        if key.ours and same.issuperset(key.ours):
            continue  # the name says it
        try:
            values = key.save(*(arguments[name] for name in key.ours))
        except ValueError as error:
            problems.append(str(error))
        else:
            for name, value in zip(key.theirs, values):
                _put(config, name, value)
    if problems:
        raise ValueError(f"as {kind}: " + "; ".join(problems))
    return {**config, **table.extra}


def with_keys(
    dialect: Dialect, config: Mapping[str, Any], further: Mapping[str, Any]
) -> dict[str, Any]:
    """A config.json with further keys, but for those that would make another model of it."""
    table = find_table(dialect, dialect.kind(config), CONFIG)
    result = deepcopy(dict(config))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = to_ours(dialect, table, config, CONFIG)
        for name, value in further.items():
            changed = deepcopy(result)
            _put(changed, name, value)
            try:
                if to_ours(dialect, table, changed, CONFIG) == arguments:
                    result = changed
            except ValueError:
                pass
    return result


def _put(config: dict[str, Any], name: str, value: Any) -> None:
    *outer, last = name.split(".")
    functools.reduce(lambda inner, part: inner.setdefault(part, {}), outer, config)[last] = value


def _look_up_kind(table: Table, arguments: Mapping[str, Any]) -> tuple[str, set[str], list[str]]:
    """The name of a model, the arguments that follow from it, and why it is not its name.

    A variant that is not equal is the model's where keys say all the rest.
    """
    if not table.variants:
        return table.model_types[0], set(), []
    said = {name for key in table.config for name in key.ours}
    changed = {
        kind: {name for name, value in variant.items() if _plain(arguments[name]) != _plain(value)}
        for kind, variant in table.variants.items()
    }
    kind = min(changed, key=lambda kind: (len(changed[kind] - said), len(changed[kind])))
    variant = table.variants[kind]
    return (
        kind,
        variant.keys() - changed[kind],
        [
            f"{name} is {arguments[name]!r}, not {value!r}"
            for name, value in variant.items()
            if name in changed[kind] - said
        ],
    )


def _plain(value: Any) -> Any:
    """The value with lists for tuples."""
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def arguments_of(model: Model) -> dict[str, Any]:
    """A model's configuration with what KerasHub would leave out of it, and that of each model
    within it under `argument.`.
    """
    inner = {
        f"{name}.{key}": value
        for name, part in model.arguments.items()
        if isinstance(part, Model)
        for key, value in arguments_of(part).items()
    }
    return {**model.arguments, **model.get_config(), **inner}


def _look_up(config: Any, name: str, default: Any) -> Any:
    for part in name.split("."):
        if not isinstance(config, Mapping) or part not in config:
            return default
        config = config[part]
    return default if config is None and default is REQUIRED else config


def _leaves(config: Mapping[str, Any]) -> Iterator[str]:
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping) and (value or not name):
            prefix = f"{name}." if name else ""
            waiting += [(prefix + key, inner) for key, inner in reversed(list(value.items()))]
        else:
            yield name
