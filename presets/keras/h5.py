"""Reading and writing `.weights.h5` files.

A file comes from a stranger: all headers are looked at before any data is read. What is not as
h5py writes it is left to HDF5's own library, in another process.
"""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import torch

from ..files import read_json, refuse_pointer, safe_name
from ..reading import read_into, read_view_into
from ..refusals import shortened
from ..staging import read_to_device
from . import libhdf5
from .hdf5 import MAX_BYTES, MAX_DEPTH, MAX_OBJECTS, Header, Refused, Unknown, read_headers

if TYPE_CHECKING:
    import h5py
    from typing_extensions import Self


@dataclass
class Dataset:
    """A dataset's header, and where its data are.

    Attributes:
        source: the open file that has the data from `offset` on, in one piece.
        packed: whether `WeightFile.unpack` must make such a file first.
    """

    path: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    source: IO[bytes]
    offset: int | None
    packed: bool

    @property
    def nbytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def read(self, target: torch.Tensor | None = None) -> torch.Tensor:
        """The data, read once, into memory of its own or into a tensor of any strides and dtype.

        Raises:
            ValueError: the file has become shorter.
        """
        if target is None:
            target = torch.empty(self.shape, dtype=self.dtype, device="cpu")
        if not target.numel():
            return target
        if self.offset is None:
            raise RuntimeError(f"{self.path} is not unpacked.")
        try:
            read_into(target, self.source.fileno(), self.offset, self.dtype)
        except OSError as error:
            raise ValueError(f"{self.file} is broken: {self.path}: {error}") from error
        return target

    def read_view(self, view: torch.Tensor, target: torch.Tensor) -> None:
        """As `parts.Readable.read_view`.

        Raises:
            ValueError: the file has become shorter.
        """
        if self.offset is None:
            raise RuntimeError(f"{self.path} is not unpacked.")
        try:
            read_view_into(target, self.source.fileno(), self.offset, self.dtype, view)
        except OSError as error:
            raise ValueError(f"{self.file} is broken: {self.path}: {error}") from error

    def read_to_device(self, device: torch.device) -> torch.Tensor:
        """The data in new memory of a device.

        Raises:
            ValueError: the file has become shorter.
        """
        if self.offset is None:
            return self.read().to(device)
        try:
            return read_to_device(self.source.fileno(), self.offset, self.shape, self.dtype, device)
        except OSError as error:
            raise ValueError(f"{self.file} is broken: {self.path}: {error}") from error


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
        self._open_files = contextlib.ExitStack()
        self._mappings: dict[IO[bytes], mmap.mmap] = {}
        try:
            for file in shards if self.path.suffix == ".json" else [self.path]:
                self._open(file)
        except BaseException:
            self.close()
            raise

    def _open(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}.")
        refuse_pointer(path)
        file = self._open_files.enter_context(path.open("rb"))
        try:
            headers, packed = read_headers(file), False
        except Unknown:
            headers, packed = _list(path), True
        except Refused as error:
            raise ValueError(f"{path} {shortened(str(error))}") from error
        for header in headers:
            if header.path in self.datasets:
                other = self.datasets[header.path].file.name
                self.repeated.append(f"{header.path} is in {other} and {path.name}")
            dtype = getattr(torch, header.dtype)
            self.datasets[header.path] = Dataset(
                header.path, header.shape, dtype, path, file, header.offset, packed
            )

    def unpack(self, datasets: Iterable[Dataset]) -> None:
        """Make what the file does not hold in one piece ready to be read.

        Raises:
            ValueError: it is broken.
        """
        packed: dict[Path, list[Dataset]] = {}
        for dataset in datasets:
            if dataset.packed:
                packed.setdefault(dataset.file, []).append(dataset)
        for path, chosen in packed.items():
            source: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
            self._open_files.enter_context(source)
            _ask_hdf5(path, source, {dataset.path: dataset.nbytes for dataset in chosen})
            offset = 0
            for dataset in chosen:
                dataset.source, dataset.offset = source, offset
                offset += dataset.nbytes

    def mapped(self, dataset: Dataset) -> torch.Tensor | None:
        """A dataset as a view of its file, whose changes stay in memory.

        Returns:
            None if it must be read: without data, unpacked, or not aligned.

        Raises:
            ValueError: the file has become shorter.
        """
        offset, source = dataset.offset, dataset.source
        if offset is None or dataset.packed or offset % dataset.dtype.itemsize:
            return None
        count = torch.Size(dataset.shape).numel()
        try:
            if source not in self._mappings:
                self._mappings[source] = mmap.mmap(source.fileno(), 0, access=mmap.ACCESS_COPY)
            mapping = self._mappings[source]
            flat = torch.frombuffer(mapping, dtype=dataset.dtype, count=count, offset=offset)
        except (OSError, ValueError) as error:
            raise ValueError(f"{dataset.file} is broken: {dataset.path}: {error}") from error
        return flat.view(dataset.shape)

    def close(self) -> None:
        self._open_files.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _list(path: Path) -> list[Header]:
    with tempfile.TemporaryFile() as answer:
        _ask_hdf5(path, answer)
        return [Header(name, tuple(shape), dtype, None) for name, shape, dtype in json.load(answer)]


def _ask_hdf5(path: Path, answer: IO[bytes], sizes: dict[str, int] | None = None) -> None:
    """Let the program `libhdf5` write all headers to a file, or the data of what is named.

    Raises:
        ValueError: something is wrong with the file, or HDF5 fails on it.
    """
    nbytes = list((sizes or {}).values())
    # Of work: beyond a second no more than the file, or what is asked for, is worth.
    seconds = 1 + (sum(nbytes) / 2**24 if nbytes else min(path.stat().st_size / 2**21, 20))
    request = {
        "path": sys.path,
        "file": str(path),
        "nbytes": sizes,
        "seconds": seconds,
        "output": sum(nbytes) or MAX_BYTES,
        "memory": 2**26 + 4 * max([libhdf5.MAX_CHUNK_BYTES, *nbytes]),
        "max_objects": MAX_OBJECTS,
        "max_depth": MAX_DEPTH,
    }
    try:
        done = subprocess.run(
            [sys.executable, "-I", libhdf5.__file__],
            input=json.dumps(request).encode(),
            stdout=answer,
            stderr=subprocess.PIPE,
            timeout=60 + 4 * seconds,  # the limit is one of work; a machine may be busy
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path} is broken: HDF5 takes too long to read it.") from error
    if done.returncode == libhdf5.REFUSED:
        raise ValueError(f"{path} {shortened(done.stderr.decode(errors='replace'))}")
    if done.returncode:
        raise ValueError(
            f"{path} is broken: HDF5 fails on it, or takes too much time or memory "
            f"(status {done.returncode})."
        )
    answer.seek(0)


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
