"""The index of an HDF5 file as h5py and Keras write it, read without trust in a single byte.

After the HDF5 File Format Specification, version 3: superblock 0 and 1, object headers of version
1, groups with symbol tables, data in one piece. Other parts of the format are `Unknown`.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NOWHERE = 2**64 - 1
# The largest presets have a tenth of it.
MAX_OBJECTS = 100_000
MAX_DEPTH = 256
MAX_BYTES = 64 * 1024**2  # of all that is not data, and of all paths
STEP_BYTES = 64  # what one more step of reading counts for
MAX_RANK = 32

# Messages in an object's header.
NIL, SPACE, TYPE, OLD_FILL, FILL, EXTERNAL, LAYOUT, ATTRIBUTE = 0, 1, 3, 4, 5, 7, 8, 12
COMMENT, OLD_TIME, CONTINUATION, SYMBOLS, TIME, ATTRIBUTES, COUNT = 13, 14, 16, 17, 18, 21, 22
USED = {SPACE, TYPE, EXTERNAL, LAYOUT, SYMBOLS}
UNUSED = {NIL, OLD_FILL, FILL, ATTRIBUTE, COMMENT, OLD_TIME, TIME, ATTRIBUTES, COUNT}
SHARED = 2  # the message is elsewhere
COMPACT, CONTIGUOUS = 0, 1
SOFT_LINK = 2

INTEGER, FLOAT, OPAQUE, ENUMERATION = 0, 1, 5, 8
CLASSES = (
    *("integer", "float", "time", "string", "bit field", "opaque", "compound", "reference"),
    *("enumeration", "variable-length", "array", "complex"),
)


class Refused(ValueError):
    """What is wrong with a file, to be read after its name."""


class Unknown(Exception):
    """A part of the format that this reader does not know."""


class _Broken(Refused):
    def __init__(self, text: str) -> None:
        super().__init__(f"is broken: {text}")


@dataclass(frozen=True)
class Header:
    """A dataset of a file.

    Attributes:
        dtype: its name in PyTorch.
        offset: where its data begin, row-major and in one piece; None without data.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    offset: int | None


def read_headers(file: BinaryIO) -> list[Header]:
    """All datasets of a file.

    Raises:
        Refused: it is broken, or holds what a weight file must not.
        Unknown: it may be in order, but has other parts of the format.
    """
    try:
        return list(_Reader(file).datasets())
    except struct.error as error:
        raise _Broken("a part of its index is too short") from error
    except UnicodeDecodeError as error:
        raise _Broken("a name is no UTF-8") from error


class _Reader:
    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.end = os.fstat(file.fileno()).st_size
        self.rest = MAX_BYTES
        self.seen: set[int] = set()
        self.listed = 0
        self.objects: dict[int, str] = {}

    def datasets(self) -> Iterator[Header]:
        waiting = [("", self.root(), 0)]
        while waiting:
            path, address, depth = waiting.pop()
            self.note(path, address)
            found = self.messages(address)
            if SYMBOLS not in found:
                yield self.dataset(path, found)
                continue
            if found.keys() & USED != {SYMBOLS}:
                raise _Broken(f"{path or '/'} is both group and dataset")
            if depth == MAX_DEPTH:
                raise Refused(f"has groups within groups, more than {MAX_DEPTH}; not allowed.")
            prefix = f"{path}/" if path else ""
            for name, child in self.children(prefix, found[SYMBOLS][0]):
                waiting.append((prefix + name, child, depth + 1))

    def block(self, address: int, length: int) -> bytes:
        """A part of the index."""
        if address + length > self.end:
            raise _Broken("a part of its index lies beyond its end")
        self.spend(length + STEP_BYTES)
        self.file.seek(address)
        data = self.file.read(length)
        if len(data) < length:
            raise _Broken("it ends too early")
        return data

    def spend(self, count: int) -> None:
        self.rest -= count
        if self.rest < 0:
            raise Refused(f"has an index of more than {MAX_BYTES:,} bytes; not allowed.")

    def once(self, address: int) -> int:
        if address in self.seen:
            raise _Broken("its index leads to one place twice")
        self.seen.add(address)
        return address

    def note(self, path: str, address: int) -> None:
        if address in self.objects:
            raise Refused(f"lists one object as {self.objects[address] or '/'} and {path}.")
        self.objects[address] = path

    def root(self) -> int:
        """Where the header of the outermost group lies."""
        start = 0
        while self.signature(start) != SIGNATURE:
            start = start * 2 or 512  # after a user block
            if start >= self.end:
                raise Refused("is no readable HDF5 file, or truncated.")
        if self.end < start + 96:
            raise Refused("is no readable HDF5 file, or truncated.")
        block = self.block(start, 96)
        version, offsets, lengths = block[8], block[13], block[14]
        if start or version > 1 or (offsets, lengths) != (8, 8):
            raise Unknown("superblock")
        base, _, end, driver, _, root = struct.unpack_from("<6Q", block, 28 if version else 24)
        if base or driver != NOWHERE:
            raise Unknown("superblock")
        if end > self.end:
            raise Refused(
                f"is no readable HDF5 file, or truncated: it has {self.end:,} bytes of {end:,}."
            )
        self.end = end
        return int(root)

    def signature(self, start: int) -> bytes:
        self.file.seek(start)
        return self.file.read(len(SIGNATURE))

    def messages(self, address: int) -> dict[int, tuple[bytes, int]]:
        """The messages in an object's header that say what it is, and where they lie."""
        head = self.block(address, 16)
        version, count, length = struct.unpack_from("<BxH4xI", head)
        if head.startswith(b"OHDR"):
            raise Unknown("object header")
        if version != 1:
            raise _Broken("no object is where its index says")
        self.spend(STEP_BYTES * count)
        found: dict[int, tuple[bytes, int]] = {}
        blocks = [(address + 16, length)]
        for start, length in blocks:
            data = self.block(self.once(start), length)
            place = 0
            while count and place < length:
                kind, size, flags = struct.unpack_from("<HHB", data, place)
                place += 8
                content = data[place : place + size]
                if len(content) < size:
                    raise _Broken("a message is longer than its header")
                if kind == CONTINUATION:
                    blocks.append(struct.unpack_from("<QQ", content))
                elif kind in USED:
                    if flags & SHARED:
                        raise Unknown("shared message")
                    if kind in found:
                        raise _Broken("an object says twice what it is")
                    found[kind] = content, start + place
                elif kind not in UNUSED:
                    raise Unknown(f"message {kind}")
                place += size
                count -= 1
        if count:
            raise _Broken("an object's header lacks messages")
        return found

    def children(self, prefix: str, symbols: bytes) -> Iterator[tuple[str, int]]:
        """Names and addresses of a group's objects."""
        tree, heap = struct.unpack_from("<QQ", symbols)
        head = self.block(self.once(heap), 32)
        if head[:5] != b"HEAP\0":
            raise _Broken("no heap is where its index says")
        length, _, address = struct.unpack_from("<3Q", head, 8)
        names = self.block(address, length)
        known: set[str] = set()
        for node in self.leaves(tree):
            head = self.block(self.once(node), 8)
            if head[:5] != b"SNOD\1":
                raise _Broken("no symbols are where its index says")
            (count,) = struct.unpack_from("<H", head, 6)
            for start, child, cached in struct.iter_unpack(
                "<QQI20x", self.block(node + 8, 40 * count)
            ):
                end = names.find(b"\0", start, start + MAX_BYTES)
                if end < 0:
                    raise _Broken("a name lies outside its heap")
                self.spend(len(prefix) + end - start)
                name = names[start:end].decode()
                self.listed += 1
                if self.listed > MAX_OBJECTS:
                    raise Refused(
                        f"has more than {MAX_OBJECTS:,} groups and datasets; not allowed."
                    )
                if cached == SOFT_LINK:
                    raise Refused(f"has, at {prefix}{name}, a SoftLink; not allowed.")
                if "/" in name or name in ("", "."):
                    raise Refused(f"has an object named {name!r}; not allowed.")
                if name in known:
                    raise _Broken(f"{prefix}{name} is there twice")
                known.add(name)
                yield name, child

    def leaves(self, root: int) -> Iterator[int]:
        """The nodes of symbols that a group's tree leads to."""
        waiting: list[tuple[int, int | None]] = [(root, None)]
        while waiting:
            address, expected = waiting.pop()
            head = self.block(self.once(address), 24)
            signature, kind, level, count = struct.unpack_from("<4sBBH", head)
            if (signature, kind) != (b"TREE", 0) or expected not in (None, level):
                raise _Broken("no tree is where its index says")
            # Keys and children take turns.
            content = struct.unpack(f"<{2 * count}Q", self.block(address + 24, 16 * count))
            if level:
                waiting += [(child, level - 1) for child in content[1::2]]
            else:
                yield from content[1::2]

    def dataset(self, path: str, found: dict[int, tuple[bytes, int]]) -> Header:
        if not path or not {SPACE, LAYOUT} <= found.keys():
            raise Refused(f"has neither group nor dataset at {path}.")
        if EXTERNAL in found:
            raise Refused(f"keeps the data of {path} in another file; not allowed.")
        if TYPE not in found:
            raise _Broken(f"{path} has no type")
        shape = _shape(path, found[SPACE][0])
        dtype, itemsize = _dtype(path, found[TYPE][0])
        nbytes = math.prod(shape) * itemsize
        content, place = found[LAYOUT]
        version, kind = struct.unpack_from("<BB", content)
        if version not in (3, 4) or kind not in (COMPACT, CONTIGUOUS):
            raise Unknown("layout")
        if kind == COMPACT:
            (stored,) = struct.unpack_from("<H", content, 2)
            offset, end = place + 4, place + len(content)
        else:
            offset, stored = struct.unpack_from("<QQ", content, 2)
            end = self.end
        if not nbytes:
            return Header(path, shape, dtype, None)
        if stored != nbytes or offset + nbytes > end:
            raise Refused(
                f"is truncated or broken: {path} declares {nbytes:,} bytes of shape {shape}, "
                f"the file has {self.end:,}."
            )
        return Header(path, shape, dtype, offset)


def _shape(path: str, content: bytes) -> tuple[int, ...]:
    version, rank, kind = struct.unpack_from("<BBxB", content)
    if version not in (1, 2) or rank > MAX_RANK:
        raise _Broken(f"{path} has no shape that can be read")
    if version == 2 and kind == 2:
        raise Refused(f"has an empty dataset without a shape at {path}.")
    shape = struct.unpack_from(f"<{rank}Q", content, 8 if version == 1 else 4)
    if any(size >= 2**63 for size in shape):
        raise _Broken(f"{path} has the shape {shape}")
    return shape


def _float(exponent: int, mantissa: int) -> bytes:
    """What is said of a float of IEEE 754 after its class."""
    bits = 1 + exponent + mantissa
    bias = 2 ** (exponent - 1) - 1
    form = (bits // 8, 0, bits, mantissa, exponent, 0, mantissa, bias)
    return struct.pack("<BBxIHHBBBBI", 0x20, bits - 1, *form)


def _integer(bits: int, signed: bool) -> bytes:
    return struct.pack("<BxxIHH", 8 * signed, bits // 8, 0, bits)


TYPES = {
    (FLOAT, _float(5, 10)): "float16",
    (FLOAT, _float(8, 23)): "float32",
    (FLOAT, _float(11, 52)): "float64",
    (INTEGER, _integer(8, False)): "uint8",
    **{(INTEGER, _integer(bits, True)): f"int{bits}" for bits in (8, 16, 32, 64)},
}
BOOLEAN = _integer(8, True) + b"FALSE\0\0\0TRUE\0\0\0\0\0\1"


def _dtype(path: str, content: bytes) -> tuple[str, int]:
    """The type of a dataset, and the size of an element."""
    kind, bits, size = struct.unpack_from("<BBxxI", content)
    version, kind = divmod(kind, 16)
    if version not in (1, 2, 3):
        raise Unknown("type")
    length = {FLOAT: 20, INTEGER: 12}.get(kind, 0)
    dtype = TYPES.get((kind, content[1:length]))
    if (kind, size) == (OPAQUE, 2):  # as Keras stores it
        dtype = "bfloat16"
    elif kind == ENUMERATION and (bits, size) == (2, 1) and _is_boolean(version, content):
        dtype = "bool"
    if dtype is None:
        name = CLASSES[kind] if kind < len(CLASSES) else f"class {kind}"
        order = "big-endian " if kind in (INTEGER, FLOAT) and bits & 1 else ""
        raise Refused(f"has data of type {order}{8 * size}-bit {name} at {path}; not supported.")
    return dtype, size


def _is_boolean(version: int, content: bytes) -> bool:
    names = BOOLEAN if version < 3 else BOOLEAN.replace(b"E\0\0\0", b"E\0")
    return content[9 : 9 + len(names)] == names
