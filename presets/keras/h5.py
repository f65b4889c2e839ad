"""Reading and writing `.weights.h5` files.

A file comes from a stranger: every link and dataset header is looked at before any data is read.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import mmap
import os
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..files import read_json, refuse_pointer, safe_name
from ..reading import read_into

if TYPE_CHECKING:
    import h5py
    from typing_extensions import Self

DTYPES = {
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "bool": torch.bool,
}


# Numbers of the filters that HDF5 packs chunks with.
DEFLATE, SHUFFLE = 1, 2
# Of a chunk that is larger than its dataset.
MAX_CHUNK_BYTES = 16 * 1024**2
# HDF5 fails, or crashes, where a thread asks for anything while another one reads chunks.
_one_thread = threading.Lock()


@dataclass
class Dataset:
    """A dataset's header."""

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    source: h5py.Dataset

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def read(self, target: torch.Tensor | None = None) -> torch.Tensor:
        """The data, read once, into memory of its own or into a tensor of any strides and dtype.

        Raises:
            ValueError: it is broken.
        """
        if target is None:
            target = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        if not target.numel():
            return target
        try:
            with _one_thread:
                offset = self._offset
                descriptor = self.source.file.id.get_vfd_handle()
                if self.source.chunks is not None:
                    self._read_chunks(target)
                    return target
                if offset is None or not hasattr(os, "preadv"):
                    self._read_whole(target)
                    return target
            # As HDF5 does it, but other threads go on meanwhile.
            read_into(target, descriptor, offset, self.dtype)
        except (OSError, RuntimeError, ValueError, zlib.error) as error:
            raise ValueError(f"{self.file} is broken: {self.path}: {error}") from error
        return target

    @property
    def _offset(self) -> int | None:
        """Where the data lie in the file, if in one piece."""
        return None if self.source.chunks is not None else self.source.id.get_offset()

    def mapped(self, mapping: mmap.mmap) -> torch.Tensor | None:
        """The data where the file is mapped, if they lie there as a tensor's must.

        Raises:
            ValueError: the file has become shorter.
        """
        with _one_thread:
            offset = self._offset
        count = torch.Size(self.shape).numel()
        if offset is None or not count or offset % self.dtype.itemsize:
            return None
        flat = torch.frombuffer(mapping, dtype=self.dtype, count=count, offset=offset)
        return flat.view(self.shape)

    def _read_whole(self, target: torch.Tensor) -> None:
        import h5py

        tensor = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        memory = tensor.view(-1).view(torch.uint8).numpy().view(self.source.dtype)
        stored = self.source.id
        stored.read(h5py.h5s.ALL, h5py.h5s.ALL, memory, mtype=stored.get_type())
        target.copy_(tensor)

    def _read_chunks(self, target: torch.Tensor) -> None:
        """Unpack each chunk into no more bytes than it should have; HDF5 knows no such limit."""
        stored = self.source.id
        chunk_shape = self.source.chunks
        itemsize = self.dtype.itemsize
        nbytes = math.prod(chunk_shape) * itemsize
        filters = _filters(self.source)
        chunks: list[Any] = []
        stored.chunk_iter(chunks.append)
        starts = [range(0, size, step) for size, step in zip(self.shape, chunk_shape)]
        places = {chunk.chunk_offset for chunk in chunks}
        if len(places) != math.prod(map(len, starts)) or places != set(itertools.product(*starts)):
            raise ValueError("chunks are missing")
        size = os.fstat(self.source.file.id.get_vfd_handle()).st_size
        for chunk in chunks:
            if chunk.size > size:
                raise ValueError(f"a chunk of {chunk.size:,} bytes in a file of {size:,}")
            # Without filters h5py takes the size for granted, and HDF5 writes what is stored.
            buffer = bytearray(max(chunk.size, nbytes))
            skipped, _ = stored.read_direct_chunk(chunk.chunk_offset, out=buffer)
            data = bytes(memoryview(buffer)[: chunk.size])
            for i, number in reversed(list(enumerate(filters))):
                if skipped >> i & 1:
                    continue
                if number == DEFLATE:
                    data = zlib.decompressobj().decompress(data, nbytes + 1)
                else:
                    data = np.frombuffer(data, "u1").reshape(itemsize, -1).T.tobytes()
            if len(data) != nbytes:
                raise ValueError("a chunk unpacks to too many or too few bytes")
            corner = zip(chunk.chunk_offset, chunk_shape)
            place = target[tuple(slice(start, start + length) for start, length in corner)]
            values = torch.frombuffer(bytearray(data), dtype=self.dtype).view(chunk_shape)
            place.copy_(values[tuple(map(slice, place.shape))])


class Refused(ValueError):
    """What is wrong with a file, to be read after its name."""


class WeightFile:
    """The datasets of a `.weights.h5` file, or of the shards that a `.weights.json` lists.

    Args:
        shards: of a `.weights.json` its `shard_names`, where they are.

    Attributes:
        repeated: those that are in two shards.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a readable HDF5 file, or one with links, external or virtual data.
    """

    def __init__(self, path: str | os.PathLike[str], *shards: Path) -> None:
        self.path = Path(path)
        self.datasets: dict[str, Dataset] = {}
        self.repeated: list[str] = []
        self._files: list[h5py.File] = []
        self._mappings: dict[Path, mmap.mmap] = {}
        try:
            for file in shards if self.path.suffix == ".json" else [self.path]:
                self._open(file)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        import h5py

        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        refuse_pointer(path)
        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise ValueError(f"{path} is no readable HDF5 file, or truncated: {error}") from error
        self._files.append(file)
        try:
            for dataset in _datasets(file, path):
                if dataset.path in self.datasets:
                    other = self.datasets[dataset.path].file.name
                    self.repeated.append(f"{dataset.path} is in {other} and {path.name}")
                self.datasets[dataset.path] = dataset
        except Refused as error:
            raise ValueError(f"{path} {error}") from error
        except (OSError, RuntimeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is broken: {error}") from error

    def mapped(self, dataset: Dataset) -> torch.Tensor | None:
        """A dataset as a view of its file, whose changes stay in memory.

        Returns:
            None if it must be read: packed, in pieces, or not aligned.

        Raises:
            ValueError: the file has become shorter.
        """
        path = dataset.file
        try:
            if path not in self._mappings:
                with _one_thread:
                    descriptor = dataset.source.file.id.get_vfd_handle()
                self._mappings[path] = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
            return dataset.mapped(self._mappings[path])
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is broken: {dataset.path}: {error}") from error

    def close(self) -> None:
        for file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def shard_names(index: Path) -> list[str]:
    """The files that a `model.weights.json` lists, all of them in its folder.

    Raises:
        ValueError: the index is broken or names a file elsewhere.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{index} has no weight_map.")
    names: dict[str, None] = {}
    for value in weight_map.values():
        for name in value if isinstance(value, list) else [value]:
            names[safe_name(name)] = None
    return list(names)


def _datasets(file: h5py.File, path: Path) -> Iterator[Dataset]:
    import h5py

    seen: dict[int, str] = {}
    size = path.stat().st_size
    waiting: list[tuple[str, h5py.Group]] = [("", file)]
    while waiting:
        prefix, group = waiting.pop()
        for name in group:
            full = f"{prefix}{name}"
            if "/" in name or name == ".":
                raise Refused(f"has an object named {name!r}; not allowed.")
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise Refused(f"has, at {full}, a {type(link).__name__}; not allowed.")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise Refused(f"lists one object as {seen[address]} and {full}.")
            seen[address] = full
            if isinstance(item, h5py.Group):
                waiting.append((f"{full}/", item))
            elif isinstance(item, h5py.Dataset):
                yield _header(item, full, path, size)
            else:
                raise Refused(f"has neither group nor dataset at {full}.")


def _header(dataset: h5py.Dataset, name: str, path: Path, size: int) -> Dataset:
    import h5py

    if dataset.external:
        raise Refused(f"keeps the data of {name} in another file; not allowed.")
    if dataset.is_virtual:
        raise Refused(f"has a virtual dataset at {name}; not allowed.")
    if dataset.shape is None:
        raise Refused(f"has an empty dataset without a shape at {name}.")
    stored = dataset.dtype
    # NumPy's type can be another one than that of the bytes, for floats of odd precision say.
    same = dataset.id.get_type() == h5py.h5t.py_create(stored, logical=True)
    if stored == np.dtype("V2") and str(dataset.attrs.get("dtype")) == "bfloat16":
        dtype = torch.bfloat16
    elif same and stored.isnative and stored.name in DTYPES:
        dtype = DTYPES[stored.name]
    else:
        raise Refused(f"has data of type {stored} at {name}; not supported.")
    header = Dataset(name, dataset.shape, dtype, path, dataset)
    # A header may declare anything, and little data unpack to much.
    if dataset.chunks is not None:
        if not {DEFLATE, SHUFFLE}.issuperset(_filters(dataset)):
            raise Refused(
                f"has {name} compressed by other means than gzip; not supported. "
                "`h5repack -f NONE` undoes it."
            )
        chunk = math.prod(dataset.chunks) * stored.itemsize
        if chunk > max(header.nbytes, MAX_CHUNK_BYTES):
            raise Refused(
                f"has {name}, {header.nbytes:,} bytes, in chunks of {chunk:,}; not allowed."
            )
    elif dataset.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS and header.nbytes:
        offset = dataset.id.get_offset()
        if offset is None or offset + header.nbytes > size:
            raise Refused(
                f"is truncated or broken: {name} declares {header.nbytes:,} bytes of shape "
                f"{header.shape}, the file has {size:,}."
            )
    return header


def _filters(dataset: h5py.Dataset) -> list[int]:
    creation = dataset.id.get_create_plist()
    return [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]


class _Output(io.FileIO):
    """A file that keeps its first failure for later: HDF5 can crash where a write fails."""

    failure: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and self.failure is None:
                done += super().write(view[done:])
        except OSError as error:
            self.failure = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size)
        except OSError as error:
            self.failure = self.failure or error
            return size or 0


class WeightWriter:
    """Writes groups and datasets as Keras does: into one file, or into shards with an index."""

    def __init__(self, path: Path, max_shard_size: float | None = None) -> None:
        self.path = path
        self.max_bytes = None if max_shard_size is None else max_shard_size * 1024**3
        self.files: list[Path] = []
        self.total = 0.0  # Keras writes a float
        self.weight_map: dict[str, Any] = {}
        self._used = 0
        self._output: _Output
        self._file: h5py.File
        self._next_file()

    def _next_file(self) -> None:
        import h5py

        path = self.path
        if self.max_bytes is not None:
            base = path.name.removesuffix(".weights.json").removesuffix(".weights.h5")
            path = path.with_name(f"{base}_{len(self.files):05}.weights.h5")
        if self.files:
            self._close_file()
        self._output = _Output(path, "w+")
        self._file = h5py.File(self._output, "w")
        self.files.append(path)
        self._used = 0

    def _close_file(self) -> None:
        self._file.close()
        self._output.close()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._output.failure is not None:
            raise self._output.failure

    def layer(self, path: str, name: str) -> None:
        """Begin a layer; its `vars` group carries the layer's name."""
        self._group = f"{path}/vars".lstrip("/")
        self._file.create_group(self._group).attrs["name"] = name

    def variable(self, index: int, tensor: torch.Tensor) -> None:
        """Write a variable of the layer begun last.

        Raises:
            ValueError: it is larger than a shard may be.
            OSError: it cannot be written.
        """
        tensor = tensor.detach().cpu()
        nbytes = tensor.numel() * tensor.itemsize
        if self.max_bytes is not None:
            if nbytes > self.max_bytes:
                raise ValueError(
                    f"{self._group}/{index} has {nbytes:,} bytes, more than max_shard_size."
                )
            if self._used + nbytes > self.max_bytes:
                self._next_file()
        self._used += nbytes
        self.total += nbytes
        group = self._file.require_group(self._group)
        if tensor.dtype == torch.bfloat16:
            data = tensor.contiguous().view(torch.int16).numpy().view("V2")
            group.create_dataset(str(index), data=data).attrs["dtype"] = "bfloat16"
        else:
            group.create_dataset(str(index), data=tensor.numpy())
        self._raise_failure()
        self._note(index)

    def _note(self, index: int) -> None:
        """Enter the file; like Keras, in a list as soon as the layer has two variables."""
        layer, file = f"/{self._group}", self.files[-1].name
        if index == 0:
            self.weight_map[layer] = file
            return
        if isinstance(self.weight_map[layer], str):
            self.weight_map[layer] = [self.weight_map[layer]]
        if file not in self.weight_map[layer]:
            self.weight_map[layer].append(file)

    def close(self) -> None:
        self._close_file()
        if self.max_bytes is not None:
            index = {"metadata": {"total_size": self.total}, "weight_map": self.weight_map}
            self.path.write_text(json.dumps(index, indent=4))
            self.files.append(self.path)
