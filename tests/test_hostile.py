"""Presets are downloads from strangers, and saves can fail half-way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras_hub
import numpy as np
import pytest
import safetensors.torch
import torch

import keras_hub_torch
from keras_hub_torch.presets import building, loading
from keras_hub_torch.presets.keras.h5 import Dataset, WeightFile

from . import oracle
from .conftest import Reference
from .test_families import dump

Backbone = keras_hub_torch.models.Backbone
BertBackbone = keras_hub_torch.models.BertBackbone

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}
WEIGHTS = "model.weights.h5"
INDEX = "model.weights.json"
KERNEL = "layers/dense/vars/0"  # [12, 12]
KIBI = 2.0**-20  # of a GiB


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    torch.manual_seed(0)
    BertBackbone(**SMALL).save_to_preset(folder)
    return folder


@pytest.fixture
def preset(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "preset"))


def config_of(preset: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((preset / "config.json").read_text())
    return config


def reconfigure(preset: Path, **changes: Any) -> None:
    config = config_of(preset)
    config["config"] |= changes
    (preset / "config.json").write_text(json.dumps(config))


def edit(preset: Path, change: Callable[[h5py.File], object]) -> None:
    with h5py.File(preset / WEIGHTS, "r+") as file:
        change(file)


def replace(preset: Path, name: str, **options: Any) -> None:
    """Write a dataset anew, with the same data unless told otherwise."""
    with h5py.File(preset / WEIGHTS, "r+") as file:
        data = file[name][()]
        del file[name]
        file.create_dataset(name, **({"data": data} if "shape" not in options else {}) | options)


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails the test where data are read."""

    def read(dataset: Dataset, *args: Any) -> None:
        pytest.fail(f"{dataset.path} is read")

    monkeypatch.setattr(Dataset, "read", read)
    monkeypatch.setattr(WeightFile, "unpack", lambda file, datasets: pytest.fail("unpacked"))


@contextlib.contextmanager
def limited(kind: int, more: int = 0) -> Iterator[None]:
    soft, hard = resource.getrlimit(kind)
    if kind == resource.RLIMIT_AS:
        more += int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(kind, (more, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


# Configurations


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no valid JSON"),
        (b'{"registered_name": "keras_hub>Bert', "no valid JSON"),
        (bytes(range(256)), "no valid JSON"),
        (b"[" * 10**6, "no valid JSON"),
        (b'{"a":' * 10**5, "no valid JSON"),
        (b'{"a":' + b"1" * 10**5 + b"}", "no valid JSON"),
        (b" " * 70 * 2**20, "larger than"),
        (b"[]", "must hold a JSON object, not list"),
        (b"null", "must hold a JSON object, not NoneType"),
        (b"{}", "neither a Keras class"),
        (b'{"registered_name": "keras_hub>BertBackbone", "config": []}', "neither a Keras class"),
        (b'{"registered_name": ["x"], "config": {}}', "neither a Keras class"),
    ],
)
def test_no_configuration(preset: Path, content: bytes, message: str) -> None:
    (preset / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        Backbone.from_preset(preset)
    assert str(preset) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("place", ["nothing", "folder", "pipe"])
def test_no_configuration_file(preset: Path, place: str) -> None:
    config = preset / "config.json"
    config.unlink()
    if place == "folder":
        config.mkdir()
    elif place == "pipe":
        os.mkfifo(config)
    with pytest.raises(FileNotFoundError, match=r"has no file 'config\.json'"):
        Backbone.from_preset(preset)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("keras_hub>BertBackbon", "unknown class.*The nearest is BertBackbone"),
        ("keras_hub>BertTokenizer", "unknown class 'keras_hub>BertTokenizer'"),
        ("keras_hub>BertTextClassifier", "unknown class"),
        ("keras_hub>Backbone", "unknown class"),
        ("keras_hub>FeaturePyramidBackbone", "unknown class"),
        ("keras_hub>__init__", "unknown class"),
        ("keras_hub>os.system", "unknown class"),
        ("somebody>BertBackbone", "unknown class 'somebody>BertBackbone'"),
        ("Functional", "unknown class"),
    ],
)
@pytest.mark.parametrize("load_weights", [True, False])
def test_unknown_classes(preset: Path, name: str, message: str, load_weights: bool) -> None:
    (preset / "config.json").write_text(
        json.dumps({**config_of(preset), "registered_name": name, "module": "os"})
    )
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(preset, load_weights)


def test_old_and_missing_packages(preset: Path, whole: Path) -> None:
    for name in ("keras_nlp>BertBackbone", "BertBackbone", None):
        (preset / "config.json").write_text(
            json.dumps({**config_of(preset), "registered_name": name})
        )
        oracle.assert_same(Backbone.from_preset(preset), Backbone.from_preset(whole))


def test_classes_that_are_not_there_yet(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keras_hub_torch.backbones._registry.find_class", lambda name, base: None)
    monkeypatch.setattr(loading, "find_class", lambda name, base: None)
    with pytest.raises(
        NotImplementedError, match=r"BertBackbone.* not part of keras_hub_torch yet"
    ):
        Backbone.from_preset(preset)


def test_foreign_classes(preset: Path) -> None:
    with pytest.raises(ValueError, match="of class BertBackbone, which is not a GPT2Backbone"):
        keras_hub_torch.models.GPT2Backbone.from_preset(preset)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("num_layers", "2", "num_layers must be int, not '2'"),
        ("num_layers", None, "num_layers must be int, not None"),
        ("num_layers", [2], r"num_layers must be int, not \[2\]"),
        ("num_layers", {}, "num_layers must be int, not {}"),
        ("num_layers", 2.5, "num_layers must be int, not 2.5"),
        ("num_layers", float("nan"), "num_layers must be int, not nan"),
        ("num_layers", float("inf"), "num_layers must be int, not inf"),
        ("num_layers", -1, "num_layers=-1 must be at least 0"),
        ("num_layers", 0, "does not fit the model"),
        ("num_layers", 10**12, "num_layers is 10.*; 1,000 is the most"),
        ("num_heads", 0, "num_heads=0 must be at least 1"),
        ("num_heads", 5, "does not fit the model"),
        ("num_heads", -2, "num_heads=-2 must be at least 1"),
        ("hidden_dim", 10**12, "No BertBackbone can be built"),
        ("hidden_dim", 2**63, "No BertBackbone can be built"),
        ("hidden_dim", -12, "hidden_dim=-12 must be at least 1"),
        ("vocabulary_size", 10**30, "No BertBackbone can be built"),
        ("vocabulary_size", 10**9, "does not fit the model"),
        ("max_sequence_length", 10**12, "does not fit the model"),
        ("dropout", "x", "dropout must be float, not 'x'"),
        ("dropout", float("nan"), "dropout must be float, not nan"),
        ("dropout", 7, "dropout=7 must be from 0 to 1"),
        ("trainable", "no", "trainable must be bool, not 'no'"),
        ("name", 7, "name must be"),
        ("dtype", 7, "dtype must be"),
        ("dtype", {"class_name": "DTypePolicyMap"}, "Cannot read a dtype policy"),
        ("dtype", {"class_name": "os.system", "config": {"name": "x"}}, "Cannot read"),
        ("flash", True, "has no argument 'flash'"),
        ("num_layer", 2, "has no argument 'num_layer'; did you mean 'num_layers'"),
    ],
)
def test_nonsense_in_configurations(
    preset: Path, key: str, value: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "MAX_CALLS", 5_000)
    reconfigure(preset, **{key: value})
    with limited(resource.RLIMIT_AS, 2**28), pytest.raises(ValueError, match=message):
        Backbone.from_preset(preset)


def test_all_nonsense_is_listed(preset: Path) -> None:
    reconfigure(preset, num_layers="2", flash=True, dropout=[])
    with pytest.raises(ValueError, match="num_layers") as caught:
        Backbone.from_preset(preset)
    assert "flash" in str(caught.value)
    assert "dropout" in str(caught.value)


def test_missing_arguments(preset: Path) -> None:
    config = config_of(preset)
    del config["config"]["hidden_dim"]
    (preset / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="missing a required argument: 'hidden_dim'"):
        Backbone.from_preset(preset)


@pytest.mark.usefixtures("unread")
def test_overrides(preset: Path) -> None:
    for load_weights in (True, False):
        with pytest.raises(TypeError, match="no argument 'num_layer'; did you mean 'num_layers'"):
            Backbone.from_preset(preset, load_weights, num_layer=3)
        with pytest.raises(TypeError, match="num_layers must be int, not '3'"):
            Backbone.from_preset(preset, load_weights, num_layers="3")
        with pytest.raises(TypeError, match="'xyz'; it has vocabulary_size, num_layers"):
            Backbone.from_preset(preset, load_weights, xyz=3)
    with pytest.raises(ValueError, match=r"\(16 problems\)(.|\n)*missing: .*transformer_layers.2"):
        Backbone.from_preset(preset, num_layers=3)
    with pytest.raises(ValueError, match=r"superfluous: layers/transformer_encoder_1/"):
        Backbone.from_preset(preset, num_layers=1)


# Weights


@pytest.mark.usefixtures("unread")
def test_all_misfits_are_listed(preset: Path) -> None:
    def change(file: h5py.File) -> None:
        vars = file["layers/dense/vars"]
        del vars["0"], vars["1"]
        vars["0"] = np.zeros((12, 13), "float32")
        vars["7"] = np.zeros(3, "float32")
        del file["layers/embedding/vars/0"]
        file["layers/embedding/vars/0"] = np.zeros((2, 12), "int32")

    edit(preset, change)
    with pytest.raises(ValueError, match=r"4 problems") as caught:
        Backbone.from_preset(preset)
    lines = str(caught.value).splitlines()
    assert sorted(lines[1:]) == [
        "  dtype: layers/embedding/vars/0 is torch.int32, the model's segment_embedding.weight "
        "torch.float32",
        "  missing: layers/dense/vars/1 (12,) for pooled_dense.bias",
        "  shape: layers/dense/vars/0 is (12, 13), the model's pooled_dense.weight (12, 12)",
        "  superfluous: layers/dense/vars/7",
    ]
    assert str(preset / WEIGHTS) in lines[0]


def test_truncated_files(preset: Path) -> None:
    data = (preset / WEIGHTS).read_bytes()
    cuts = [0, 1, 8, 9, 48, 96, 100, 800, 2048]
    cuts += [len(data) * i // 7 for i in range(1, 7)] + [len(data) - 577, len(data) - 1]
    for cut in cuts:
        (preset / WEIGHTS).write_bytes(data[:cut])
        with pytest.raises(ValueError, match=r"model\.weights\.h5 is no readable HDF5 file, or"):
            Backbone.from_preset(preset)


def test_truncated_behind_the_back_of_hdf5(preset: Path) -> None:
    """The file's own idea of its length is cut, too."""
    data = bytearray((preset / WEIGHTS).read_bytes())
    assert data[40:48] == len(data).to_bytes(8, "little")
    data[40:48] = (len(data) - 3000).to_bytes(8, "little")
    (preset / WEIGHTS).write_bytes(data[:-3000])
    with pytest.raises(ValueError, match="broken"):
        Backbone.from_preset(preset)


def test_damaged_files(preset: Path) -> None:
    """Whatever bytes change, there is an error or a model, and the error names the file."""
    data = (preset / WEIGHTS).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(data)
        for place in rng.integers(0, len(data), 40):
            damaged[place] = rng.integers(256)
        (preset / WEIGHTS).write_bytes(damaged)
        with contextlib.suppress(ValueError):
            Backbone.from_preset(preset)
            continue
        with pytest.raises(ValueError, match=re.escape(str(preset / WEIGHTS))):
            Backbone.from_preset(preset)
        refused += 1
    assert refused > 50


@pytest.mark.parametrize("content", [b"hello " * 99, b"\x89HDF\r\n\x1a\n" + bytes(5000)])
def test_other_files(preset: Path, content: bytes) -> None:
    (preset / WEIGHTS).write_bytes(content)
    with pytest.raises(ValueError, match="no readable HDF5 file"):
        Backbone.from_preset(preset)


def put(name: str, value: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = value

    return change


def virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((12, 12), "float32")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (12, 12))
    del file[KERNEL]
    file.create_virtual_dataset(KERNEL, layout)


def hard_link(source: str, target: str) -> Callable[[h5py.File], None]:
    return lambda file: put(target, file[source])(file)


def without_a_name(file: h5py.File) -> None:
    h5py.h5g.create(file["layers"].id, b"\xff\xfe")


def of_type(kind: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[KERNEL]
        file.create_dataset(KERNEL, shape=(12, 12), dtype=kind)

    return change


def low_level(kind: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[KERNEL]
        h5py.h5d.create(file.id, KERNEL.encode(), kind, h5py.h5s.create_simple((12, 12)))

    return change


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("layers/x", h5py.SoftLink(f"/{KERNEL}")), "at layers/x, a SoftLink; not allowed"),
        (put(KERNEL, h5py.SoftLink("/layers/embedding/vars/0")), "SoftLink"),
        (put("layers/x", h5py.SoftLink("/nowhere")), "SoftLink"),
        (put(KERNEL, h5py.ExternalLink("/etc/passwd", "/")), "ExternalLink; not allowed"),
        (put("layers/dense/vars", h5py.ExternalLink("other.h5", "/")), "ExternalLink"),
        (virtual, "virtual dataset at layers/dense/vars/0; not allowed"),
        (hard_link(KERNEL, "layers/dense/vars/2"), "lists one object as"),
        (hard_link("layers/embedding/vars/0", KERNEL), "lists one object as"),
        (hard_link("layers", "layers/dense/loop"), "lists one object as layers and"),
        (hard_link("/", "layers/loop"), "lists one object as"),
        (hard_link("layers/dense", "layers/add/dense"), "lists one object as"),
        (without_a_name, "broken"),
        (put("layers/x", np.dtype("float32")), "neither group nor dataset at layers/x"),
        (put(f"{KERNEL}/0", 1.0), "missing: layers/dense/vars/0"),
        (put("layers/dense/vars", 1.0), "missing: (.|\n)*superfluous: layers/dense/vars"),
        (put(KERNEL, h5py.Empty("float32")), "without a shape"),
        (put(KERNEL, np.zeros((0, 12), "float32")), r"is \(0, 12\), the model's"),
        (put(KERNEL, np.zeros((), "float32")), r"is \(\), the model's"),
        (of_type("S12"), "data of type 96-bit string at layers/dense/vars/0"),
        (of_type(h5py.string_dtype()), "data of type 128-bit variable-length"),
        (of_type(h5py.vlen_dtype("float32")), "data of type 128-bit variable-length"),
        (of_type(h5py.ref_dtype), "data of type 64-bit reference"),
        (of_type("complex64"), "data of type 64-bit compound"),
        (of_type(">f4"), "data of type big-endian 32-bit float"),
        (of_type("g"), "data of type 128-bit float"),
        (of_type(np.dtype([("a", "f4"), ("b", "f4")])), "data of type"),
        (of_type(np.dtype(("f4", 3))), "data of type"),
        (of_type("V4"), "data of type 32-bit opaque"),
        (put(KERNEL, np.zeros((12, 12), "int32")), "is torch.int32"),
        (put(KERNEL, np.zeros((12, 12), "bool")), "is torch.bool"),
        (low_level(h5py.h5t.UNIX_D32LE), "data of type 32-bit time"),
    ],
)
def test_what_is_refused(preset: Path, change: Callable[[h5py.File], None], message: str) -> None:
    if message.startswith("missing: layers/dense/vars/0"):  # a group instead of a dataset
        edit(preset, lambda file: file.pop(KERNEL))
    edit(preset, change)
    with pytest.raises(ValueError, match=message) as caught:
        Backbone.from_preset(preset)
    assert str(preset / WEIGHTS) in str(caught.value)


@pytest.mark.usefixtures("unread")
def test_external_storage(preset: Path) -> None:
    secret = preset.parent / "secret"
    secret.write_bytes(bytes(12 * 12 * 4))
    external = [(str(secret), 0, h5py.h5f.UNLIMITED)]
    replace(preset, KERNEL, shape=(12, 12), dtype="float32", external=external)
    with pytest.raises(ValueError, match="in another file; not allowed"):
        Backbone.from_preset(preset)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "declares 4,398,046,511,104 bytes of shape"),
        ({"chunks": (512, 512)}, r"is \(1048576, 1048576\), the model's"),
        ({"chunks": (512, 512), "compression": 9, "fillvalue": 1}, "is .1048576, 1048576."),
        ({"chunks": (512, 512), "compression": "lzf"}, "by other means than gzip"),
    ],
)
def test_terabytes_declared(preset: Path, options: Any, message: str) -> None:
    replace(preset, KERNEL, shape=(2**20, 2**20), dtype="float32", **options)
    assert (preset / WEIGHTS).stat().st_size < 10**6
    with limited(resource.RLIMIT_AS, 2**28), pytest.raises(ValueError, match=message):
        Backbone.from_preset(preset)


BOMB = zlib.compress(bytes(2**28), 1)


def test_chunks_that_unpack_to_more(preset: Path) -> None:
    """HDF5 would unpack the 256 MiB into memory before it takes what it needs."""
    replace(preset, KERNEL, shape=(12, 12), dtype="float32", chunks=(12, 12), compression=1)
    edit(preset, lambda file: file[KERNEL].id.write_direct_chunk((0, 0), BOMB))
    with limited(resource.RLIMIT_AS, 2**27), pytest.raises(ValueError, match="unpacks to too"):
        Backbone.from_preset(preset)


def test_chunks_that_unpack_twice(preset: Path) -> None:
    def change(file: h5py.File) -> None:
        del file[KERNEL]
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((12, 12))
        creation.set_deflate(1)
        creation.set_deflate(1)
        space = h5py.h5s.create_simple((12, 12))
        dataset = h5py.h5d.create(file.id, KERNEL.encode(), h5py.h5t.IEEE_F32LE, space, creation)
        dataset.write_direct_chunk((0, 0), zlib.compress(BOMB))

    edit(preset, change)
    with limited(resource.RLIMIT_AS, 2**27), pytest.raises(ValueError, match="is broken"):
        Backbone.from_preset(preset)


@pytest.mark.usefixtures("unread")
def test_chunks_larger_than_their_data(preset: Path) -> None:
    replace(
        preset,
        KERNEL,
        shape=(12, 12),
        maxshape=(None, None),
        chunks=(2**13, 2**13),
        dtype="float32",
        compression=1,
    )
    edit(preset, lambda file: file[KERNEL].id.write_direct_chunk((0, 0), BOMB))
    with limited(resource.RLIMIT_AS, 2**27), pytest.raises(ValueError, match="in chunks of"):
        Backbone.from_preset(preset)


def test_missing_chunks(preset: Path) -> None:
    replace(preset, KERNEL, shape=(12, 12), dtype="float32", chunks=(5, 12), fillvalue=1)
    with pytest.raises(ValueError, match="chunks are missing"):
        Backbone.from_preset(preset)
    edit(preset, lambda file: file[KERNEL].write_direct(np.zeros((12, 12), "float32")))
    Backbone.from_preset(preset)


def test_chunks_longer_than_they_are(preset: Path) -> None:
    """A chunk without filters whose entry in the index says that more is stored."""
    replace(preset, KERNEL, chunks=(12, 12), compression=1)
    data = (preset / WEIGHTS).read_bytes()
    with h5py.File(preset / WEIGHTS) as file:
        length = file[KERNEL].id.get_chunk_info(0).size
    assert length > 12 * 12 * 4
    # The message that lists the filters becomes one that readers skip.
    start = data.rindex(b"\x0b\x00", 0, data.index(b"deflate"))
    (preset / WEIGHTS).write_bytes(data[:start] + b"\xd2" + data[start + 1 :])
    with pytest.raises(ValueError, match="is broken: layers/dense/vars/0"):
        Backbone.from_preset(preset)


def test_damaged_chunks(preset: Path) -> None:
    replace(preset, KERNEL, chunks=(12, 12), compression=4)
    with h5py.File(preset / WEIGHTS) as file:
        chunk = file[KERNEL].id.get_chunk_info(0)
    data = bytearray((preset / WEIGHTS).read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 20] = b"\xff" * 20
    (preset / WEIGHTS).write_bytes(data)
    with pytest.raises(ValueError, match=r"weights\.h5 is broken: layers/dense/vars/0"):
        Backbone.from_preset(preset)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": 4},
        {"compression": 9, "shuffle": True, "chunks": (5, 7)},
        {"shuffle": True, "chunks": (5, 7)},
        {"chunks": (12, 1)},
        {"chunks": (20, 20), "maxshape": (None, None)},
    ],
)
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_repacked_files(whole: Path, preset: Path, options: Any, kind: str) -> None:
    """What `h5repack -l CHUNK -f SHUF -f GZIP` and the like make of a file."""
    BertBackbone.from_preset(whole, dtype=kind).save_to_preset(preset)
    expected = Backbone.from_preset(preset, dtype=kind)
    with h5py.File(preset / WEIGHTS) as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        matrices = [name for name in names if file[name].ndim == 2 and len(file[name]) > 9]
    for name in matrices:
        replace(preset, name, **options)
    if kind == "bfloat16":
        edit(preset, lambda file: [file[name].attrs.create("dtype", kind) for name in matrices])
    oracle.assert_same(Backbone.from_preset(preset, dtype=kind), expected)


@pytest.mark.parametrize(
    "options",
    [
        {"userblock_size": 1024},
        {"libver": "latest"},
        {"libver": ("v110", "v112")},
        {"fs_strategy": "page", "fs_page_size": 4096},
        {"track_order": True},
    ],
)
def test_other_ways_to_write_hdf5(whole: Path, preset: Path, options: Any) -> None:
    with h5py.File(whole / WEIGHTS) as old, h5py.File(preset / WEIGHTS, "w", **options) as new:
        old.copy("layers", new)
    oracle.assert_same(Backbone.from_preset(preset), Backbone.from_preset(whole))


@pytest.mark.parametrize("kind", ["float64", "float16"])
def test_other_floats(whole: Path, preset: Path, kind: str) -> None:
    expected = Backbone.from_preset(whole)
    expected.pooled_dense.weight.data = expected.pooled_dense.weight.half().float()
    with h5py.File(preset / WEIGHTS) as file:
        data = file[KERNEL][()].astype("float16").astype(kind)
    replace(preset, KERNEL, data=data)
    oracle.assert_same(Backbone.from_preset(preset), expected)


def test_large_attributes(whole: Path, preset: Path) -> None:
    def change(file: h5py.File) -> None:
        file["layers/dense/vars"].attrs["name"] = "x" * 60_000
        file[KERNEL].attrs["dtype"] = np.arange(9)
        for i in range(100):
            file[KERNEL].attrs[f"junk{i}"] = np.zeros(1000)

    edit(preset, change)
    oracle.assert_same(Backbone.from_preset(preset), Backbone.from_preset(whole))


def test_many_and_deep_groups(whole: Path, preset: Path) -> None:
    def change(file: h5py.File) -> None:
        group = file
        for _ in range(200):
            group = group.create_group("a")
        for i in range(2000):
            file.create_group(f"b/{i}")

    edit(preset, change)
    oracle.assert_same(Backbone.from_preset(preset), Backbone.from_preset(whole))


def test_a_weight_file_is_closed(preset: Path) -> None:
    with WeightFile(preset / WEIGHTS) as file:
        source = file.datasets[KERNEL].source
        assert not source.closed
    assert source.closed
    edit(preset, put("layers/x", h5py.SoftLink("/nowhere")))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        with pytest.raises(ValueError, match="SoftLink"):
            WeightFile(preset / WEIGHTS)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# Shards


@pytest.fixture
def shards(whole: Path, tmp_path: Path) -> Path:
    """A preset whose layers are split over shards."""
    Backbone.from_preset(whole).save_to_preset(tmp_path / "shards", max_shard_size=2.25 * KIBI)
    return tmp_path / "shards"


def reindex(shards: Path, change: Callable[[dict[str, Any]], object]) -> None:
    index = json.loads((shards / INDEX).read_text())
    change(index["weight_map"])
    (shards / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("size", [2.25, 3, 5, 6.5, 10])
def test_shards_are_kerashubs(bert: Reference, tmp_path: Path, size: float) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    bert.model.save_to_preset(str(theirs), max_shard_size=size * KIBI)
    model = Backbone.from_preset(theirs)
    oracle.assert_same(model, bert.load())
    model.save_to_preset(ours, max_shard_size=size * KIBI)
    names = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    assert sum(name.endswith(".h5") for name in names) > 1
    assert (ours / INDEX).read_bytes() == (theirs / INDEX).read_bytes()
    dumps = {
        folder: {path.name: dump(path) for path in folder.glob("*.h5")} for folder in (theirs, ours)
    }
    assert dumps[ours] == dumps[theirs]
    split = [
        files
        for files in json.loads((ours / INDEX).read_text())["weight_map"].values()
        if isinstance(files, list) and len(files) > 1
    ]
    assert len(split) == (size != 5)
    again = keras_hub.models.Backbone.from_preset(str(ours))
    for mine, weight in zip(again.weights, bert.model.weights):
        np.testing.assert_array_equal(mine.numpy(), weight.numpy())


def test_saved_weights_in_shards(whole: Path, tmp_path: Path) -> None:
    model = Backbone.from_preset(whole)
    model.save_weights(tmp_path / "mine.weights.json", max_shard_size=5 * KIBI)
    assert len(list(tmp_path.glob("mine_0000?.weights.h5"))) > 2
    other = BertBackbone(**SMALL)
    other.load_weights(tmp_path / "mine.weights.json")
    oracle.assert_same(other, model)


def test_weights_larger_than_a_shard(whole: Path, tmp_path: Path) -> None:
    model = Backbone.from_preset(whole)
    for size in (KIBI, 0, -1):
        with pytest.raises(ValueError, match="has 1,776 bytes, more than max_shard_size"):
            model.save_to_preset(tmp_path / "new", max_shard_size=size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        "../preset/model.weights.h5",
        "/etc/passwd",
        "a/b.weights.h5",
        "..",
        ".",
        "",
        "C:x",
        "..\\x",
        "x\0",
        7,
        None,
        ["../x"],
        [["x"]],
        {},
    ],
)
@pytest.mark.usefixtures("preset")
def test_shards_elsewhere(shards: Path, name: Any) -> None:
    reindex(shards, lambda weight_map: weight_map.update({"/layers/dense/vars": name}))
    with pytest.raises(ValueError, match="is no plain file name"):
        Backbone.from_preset(shards)
    with pytest.raises(ValueError, match="is no plain file name"):
        BertBackbone(**SMALL).load_weights(shards / INDEX)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": null}'])
def test_broken_indexes(shards: Path, content: str) -> None:
    (shards / INDEX).write_text(content)
    with pytest.raises(ValueError, match=r"model\.weights\.json"):
        Backbone.from_preset(shards)


def test_an_index_of_nothing(shards: Path) -> None:
    (shards / INDEX).write_text('{"weight_map": {}}')
    with pytest.raises(ValueError, match="39 problems"):
        Backbone.from_preset(shards)


def test_missing_shards(shards: Path) -> None:
    (shards / "model_00003.weights.h5").unlink()
    with pytest.raises(FileNotFoundError, match=r"model_00003\.weights\.h5"):
        Backbone.from_preset(shards)
    with pytest.raises(FileNotFoundError, match=r"model_00003\.weights\.h5"):
        BertBackbone(**SMALL).load_weights(shards / INDEX)
    shutil.copy(shards / "model_00002.weights.h5", shards / "model_00003.weights.h5")
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        Backbone.from_preset(shards)
    text = str(caught.value)
    assert re.search(r"repeated: \S+ is in model_0000[23]\S+ and model_0000[23]", text)
    assert "missing: " in text


def test_shards_listed_more_than_once(shards: Path, whole: Path) -> None:
    name = "model_00000.weights.h5"
    reindex(shards, lambda weight_map: weight_map.update(x=name, y=[name] * 3))
    oracle.assert_same(Backbone.from_preset(shards), Backbone.from_preset(whole))


def test_shards_that_are_not_listed(shards: Path) -> None:
    last = sorted(shards.glob("*.h5"))[-1].name
    reindex(shards, lambda m: [m.pop(k) for k, v in list(m.items()) if last in v])
    with pytest.raises(ValueError, match="missing: "):
        Backbone.from_preset(shards)


def test_hub_caches_are_full_of_links(shards: Path, whole: Path, tmp_path: Path) -> None:
    """Every file of a snapshot is a link to a blob elsewhere."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    for i, path in enumerate(shards.iterdir()):
        path.rename(tmp_path / "blobs" / str(i))
        (tmp_path / "snapshot" / path.name).symlink_to(f"../blobs/{i}")
    oracle.assert_same(Backbone.from_preset(tmp_path / "snapshot"), Backbone.from_preset(whole))


def test_shards_are_checked_before_any_is_read(shards: Path, unread: None) -> None:
    last = sorted(shards.glob("*.h5"))[-1]
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"{last.name} is no readable HDF5 file"):
        Backbone.from_preset(shards)


# Safetensors


@pytest.fixture
def tensors(whole: Path, tmp_path: Path) -> Path:
    Backbone.from_preset(whole).save_to_preset(tmp_path / "tensors", format="safetensors")
    return tmp_path / "tensors"


def test_safetensors_misfits(tensors: Path) -> None:
    file = tensors / "model.safetensors"
    state = safetensors.torch.load_file(file)
    del state["pooled_dense.bias"]
    state["extra"] = torch.zeros(3)
    state["pooled_dense.weight"] = torch.zeros(12, 13)
    state["segment_embedding.weight"] = torch.zeros(2, 12, dtype=torch.int32)
    safetensors.torch.save_file(state, file)
    with pytest.raises(ValueError, match="4 problems") as caught:
        Backbone.from_preset(tensors)
    assert {line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:]} == {
        "missing",
        "superfluous",
        "shape",
        "dtype",
    }


def test_safetensors_of_other_floats(tensors: Path, whole: Path) -> None:
    file = tensors / "model.safetensors"
    state = {name: value.double() for name, value in safetensors.torch.load_file(file).items()}
    safetensors.torch.save_file(state, file)
    oracle.assert_same(Backbone.from_preset(tensors), Backbone.from_preset(whole))


def test_damaged_safetensors(tensors: Path) -> None:
    file = tensors / "model.safetensors"
    data = file.read_bytes()
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}})
    lying = len(header).to_bytes(8, "little") + header.encode() + data
    for content in (*(data[:cut] for cut in (0, 4, 8, 500, len(data) - 1)), b"x" * 999, lying):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.safetensors is no readable safetensors"):
            Backbone.from_preset(tensors)


# Saving


def old_preset_is_whole(folder: Path, before: dict[str, bytes]) -> None:
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("format", ["keras", "shards", "safetensors"])
def test_full_disks(whole: Path, preset: Path, format: str, capfd: Any) -> None:
    """A limit of the size of files stands for a full disk; HDF5 can crash there."""
    model = Backbone.from_preset(whole)
    before = {path.name: path.read_bytes() for path in preset.iterdir()}
    options: dict[str, Any] = {"format": format}
    if format == "shards":
        options = {"max_shard_size": 8 * KIBI}
    for limit in (0, 100, 3000, 5000):
        for folder in (preset, preset.parent / "new"):
            message = re.escape(f"{folder} cannot be written: ")
            with (
                limited(resource.RLIMIT_FSIZE, limit),
                pytest.raises(OSError, match=message) as caught,
            ):
                model.save_to_preset(folder, **options)
            if format != "safetensors":
                assert caught.value.errno == errno.EFBIG
    for limit in (5_000, 20_000, 40_000):
        with limited(resource.RLIMIT_FSIZE, limit), contextlib.suppress(OSError):
            model.save_weights(preset.parent / "x.weights.h5")
        assert not (preset.parent / "x.weights.h5").exists()
    model.enable_lora(2)
    for limit in (0, 3000):
        with limited(resource.RLIMIT_FSIZE, limit), pytest.raises(OSError, match="cannot be"):
            model.save_lora_weights(preset.parent / "x.lora.h5")
    old_preset_is_whole(preset, before)
    assert [path.name for path in preset.parent.iterdir()] == ["preset"]
    assert capfd.readouterr().err == ""
    model.save_to_preset(preset, **options)
    oracle.assert_same(Backbone.from_preset(preset), Backbone.from_preset(whole))


def test_folders_without_permission(whole: Path) -> None:
    model = Backbone.from_preset(whole)
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    user = os.geteuid()
    try:
        if user == 0:  # who may write everywhere
            os.seteuid(65534)
        for target in (folder, folder / "new"):
            with pytest.raises(PermissionError, match=f"{target} cannot be written"):
                model.save_to_preset(target)
        with pytest.raises(PermissionError, match="cannot be written"):
            model.save_weights(folder / "x.weights.h5")
    finally:
        os.seteuid(user)
        assert not list(folder.iterdir())
        folder.rmdir()


def test_files_instead_of_folders(whole: Path, tmp_path: Path) -> None:
    model = Backbone.from_preset(whole)
    (tmp_path / "file").write_text("mine")
    for target in ("file", "file/new"):
        with pytest.raises(OSError, match=f"{target} cannot be written"):
            model.save_to_preset(tmp_path / target)
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "preset" / WEIGHTS / "mine").mkdir(parents=True)
    with pytest.raises(OSError, match="preset cannot be written"):
        model.save_to_preset(tmp_path / "preset")
    assert [path.name for path in (tmp_path / "preset").iterdir()] == [WEIGHTS]


def test_saving_over_a_preset(whole: Path, tmp_path: Path) -> None:
    """Files of others stay, old weights go."""
    model = Backbone.from_preset(whole)
    (tmp_path / "assets" / "tokenizer").mkdir(parents=True)
    others = ["tokenizer.json", "task.weights.h5", "model_best.weights.h5", "README.md"]
    others += ["assets/tokenizer/vocabulary.txt", ".gitattributes"]
    for name in others:
        (tmp_path / name).write_text(name)
    kinds: list[dict[str, Any]] = [
        {"max_shard_size": 2 * KIBI},
        {},
        {"max_shard_size": 4 * KIBI},
        {"format": "safetensors"},
        {"max_shard_size": 2 * KIBI},
        {"max_shard_size": 8 * KIBI},
        {},
    ]
    for options in kinds:
        model.save_to_preset(tmp_path, **options)
        clean = tmp_path.parent / "clean"
        model.save_to_preset(clean, **options)
        names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
        assert names == {path.name for path in clean.iterdir()} | set(others)
        oracle.assert_same(Backbone.from_preset(tmp_path), model)
        shutil.rmtree(clean)
    assert all((tmp_path / name).read_text() == name for name in others)


@pytest.mark.parametrize("format", ["keras", "safetensors"])
def test_saving_where_it_was_loaded_from(tensors: Path, format: str) -> None:
    model = Backbone.from_preset(tensors)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):
        model.save_to_preset(tensors, format=format)
        for name, value in model.state_dict().items():
            assert torch.equal(value, expected[name])
        model = Backbone.from_preset(tensors)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_meta_models_cannot_be_saved(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = BertBackbone(**SMALL)
    for options in ({}, {"format": "safetensors"}, {"max_shard_size": KIBI}):
        with pytest.raises(ValueError, match="meta device"):
            model.save_to_preset(tmp_path / "new", **options)
    with pytest.raises(ValueError, match="meta device"):
        model.save_weights(tmp_path / "x.weights.h5")
    assert not list(tmp_path.iterdir())


def test_kinds_of_paths(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Backbone.from_preset(str(whole))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    model.save_to_preset("~/a/b")
    model.save_to_preset("c")
    model.save_weights("~/x.weights.h5")
    tuned = Backbone.from_preset("~/a/b")
    tuned.enable_lora(2)
    tuned.save_lora_weights("~/x.lora.h5")
    tuned.load_lora_weights("~/x.lora.h5")
    names = ["a", "c", "x.lora.h5", "x.weights.h5"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    oracle.assert_same(Backbone.from_preset("~/a/b"), model)
    oracle.assert_same(Backbone.from_preset(Path("~/a/b")), model)
    oracle.assert_same(Backbone.from_preset(Path("c")), model)
    other = BertBackbone(**SMALL)
    other.load_weights("~/x.weights.h5")
    oracle.assert_same(other, model)


def test_names_of_weight_files(whole: Path, tmp_path: Path) -> None:
    model = Backbone.from_preset(whole)
    for name, size in (("x.h5", None), ("x.weights.json", None), ("x.weights.h5", 1), ("x", None)):
        with pytest.raises(ValueError, match="must end in"):
            model.save_weights(tmp_path / name, max_shard_size=size)
    assert not list(tmp_path.iterdir())
    for name in ("config.json", "x.h5", "x"):
        with pytest.raises(ValueError, match="must end in"):
            model.load_weights(whole / name)
    for name in ("x.weights.h5", "x.weights.json", "x.safetensors", "x.keras"):
        with pytest.raises(FileNotFoundError, match=name):
            model.load_weights(whole / name)
        (tmp_path / name).mkdir()
        with pytest.raises(OSError, match=name):
            model.load_weights(tmp_path / name)


def test_failed_loads_change_nothing(whole: Path, preset: Path) -> None:
    model = Backbone.from_preset(whole)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    edit(preset, lambda file: file.pop("layers/transformer_encoder_1/_feedforward_layer_norm"))
    with pytest.raises(ValueError, match="missing"):
        model.load_weights(preset / WEIGHTS)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
