"""The reader of HDF5's index, against h5py on whole files and alone on broken ones."""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from keras_hub_torch.presets.keras import hdf5
from keras_hub_torch.presets.keras.h5 import WeightFile
from keras_hub_torch.presets.keras.hdf5 import Header, Refused, Unknown, read_headers

KINDS = ["f2", "f4", "f8", "u1", "i1", "i2", "i4", "i8", "?", "V2"]
NOWHERE = 2**64 - 1


def content_of(path: Path) -> dict[str, np.ndarray]:
    """What h5py finds."""
    found = {}
    with h5py.File(path) as file:

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[name] = item[()]

        file.visititems(visit)
    return found


def read(path: Path) -> dict[str, torch.Tensor]:
    with WeightFile(path) as file:
        file.unpack(file.datasets.values())
        return {name: dataset.read() for name, dataset in file.datasets.items()}


def bytes_of(value: Any) -> bytes:
    if isinstance(value, torch.Tensor):
        return value.reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.asarray(value).tobytes()


def fill(group: h5py.Group, rng: np.random.Generator, plain: bool, depth: int = 0) -> None:
    """Random datasets and groups."""
    for i in range(rng.integers(0, 9 if depth else 50)):
        # Where a name is beyond ASCII, h5py makes a group of another form.
        name = f"{rng.integers(1000)}_{'' if plain else 'ü' * rng.integers(3)}{i}"
        if depth < 3 and rng.random() < 0.2:
            child = group.create_group(name)
            child.attrs["name"] = "x" * int(rng.integers(1, 2000))
            fill(child, rng, plain, depth + 1)
            continue
        shape = tuple(map(int, rng.integers(0, 6, rng.integers(0, 5))))
        kind = np.dtype(KINDS[rng.integers(len(KINDS))])
        data = rng.integers(0, 2 if kind == "?" else 256, (*shape, kind.itemsize), np.uint8)
        options: dict[str, Any] = {}
        if not plain and shape and 0 not in shape and rng.random() < 0.5:
            options = {"chunks": tuple(min(2, size) for size in shape)}
            options |= {"compression": 1, "shuffle": bool(rng.random() < 0.5)}
        group.create_dataset(name, data=data.view(kind).reshape(shape), **options)
        if rng.random() < 0.3:
            group[name].attrs["note"] = np.arange(rng.integers(20))


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert tuple(found[name].shape) == value.shape, name
        kind = "bfloat16" if value.dtype == "V2" else value.dtype.name
        assert found[name].dtype == getattr(torch, kind), name
        assert bytes_of(found[name]) == bytes_of(value), name


@pytest.mark.parametrize("seed", range(6))
def test_whole_files(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        fill(file, np.random.default_rng(seed), plain=True)
    with path.open("rb") as opened:
        read_headers(opened)  # is enough
    assert_equal(read(path), content_of(path))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"libver": "latest"},
        {"libver": ("v108", "v108")},
        {"track_order": True},
        {"userblock_size": 512},
        {"fs_strategy": "page"},
    ],
    ids=str,
)
def test_files_for_hdf5_itself(tmp_path: Path, options: Any) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", **options) as file:
        fill(file, np.random.default_rng(7), plain=False)
    assert_equal(read(path), content_of(path))


def test_compact_data(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        for i in range(5):
            space = h5py.h5s.create_simple((i, 3))
            name = f"x{i}".encode()
            stored = h5py.h5d.create(file.id, name, h5py.h5t.NATIVE_FLOAT, space, compact)
            stored.write(h5py.h5s.ALL, h5py.h5s.ALL, np.random.rand(i, 3).astype("f4"))
    with path.open("rb") as opened:
        read_headers(opened)
    assert_equal(read(path), content_of(path))


# Broken files


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of all parts: a tree of two levels, a continued header, each type."""
    path = tmp_path_factory.mktemp("small") / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(300):
            file.create_group(f"many/{i}")
        for i, kind in enumerate(KINDS):
            layer = file.create_group(f"layers/layer_{i}/vars")
            layer.attrs["name"] = f"layer_{i}"
            layer["0"] = (
                (np.arange(12) % (2 if kind == "?" else 200))
                .astype("u2" if kind == "V2" else kind)
                .view(kind)
                .reshape(3, 4)
            )
            for j in range(i):
                layer["0"].attrs[f"a{j}"] = np.arange(j)
    return path.read_bytes()


def headers_of(content: bytes, tmp_path: Path) -> list[Header]:
    path = tmp_path / "x.h5"
    path.write_bytes(content)
    with path.open("rb") as opened:
        return read_headers(opened)


def places(content: bytes, signature: bytes) -> list[int]:
    found, place = [], content.find(signature)
    while place >= 0:
        found.append(place)
        place = content.find(signature, place + 1)
    return found


def put(content: bytes, place: int, form: str, *values: int) -> bytes:
    changed = bytearray(content)
    struct.pack_into(form, changed, place, *values)
    return bytes(changed)


def tree(content: bytes, level: int) -> int:
    return next(place for place in places(content, b"TREE\0") if content[place + 5] == level)


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "a tree in itself": lambda c: put(c, tree(c, 1) + 32, "<Q", tree(c, 1)),
    "a tree of one leaf again": lambda c: put(
        c, tree(c, 1) + 32, "<Q", *struct.unpack_from("<Q", c, tree(c, 1) + 48)
    ),
    "a tree too deep": lambda c: put(c, tree(c, 1) + 5, "<B", 200),
    "a tree too wide": lambda c: put(c, tree(c, 1) + 6, "<H", 0xFFFF),
    "a tree of data": lambda c: put(c, tree(c, 0) + 4, "<B", 1),
    "symbols beyond the end": lambda c: put(c, places(c, b"SNOD")[0] + 6, "<H", 0xFFFF),
    "symbols nowhere": lambda c: put(c, places(c, b"SNOD")[0] + 16, "<Q", NOWHERE),
    "a heap nowhere": lambda c: put(c, places(c, b"HEAP")[0] + 24, "<Q", NOWHERE),
    "a heap of nothing": lambda c: put(c, places(c, b"HEAP")[0] + 8, "<Q", 0),
    "a heap of everything": lambda c: put(c, places(c, b"HEAP")[0] + 8, "<Q", 2**62),
    "a root nowhere": lambda c: put(c, 64, "<Q", len(c) - 4),
    "a header of everything": lambda c: put(
        c, struct.unpack_from("<Q", c, 64)[0] + 8, "<I", 2**32 - 1
    ),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_circles_and_sizes(small: bytes, tmp_path: Path, change: Any) -> None:
    with pytest.raises(Refused, match="is broken"):
        headers_of(change(small), tmp_path)


def test_groups_without_end(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(hdf5.MAX_DEPTH + 1):
            group = group.create_group("a")
    with pytest.raises(ValueError, match=r"x\.h5 has groups within groups, more than 256"):
        WeightFile(path)


def test_objects_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(30):
            file[f"x{i}"] = np.float32(i)
    for name, value in (("MAX_OBJECTS", 29), ("MAX_BYTES", 9000)):
        with monkeypatch.context() as patch:
            patch.setattr(hdf5, name, value)
            with pytest.raises(ValueError, match=f"more than {value:,}"):
                WeightFile(path)
    assert len(read(path)) == 30


def test_many_datasets_in_little_time(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        for i in range(5000):
            file[f"layers/{i}"] = np.float32(i)
    start = time.process_time()
    with path.open("rb") as opened:
        assert len(read_headers(opened)) == 5000
    assert time.process_time() - start < 1


def global_heap(content: bytes) -> bytes:
    return put(content, places(content, b"GCOL")[0] + 24, "<Q", 0)


def circle_of_chunks(content: bytes) -> bytes:
    place = places(content, b"TREE\1")[0]
    return put(content, place + 5, "<BHQQ", 1, 1, place, place)


@pytest.mark.parametrize("change", [global_heap, circle_of_chunks])
def test_what_kills_hdf5(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        packed = file.create_dataset("packed", data=np.ones((50, 50), "f4"), chunks=(5, 5))
        packed.attrs["dtype"] = "a text of variable length"
        file["plain"] = np.ones(3, "f4")
    path.write_bytes(change(path.read_bytes()))
    message = f"{path} is broken"
    try:
        assert_equal(read(path), {"packed": np.ones((50, 50), "f4"), "plain": np.ones(3, "f4")})
    except ValueError as error:
        message = str(error)
    assert message.startswith(f"{path} is broken")


def mutated(content: bytes, index: list[int], rng: random.Random) -> bytes:
    """A file with one to three changes to what is not data."""
    blocks = [place for sign in (b"TREE", b"SNOD", b"HEAP") for place in places(content, sign)]
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.choice(index)
        word = place // 8 * 8
        kind = rng.randrange(6)
        if kind == 0:
            content = put(content, place, "<B", content[place] ^ 1 << rng.randrange(8))
        elif kind == 1:
            content = put(content, place, "<B", rng.choice((0, 1, 2, 255)))
        elif kind == 2:
            value = rng.choice((0, 8, 2**31, 2**63, NOWHERE, len(content), word, len(content) - 8))
            content = put(content, word, "<Q", value)
        elif kind == 3:
            content = put(content, word, "<Q", rng.choice(blocks))
        elif kind == 4:
            start = rng.choice(blocks) + 8 * rng.randrange(12)
            value = rng.choice((0, 2**40, NOWHERE, *blocks[:20], start))
            content = put(content, start, "<Q", value)
        elif rng.random() < 0.2:
            content = content[: rng.randrange(len(content))].ljust(64, b"\0")
            return content
    return content


def test_mutated_files(small: bytes, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Refused, or numbers that the file holds where its headers say; at once in any case."""
    whole = headers_of(small, tmp_path)
    expected = {header.path: header for header in whole}
    data = set()
    for header, dataset in zip(whole, sizes(whole)):
        assert header.offset is not None
        data.update(range(header.offset, header.offset + dataset))
    index = [place for place in range(len(small) - 8) if place not in data]
    # Most of a file is room for more; it is the rest that is read.
    index = [place for place in index if small[place // 8 * 8 : place // 8 * 8 + 8] != bytes(8)]
    rng = random.Random(0)
    tries = 10_000 if request.config.getoption("--all-cases") else 500
    outcomes = dict.fromkeys(("refused", "unknown", "read", "died"), 0)
    for _ in range(tries):
        content = mutated(small, index, rng)
        start = time.process_time()
        try:
            found = headers_of(content, tmp_path)
        except Refused:
            outcomes["refused"] += 1
        except Unknown:
            outcomes["unknown"] += 1
            if outcomes["unknown"] <= tries // 250:
                outcomes["died"] += left_to_hdf5(tmp_path / "x.h5", content)
        else:
            outcomes["read"] += 1
            check(found, expected, content, tmp_path / "x.h5")
        assert time.process_time() - start < 1
    print(outcomes)
    assert outcomes["refused"] > tries // 4
    assert outcomes["read"] > tries // 20


def sizes(headers: list[Header]) -> list[int]:
    return [
        int(np.prod(header.shape, dtype=object)) * getattr(torch, header.dtype).itemsize
        for header in headers
    ]


def check(found: list[Header], expected: dict[str, Header], content: bytes, path: Path) -> None:
    with WeightFile(path) as file:
        for header, size in zip(found, sizes(found)):
            value = bytes_of(file.datasets[header.path].read())
            if header.offset is None:
                assert not value
                continue
            assert value == content[header.offset : header.offset + size]
            whole = expected.get(header.path)
            if whole is not None and header.offset == whole.offset:
                assert content[whole.offset : whole.offset + size] == value


def left_to_hdf5(path: Path, content: bytes) -> bool:
    """Whether HDF5 dies of a file, in its own process."""
    try:
        found = read(path)
    except ValueError as error:
        return "HDF5 fails" in str(error)
    for name, value in found.items():
        assert bytes_of(value) in content, name
    return False
