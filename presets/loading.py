"""From a preset to a model."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..backbones._configuration import UnknownClass, deserialize
from ..backbones._model import Model
from ..backbones._registry import find_class
from ..backbones.layers.dtypes import FLOATS, DTypePolicy
from . import builtin, parts
from .building import (
    ModelType,
    alone,
    assign,
    changing,
    check_class,
    complete,
    construct,
    place,
    resized,
    sized,
    split_sizes,
)
from .drawing import drawn
from .files import ADAPTER, SAFETENSORS, SHARD_INDEX, WEIGHTS
from .keras.archive import unpack
from .keras.h5 import Dataset, WeightFile, shard_names
from .keras.tree import Variable, keras_variables
from .parts import Sharing
from .progress import track
from .refusals import naming
from .safetensors import NAMED, offsets_of, open_safetensors
from .snapshot import Snapshot, consistently
from .staging import read_to_device
from .surplus import Ignore, lines_of, superfluous
from .weights import blank_of, together

if TYPE_CHECKING:
    from .checkpoints.engine import Dialect
    from .sources import PresetSource

NOT_YET = "this class of KerasHub is not part of keras_hub_torch yet."
THREADS = 4
ZERO_POINTS = (
    "; Keras 3.15.1 does not write the zero points of GPTQ and AWQ, without which nobody can tell "
    "the weights"
)
# Names of safetensors.
SHORT_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def load_backbone(
    cls: type[ModelType],
    preset: str | os.PathLike[str],
    load_weights: bool,
    device: str | torch.device | None,
    mmap: bool | None,
    ignore: Ignore,
    dequantize: bool,
    overrides: dict[str, Any],
    sharing: Sharing | None = None,
) -> ModelType:
    """See `Backbone.from_preset`; with `sharing` this process reads what it holds of the model."""
    from .sources import open_preset

    device = None if device is None else torch.device(device)
    known = builtin.class_of(str(preset))
    with naming(str(preset)):
        if known is not None and find_class(known, Model) is None:  # before any download
            raise NotImplementedError(f"{preset} is a {known}: {NOT_YET}")
        source = open_preset(preset)
        model = source.consistently(
            lambda: _load(
                cls, source, load_weights, device, mmap, ignore, dequantize, overrides, sharing
            )
        )
    vars(model)["preset"] = source.origin
    return model


def _load(
    cls: type[ModelType],
    source: PresetSource,
    load_weights: bool,
    device: str | torch.device | None,
    mmap: bool | None,
    ignore: Ignore,
    dequantize: bool,
    overrides: dict[str, Any],
    sharing: Sharing | None,
) -> ModelType:
    from .checkpoints import TRANSFORMERS, configuration, dialect_of
    from .checkpoints.engine import load

    try:
        source, config = configuration(source, cls)
    except FileNotFoundError as error:
        if source.has(ADAPTER):
            raise ValueError(_adapter_message(source)) from error
        raise
    dialect = dialect_of(config)
    if overrides.get("dtype") == "auto":
        overrides = {**overrides, "dtype": stored_dtype(source, dialect, config)}
    if dialect is not None:
        model = load(
            dialect,
            source,
            config,
            cls,
            load_weights,
            device,
            mmap,
            ignore,
            dequantize,
            overrides,
            sharing,
        )
        if dialect is TRANSFORMERS:
            vars(model)["checkpoint"] = source.checkpoint
        return model
    found, arguments = keras_config(config, source.handle, cls)
    check_class(found, cls)
    sizes, overrides = split_sizes(found, overrides)
    if dequantize and arguments["dtype"] is not None:
        raise ValueError(
            f"{source.handle} is quantized by Keras and stays so: dequantize=True is for "
            "checkpoints of transformers."
        )
    if arguments["dtype"] is not None and overrides.get("dtype") is not None:
        # What is quantized stays so; the rest, and the computation, take the dtype given.
        dtype = arguments["dtype"]
        default = DTypePolicy.get(overrides["dtype"]).serialize()
        changed = {**dtype, "config": {**dtype["config"], "default_policy": default}}
        overrides = {**overrides, "dtype": changed}
    elif "dtype" in overrides and overrides["dtype"] is None:
        overrides = {key: value for key, value in overrides.items() if key != "dtype"}
    arguments |= overrides
    if sizes or not load_weights:  # what cannot be built is refused before anything is read
        if sharing is not None and not load_weights:
            assert isinstance(device, torch.device)
            return drawn(found, sized(found, arguments, sizes), device, sharing).eval()
        where = "meta" if load_weights else device or torch.get_default_device()
        model = construct(found, sized(found, arguments, sizes), where)
        if not load_weights:
            return model.eval()
    model = construct(found, arguments, "meta")
    files = keras_files(source)
    if torch.device(device or torch.get_default_device()).type == "meta":
        check(model, files, ignore)
    elif sharing is not None and sizes:
        resizing = parts.Resizing(sharing, model, sizes)
        fill(model, files, device, mmap, ignore, source.settle, resizing)
        return resizing.finish().eval()
    else:
        fill(model, files, device, mmap, ignore, source.settle, sharing)
    return resized(model, sizes).eval()


def _adapter_message(source: PresetSource) -> str:
    base = source.json(ADAPTER).get("base_model_name_or_path")
    named = f", {base[:200]!r}," if isinstance(base, str) and base else ""
    return (
        f"{source.handle} is an adapter of PEFT, not a model. Load the model it was made for"
        f"{named} by from_preset, then the adapter by backbone.load_lora_weights(folder)."
    )


def keras_config(
    config: Mapping[str, Any], where: str, cls: type[Model] = Model
) -> tuple[type[Any], dict[str, Any]]:
    """The class, one of this package or `cls`, and the constructor arguments that a Keras
    `config.json` describes.

    Raises:
        ValueError: no configuration of a backbone, or of one that is not known.
        NotImplementedError: KerasHub has the class, this package does not yet.
    """
    registered = config.get("registered_name") or config.get("class_name")
    if not isinstance(registered, str) or not isinstance(config.get("config"), dict):
        raise ValueError(
            f"{where} is no preset of a backbone: its config.json has neither a Keras class "
            "(registered_name and config) nor a transformers model_type or a timm architecture."
        )
    own = [cls] if registered.rpartition(">")[2] == cls.__name__ else []
    try:
        return deserialize(config, where, own)
    except UnknownClass as error:
        if error.is_keras_hubs and builtin.is_backbone(error.class_name):
            raise NotImplementedError(f"{where} is a {error.class_name}: {NOT_YET}") from error
        raise


def keras_files(source: PresetSource) -> list[Path]:
    """The file, or the index and then the files, that hold a preset's weights, fetched if need be.

    Raises:
        FileNotFoundError: there are none.
    """
    if source.has(WEIGHTS):
        return [source.file(WEIGHTS)]
    if source.has(SHARD_INDEX):
        index = source.file(SHARD_INDEX)
        return [index, *source.download(shard_names(index))]
    if source.has(SAFETENSORS):
        return [source.file(SAFETENSORS)]
    try:
        return [source.file(WEIGHTS)]  # a hub out of reach says so
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{source.handle} has no weights: none of {WEIGHTS}, {SHARD_INDEX}, {SAFETENSORS}. "
            "With load_weights=False they are drawn at random."
        ) from error


def stored_dtype(source: PresetSource, dialect: Dialect | None, config: Mapping[str, Any]) -> str:
    """The floating dtype that most bytes of a preset's weights have."""
    from .checkpoints.engine import files_of
    from .checkpoints.files import open_weights

    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        paths = keras_files(source) if dialect is None else files_of(dialect, source, config)
        if paths[0].suffix in (".h5", ".json"):
            for dataset in stack.enter_context(WeightFile(*paths)).datasets.values():
                counts[str(dataset.dtype).removeprefix("torch.")] += dataset.nbytes
        else:
            for tensor in (tensor for path in paths for tensor in open_weights(path, stack)):
                name = SHORT_NAMES.get(tensor.dtype, tensor.dtype)
                counts[name] += math.prod(tensor.shape)
    floats = [name for name, _ in counts.most_common() if name in FLOATS]
    return floats[0] if floats else "float32"


def load_weights(model: Model, filepath: str | os.PathLike[str], ignore: Ignore = ()) -> None:
    """See `Backbone.load_weights`."""
    path = Path(os.path.expanduser(filepath))
    with naming(str(path)):
        _load_file(model, path, ignore)


def _load_file(model: Model, path: Path, ignore: Ignore) -> None:
    with contextlib.ExitStack() as stack, together(model) as processes:
        is_shared = not processes.is_over

        def read(files: Sequence[Path], settle: Callable[[], None] = lambda: None) -> None:
            if not is_shared:
                fill(model, files, ignore=ignore, settle=settle)
                return

            def begin() -> None:
                settle()
                processes.agree()
                stack.enter_context(changing(model))  # until all processes are done

            blank = blank_of(model)
            sharing = parts.Held(model, blank)
            fill(blank, files, ignore=ignore, settle=begin, sharing=sharing)

        if path.name.endswith(".keras"):
            with tempfile.TemporaryDirectory() as folder:
                unpack(path, Path(folder))
                read([Path(folder, WEIGHTS)])
        else:
            snapshot = Snapshot(path.parent)
            consistently(snapshot, lambda: read(_found(snapshot, path), snapshot.settle))
        processes.agree()
        adapters = [module for module in model.modules() if hasattr(module, "reset_adapter")]
        with processes.drawing(model.device):
            for module in adapters:  # as in Keras they begin anew
                module.reset_adapter()  # type: ignore[operator]


def _found(snapshot: Snapshot, path: Path) -> list[Path]:
    """A file, and if it is an index the files that it lists, where they are."""
    file = snapshot.find(path.name) or path
    names = shard_names(file) if path.name.endswith(".weights.json") else []
    return [file, *(snapshot.find(name) or path.with_name(name) for name in names)]


def fill(
    model: Model,
    files: Sequence[Path],
    device: str | torch.device | None = None,
    mmap: bool | None = None,
    ignore: Ignore = (),
    settle: Callable[[], None] = lambda: None,
    sharing: Sharing | None = None,
) -> None:
    """Read every weight of a model, each once; `meta` ones are made anew.

    Args:
        files: one, or an index and the files that it lists.
        settle: is called when they are open and fit the model, before it changes.
        sharing: of a model on the meta device with other processes.

    Raises:
        ValueError: the file's weights are not exactly the model's.
    """
    path = files[0]
    device = torch.device(device or torch.get_default_device())
    if path.name.endswith(".safetensors"):
        _fill_from_safetensors(model, path, device, mmap is not False, ignore, settle, sharing)
        return
    if not path.name.endswith((".weights.h5", ".weights.json")):
        raise ValueError(
            f"{path} is no weight file: it must end in .weights.h5, .weights.json or .safetensors."
        )
    with WeightFile(*files) as file:
        model.build_parts(file.datasets)
        variables = keras_variables(model)
        used = account(variables, file, ignore)
        settle()
        stored = [(variable, file.datasets[used[name]]) for name, variable in variables.items()]
        file.unpack(dataset for _, dataset in stored)
        if sharing is not None:
            _fill_parts(model, stored, device, sharing)
            return
        # What does not become a weight where it is read is read here first.
        largest = max((d.nbytes for v, d in stored if not _fresh(v.tensor, device)), default=0)
        scratch = torch.empty(largest, dtype=torch.uint8, device="cpu")
        with changing(model), ThreadPoolExecutor(THREADS) as pool:
            read = functools.partial(_read, file, bool(mmap), device)
            fresh = pool.map(read, [item for item in stored if _fresh(item[0].tensor, device)])
            for variable, dataset in track(stored, "Reading weights", lambda item: item[1].nbytes):
                if _fresh(variable.tensor, device):
                    place(variable.module, variable.name, next(fresh))
                    continue
                memory = scratch[: dataset.nbytes].view(dataset.dtype).view(dataset.shape)
                value = variable.from_keras(dataset.read(memory))
                assign(variable.module, variable.name, value, device, keep=False)
    complete(model)


def _fill_parts(
    model: Model,
    stored: Sequence[tuple[Variable, Dataset]],
    device: torch.device,
    sharing: Sharing,
) -> None:
    def read(item: tuple[Variable, Dataset]) -> None:
        variable, dataset = item
        parts.read_parts(
            sharing,
            [dataset],
            lambda tensors: [variable.from_keras(tensors[0])],
            [(variable.module, variable.name)],
        )

    sharing.share(model, device)
    with changing(model), ThreadPoolExecutor(THREADS) as pool:
        done = pool.map(read, stored)
        for _ in track(stored, "Reading weights", lambda item: item[1].nbytes):
            next(done)
    sharing.complete(model)


def _fresh(tensor: torch.Tensor, device: torch.device) -> bool:
    """Whether several threads make new values, rather than one that changes those there are."""
    return tensor.is_meta and device.type in ("cpu", "cuda")


def _read(
    file: WeightFile, mmap: bool, device: torch.device, item: tuple[Variable, Dataset]
) -> torch.Tensor:
    """A new value for a variable."""
    variable, dataset = item
    old = variable.tensor
    if device.type != "cpu":
        value = variable.from_keras(dataset.read_to_device(device))
        return alone(value.to(old.dtype))  # rearranged there
    if mmap and dataset.dtype == old.dtype:
        mapped = file.mapped(dataset)
        if mapped is not None:
            return variable.from_keras(mapped)
    new = torch.empty(old.shape, dtype=old.dtype, device="cpu")
    target = variable.to_keras(new)  # in which the file's numbers come one after the other
    if target.data_ptr() == new.data_ptr():
        dataset.read(target)
    else:  # a copy
        new.copy_(variable.from_keras(dataset.read()))
    return new


def _stored_name(name: str, stored: Mapping[str, Any]) -> str:
    """Keras before 3.0 kept the layers of a functional model under another name."""
    old = name.replace("layers/", "_layer_checkpoint_dependencies/", 1)
    return old if name not in stored and old in stored else name


def _place_of(variables: Mapping[str, Variable], datasets: Mapping[str, Dataset]) -> str:
    """Where in a file the model's weights are: in that of a task the backbone's lie deeper."""
    first = next(iter(variables))
    if _stored_name(first, datasets) in datasets:
        return ""
    places = [name.removesuffix(first) for name in datasets if name.endswith(f"/{first}")]
    whole = [place for place in places if all(place + name in datasets for name in variables)]
    return whole[0] if len(whole) == 1 else ""


def account(
    variables: Mapping[str, Variable], file: WeightFile, ignore: Ignore = ()
) -> dict[str, str]:
    """Compare a file's headers with a model, before anything is read.

    Returns:
        The names of the variables in the file.

    Raises:
        ValueError: weights are missing, superfluous, repeated or of another shape or kind of
            number; it lists them all.
    """
    datasets = file.datasets
    problems = [f"repeated: {place}" for place in file.repeated]
    place = _place_of(variables, datasets)
    used = {name: place + name if place else _stored_name(name, datasets) for name in variables}
    for name, variable in variables.items():
        dataset = datasets.get(used[name])
        if dataset is None:
            problems.append(f"missing: {name} {variable.shape} for {variable.key}")
        elif dataset.shape != variable.shape:
            problems.append(
                f"shape: {name} is {dataset.shape}, the model's {variable.key} {variable.shape}"
            )
        elif dataset.dtype.is_floating_point != variable.tensor.dtype.is_floating_point:
            problems.append(
                f"dtype: {name} is {dataset.dtype}, the model's {variable.key} "
                f"{variable.tensor.dtype}"
            )
    known = set(used.values())
    surplus = {name: "" for name in datasets if name not in known}
    lines, hint = superfluous(surplus, True if place else ignore, str(file.path))
    if problems and any(variable.name == "kernel_zero" for variable in variables.values()):
        hint += ZERO_POINTS
    refuse(problems + lines, file.path, hint)
    return used


def refuse(problems: list[str], path: Path, hint: str = "") -> None:
    if problems:
        raise ValueError(
            f"{path} does not fit the model ({len(problems)} problems){hint}:{lines_of(problems)}"
        )


def check(model: Model, files: Sequence[Path], ignore: Ignore = ()) -> Counter[Path]:
    """Compare weight files with a model by their headers; no data is read.

    Args:
        files: as of `fill`.

    Returns:
        How many tensors each file holds.

    Raises:
        ValueError: as `fill`.
    """
    path = files[0]
    if path.name.endswith(".safetensors"):
        with open_safetensors(path) as file:
            return Counter({path: len(_account_safetensors(model, file, path, ignore))})
    with WeightFile(*files) as file:
        model.build_parts(file.datasets)
        account(keras_variables(model), file, ignore)
        return Counter(dataset.file for dataset in file.datasets.values())


def _account_safetensors(
    model: Model, file: Any, path: Path, ignore: Ignore = ()
) -> dict[str, torch.Tensor]:
    """The model's tensors by name, if they are exactly those of the file.

    Raises:
        ValueError: they are not; it lists all differences.
    """
    names = file.keys()
    model.build_parts(names)
    expected = model.state_dict(keep_vars=True)
    headers = {name: file.get_slice(name) for name in names}
    stored = {name: tuple(header.get_shape()) for name, header in headers.items()}
    problems = [f"missing: {name}" for name in expected if name not in stored]
    surplus = {name: "" for name in stored if name not in expected}
    lines, hint = superfluous(surplus, ignore, str(path))
    problems += lines
    problems += [
        f"shape: {name} is {stored[name]}, the model's {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in stored and stored[name] != tuple(tensor.shape)
    ]
    problems += [
        f"dtype: {name} is {header.get_dtype()}, the model's {expected[name].dtype}"
        for name, header in headers.items()
        if name in expected
        and ("F" in header.get_dtype()) != expected[name].dtype.is_floating_point
    ]
    refuse(problems, path, hint)
    return expected


def _fill_from_safetensors(
    model: Model,
    path: Path,
    device: torch.device,
    keep: bool,
    ignore: Ignore,
    settle: Callable[[], None],
    sharing: Sharing | None,
) -> None:
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(open_safetensors(path))
        source = stack.enter_context(path.open("rb"))
        expected = _account_safetensors(model, file, path, ignore)
        settle()
        if sharing is not None:
            _fill_parts_from_safetensors(model, path, device, expected, sharing)
            return
        offsets = offsets_of(path)
        dtypes = {name: NAMED.get(file.get_slice(name).get_dtype()) for name in expected}
        staged = {
            name: dtype
            for name, dtype in dtypes.items()
            if dtype is not None and device.type == "cuda" and _fresh(expected[name], device)
        }

        def read(name: str) -> torch.Tensor:
            shape, begin = expected[name].shape, offsets[name]
            return read_to_device(source.fileno(), begin, shape, staged[name], device)

        with changing(model), ThreadPoolExecutor(THREADS) as pool:
            values = pool.map(read, staged)
            for name in track(expected, "Reading weights", lambda name: expected[name].nbytes):
                owner, _, leaf = name.rpartition(".")
                value = next(values) if name in staged else file.get_tensor(name)
                assign(model.get_submodule(owner), leaf, value, device, keep)


def _fill_parts_from_safetensors(
    model: Model,
    path: Path,
    device: torch.device,
    weights: Mapping[str, torch.Tensor],
    sharing: Sharing,
) -> None:
    from .checkpoints.files import open_weights

    sharing.share(model, device)
    with contextlib.ExitStack() as stack, changing(model):
        stored = {one.name: one for one in open_weights(path, stack)}
        for name in track(weights, "Reading weights", lambda name: weights[name].nbytes):
            owner, _, leaf = name.rpartition(".")
            place = (model.get_submodule(owner), leaf)
            parts.read_parts(sharing, [stored[name]], lambda tensors: tensors, [place])
