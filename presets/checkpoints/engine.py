"""Foreign checkpoints: read into our models, and written from them, by the same tables."""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch

from ...backbones._configuration import check_arguments, whole
from ...backbones._model import Model
from ..building import (
    assign,
    check_amounts,
    check_class,
    construct,
    place,
    resized,
    sized,
    split_sizes,
)
from ..drawing import Notes, draw, drawn
from ..files import CONFIG, SAFETENSORS
from ..gathering import Gathering
from ..parts import Resizing, Sharing, read_parts
from ..progress import track
from ..refusals import shortened
from ..safetensors import write_safetensors
from ..surplus import Ignore, superfluous
from ..weights import Weight, values_of
from .files import BYTES, FLOATS, Stored, Within, index_of, open_weights, weight_files
from .quantized import Dequantized, Format, dequantized, format_of
from .table import REQUIRED, Operation, Table, Tensors, matches, parts

if TYPE_CHECKING:
    from ..sources import PresetSource

# What models of any kind keep beside their weights, and can make again.
BUFFERS = ("*rotary_emb.inv_freq", "*.num_batches_tracked")
ModelType = TypeVar("ModelType", bound=Model)


class Dialect(ABC):
    """How a library writes its checkpoints.

    Attributes:
        name: the library's.
        document: what the configuration is in.
        packages: where its tables are; every module there has a tuple `TABLES`.
        files: of the weights. The first that a checkpoint has is read, whole or in shards; the
            first of all is written.
    """

    name: ClassVar[str]
    document: ClassVar[str] = CONFIG
    packages: tuple[ModuleType, ...]
    files: ClassVar[tuple[str, ...]] = (SAFETENSORS, "pytorch_model.bin")

    @abstractmethod
    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Whether a config.json is of this dialect."""

    @abstractmethod
    def kind(self, config: Mapping[str, Any]) -> str:
        """The model's name in the tables."""

    @abstractmethod
    def title(self, config: Mapping[str, Any]) -> str:
        """The model's name for people."""

    @abstractmethod
    def ignores(self, key: str) -> bool:
        """Whether a key of config.json never changes what a backbone computes."""

    @abstractmethod
    def problems(
        self, config: Mapping[str, Any], unknown: Sequence[str], table: Table
    ) -> list[str]:
        """Why a config.json cannot be read; `unknown` are keys of which nothing is known."""

    def weights(self, source: PresetSource) -> list[Path]:
        """The weight files of a checkpoint in one folder, fetched if need be."""
        return weight_files(self.files, source)

    # Folders of a checkpoint in several that have documents alone.
    further: ClassVar[tuple[str, ...]] = ()

    def documents(self, plan: Plan, place: str) -> dict[str, Any]:
        """The JSON files of a folder."""
        return {CONFIG: plan.config}

    def quantization(self, config: Mapping[str, Any]) -> Any:
        """How the weights are quantized; `None` if they are not."""
        return None

    @abstractmethod
    def heading(self, table: Table, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        """What config.json begins with, before the table's keys."""


# Tables


def find_table(dialect: Dialect, kind: str, where: str) -> Table:
    """The table for a model.

    Raises:
        ValueError: there is none.
    """
    # The right module is most often the first; importing all of them takes a second.
    names = sorted(modules(dialect), key=lambda name: not kind.startswith(_last(name)))
    for table in _all(names):
        if kind in table.kinds:
            return table
    raise ValueError(
        f"{where} is a {dialect.name} model of type {kind!r}, which cannot be read. Known: "
        f"{', '.join(sorted(kind for table in _all(names) for kind in table.kinds))}."
    )


def known_kinds(dialect: Dialect, cls: type[Model]) -> list[str]:
    """The models whose checkpoints this class reads."""
    return [
        kind.partition("+")[0]
        for table in _all(modules(dialect))
        if table.backbone is cls
        for kind in table.kinds
    ]


def modules(dialect: Dialect) -> tuple[str, ...]:
    """The modules that hold a dialect's tables."""
    return tuple(name for package in dialect.packages for name in _modules(package))


@functools.cache
def _modules(package: ModuleType) -> tuple[str, ...]:
    found = pkgutil.iter_modules(package.__path__)
    return tuple(f"{package.__name__}.{module.name}" for module in found)


def tables(module: str) -> tuple[Table, ...]:
    found: tuple[Table, ...] = importlib.import_module(module).TABLES
    return found


def _all(names: Iterable[str]) -> Iterator[Table]:
    return (table for name in names for table in tables(name))


def _last(name: str) -> str:
    return name.rpartition(".")[2]


# Configurations


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


# Weights


@dataclass(eq=False)
class Binding:
    """A rule for one layer of a model.

    Attributes:
        theirs: names.
        ours: names → tensors on the meta device.
        operations: from ours to theirs.
    """

    theirs: tuple[str, ...]
    ours: dict[str, torch.Tensor]
    operations: tuple[Operation, ...]

    def save(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Our tensors as theirs."""
        return dict(zip(self.theirs, self._steps(tensors)[-1]))

    def load(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Their tensors as ours."""
        steps = self._steps(list(self.ours.values()))
        for operation, step in zip(reversed(self.operations), steps[-2::-1]):
            tensors = operation.load(tensors, [tensor.shape for tensor in step])
        return dict(zip(self.ours, tensors))

    def expected(self) -> dict[str, torch.Tensor]:
        """Theirs, on the meta device."""
        return self.save(list(self.ours.values()))

    def _steps(self, tensors: Tensors) -> list[Tensors]:
        steps = [tensors]
        for operation in self.operations:
            steps.append(operation.save(steps[-1]))
        return steps

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.ours.values())

    def __str__(self) -> str:
        return " and ".join(f"{name} {tuple(t.shape)}" for name, t in self.ours.items())


def bind(
    table: Table, arguments: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> list[Binding]:
    """The rules for all weights of a model, `state` by name.

    Raises:
        ValueError: no rule for a weight, or more than one; it lists them all.
    """
    bindings = []
    counts: Counter[str] = Counter()
    for rule in table.weights:
        if not rule.holds(arguments):
            continue
        for name in state:
            numbers = parts(rule.ours[0], name)
            if numbers is None or not (
                rule.where is None or rule.where(int(numbers[0]), arguments)
            ):
                continue
            theirs, ours = rule.names(numbers, arguments)
            counts.update(ours)
            known = {one: state[one].to("meta") for one in ours if one in state}
            operations = tuple(
                step if isinstance(step, Operation) else step(arguments) for step in rule.operations
            )
            bindings.append(Binding(theirs, known, operations))
    problems = [
        f"{counts[name]} rules for {name}"
        for name in {**state, **counts}
        if counts[name] != (name in state)
    ]
    if problems:
        raise ValueError(
            f"The table of {table.kinds[0]} does not fit {table.backbone.__name__}:\n  "
            + "\n  ".join(problems)
        )
    return bindings


def _expected(bindings: list[Binding]) -> dict[str, tuple[torch.Tensor, Binding]]:
    """All tensors of a checkpoint, on the meta device, and what each belongs to."""
    return {
        name: (tensor, binding)
        for binding in bindings
        for name, tensor in binding.expected().items()
    }


@dataclass
class Plan:
    """What of a checkpoint belongs where, before any of it is read or written.

    Attributes:
        config: config.json, read or to be written.
        model: on the meta device if it is to be read.
        bindings: the rules for all weights of the model.
        stored: the checkpoint's tensors by the names of the rules.
        absent: bindings whose tensors the checkpoint may lack, and lacks.
        files: how many tensors each holds.
    """

    table: Table
    config: Mapping[str, Any]
    model: Model
    bindings: list[Binding]
    stored: dict[str, Stored] = field(default_factory=dict)
    absent: list[Binding] = field(default_factory=list)
    files: Counter[Path] = field(default_factory=Counter)

    @property
    def ignored(self) -> list[str]:
        """Tensors that are known to be no part of a backbone."""
        used = {name for binding in self.bindings for name in binding.theirs}
        return [name for name in self.stored if name not in used]

    @property
    def drawn(self) -> list[str]:
        """The model's weights that the checkpoint lacks."""
        return [name for binding in self.absent for name in binding.ours]


# Reading


def configured(
    dialect: Dialect,
    source: PresetSource,
    config: Mapping[str, Any],
    cls: type[Model] = Model,
    overrides: Mapping[str, Any] | None = None,
) -> tuple[Table, dict[str, Any]]:
    """The table of a checkpoint and the arguments of its model, with the user's `overrides`.

    Raises:
        ValueError: another class than `cls`, or a model that cannot be computed.
        TypeError: unknown overrides.
    """
    overrides = overrides or {}
    table = find_table(dialect, dialect.kind(config), source.handle)
    check_class(table.backbone, cls)
    check_arguments(table.backbone, overrides)
    return table, {**to_ours(dialect, table, config, source.handle), **overrides}


@contextmanager
def plan(
    dialect: Dialect,
    source: PresetSource,
    config: Mapping[str, Any],
    cls: type[Model] = Model,
    overrides: Mapping[str, Any] | None = None,
    ignore: Ignore = (),
    dequantize: bool = False,
) -> Iterator[Plan]:
    """How a checkpoint is read. Its files are open meanwhile.

    Args:
        dequantize: whether quantized weights may be read as floats.

    Raises:
        ValueError: as `configured`; and broken files, or weights that are not the model's.
        TypeError: as `configured`.
        FileNotFoundError: no weights.
    """
    table, arguments = configured(dialect, source, config, cls, overrides)
    settings = dialect.quantization(config)
    format = None if settings is None else _format(table, settings, source.handle, dequantize)
    model = construct(table.backbone, arguments, "meta")
    files: Counter[Path] = Counter()
    held: list[tuple[str, Stored]] = []
    stored: dict[str, Stored] = {}
    problems: list[str] = []
    with ExitStack() as stack:
        for prefix, path in _held_in(dialect, table, source):
            tensors = open_weights(path, stack)
            files[path] = len(tensors)
            held += [(prefix + tensor.name, tensor) for tensor in tensors]
        if format is not None:
            held = _dequantized(table, format, settings, held, problems)
        for full_name, tensor in held:
            name = table.renamed(full_name)
            if name in stored:
                problems.append(f"twice: {stored[name].name} and {tensor.name}")
            stored[name] = tensor
        model.build_parts(stored)
        bindings = bind(table.for_names(stored), arguments_of(model), model.state_dict())
        if format is not None:
            _drop_zeros(stored, bindings)
        absent = account(table, bindings, stored, problems, source.handle, ignore)
        yield Plan(table, config, model, bindings, stored, absent, files)


def _format(table: Table, settings: Any, where: str, dequantize: bool) -> Format:
    """The format of quantized weights.

    Raises:
        ValueError: it cannot be read, or only if asked for.
    """
    try:
        format = format_of(settings)
    except ValueError as error:
        raise ValueError(f"The config.json of {where}: {error}") from error
    if not dequantize and format.method not in table.quantized:
        raise ValueError(
            f"{where} has quantized weights ({format.method}). dequantize=True reads them as "
            "floats, in the dtype that is given."
        )
    return format


def _dequantized(
    table: Table,
    format: Format,
    settings: Any,
    held: list[tuple[str, Stored]],
    problems: list[str],
) -> list[tuple[str, Stored]]:
    """The tensors by their names, weights in place of what they are packed in."""
    found = []
    for tensor in dequantized(format, settings, (tensor for _, tensor in held), problems):
        if isinstance(tensor, Dequantized) and matches(
            table.input_first, table.renamed(tensor.name)
        ):
            tensor = tensor.turned()
        found.append((tensor.name, tensor))
    return found


def _drop_zeros(stored: dict[str, Stored], bindings: list[Binding]) -> None:
    """Take biases of zeros out, that AutoGPTQ gives to layers without any."""
    used = {name for binding in bindings for name in binding.theirs}
    for name, tensor in list(stored.items()):
        layer, _, leaf = name.rpartition(".")
        packed = isinstance(stored.get(f"{layer}.weight"), Dequantized)
        if leaf == "bias" and packed and name not in used and not tensor.read().any():
            del stored[name]


def files_of(dialect: Dialect, source: PresetSource, config: Mapping[str, Any]) -> list[Path]:
    """The weight files of a checkpoint, fetched if need be."""
    table = find_table(dialect, dialect.kind(config), source.handle)
    return [path for _, path in _held_in(dialect, table, source)]


def _held_in(dialect: Dialect, table: Table, source: PresetSource) -> Iterator[tuple[str, Path]]:
    """The weight files, and what is put before the names in each."""
    if not table.folders:
        yield from (("", path) for path in dialect.weights(source))
    for folder, names in table.folders.items():
        inner = Within(source, folder)
        yield from ((f"{folder}.", path) for path in weight_files(names, inner))


def load(
    dialect: Dialect,
    source: PresetSource,
    config: Mapping[str, Any],
    cls: type[ModelType],
    load_weights: bool,
    device: str | torch.device | None,
    mmap: bool | None,
    ignore: Ignore,
    dequantize: bool,
    overrides: Mapping[str, Any],
    sharing: Sharing | None = None,
) -> ModelType:
    """The model of a checkpoint. See `loading.load_backbone`."""
    device = torch.device(device or torch.get_default_device())
    backbone = find_table(dialect, dialect.kind(config), source.handle).backbone
    sizes, others = split_sizes(backbone, overrides)
    if sizes or not load_weights:  # what cannot be built is refused before anything is read
        table, arguments = configured(dialect, source, config, cls, others)
        if sharing is not None and not load_weights:
            config = sized(table.backbone, arguments, sizes)
            return drawn(table.backbone, config, device, sharing).eval()  # type: ignore[return-value]
        where = "meta" if load_weights else device
        model = construct(table.backbone, sized(table.backbone, arguments, sizes), where)
        if not load_weights:
            return model.eval()  # type: ignore[return-value]
    with plan(dialect, source, config, cls, others, ignore, dequantize) as found:
        source.settle()
        if sharing is not None and sizes:
            resizing = Resizing(sharing, found.model, sizes)
            _fill(found, device, False, source.handle, resizing)
            return resizing.finish().eval()  # type: ignore[return-value]
        if device.type != "meta":
            _fill(found, torch.device(device), mmap is not False, source.handle, sharing)
    return resized(found.model, sizes).eval()  # type: ignore[return-value]


def _fill(
    plan: Plan, device: torch.device, keep: bool, where: str, sharing: Sharing | None
) -> None:
    if plan.drawn:
        warnings.warn(
            f"{where} has no weights for {', '.join(plan.drawn)}; they are drawn at random.",
            stacklevel=9 if sharing is None else 10,
        )
    if sharing is not None:
        _fill_parts(plan, device, sharing)
        return
    if plan.drawn:
        _draw(plan.model, plan.drawn, device)
    present = [binding for binding in plan.bindings if binding not in plan.absent]
    for binding in track(present, "Reading weights", lambda binding: binding.nbytes):
        _read(plan, binding, device, keep)


def _read(plan: Plan, binding: Binding, device: torch.device, keep: bool) -> None:
    """Fill the weights of one rule; nothing else of them is left in memory."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in binding.ours.values()))
    values = binding.load([plan.stored[name].read(dtype) for name in binding.theirs])
    for name, value in values.items():
        owner, _, leaf = name.rpartition(".")
        assign(plan.model.get_submodule(owner), leaf, value, device, keep)


def _fill_parts(plan: Plan, device: torch.device, sharing: Sharing) -> None:
    noted = _noted(plan.model, plan.drawn) if plan.drawn else None
    shared = sharing.share(plan.model, device)
    if noted is not None:
        draw(*noted, plan.model, shared, device, sharing)
    present = [binding for binding in plan.bindings if binding not in plan.absent]
    for binding in track(present, "Reading weights", lambda binding: binding.nbytes):
        owners = (name.rpartition(".") for name in binding.ours)
        read_parts(
            sharing,
            [plan.stored[name] for name in binding.theirs],
            lambda tensors: list(binding.load(tensors).values()),  # noqa: B023
            [(plan.model.get_submodule(owner), leaf) for owner, _, leaf in owners],
        )


def _draw(model: Model, names: list[str], device: torch.device) -> None:
    """Initialise the weights that a checkpoint lacks."""
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        old = getattr(module, leaf)
        place(module, leaf, torch.empty(old.shape, dtype=old.dtype, device=device))
    with torch.no_grad():
        for owner in dict.fromkeys(name.rpartition(".")[0] for name in names):
            model.get_submodule(owner).reset_parameters()  # type: ignore[operator]


def _noted(model: Model, names: list[str]) -> tuple[Notes, dict[str, torch.Tensor]]:
    """What `_draw` does to weights without memory, and these; the model stays as it is."""
    weights = {name: model.get_parameter(name) for name in names}
    with Notes() as notes:
        _draw(model, names, torch.device("meta"))
    blank: dict[str, torch.Tensor] = {name: model.get_parameter(name) for name in names}
    for name, weight in weights.items():
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._parameters[leaf] = weight
    return notes, blank


def account(
    table: Table,
    bindings: list[Binding],
    stored: dict[str, Stored],
    problems: list[str],
    where: str,
    ignore: Ignore = (),
) -> list[Binding]:
    """Compare the headers of a checkpoint with a model, and take copies out of `stored`.

    Returns:
        The bindings of weights that the checkpoint may lack, and lacks.

    Raises:
        ValueError: weights are missing, superfluous or of another shape; it lists them all.
    """
    expected = _expected(bindings)
    copies = _untie(table, expected, stored)
    absent = []
    for template in table.optional:
        group = [one for one in bindings if any(matches([template], name) for name in one.ours)]
        if not any(name in stored for binding in group for name in binding.theirs):
            absent += group
    for name, (tensor, binding) in expected.items():
        found = stored.get(name)
        shape = tuple(tensor.shape)
        if found is None:
            if binding not in absent:
                problems.append(f"missing: {name} {shape} for {binding}")
        elif found.shape != shape:
            problems.append(f"shape: {found.name} is {found.shape}, not {shape} for {binding}")
        elif found.dtype not in (FLOATS if tensor.is_floating_point() else BYTES):
            kind = "a float" if tensor.is_floating_point() else "bytes"
            problems.append(f"dtype: {found.name} is {found.dtype}, not {kind}, for {binding}")
    surplus = {
        found.name: f" {found.shape}"
        for name, found in stored.items()
        if name not in expected and not matches((*table.dropped, *BUFFERS), name)
    }
    # A head of somebody's own stands beside the model, not in it.
    roots = {name.partition(".")[0] for name in expected}
    renamed = {found.name: name for name, found in stored.items()}
    foreign = [name for name in surplus if renamed[name].partition(".")[0] not in roots]
    lines, hint = superfluous(surplus, ignore, where, foreign)
    problems += lines
    for copy, original in copies:
        if copy.shape != original.shape:
            problems.append(f"copy: {copy.name} {copy.shape} of {original.name} {original.shape}")
        elif not problems and not torch.equal(copy.read(), original.read()):
            problems.append(f"copy: {copy.name} is not equal to {original.name}")
    if problems:
        raise ValueError(
            f"The weights of {where} do not fit the model ({len(problems)} problems){hint}:"
            + "".join(f"\n  {problem}" for problem in problems)
        )
    return absent


def _untie(
    table: Table, expected: Mapping[str, Any], stored: dict[str, Stored]
) -> list[tuple[Stored, Stored]]:
    """Take copies of tied weights out of `stored`, and return them with their originals.

    A checkpoint that has only one of the two names means it for both.
    """
    copies = []
    for copy, original in table.tied.items():
        if copy in expected:
            if copy not in stored and original in stored:
                stored[copy] = stored[original].again()
        elif copy in stored:
            found = stored.pop(copy)
            if original in stored:
                copies.append((found, stored[original]))
            else:
                stored[original] = found
    return copies


# Writing


def export_plan(dialect: Dialect, model: Model) -> Plan:
    """How a model without adapters is written.

    Raises:
        NotImplementedError: no table for the model's class.
        ValueError: the library has no such model, or a part has no weights.
    """
    cls, arguments = type(model), arguments_of(model)
    for part in cls.deferred:
        if not getattr(model, part).state_dict(keep_vars=True):
            raise ValueError(
                f"The {part} has no weights, and a {dialect.name} checkpoint holds some: load "
                f"them, or draw them at random by {part}.build()."
            )
    state = {name: tensor.detach() for name, tensor in model.state_dict(keep_vars=True).items()}
    problems = []
    for table in _all(_nearest_first(dialect, cls)):
        if cls in (table.backbone, *table.also):
            try:
                config = to_theirs(dialect, table, arguments, model.dtype)
            except ValueError as error:
                problems.append(str(error))
            else:
                return Plan(table, config, model, bind(table, arguments, state))
    if not problems:
        raise NotImplementedError(f"{cls.__name__} cannot be exported to {dialect.name}.")
    raise ValueError(f"{dialect.name} has no such {cls.__name__}:\n  " + "\n  ".join(problems))


def _nearest_first(dialect: Dialect, cls: type) -> list[str]:
    """The modules of tables, those first that are named as the module or folder of the class."""
    families = [part for base in cls.__mro__ for part in base.__module__.split(".")]

    def distance(module: str) -> int:
        return families.index(_last(module)) if _last(module) in families else len(families)

    return sorted(modules(dialect), key=distance)


def export(
    dialect: Dialect,
    plan: Plan,
    weights: Mapping[str, Weight],
    processes: Gathering,
    destination: Callable[[str], AbstractContextManager[Path]],
) -> None:
    """Write config.json and safetensors, in shards where they are large.

    Args:
        destination: opens the folder, or one within it, in the process that writes.
    """
    for name, files in (plan.table.folders or {"": dialect.files}).items():
        _export(dialect, plan, name, files[0], weights, processes, destination)
    if plan.table.folders and processes.writes:
        for name in (*dialect.further, ""):  # what makes one of them comes last
            with destination(name) as folder:
                _describe(dialect, plan, name, folder)


def _describe(dialect: Dialect, plan: Plan, place: str, folder: Path) -> None:
    for name, content in dialect.documents(plan, place).items():
        (folder / name).write_text(json.dumps(content, indent=2))


def _export(
    dialect: Dialect,
    plan: Plan,
    within: str,
    file_name: str,
    weights: Mapping[str, Weight],
    processes: Gathering,
    destination: Callable[[str], AbstractContextManager[Path]],
) -> None:
    """What one folder holds."""
    from huggingface_hub import split_torch_state_dict_into_shards

    prefix = within and f"{within}."
    expected = {
        name: found for name, found in _expected(plan.bindings).items() if name.startswith(prefix)
    }
    split = split_torch_state_dict_into_shards(
        {name: tensor for name, (tensor, _) in expected.items()},
        filename_pattern=file_name.replace(".safetensors", "{suffix}.safetensors"),
    )
    shards = []
    for file, names in split.filename_to_tensors.items():
        # What one binding makes stays together, and is gone when it is written.
        bindings = list(dict.fromkeys(expected[name][1] for name in names))
        bindings.sort(key=lambda one: -min(t.itemsize for t in one.ours.values()))
        shards.append((file, set(names), bindings))
    order = [name for _, _, bindings in shards for one in bindings for name in one.ours]
    values = values_of(weights, order, processes)
    if not processes.writes:
        next(values, None)
        return
    with destination(within) as folder:
        _describe(dialect, plan, within, folder)
        for file, held, bindings in shards:
            headers = {
                name.removeprefix(prefix): (tensor.dtype, tuple(tensor.shape))
                for one in bindings
                for name, tensor in one.expected().items()
                if name in held
            }
            write_safetensors(folder / file, headers, _made(bindings, held, values))
        if split.is_sharded:
            places = {
                name.removeprefix(prefix): file for name, file in split.tensor_to_filename.items()
            }
            index = {"metadata": split.metadata, "weight_map": places}
            (folder / index_of(file_name)).write_text(json.dumps(index, indent=2))


def _made(
    bindings: list[Binding], names: set[str], values: Iterator[torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Those of their tensors that have these names, from ours in the order of the bindings."""
    for one in bindings:
        ours = [next(values).to(tensor.dtype) for tensor in one.ours.values()]
        for name, tensor in one.save(ours).items():
            if name in names:
                yield tensor
