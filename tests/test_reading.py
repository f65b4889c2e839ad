"""The tensors of a loaded model: arrangement, memory, and what mapping means."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest
import safetensors.torch
import torch

import keras_hub_torch
from keras_hub_torch.backbones.layers.core import EinsumDense
from keras_hub_torch.presets import filling, reading, staging
from keras_hub_torch.presets.safetensors import offsets_of

from . import oracle
from .conftest import Reference
from .test_families import ours

Backbone = keras_hub_torch.models.Backbone
BertBackbone = keras_hub_torch.models.BertBackbone
GPT2Backbone = keras_hub_torch.models.GPT2Backbone

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}
IDS = torch.tensor([[3, 1, 4, 1, 5]])
WEIGHTS = {"keras": "model.weights.h5", "safetensors": "model.safetensors"}
MATRIX = "transformer_layers.0.self_attention_layer.query.weight"


@pytest.fixture(params=WEIGHTS)
def preset(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return made(tmp_path, request.param)


def made(folder: Path, format: str) -> Path:
    torch.manual_seed(0)
    BertBackbone(**SMALL).save_to_preset(folder, format=format)
    return folder


def weights(preset: Path) -> Path:
    return next(preset / name for name in WEIGHTS.values() if (preset / name).exists())


def assert_own_memory(model: torch.nn.Module) -> None:
    places = []
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        assert tensor.is_contiguous(), name
        storage = tensor.untyped_storage()
        assert storage.nbytes() == tensor.nbytes, name
        places.append((storage.data_ptr(), storage.data_ptr() + storage.nbytes(), name))
    places.sort()
    for (_, end, name), (start, _, other) in itertools.pairwise(places):
        assert end <= start, f"{name} and {other} share memory"


# Arrangement


def test_memory_of_every_family(first: Reference, tmp_path: Path) -> None:
    model = ours(first)
    assert_own_memory(model)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "saved.safetensors")
    flat = torch.nn.utils.parameters_to_vector(model.parameters())
    torch.nn.utils.vector_to_parameters(flat.clone(), model.parameters())
    oracle.assert_same(model, ours(first))
    oracle.assert_same(ours(first, mmap=True), model)


@pytest.mark.parametrize("mmap", [None, False])
def test_memory_of_other_formats(tmp_path: Path, mmap: bool | None) -> None:
    torch.manual_seed(0)
    model = GPT2Backbone(**SMALL)  # its file holds queries, keys and values in one, transposed
    model.save_to_preset(tmp_path / "safetensors", format="safetensors")
    model.export_to_transformers(tmp_path / "transformers")
    for folder, dtype in itertools.product(("safetensors", "transformers"), ("float32", "float16")):
        again = Backbone.from_preset(tmp_path / folder, mmap=mmap, dtype=dtype)
        assert_own_memory(again)
        expected = GPT2Backbone(**SMALL)
        expected.load_state_dict(model.state_dict())
        oracle.assert_same(again, expected.to(getattr(torch, dtype)))


def test_lbfgs(preset: Path) -> None:
    model = Backbone.from_preset(preset)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=2)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = (model(IDS)["sequence_output"] - 0.5).square().mean()
        value.backward()
        return value

    before = loss().item()
    optimizer.step(loss)
    assert loss().item() < before


SHAPES = [
    ((), ()),
    ((0, 3), (1, 0)),
    ((5,), (0,)),
    ((1, 1), (1, 0)),
    ((1, 7), (1, 0)),
    ((7, 1), (1, 0)),
    ((61, 127), (1, 0)),
    ((1009, 769), (1, 0)),
    ((3, 70000), (1, 0)),
    ((70001, 3), (1, 0)),
    ((5, 7, 11), (1, 2, 0)),
    ((5, 7, 11), (2, 0, 1)),
    ((3, 257, 131), (0, 2, 1)),
    ((2, 3, 5, 7), (3, 2, 0, 1)),
    ((3, 3, 67, 129), (3, 2, 0, 1)),
    ((2, 1, 3, 1), (3, 1, 0, 2)),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@pytest.mark.parametrize("tile_bytes", [1, 1000, reading.TILE_BYTES])
@pytest.mark.parametrize(("shape", "order"), SHAPES)
def test_rearranged(
    shape: tuple[int, ...],
    order: tuple[int, ...],
    tile_bytes: int,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    """A file's numbers in another order of the axes, in each pair of types."""
    monkeypatch.setattr(reading, "TILE_BYTES", tile_bytes)
    monkeypatch.setattr(reading, "BLOCK_BYTES", min(tile_bytes, reading.BLOCK_BYTES))
    dtypes = DTYPES if tile_bytes > 1000 else DTYPES[:2]
    for stored, wanted in itertools.product(dtypes, dtypes):
        values = torch.randn(shape).to(stored)
        path = tmp_path / "numbers"
        path.write_bytes(b"before" + values.reshape(-1).view(torch.uint8).numpy().tobytes())
        new = torch.empty([shape[axis] for axis in order], dtype=wanted)
        target = new.permute([order.index(axis) for axis in range(len(order))])
        with path.open("rb") as file:
            if values.numel():
                reading.read_into(target, file.fileno(), len(b"before"), stored)
        assert torch.equal(new, values.permute(order).to(wanted))


def test_numbers_without_a_value_survive(tmp_path: Path) -> None:
    """No bit changes, not even of NaNs, where the type stays."""
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(256, 256)
    (tmp_path / "numbers").write_bytes(bits.numpy().tobytes())
    for dtype in (torch.bfloat16, torch.float16):
        new = torch.empty((256, 256), dtype=dtype)
        with (tmp_path / "numbers").open("rb") as file:
            reading.read_into(new.T, file.fileno(), 0, dtype)
        assert torch.equal(new.view(torch.int16), bits.T)


def test_files_that_end_too_early(tmp_path: Path) -> None:
    (tmp_path / "numbers").write_bytes(bytes(99))
    new = torch.empty((5, 5), dtype=torch.float32)
    with (tmp_path / "numbers").open("rb") as file:
        for target in (new, new.T):
            with pytest.raises(OSError, match="ends too early"):
                reading.read_into(target, file.fileno(), 0, torch.float32)


@pytest.mark.parametrize("equation", ["btd,dnh->btnh", "btnh,nhd->btd", "btd,ndh->btnh"])
def test_einsum_kernels(equation: str, tmp_path: Path) -> None:
    sizes = {"d": 131, "n": 3, "h": 67}
    inputs, kernel, outputs = equation.replace("->", ",").split(",")
    layer = EinsumDense(
        equation,
        [sizes[axis] for axis in inputs if axis in kernel],
        [sizes[axis] for axis in outputs if axis in kernel],
    )
    values = torch.randn(layer.kernel_shape)
    (tmp_path / "numbers").write_bytes(values.numpy().tobytes())
    new = torch.empty(layer.weight.shape, dtype=torch.float32)
    with (tmp_path / "numbers").open("rb") as file:
        reading.read_into(layer.to_kernel(new), file.fileno(), 0, torch.float32)
    assert torch.equal(new, layer.from_kernel(values))


PEAK = """
import sys, keras_hub_torch
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
load = keras_hub_torch.models.Backbone.from_preset
load(sys.argv[1])
before = peak()
load(sys.argv[2])
print(peak() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux counts there")
def test_peak_memory(tmp_path: Path) -> None:
    """The weights, the largest of them again, and 100 MB at most."""
    made(tmp_path / "small", "keras")
    sizes = {"hidden_dim": 1024, "num_heads": 4, "intermediate_dim": 8192, "num_layers": 6}
    model = BertBackbone(**{**SMALL, **sizes})
    sizes_of = [parameter.nbytes for parameter in model.parameters()]
    model.save_to_preset(tmp_path / "large")
    del model
    done = subprocess.run(
        [sys.executable, "-c", PEAK, tmp_path / "small", tmp_path / "large"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(done.stdout) < sum(sizes_of) + max(sizes_of) + 100e6


# Mapping


def test_mapped_models_are_equal(preset: Path) -> None:
    expected = Backbone.from_preset(preset, mmap=False)
    assert_own_memory(expected)
    for mmap in (None, True):
        oracle.assert_same(Backbone.from_preset(preset, mmap=mmap), expected)
    for dtype in ("bfloat16", "float16", "float64", "mixed_bfloat16"):
        expected = Backbone.from_preset(preset, mmap=False, dtype=dtype)
        for mmap in (None, True):
            model = Backbone.from_preset(preset, mmap=mmap, dtype=dtype)
            oracle.assert_same(model, expected)
            if not dtype.startswith("mixed"):  # a conversion makes them anew
                assert_own_memory(model)


def test_mapped_views(tmp_path: Path) -> None:
    made(tmp_path, "keras")
    model = Backbone.from_preset(tmp_path, mmap=True)
    matrix = model.get_parameter(MATRIX)
    assert not matrix.is_contiguous()
    assert matrix.T.is_contiguous()
    with torch.no_grad():
        expected = Backbone.from_preset(tmp_path)(IDS)["pooled_output"]
        torch.testing.assert_close(model(IDS)["pooled_output"], expected)


@pytest.mark.parametrize("mmap", [None, True, False])
def test_training_does_not_change_the_file(preset: Path, mmap: bool | None) -> None:
    before = weights(preset).read_bytes()
    expected = Backbone.from_preset(preset, mmap=False)
    model = Backbone.from_preset(preset, mmap=mmap)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(IDS)["sequence_output"].square().sum().backward()
    optimizer.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert weights(preset).read_bytes() == before
    oracle.assert_same(Backbone.from_preset(preset), expected)


@pytest.mark.skipif(sys.platform == "win32", reason="mapped files cannot be written to")
def test_rewritten_files(preset: Path) -> None:
    """A mapped model sees what its file becomes; a model that was read does not."""
    content = weights(preset).read_bytes()
    models = {mmap: Backbone.from_preset(preset, mmap=mmap) for mmap in (False, True)}
    before = {mmap: model.get_parameter(MATRIX).clone() for mmap, model in models.items()}
    with weights(preset).open("r+b") as file:
        file.write(bytes(len(content)))
    assert torch.equal(models[False].get_parameter(MATRIX), before[False])
    assert not models[True].get_parameter(MATRIX).any()


@pytest.mark.skipif(sys.platform == "win32", reason="mapped files cannot be replaced")
def test_replaced_files(preset: Path) -> None:
    """A save puts another file in the place of the mapped one, which lives on."""
    model = Backbone.from_preset(preset, mmap=True)
    expected = Backbone.from_preset(preset, mmap=False)
    BertBackbone(**SMALL).save_to_preset(
        preset, format="keras" if weights(preset).suffix == ".h5" else "safetensors"
    )
    oracle.assert_same(model, expected)


def test_mapped_shards(tmp_path: Path) -> None:
    made(tmp_path / "whole", "keras")
    model = Backbone.from_preset(tmp_path / "whole")
    model.save_to_preset(tmp_path / "shards", max_shard_size=2.0**-17)
    assert len(list((tmp_path / "shards").glob("*.weights.h5"))) > 1
    oracle.assert_same(Backbone.from_preset(tmp_path / "shards", mmap=True), model)


KERNEL = "layers/dense/vars/0"


@pytest.mark.parametrize("options", [{"compression": 4}, {"chunks": (5, 7)}, {"chunks": (12, 12)}])
def test_packed_data_are_read(tmp_path: Path, options: Any) -> None:
    made(tmp_path, "keras")
    expected = Backbone.from_preset(tmp_path)
    with h5py.File(tmp_path / WEIGHTS["keras"], "r+") as file:
        data = file[KERNEL][()]
        del file[KERNEL]
        file.create_dataset(KERNEL, data=data, **options)
    model = Backbone.from_preset(tmp_path, mmap=True)
    assert model.pooled_dense.weight.is_contiguous()
    oracle.assert_same(model, expected)
    assert_own_memory(Backbone.from_preset(tmp_path))


def test_misaligned_data_are_read(tmp_path: Path) -> None:
    made(tmp_path, "keras")
    expected = Backbone.from_preset(tmp_path)
    path = tmp_path / WEIGHTS["keras"]
    with h5py.File(path) as file:
        offset = file[KERNEL].id.get_offset()
    content = path.read_bytes()
    # The address in the object's header becomes that of a copy which begins one byte later.
    address = offset.to_bytes(8, "little")
    assert content.count(address) == 1
    copy = len(content) // 4 * 4 + 5
    data = content[offset : offset + expected.pooled_dense.weight.nbytes]
    moved = content.replace(address, copy.to_bytes(8, "little")).ljust(copy, b"\0") + data
    # The length of the file is noted at its beginning.
    length = len(content).to_bytes(8, "little")
    assert moved.count(length) == 1
    path.write_bytes(moved.replace(length, len(moved).to_bytes(8, "little")))
    with h5py.File(path) as file:
        assert file[KERNEL].id.get_offset() % 4 == 1
    model = Backbone.from_preset(tmp_path, mmap=True)
    assert model.pooled_dense.weight.is_contiguous()
    oracle.assert_same(model, expected)


def test_files_cut_while_they_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "keras")
    path = tmp_path / WEIGHTS["keras"]
    changing = filling.changing

    def cut(model: Any) -> Any:
        os.truncate(path, 4096)
        return changing(model)

    monkeypatch.setattr(filling, "changing", cut)
    for mmap in (None, True):
        made(tmp_path, "keras")
        with pytest.raises(ValueError, match="is broken"):
            Backbone.from_preset(tmp_path, mmap=mmap)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_between_file_and_device(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CHUNK_BYTES", 96)
    tensor = torch.randn(7, 11, 3).to(dtype)
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"0": torch.ones(5), "tensor": tensor}, path)
    offset, cpu = offsets_of(path)["tensor"], torch.device("cpu")
    with path.open("rb") as file:
        found = staging.read_to_device(file.fileno(), offset, tensor.shape, dtype, cpu)
        assert torch.equal(found, tensor)
        with pytest.raises(OSError, match="too early"):
            staging.read_to_device(file.fileno(), offset + 4, tensor.shape, dtype, cpu)
