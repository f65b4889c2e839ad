"""Checkpoints of other libraries as models here."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ...backbones._configuration import check_arguments
from ...backbones._model import Model
from ..building import assign, check_class, construct, place, resized, split_sizes
from ..drawing import Notes, draw, unread
from ..parts import Resizing, Sharing, read_parts
from ..progress import track
from ..request import Request
from ..surplus import Ignore
from .accounting import account
from .arguments import arguments_of, to_ours
from .bindings import Binding, Plan, bind
from .dialect import Dialect, find_table
from .files import Stored, Within, open_weights, weight_files
from .quantized import Dequantized, Format, dequantized, format_of
from .table import Table, matches

if TYPE_CHECKING:
    from ..sources import PresetSource

ModelType = TypeVar("ModelType", bound=Model)


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
    request: Request,
) -> ModelType:
    """The model of a checkpoint."""
    backbone = find_table(dialect, dialect.kind(config), source.handle).backbone
    sizes, others = split_sizes(backbone, request.overrides)
    sharing = request.sharing
    if sizes or not request.load_weights:
        table, arguments = configured(dialect, source, config, cls, others)
        model = unread(table.backbone, arguments, sizes, request)
        if model is not None:
            return model  # type: ignore[return-value]
    planned = plan(dialect, source, config, cls, others, request.ignore, request.dequantize)
    with planned as found:
        source.settle()
        if sharing is not None and sizes:
            resizing = Resizing(sharing, found.model, sizes)
            _fill(found, source.handle, replace(request, sharing=resizing))
            return resizing.finish().eval()  # type: ignore[return-value]
        if request.device.type != "meta":
            _fill(found, source.handle, request)
    return resized(found.model, sizes).eval()  # type: ignore[return-value]


def _fill(plan: Plan, where: str, request: Request) -> None:
    sharing, device = request.sharing, request.device
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
        _read(plan, binding, device, request.mmap is not False)


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
