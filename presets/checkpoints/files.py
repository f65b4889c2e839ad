"""Weight files of foreign checkpoints, opened without their data being read."""

from __future__ import annotations

import functools
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import torch

from ..files import SAFETENSORS, refuse_pointer, safe_name
from ..reading import read_view_into
from ..refusals import names_in
from ..safetensors import NAMED, offsets_of, open_safetensors
from ..sources import PresetSource

BYTES = frozenset(("U8", "uint8"))
# Of eight bits, which are read as the shortest type that has all their numbers.
EIGHT_BITS = frozenset(("F8_E4M3", "F8_E5M2"))
FLOATS = EIGHT_BITS | {
    *("F64", "F32", "F16", "BF16", "float64", "float32", "float16", "bfloat16"),
}


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor in an open file.

    Attributes:
        name: its name there.
        dtype: what the file calls it.
        get: its values.
        place: the open file and where in it the numbers begin; `None` where they may not stand
            there one after the other.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    get: Callable[[], torch.Tensor]
    place: tuple[IO[bytes], int] | None = None

    def read(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The values; those that are computed in this dtype, if one is given."""
        return self.get()

    def read_view(self, view: torch.Tensor, target: torch.Tensor) -> None:
        """As `parts.Readable.read_view`.

        Raises:
            ValueError: the file has become shorter.
        """
        known = NAMED.get(self.dtype)
        if self.place is None or known is None:
            whole = self.read().contiguous()
            begin = whole.storage_offset() + view.storage_offset()
            target.copy_(whole.as_strided(view.shape, view.stride(), begin))
            return
        file, offset = self.place
        try:
            read_view_into(target, file.fileno(), offset, known, view)
        except OSError as error:
            raise ValueError(f"{file.name} is broken: {self.name}: {error}") from error

    def again(self) -> Stored:
        """The same tensor for a second place, in memory of its own."""
        return replace(self, get=lambda: self.get().clone())


class Within(PresetSource):
    """A folder of a preset as a preset."""

    def __init__(self, source: PresetSource, folder: str) -> None:
        super().__init__(f"{source.handle}/{folder}")
        self.source = source
        self.folder = folder
        self.snapshot = source.snapshot

    def has(self, name: str) -> bool:
        return self.source.has(f"{self.folder}/{name}")

    def file(self, name: str) -> Path:
        return self.source.file(f"{self.folder}/{name}")


def weight_files(names: Sequence[str], source: PresetSource) -> list[Path]:
    """The first of these files that a preset has, or its shards, fetched if need be.

    Raises:
        ValueError: a broken index.
        FileNotFoundError: there are none.
    """
    for name in names:
        if source.has(name):
            return [source.file(name)]
        index = index_of(name)
        if source.has(index):
            shards = source.json(index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise ValueError(f"{index} of {source.handle} has no weight_map.")
            return source.download(sorted({safe_name(shard) for shard in shards.values()}))
    raise FileNotFoundError(
        f"{source.handle} has no weights: none of {', '.join(names)}, nor an index of shards. With "
        "load_weights=False they are drawn at random."
    )


def index_of(name: str) -> str:
    """The file that lists the shards of another one."""
    return f"{name}.index.json"


def open_weights(path: Path, stack: ExitStack) -> list[Stored]:
    """The tensors of a file, `.safetensors` or a pickled state dict, that `stack` will close.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is broken, or a pickle of anything but tensors.
    """
    if path.suffix != ".safetensors":
        return _open_pickle(path)
    file = stack.enter_context(open_safetensors(path))
    data = stack.enter_context(path.open("rb"))
    offsets = offsets_of(path)
    headers = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
    return [
        Stored(
            name,
            tuple(header.get_shape()),
            str(header.get_dtype()),
            functools.partial(_widened if header.get_dtype() in EIGHT_BITS else _plain, file, name),
            (data, offsets[name]),
        )
        for name, header in headers.items()
    ]


def _plain(file: Any, name: str) -> torch.Tensor:
    tensor: torch.Tensor = file.get_tensor(name)
    return tensor


def _widened(file: Any, name: str) -> torch.Tensor:
    return _plain(file, name).to(torch.bfloat16)


def _open_pickle(path: Path) -> list[Stored]:
    refuse_pointer(path)
    try:
        # Only an archive can be mapped; before torch 1.6 the files were none.
        state = torch.load(path, "cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # broken ones raise anything
        raise ValueError(
            f"{path} is a pickle that is broken or holds more than tensors; reading that could run "
            "any code. If you trust it, load it with what wrote it, and save its state dict as "
            f"{SAFETENSORS}."
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{path} is the pickle of a {type(state).__name__}, not of a state dict.")
    other = [
        str(name)
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, torch.Tensor))
        or value.layout is not torch.strided
    ]
    if other:
        raise ValueError(
            f"{path} is no state dict; these are not plain tensors by name: {', '.join(other)}."
        )
    names_in(state, path)
    users = Counter(_memory(tensor) for tensor in state.values())
    return [
        Stored(
            name,
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            functools.partial(_unshared, tensor.detach(), users[_memory(tensor)] > 1),
        )
        for name, tensor in state.items()
    ]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _unshared(tensor: torch.Tensor, shared: bool) -> torch.Tensor:
    """A view of the file, unless others may see the same memory."""
    if shared or not tensor.is_contiguous():
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor
