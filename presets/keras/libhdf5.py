"""HDF5's own library on a stranger's file: a program, so that a crash or an endless loop in it is
nobody else's.

It reads a request in JSON. Without `nbytes`, the sizes of datasets by name, it writes
the headers of all datasets, else the data of those named, one after the other. What is wrong with
the file goes to stderr, with the status `REFUSED`.
"""

from __future__ import annotations

import itertools
import json
import math
import signal
import sys
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

REFUSED = 3
# Numbers of the filters that HDF5 packs chunks with.
DEFLATE, SHUFFLE = 1, 2
# Of a chunk that is larger than its dataset.
MAX_CHUNK_BYTES = 16 * 1024**2
DTYPES = {
    *("float16", "float32", "float64", "bool"),
    *("int8", "uint8", "int16", "int32", "int64"),
}


class Refused(ValueError):
    """What is wrong with a file, to be read after its name."""


def datasets(
    file: h5py.File, max_objects: int, max_depth: int
) -> Iterator[tuple[str, str, h5py.Dataset]]:
    """Path, type and handle of each."""
    import h5py

    seen = {h5py.h5o.get_info(file.id).addr: "/"}
    waiting: list[tuple[str, h5py.Group, int]] = [("", file, 0)]
    while waiting:
        prefix, group, depth = waiting.pop()
        if depth > max_depth:
            raise Refused(f"has groups within groups, more than {max_depth}; not allowed.")
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
            if len(seen) == max_objects:
                raise Refused(f"has more than {max_objects:,} groups and datasets; not allowed.")
            seen[address] = full
            if isinstance(item, h5py.Group):
                waiting.append((f"{full}/", item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                yield full, check(item, full), item
            else:
                raise Refused(f"has neither group nor dataset at {full}.")


def check(dataset: h5py.Dataset, name: str) -> str:
    """The type of a dataset, if it may be one of weights."""
    import h5py
    import numpy as np

    if dataset.external:
        raise Refused(f"keeps the data of {name} in another file; not allowed.")
    if dataset.is_virtual:
        raise Refused(f"has a virtual dataset at {name}; not allowed.")
    if dataset.shape is None:
        raise Refused(f"has an empty dataset without a shape at {name}.")
    stored = dataset.dtype
    # NumPy's type can be another one than that of the bytes, for floats of odd precision say.
    same = dataset.id.get_type() == h5py.h5t.py_create(stored, logical=True)
    if stored == np.dtype("V2"):
        dtype = "bfloat16"
    elif same and stored == stored.newbyteorder("<") and stored.name in DTYPES:
        dtype = stored.name
    else:
        raise Refused(f"has data of type {stored} at {name}; not supported.")
    # A header may declare anything, and little data unpack to much.
    nbytes = math.prod(dataset.shape) * stored.itemsize
    if dataset.chunks is not None:
        if not {DEFLATE, SHUFFLE}.issuperset(filters(dataset)):
            raise Refused(
                f"has {name} compressed by other means than gzip; not supported. "
                "`h5repack -f NONE` undoes it."
            )
        chunk = math.prod(dataset.chunks) * stored.itemsize
        if chunk > max(nbytes, MAX_CHUNK_BYTES):
            raise Refused(f"has {name}, {nbytes:,} bytes, in chunks of {chunk:,}; not allowed.")
    elif nbytes > dataset.id.get_storage_size() or nbytes > dataset.file.id.get_filesize():
        raise Refused(
            f"is truncated or broken: {name} declares {nbytes:,} bytes of shape {dataset.shape}, "
            f"the file has {dataset.file.id.get_filesize():,}."
        )
    return str(dtype)


def filters(dataset: h5py.Dataset) -> list[int]:
    """Numbers of the filters that the data went through."""
    creation = dataset.id.get_create_plist()
    return [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]


def read(dataset: h5py.Dataset) -> Any:
    """The data as an array of bytes in the type of the file."""
    import h5py
    import numpy as np

    if dataset.chunks is not None:
        return read_chunks(dataset)
    values = np.empty(dataset.shape, dataset.dtype)
    stored = dataset.id
    stored.read(h5py.h5s.ALL, h5py.h5s.ALL, values, mtype=stored.get_type())
    return values


def read_chunks(dataset: h5py.Dataset) -> Any:
    """Unpack each chunk into no more bytes than it should have; HDF5 knows no such limit."""
    import numpy as np

    values = np.empty(dataset.shape, dataset.dtype)
    stored, chunk_shape, itemsize = dataset.id, dataset.chunks, dataset.dtype.itemsize
    nbytes = math.prod(chunk_shape) * itemsize
    numbers = filters(dataset)
    chunks: list[Any] = []
    stored.chunk_iter(chunks.append)
    starts = [range(0, size, step) for size, step in zip(values.shape, chunk_shape)]
    places = {chunk.chunk_offset for chunk in chunks}
    if len(places) != math.prod(map(len, starts)) or places != set(itertools.product(*starts)):
        raise ValueError("chunks are missing")
    size = dataset.file.id.get_filesize()
    for chunk in chunks:
        if chunk.size > size:
            raise ValueError(f"a chunk of {chunk.size:,} bytes in a file of {size:,}")
        # Without filters h5py takes the size for granted, and HDF5 writes what is stored.
        buffer = bytearray(max(chunk.size, nbytes))
        skipped, _ = stored.read_direct_chunk(chunk.chunk_offset, out=buffer)
        data = bytes(memoryview(buffer)[: chunk.size])
        for i, number in reversed(list(enumerate(numbers))):
            if skipped >> i & 1:
                continue
            if number == DEFLATE:
                data = zlib.decompressobj().decompress(data, nbytes + 1)
            else:
                data = np.frombuffer(data, "u1").reshape(itemsize, -1).T.tobytes()
        if len(data) != nbytes:
            raise ValueError("a chunk unpacks to too many or too few bytes")
        place = values[
            tuple(slice(i, i + length) for i, length in zip(chunk.chunk_offset, chunk_shape))
        ]
        unpacked = np.frombuffer(data, values.dtype).reshape(chunk_shape)
        place[...] = unpacked[tuple(map(slice, place.shape))]
    return values


def limit(seconds: float, output: int, memory: int) -> None:
    """Give up what this process could take from others."""
    try:
        import resource
    except ImportError:  # Windows
        return
    signal.setitimer(signal.ITIMER_PROF, seconds)  # of work; it kills
    limits = {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: output}
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limits[resource.RLIMIT_AS] = used + memory
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def answer(request: dict[str, Any]) -> None:
    """Write what was asked of a file to stdout."""
    import h5py

    try:
        file = h5py.File(request["file"], "r")
    except OSError as error:
        raise Refused(f"is no readable HDF5 file, or truncated: {error}") from error
    name = ""
    try:
        if request["nbytes"] is None:
            found = datasets(file, request["max_objects"], request["max_depth"])
            headers = [(path, item.shape, dtype) for path, dtype, item in found]
            sys.stdout.write(json.dumps(headers))
            return
        for name, nbytes in request["nbytes"].items():
            dataset = file[name]
            check(dataset, name)
            data = read(dataset)
            if data.nbytes != nbytes:
                raise ValueError(f"it has {data.nbytes:,} bytes now")
            sys.stdout.buffer.write(data.reshape(-1).view("u1").data)
    except Refused:
        raise
    except (OSError, RuntimeError, LookupError, TypeError, ValueError, zlib.error) as error:
        raise Refused(f"is broken: {name + ': ' if name else ''}{error}") from error


def main() -> None:
    """Answer one request, in bounded time and memory."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    import h5py  # noqa: F401  # before memory is short

    limit(request["seconds"], request["output"], request["memory"])
    try:
        answer(request)
        sys.stdout.flush()
    except Refused as error:
        sys.stderr.buffer.write(str(error)[:4000].encode("utf-8", "replace"))
        sys.exit(REFUSED)


if __name__ == "__main__":
    main()
