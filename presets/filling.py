"""From weight files to the weights of a model."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..backbones._model import Model
from . import parts
from .building import alone, assign, changing, complete, place
from .files import WEIGHTS
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

THREADS = 4
ZERO_POINTS = (
    "; Keras 3.15.1 does not write the zero points of GPTQ and AWQ, without which nobody can tell "
    "the weights"
)


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
    """Raises ValueError: there are problems."""
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
