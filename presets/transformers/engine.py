"""Checkpoints of transformers: read into our models, and written from them, by the same tables."""

from __future__ import annotations

import functools
import importlib
import json
import pkgutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from ...backbones import Backbone
from ...backbones.backbone import check_arguments
from ..files import safe_name
from ..loading import (
    CONFIG,
    SAFETENSORS,
    assign,
    check_class,
    construct,
    open_safetensors,
    place,
)
from ..progress import track
from .table import REQUIRED, Operation, Table, Tensors, matches, parts

if TYPE_CHECKING:
    from ..sources import PresetSource

BackboneType = TypeVar("BackboneType", bound=Backbone)

INDEX = "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
# Keys of any config.json that do not change what a backbone computes.
GENERIC = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures
    attn_implementation chunk_size_feed_forward dtype finetuning_task gradient_checkpointing
    id2label initializer_factor initializer_range is_encoder_decoder label2id model_type
    name_or_path num_labels output_attentions output_hidden_states output_past problem_type
    return_dict task_specific_params tie_encoder_decoder tokenizer_class torch_dtype torchscript
    transformers_version use_bfloat16 use_cache

    bos_token_id decoder_start_token_id eos_token_id pad_token_id sep_token_id

    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
    forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_scores prefix remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    """.split()  # noqa: SIM905 (sixty lines otherwise)
)
FLOATS = ("F64", "F32", "F16", "BF16")


# Tables


def find_table(model_type: str, where: str) -> Table:
    """The table for the `model_type` of a config.json.

    Raises:
        ValueError: there is none.
    """
    names = sorted(_modules(), key=lambda name: not model_type.startswith(name))
    for name in names:
        for table in _tables(name):
            if model_type in table.model_types:
                return table
    known = sorted(kind for name in names for table in _tables(name) for kind in table.model_types)
    raise ValueError(
        f"{where} is a transformers model of type {model_type!r}, which cannot be read. Known: "
        f"{', '.join(known)}."
    )


@functools.cache
def _modules() -> tuple[str, ...]:
    path = [str(Path(__file__).parent)]
    names = (module.name for module in pkgutil.iter_modules(path))
    return tuple(name for name in names if name not in ("engine", "table"))


def _tables(module: str) -> tuple[Table, ...]:
    tables: tuple[Table, ...] = importlib.import_module(f".{module}", __package__).TABLES
    return tables


# Configurations


def to_ours(table: Table, config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The constructor's arguments for a config.json.

    Raises:
        ValueError: keys are missing, or describe a model that cannot be computed; it lists all.
    """
    problems = []
    arguments: dict[str, Any] = {}
    if config.get("quantization_config"):
        problems.append("quantization_config: quantized weights cannot be read")
    for key in table.config:
        values = [_look_up(config, name, default) for name, default in key.theirs.items()]
        absent = [name for name, value in zip(key.theirs, values) if value is REQUIRED]
        try:
            if absent:
                raise ValueError(f"{', '.join(absent)} missing")
            arguments |= zip(key.ours, key.load(*values))
        except ValueError as error:
            problems.append(str(error))
        except (TypeError, ArithmeticError) as error:
            problems.append(f"{', '.join(key.theirs)}: {error}")
    try:
        check_arguments(table.backbone, arguments)
    except TypeError as error:
        problems.append(str(error))
    if problems:
        raise ValueError(
            f"The config.json of {where} is none for {table.backbone.__name__}:\n  "
            + "\n  ".join(problems)
        )
    used = {name for key in table.config for name in key.theirs} | table.extra.keys()
    unknown = [
        name
        for name in _leaves(config)
        if not any(name == known or name.startswith(f"{known}.") for known in used)
        and not matches(table.ignored, name)
        and not GENERIC.intersection(name.split("."))
    ]
    if unknown:
        warnings.warn(
            f"Keys in the config.json of {where} that are not known and have no effect: "
            f"{', '.join(unknown)}.",
            stacklevel=2,
        )
    return arguments


def to_theirs(table: Table, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """config.json for a model with these arguments.

    Raises:
        ValueError: transformers has no such model; it lists all reasons.
    """
    problems = []
    config: dict[str, Any] = {}
    for key in table.config:
        try:
            values = key.save(*(arguments[name] for name in key.ours))
        except ValueError as error:
            problems.append(str(error))
        else:
            for name, value in zip(key.theirs, values):
                *outer, last = name.split(".")
                functools.reduce(lambda inner, part: inner.setdefault(part, {}), outer, config)[
                    last
                ] = value
    if problems:
        raise ValueError("; ".join(problems))
    return {
        "architectures": [table.architecture],
        "model_type": table.model_types[0],
        **config,
        **table.extra,
    }


def arguments_of(model: Backbone) -> dict[str, Any]:
    """A model's configuration with what KerasHub would leave out of it."""
    return {**model._arguments, **model.get_config()}


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
    """A rule for one layer of a model: their names, and our tensors by name."""

    theirs: tuple[str, ...]
    ours: dict[str, torch.Tensor]
    operations: tuple[Operation, ...]

    def save(self) -> dict[str, torch.Tensor]:
        """Our tensors as theirs."""
        return dict(zip(self.theirs, self._steps()[-1]))

    def load(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Their tensors as ours."""
        steps = self._steps()
        for operation, step in zip(reversed(self.operations), steps[-2::-1]):
            tensors = operation.load(tensors, [tensor.shape for tensor in step])
        return dict(zip(self.ours, tensors))

    def _steps(self) -> list[Tensors]:
        steps: list[Tensors] = [list(self.ours.values())]
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
    """The rules for all weights of a model.

    Raises:
        ValueError: no rule for a weight, or more than one; it lists them all.
    """
    bindings = []
    counts: Counter[str] = Counter()
    for rule in table.weights:
        if any(arguments[name] != value for name, value in rule.when.items()):
            continue
        for name in state:
            numbers = parts(rule.ours[0], name)
            if numbers is None:
                continue
            theirs = rule.names(numbers, arguments)
            ours = [template.format(*numbers) for template in rule.ours]
            counts.update(ours)
            known = {one: state[one] for one in ours if one in state}
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
            f"The table of {table.model_types[0]} does not fit {table.backbone.__name__}:\n  "
            + "\n  ".join(problems)
        )
    return bindings


@dataclass(frozen=True)
class Stored:
    """A weight in a file of which only the header has been read."""

    file: Any
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.name).get_shape())

    @property
    def dtype(self) -> str:
        return str(self.file.get_slice(self.name).get_dtype())

    def read(self) -> torch.Tensor:
        tensor: torch.Tensor = self.file.get_tensor(self.name)
        return tensor


class Again(Stored):
    """The same weight for a second place, in memory of its own."""

    def read(self) -> torch.Tensor:
        return super().read().clone()


def load_transformers(
    cls: type[BackboneType],
    source: PresetSource,
    config: Mapping[str, Any],
    load_weights: bool,
    device: str | torch.device | None,
    mmap: bool | None,
    overrides: Mapping[str, Any],
) -> BackboneType:
    """The model of a checkpoint of transformers. See `Backbone.from_preset`."""
    table = find_table(str(config["model_type"]), source.handle)
    check_class(table.backbone, cls)
    check_arguments(table.backbone, overrides)
    arguments = {**to_ours(table, config, source.handle), **overrides}
    device = torch.device(device or torch.get_default_device())
    if not load_weights:
        return construct(table.backbone, arguments, device).eval()  # type: ignore[return-value]
    model = construct(table.backbone, arguments, "meta")
    with ExitStack() as stack:
        stored, problems = stored_weights(table, source, stack)
        bindings = bind(table.for_names(stored), arguments_of(model), model.state_dict())
        absent = account(table, bindings, stored, problems, source.handle)
        _draw(model, [name for binding in absent for name in binding.ours], device, source.handle)
        present = [binding for binding in bindings if binding not in absent]
        for binding in track(present, "Reading weights", lambda binding: binding.nbytes):
            values = binding.load([stored[name].read() for name in binding.theirs])
            for name, value in values.items():
                owner, _, leaf = name.rpartition(".")
                assign(model.get_submodule(owner), leaf, value, device, mmap is not False)
    return model.eval()  # type: ignore[return-value]


def account(
    table: Table,
    bindings: list[Binding],
    stored: dict[str, Stored],
    problems: list[str],
    where: str,
) -> list[Binding]:
    """Compare the headers of a checkpoint with a model, and take copies out of `stored`.

    Returns:
        The bindings of weights that the checkpoint may lack, and lacks.

    Raises:
        ValueError: weights are missing, superfluous or of another shape; it lists them all.
    """
    expected = {name: (t, binding) for binding in bindings for name, t in binding.save().items()}
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
        elif found.dtype not in FLOATS:
            problems.append(f"dtype: {found.name} is {found.dtype}, not a float, for {binding}")
    for name, found in stored.items():
        if name not in expected and not matches(table.dropped, name):
            problems.append(f"superfluous: {found.name} {found.shape}")
    for copy, original in copies:
        if copy.shape != original.shape:
            problems.append(f"copy: {copy.name} {copy.shape} of {original.name} {original.shape}")
        elif not problems and not torch.equal(copy.read(), original.read()):
            problems.append(f"copy: {copy.name} is not equal to {original.name}")
    if problems:
        raise ValueError(
            f"The weights of {where} do not fit the model ({len(problems)} problems):\n  "
            + "\n  ".join(problems)
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
                stored[copy] = Again(stored[original].file, stored[original].name)
        elif copy in stored:
            found = stored.pop(copy)
            if original in stored:
                copies.append((found, stored[original]))
            else:
                stored[original] = found
    return copies


def _draw(model: Backbone, names: list[str], device: str | torch.device, where: str) -> None:
    """Initialise the weights that a checkpoint lacks."""
    if not names:
        return
    warnings.warn(
        f"{where} has no weights for {', '.join(names)}; they are drawn at random.", stacklevel=3
    )
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        place(module, leaf, torch.empty_like(getattr(module, leaf), device=device))
    with torch.no_grad():
        for owner in {name.rpartition(".")[0] for name in names}:
            model.get_submodule(owner).reset_parameters()  # type: ignore[operator]


def stored_weights(
    table: Table, source: PresetSource, stack: ExitStack
) -> tuple[dict[str, Stored], list[str]]:
    """The weights of a checkpoint by the names that the rules use, and problems with these.

    Raises:
        ValueError: broken files, or none that may be read.
        FileNotFoundError: no weights.
    """
    stored: dict[str, Stored] = {}
    problems = []
    for path in weight_files(source):
        file = stack.enter_context(open_safetensors(path))
        for key in file.keys():  # noqa: SIM118
            name = _renamed(table, key)
            if name in stored:
                problems.append(f"twice: {stored[name].name} and {key} in {path.name}")
            stored[name] = Stored(file, key)
    return stored, problems


def weight_files(source: PresetSource) -> list[Path]:
    """The safetensors files of a checkpoint, fetched if need be.

    Raises:
        ValueError: a broken index, or none but pickles.
        FileNotFoundError: there are none.
    """
    if source.has(SAFETENSORS):
        return [source.file(SAFETENSORS)]
    if source.has(INDEX):
        names = source.json(INDEX).get("weight_map")
        if not isinstance(names, dict) or not names:
            raise ValueError(f"{INDEX} of {source.handle} has no weight_map.")
        return source.download(sorted({safe_name(name) for name in names.values()}))
    if any(source.has(name) for name in PICKLES):
        raise ValueError(
            f"{source.handle} has its weights only as a pickle, which can run any code and is not "
            f"read. If you trust it, load it with transformers and save it as {SAFETENSORS} with "
            "save_pretrained."
        )
    raise FileNotFoundError(
        f"{source.handle} has no weights: neither {SAFETENSORS} nor {INDEX}. With "
        "load_weights=False they are drawn at random."
    )


def export_transformers(model: Backbone, folder: Path) -> None:
    """Write config.json and safetensors, in shards where they are large.

    Raises:
        NotImplementedError: no table for the model's class.
        ValueError: transformers has no such model.
    """
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    from ..saving import exportable_state

    arguments = arguments_of(model)
    table, config = _exported(type(model), arguments)
    config["torch_dtype"] = str(model.dtype).removeprefix("torch.")
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    tensors = {
        name: tensor.contiguous()
        for binding in bind(table, arguments, exportable_state(model))
        for name, tensor in binding.save().items()
    }
    split = split_torch_state_dict_into_shards(tensors)
    shards = [
        (folder / file, {name: tensors[name] for name in names})
        for file, names in split.filename_to_tensors.items()
    ]
    for path, shard in track(
        shards, "Writing weights", lambda item: sum(tensor.nbytes for tensor in item[1].values())
    ):
        save_file(shard, path, {"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2))


def _exported(cls: type[Backbone], arguments: Mapping[str, Any]) -> tuple[Table, dict[str, Any]]:
    """The first table that can express a model, and its config.json."""
    modules = dict.fromkeys(_family(base) for base in cls.__mro__)
    problems = []
    for table in (table for name in modules if name in _modules() for table in _tables(name)):
        if cls in (table.backbone, *table.also):
            try:
                return table, to_theirs(table, arguments)
            except ValueError as error:
                problems.append(f"as {table.model_types[0]}: {error}")
    if not problems:
        raise NotImplementedError(f"{cls.__name__} cannot be exported to transformers.")
    raise ValueError(f"transformers has no such {cls.__name__}:\n  " + "\n  ".join(problems))


def _family(cls: type) -> str:
    """Name of the module or folder of `backbones` that a class is from."""
    return cls.__module__.rpartition("backbones.")[2].partition(".")[0]


def bindings_of(model: Backbone) -> list[Binding]:
    """The rules for a model's weights, as its export names them.

    Raises:
        NotImplementedError: no table for the model's class.
        ValueError: transformers has no such model.
    """
    arguments = arguments_of(model)
    table, _ = _exported(type(model), arguments)
    state = {name: t for name, t in model.state_dict().items() if "lora_kernel_" not in name}
    return bind(table, arguments, state)


def known_name(model: Backbone, name: str) -> str:
    """The name that the rules use for a weight of a checkpoint."""
    table, _ = _exported(type(model), arguments_of(model))
    return _renamed(table, name)


def _renamed(table: Table, name: str) -> str:
    for theirs, ours in table.renames:
        found = parts(theirs, name)
        if found is not None:
            name = ours.replace("*", "{}").format(*found)
    return name


def known_model_types(cls: type[Backbone]) -> list[str]:
    """The `model_type`s of transformers whose checkpoints this class reads."""
    return [
        kind
        for module in _modules()
        for table in _tables(module)
        if table.backbone is cls
        for kind in table.model_types
    ]
