"""From a preset to a model."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..backbones import Backbone, find_backbone, import_all
from ..backbones.backbone import check_arguments
from ..backbones.layers.dtypes import PLAIN, DTypePolicy
from . import builtin
from .keras.h5 import Dataset, WeightFile, shard_files
from .keras.tree import Variable, keras_variables
from .progress import track

if TYPE_CHECKING:
    from .sources import PresetSource

BackboneType = TypeVar("BackboneType", bound=Backbone)

NOT_YET = "this class of KerasHub is not part of keras_hub_torch yet."
CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
SHARD_INDEX = "model.weights.json"
SAFETENSORS = "model.safetensors"
THREADS = 4
# Of PyTorch's functions while a model is built: a transformer's layer takes a hundred.
MAX_CALLS = 200_000


def load_backbone(
    cls: type[BackboneType],
    preset: str | os.PathLike[str],
    load_weights: bool,
    device: str | torch.device | None,
    mmap: bool | None,
    overrides: dict[str, Any],
) -> BackboneType:
    """See `Backbone.from_preset`."""
    from .sources import open_preset

    known = builtin.class_of(str(preset))
    if known is not None and find_backbone(known) is None:  # before anything is downloaded
        raise NotImplementedError(f"{preset} is a {known}: {NOT_YET}")
    source = open_preset(preset)
    config = source.json(CONFIG)
    if "model_type" in config and "registered_name" not in config:
        from .transformers.engine import load_transformers

        return load_transformers(cls, source, config, load_weights, device, mmap, overrides)
    found, arguments = keras_config(config, str(preset), cls)
    check_class(found, cls)
    check_arguments(found, overrides)
    if arguments["dtype"] is not None and overrides.get("dtype") is not None:
        # What is quantized stays so; the rest, and the computation, take the dtype given.
        dtype = arguments["dtype"]
        default = DTypePolicy.get(overrides["dtype"]).serialize()
        changed = {**dtype, "config": {**dtype["config"], "default_policy": default}}
        overrides = {**overrides, "dtype": changed}
    elif "dtype" in overrides and overrides["dtype"] is None:
        overrides = {key: value for key, value in overrides.items() if key != "dtype"}
    arguments |= overrides
    if not load_weights:
        return construct(found, arguments, device or torch.get_default_device()).eval()
    model = construct(found, arguments, "meta")
    path = weight_file(source)
    if torch.device(device or torch.get_default_device()).type == "meta":
        check(model, path)
    else:
        fill(model, path, device, mmap)
    return model.eval()


def keras_config(
    config: Mapping[str, Any], where: str, cls: type[Backbone] = Backbone
) -> tuple[type[Any], dict[str, Any]]:
    """The class and constructor arguments that a Keras `config.json` describes.

    The class is one of this package, or `cls`.

    Raises:
        ValueError: no configuration of a backbone, or of one that is not known.
        NotImplementedError: KerasHub has the class, this package does not yet.
    """
    registered = config.get("registered_name") or config.get("class_name")
    arguments = config.get("config")
    if not isinstance(registered, str) or not isinstance(arguments, dict):
        raise ValueError(
            f"{where} is no preset of a backbone: its config.json has neither a Keras class "
            "(registered_name and config) nor a transformers model_type."
        )
    package, _, name = registered.rpartition(">")
    found = cls if name == cls.__name__ else find_backbone(name)
    if found is None and builtin.keras_module(name) is not None:
        raise NotImplementedError(f"{where} is a {name}: {NOT_YET}")
    if found is None or not found._inputs or package not in ("keras_hub", "keras_nlp", ""):
        near = difflib.get_close_matches(name, import_all(), 1)
        hint = f" The nearest is {near[0]}." if near else ""
        raise ValueError(f"{where} is of the unknown class {registered!r}.{hint}")
    former = found.former
    arguments = {
        key: value for key, value in arguments.items() if key not in former or value != former[key]
    }
    try:
        check_arguments(found, arguments)
    except TypeError as error:
        raise ValueError(
            f"The config.json of {where} does not fit; it may have been saved by a newer "
            f"KerasHub. {error}"
        ) from error
    if _quantized(arguments.get("dtype")):
        DTypePolicy.get(arguments["dtype"])
    else:
        arguments["dtype"] = None  # float32 whatever it was saved in, as in Keras
    return found, arguments


def construct(
    cls: type[BackboneType], arguments: Mapping[str, Any], device: str | torch.device
) -> BackboneType:
    """A model of a configuration that may say anything.

    Raises:
        ValueError: no model can be built so.
    """
    try:
        with torch.device(device), _Bounded():
            return cls(**arguments)
    except (NotImplementedError, torch.OutOfMemoryError):
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"No {cls.__name__} can be built as configured: {reason}") from error


class _Bounded(TorchFunctionMode):
    """Ends the building of a model that has no end, of 10¹² layers say."""

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


def _quantized(dtype: Any) -> bool:
    return isinstance(dtype, dict) and dtype.get("class_name") not in PLAIN


def check_class(found: type[Backbone], cls: type[Backbone]) -> None:
    if not issubclass(found, cls):
        raise ValueError(
            f"The preset is of class {found.__name__}, which is not a {cls.__name__}. Call "
            f"{found.__name__}.from_preset, or Backbone.from_preset."
        )


def weight_file(source: PresetSource) -> Path:
    """The file, or the index of the files, that hold a preset's weights, fetched if need be.

    Raises:
        FileNotFoundError: there are none.
    """
    if source.has(WEIGHTS):
        return source.file(WEIGHTS)
    if source.has(SHARD_INDEX):
        index = source.file(SHARD_INDEX)
        source.download([shard.name for shard in shard_files(index)])
        return index
    if source.has(SAFETENSORS):
        return source.file(SAFETENSORS)
    try:
        return source.file(WEIGHTS)  # a hub out of reach says so
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{source.handle} has no weights: none of {WEIGHTS}, {SHARD_INDEX}, {SAFETENSORS}. "
            "With load_weights=False they are drawn at random."
        ) from error


def load_weights(model: Backbone, filepath: str | os.PathLike[str]) -> None:
    """See `Backbone.load_weights`."""
    fill(model, Path(os.path.expanduser(filepath)))
    for module in model.modules():
        reset = getattr(module, "reset_adapter", None)
        if callable(reset):  # as in Keras, adapters begin anew
            reset()


def fill(
    model: Backbone,
    path: Path,
    device: str | torch.device | None = None,
    mmap: bool | None = None,
) -> None:
    """Read every weight of a model from a file, each once; `meta` ones are made anew.

    Raises:
        ValueError: the file's weights are not exactly the model's.
    """
    device = torch.device(device or torch.get_default_device())
    if path.name.endswith(".safetensors"):
        _fill_from_safetensors(model, path, device, mmap is not False)
        return
    if not path.name.endswith((".weights.h5", ".weights.json")):
        raise ValueError(
            f"{path} is no weight file: it must end in .weights.h5, .weights.json or .safetensors."
        )
    variables = keras_variables(model)
    with WeightFile(path) as file:
        account(variables, file)
        stored = [
            (variable, file.datasets[_stored_name(name, file.datasets)])
            for name, variable in variables.items()
        ]
        # What does not become a weight where it is read is read here first.
        largest = max((d.nbytes for v, d in stored if not _fresh(v, device)), default=0)
        scratch = torch.empty(largest, dtype=torch.uint8, device="cpu")
        with ThreadPoolExecutor(THREADS) as pool:
            read = functools.partial(_read, file, bool(mmap))
            fresh = pool.map(read, [item for item in stored if _fresh(item[0], device)])
            for variable, dataset in track(stored, "Reading weights", lambda item: item[1].nbytes):
                if _fresh(variable, device):
                    place(variable.module, variable.name, next(fresh))
                    continue
                memory = scratch[: dataset.nbytes].view(dataset.dtype).view(dataset.shape)
                value = variable.from_keras(dataset.read(memory))
                assign(variable.module, variable.name, value, device, keep=False)


def _fresh(variable: Variable, device: torch.device) -> bool:
    return variable.tensor.is_meta and device.type == "cpu"


def _read(file: WeightFile, mmap: bool, item: tuple[Variable, Dataset]) -> torch.Tensor:
    """A new value for a variable."""
    variable, dataset = item
    old = variable.tensor
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


def account(variables: Mapping[str, Variable], file: WeightFile) -> None:
    """Compare a file's headers with a model, before anything is read.

    Raises:
        ValueError: weights are missing, superfluous, repeated or of another shape or kind of
            number; it lists them all.
    """
    datasets = file.datasets
    problems = [f"repeated: {place}" for place in file.repeated]
    used = set()
    for name, variable in variables.items():
        stored = _stored_name(name, datasets)
        dataset = datasets.get(stored)
        used.add(stored)
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
    problems += [f"superfluous: {name}" for name in datasets if name not in used]
    refuse(problems, file.path)


def refuse(problems: list[str], path: Path) -> None:
    if problems:
        raise ValueError(
            f"{path} does not fit the model ({len(problems)} problems):\n  " + "\n  ".join(problems)
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
    whole = moved.is_contiguous() and moved.untyped_storage().nbytes() == moved.nbytes
    if not whole or (moved is value and not keep):
        moved = torch.empty_like(moved, memory_format=torch.contiguous_format).copy_(moved)
    place(module, name, moved)


def place(module: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace a parameter or buffer by one with this value."""
    old = getattr(module, name)
    if isinstance(old, nn.Parameter):
        module._parameters[name] = nn.Parameter(value, old.requires_grad)
    else:
        module._buffers[name] = value


def check(model: Backbone, path: Path) -> Counter[Path]:
    """Compare a weight file with a model by its headers; no data is read.

    Returns:
        How many tensors each file holds.

    Raises:
        ValueError: as `fill`.
    """
    if path.name.endswith(".safetensors"):
        with open_safetensors(path) as file:
            return Counter({path: len(_account_safetensors(model, file, path))})
    with WeightFile(path) as file:
        account(keras_variables(model), file)
        return Counter(dataset.file for dataset in file.datasets.values())


@contextlib.contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """The file, its header read.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is broken.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(f"{path} is no readable safetensors file: {error}") from error


def _account_safetensors(model: Backbone, file: Any, path: Path) -> dict[str, torch.Tensor]:
    """The model's tensors by name, if they are exactly those of the file.

    Raises:
        ValueError: they are not; it lists all differences.
    """
    expected = model.state_dict(keep_vars=True)
    names = file.keys()
    headers = {name: file.get_slice(name) for name in names}
    stored = {name: tuple(header.get_shape()) for name, header in headers.items()}
    problems = [f"missing: {name}" for name in expected if name not in stored]
    problems += [f"superfluous: {name}" for name in stored if name not in expected]
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
    refuse(problems, path)
    return expected


def _fill_from_safetensors(model: Backbone, path: Path, device: torch.device, keep: bool) -> None:
    with open_safetensors(path) as file:
        expected = _account_safetensors(model, file, path)
        for name in track(expected, "Reading weights", lambda name: expected[name].nbytes):
            owner, _, leaf = name.rpartition(".")
            assign(model.get_submodule(owner), leaf, file.get_tensor(name), device, keep)
