"""Models here as checkpoints of other libraries."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from ...backbones._model import Model
from ..gathering import Gathering
from ..safetensors import write_safetensors
from ..weights import Weight, values_of
from .arguments import arguments_of, to_theirs
from .bindings import Binding, Plan, bind, expected_of
from .dialect import Dialect, nearest_tables
from .files import index_of


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
    for table in nearest_tables(dialect, cls):
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
        name: found for name, found in expected_of(plan.bindings).items() if name.startswith(prefix)
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
