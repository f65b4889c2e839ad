"""Processes of a group that shard models, train, save and load them, and fail.

`python tests/sharded.py FOLDER NAME` runs a function of this module in as many processes as it
takes. They are forked after the imports, which take longer than all that they do.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import huggingface_hub  # noqa: F401
import pytest
import torch
import torch._dynamo
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.distributed.tensor.placement_types import _StridedShard
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

import keras_hub_torch.lora
import keras_hub_torch.preprocessing.carrying  # noqa: F401
from keras_hub_torch.models import Backbone, BertBackbone, GemmaBackbone
from keras_hub_torch.presets import saving, weights
from keras_hub_torch.presets.gathering import local

SECONDS = 120  # after which a process that hangs is ended
IDS = {"token_ids": torch.arange(1, 17).view(4, 4) % 31}


def bert(**changes: Any) -> Backbone:
    """Nothing in it divides by four."""
    torch.manual_seed(0)
    return BertBackbone(1999, 2, 2, 10, 18, max_sequence_length=17, **changes)


def gemma(**changes: Any) -> Backbone:
    torch.manual_seed(0)
    return GemmaBackbone(517, 3, 2, 1, 10, 12, 4, **changes)


def adapted() -> Backbone:
    model = gemma().eval()
    model.enable_lora(2, lora_alpha=3.0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    return model


def quantized() -> Backbone:
    int8 = {"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}
    layers = [
        f"transformer_layer_{i}/self_attention_layer/{n}"
        for i in (0, 1)
        for n in ("query", "value")
    ]
    policies = {"default_policy": "float32", "policy_map": dict.fromkeys(layers, int8)}
    model = bert(dtype={"class_name": "DTypePolicyMap", "config": policies})
    for buffer in model.buffers():
        if buffer.dtype == torch.int8:
            buffer.copy_(torch.randint(-127, 128, buffer.shape))
    return model


def shard_blocks(model: Backbone, mesh: DeviceMesh) -> None:
    for module in list(model.modules()):
        if isinstance(module, model.block_classes):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def place_by_hand(model: Backbone, mesh: DeviceMesh) -> None:
    """In all ways, one after the other."""
    kinds = (Shard(0), Replicate(), Shard(1))
    ways = [(first, second) for first in kinds for second in kinds]
    for count, (name, tensor) in enumerate(list(model.named_parameters())):
        way = [Shard(0) if one == Shard(1) and tensor.ndim < 2 else one for one in ways[count % 9]]
        owner, _, leaf = name.rpartition(".")
        placed = nn.Parameter(distribute_tensor(tensor.detach(), mesh, way))
        model.get_submodule(owner)._parameters[leaf] = placed


def place_in_pieces(model: Backbone, mesh: DeviceMesh) -> None:
    """As if each weight were two of equal size."""
    for name, tensor in list(model.named_parameters()):
        if len(tensor) % (2 * mesh.size()) == 0:
            halves = [half.chunk(mesh.size()) for half in tensor.detach().chunk(2)]
            held = torch.cat([parts[mesh.get_local_rank()] for parts in halves])
            sizes = {"shape": tensor.shape, "stride": tensor.stride()}
            placed = DTensor.from_local(held, mesh, [_StridedShard(0, split_factor=2)], **sizes)
            owner, _, leaf = name.rpartition(".")
            model.get_submodule(owner)._parameters[leaf] = nn.Parameter(placed)


def place_and_shard(model: Backbone, mesh: DeviceMesh) -> None:
    """As with tensor parallelism within FSDP."""
    for block in model.modules():
        if isinstance(block, model.block_classes):
            for layer in block.modules():
                if isinstance(layer, nn.Linear):
                    way = [Shard(0)]
                    weight = distribute_tensor(layer.weight.detach(), mesh["tensor"], way)
                    layer.weight = nn.Parameter(weight)
    shard_blocks(model, mesh["data"])


class Peak(TorchDispatchMode):
    """The most bytes of new tensors that were alive at once, but for places and sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.alive = {key: one for key, one in self.alive.items() if not one[0].expired()}
        given = {id(one) for one in args}
        for one in result if isinstance(result, (tuple, list)) else (result,):
            is_new = type(one) is torch.Tensor and id(one) not in given and not func.is_view
            if is_new and one.device.type == "cpu" and one.dtype != torch.int64:
                storage = one.untyped_storage()
                ref = StorageWeakRef(storage)
                self.alive[ref.cdata] = (ref, storage.nbytes())
        self.most = max(self.most, sum(size for _, size in self.alive.values()))
        return result


def save_all(model: Backbone, folder: Path, in_all_ways: bool) -> None:
    model.save_to_preset(folder / "keras")
    if in_all_ways:
        largest = max(one.nbytes for one in model.parameters())
        model.save_to_preset(folder / "shards", max_shard_size=largest / 2**30)
        model.save_to_preset(folder / "safetensors", format="safetensors")
        model.save_weights(folder / "alone.weights.h5", state_dict=model.state_dict())
        model.export_to_transformers(folder / "transformers")


def compare(folder: Path, other: Path) -> None:
    """Byte for byte, but for the time in the metadata."""
    names = sorted(path.relative_to(other) for path in other.rglob("*") if path.is_file())
    assert names == sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(names) in (3, 14)
    names = [name for name in names if name.name != "metadata.json"]
    _, different, missing = filecmp.cmpfiles(folder, other, map(str, names), shallow=False)
    assert not different + missing


def saving_equals(folder: Path) -> None:
    """Four processes write what one would, and hold no more than they must."""
    line = init_device_mesh("cpu", (4,))
    plane = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))

    def frozen() -> Backbone:
        model = gemma()
        for parameter in list(model.parameters())[::2]:
            parameter.requires_grad_(False)
        return model

    ways: dict[str, tuple[Callable[[], Backbone], Callable[..., None], DeviceMesh]] = {
        "uneven": (bert, shard_blocks, line),
        "frozen": (frozen, shard_blocks, plane),
        "adapted": (adapted, shard_blocks, line),
        "by hand": (lambda: bert(dtype="bfloat16"), place_by_hand, plane),
        "adapted by hand": (adapted, place_by_hand, plane),
        "in pieces": (gemma, place_in_pieces, line),
        "int8": (quantized, shard_blocks, line),
        "two ways": (frozen, place_and_shard, plane),
    }
    fully = ("uneven", "adapted")
    for name, (make, shard, mesh) in ways.items():
        model = make()
        if dist.get_rank() == 0:
            save_all(model, folder / name / "expected", name in fully)
        largest = max(tensor.nbytes for tensor in model.parameters())
        shard(model, mesh)
        held = max(one.to_local().nbytes for one in model.parameters() if isinstance(one, DTensor))
        with Peak() as peak:
            save_all(model, folder / name / "found", name in fully)
        writes = dist.get_rank() == 0
        most = (largest + held if writes else held) + 4096
        assert peak.most <= most, (name, peak.most, most)
        if writes:
            compare(folder / name / "found", folder / name / "expected")


def computing_equals(folder: Path) -> None:
    """Outputs, intermediate ones too, are those of one process, before and after a save."""
    ids = {"token_ids": IDS["token_ids"][:2]}
    for make in (bert, gemma):
        model: Any = make().eval()
        with torch.no_grad():
            expected = {"": model(ids)}
            (state,) = model.forward_intermediates(ids, [0])
        shard_blocks(model, init_device_mesh("cpu", (dist.get_world_size(),)))
        register_fsdp_forward_method(model, "forward_intermediates")
        (early,) = model.forward_intermediates(ids, [0])
        torch.testing.assert_close(early, state)
        early.square().sum().backward()
        torch.testing.assert_close({"": model(ids)}, expected)
        for place in ("keras", "safetensors"):
            model.save_to_preset(folder / place, format=place)
        model.export_to_transformers(folder / "transformers")
        with torch.no_grad():
            torch.testing.assert_close({"": model(ids)}, expected)
            for place in ("keras", "safetensors", "transformers"):
                again: Any = Backbone.from_preset(folder / place)
                torch.testing.assert_close({"": again(ids)}, expected)


def some_save(folder: Path) -> None:
    """A model that only some processes have."""
    half = dist.get_rank() // 2
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "data"))["data"]
    model = bert()
    shard_blocks(model, mesh)
    for _ in range(2):
        model.save_to_preset(folder / f"half{half}")
    assert (folder / f"half{half}" / "model.weights.h5").exists()


def divide_and_shard(model: Any, mesh: DeviceMesh) -> None:
    """PyTorch's tensor parallelism within FSDP."""
    plan = {
        "query": ColwiseParallel(output_layouts=Replicate()),
        "attention_output": RowwiseParallel(input_layouts=Replicate()),
    }
    for block in model.transformer_layers:
        parallelize_module(block.attention, mesh["tensor"], plan)
    shard_blocks(model, mesh["data"])


def rows(mesh: DeviceMesh | None = None) -> dict[str, torch.Tensor]:
    """What this process has of a batch, which those that divide layers have together."""
    first, count = dist.get_rank(), dist.get_world_size()
    if mesh is not None and "tensor" in (mesh.mesh_dim_names or ()):
        first, count = mesh.get_local_rank("data"), mesh["data"].size()
    return {name: x[first::count] for name, x in IDS.items()}


def train(model: Backbone, batch: dict[str, torch.Tensor]) -> torch.optim.Optimizer:
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(3):
        outputs: Any = model(batch)
        outputs = outputs["sequence_output"] if isinstance(outputs, dict) else outputs
        outputs.exp().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return optimizer


def whole(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name: (one.full_tensor() if isinstance(one, DTensor) else one).detach().clone()
        for name, one in tensors.items()
    }


def assert_equal(found: dict[str, Any], expected: dict[str, Any], atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def same(a: Path, b: Path) -> bool:
    return a.read_bytes() == b.read_bytes()


def adapters(folder: Path) -> None:
    """Enabled before sharding or after it, they learn what they would in one process."""
    line = init_device_mesh("cpu", (dist.get_world_size(),))
    plane = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replica", "data"))
    first = dist.get_rank() == 0
    one = adapted()
    begin = whole(dict(one.named_parameters()))
    train(one, IDS)
    if first:
        one.save_lora_weights(folder / "one.lora.h5")
        one.save_lora_weights(folder / "peft", format="peft", base_model="x")
    expected = whole(dict(one.named_parameters()))
    plain = whole(one.state_dict())
    one.merge_lora()
    merged = whole(dict(one.named_parameters()))
    dist.barrier()
    both = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    ways: list[tuple[DeviceMesh, bool, Callable[..., None]]] = [
        (line, True, shard_blocks),
        (plane, True, shard_blocks),
        (line, False, shard_blocks),
        (plane, False, shard_blocks),
        (both, False, divide_and_shard),
    ]
    for mesh, before, shard in ways:
        model = adapted() if before else gemma().eval()
        shard(model, mesh)
        if not before:
            torch.manual_seed(dist.get_rank())  # who draws other numbers gets those of the first
            model.enable_lora(2, lora_alpha=3.0)
            factors = {k: local(v) for k, v in model.named_parameters() if "lora" in k}
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, factors)
            assert all(torch.equal(other[k], factors[k]) for other in gathered for k in factors)
            with torch.no_grad():
                for name, factor in factors.items():
                    factor.copy_(begin[name])
        names = [name for name, one in model.named_parameters() if one.requires_grad]
        optimizer = train(model, rows(mesh))
        assert {name.rpartition(".")[2] for name in names} == {"lora_kernel_a", "lora_kernel_b"}
        assert len(optimizer.state) == len(names)
        assert_equal(whole(dict(model.named_parameters())), expected)
        with torch.no_grad():
            model(IDS)  # leaves the root's parameters whole
        model.merge_lora()
        assert_equal(whole(dict(model.named_parameters())), merged)
        assert_equal(whole(model.state_dict()), plain)
        model.unmerge_lora()
        assert_equal(whole(dict(model.named_parameters())), expected)
        model.load_lora_weights(folder / "one.lora.h5")
        model.save_lora_weights(folder / "found.lora.h5")
        model.save_lora_weights(folder / "found", format="peft", base_model="x")
        if first:
            loaded = gemma()
            loaded.enable_lora(2, lora_alpha=3.0)
            loaded.load_lora_weights(folder / "one.lora.h5")
            loaded.save_lora_weights(folder / "again.lora.h5")
            assert same(folder / "found.lora.h5", folder / "again.lora.h5")
            loaded.save_lora_weights(folder / "peft", format="peft", base_model="x")
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                assert same(folder / "found" / name, folder / "peft" / name)
        dist.barrier()
        if before:
            with pytest.raises(ValueError, match="sharded together with the model"):
                model.delete_lora()
        else:
            model.delete_lora()
            assert not any("lora" in name for name, _ in model.named_parameters())
            model.load_lora_weights(folder / "peft")  # enables them in PEFT's form
            train(model, rows(mesh))


def failures(folder: Path) -> None:
    """What fails in one process ends the save in all of them, and the next one succeeds."""
    rank = dist.get_rank()
    model = bert()
    shard_blocks(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    model.save_to_preset(folder)
    before = (folder / "model.weights.h5").read_bytes()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def surprise(self: Any, name: str) -> torch.Tensor:
        if name == "gamma" or self.name == "weight":
            raise LookupError("a surprise")
        return getattr(self.owner, name)

    changes: list[tuple[int, Any, str, Any, type[BaseException], str]] = [
        (0, saving.WeightWriter, "variable", full, OSError, "No space left on device"),
        (1, weights.Weight, "_stored", surprise, LookupError, "a surprise"),
        (2, saving, "checked_weights", full, OSError, "No space left on device"),
        (0, saving, "_write_json", full, OSError, "No space left on device"),
    ]
    for where, owner, name, change, kind, text in changes:
        kept = getattr(owner, name)
        if rank == where:
            setattr(owner, name, change)
        kind, text = (kind, text) if rank == where else (OSError, f"process {where} .*{text}")
        with pytest.raises(kind, match=text):
            model.save_to_preset(folder)
        setattr(owner, name, kept)
    wrong, kind, text = rank == 3, OSError, "process 3 .*must end in"
    if wrong:
        kind, text = ValueError, "must end in"
    with pytest.raises(kind, match=text):
        model.save_weights(folder / ("a.b" if wrong else "a.weights.h5"))
    wrong, kind, text = rank == 3, OSError, "process 3 .*is no weight file"
    if wrong:
        kind, text = ValueError, "is no weight file"
    with pytest.raises(kind, match=text):
        model.load_weights(folder / ("config.json" if wrong else "model.weights.h5"))
    assert before == (folder / "model.weights.h5").read_bytes()
    model.save_to_preset(folder)
    model.export_to_transformers(folder / "transformers")
    assert before == (folder / "model.weights.h5").read_bytes()


def death(folder: Path) -> None:
    """One that dies meanwhile ends the others."""
    rank = dist.get_rank()
    model = bert()
    shard_blocks(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    read, count = weights.Weight.read, 0

    def dies(self: Any, *given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 5:
            os._exit(DIES)
        return read(self, *given)

    if rank == 2:
        weights.Weight.read = dies  # type: ignore[method-assign]
    with pytest.raises(OSError, match="A process is gone that holds a part of the model"):
        model.save_to_preset(folder)
    assert not (folder / "config.json").exists()


def checkpoints(folder: Path) -> None:
    """Saved by some processes, loaded by others."""
    for dtype in ("bfloat16", "float32"):
        checkpoint(folder / dtype, dtype)


def checkpoint(folder: Path, dtype: str) -> None:
    folder.mkdir(exist_ok=True)
    model = gemma(dtype=dtype)
    shard_blocks(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    found = sorted(folder.glob("from*"), key=lambda path: path.stat().st_mtime_ns)
    optimizer = train(model, rows()) if not found else torch.optim.AdamW(model.parameters(), lr=1.0)
    parameters, states = get_state_dict(model, optimizer)
    state = {"model": parameters, "optimizer": states}
    if found:
        dcp.load(state, checkpoint_id=found[-1])
        set_state_dict(
            model, optimizer, model_state_dict=parameters, optim_state_dict=state["optimizer"]
        )
        parameters, states = get_state_dict(model, optimizer)
        state = {"model": parameters, "optimizer": states}
    dcp.save(state, checkpoint_id=folder / f"from{dist.get_world_size()}{len(found)}")
    numbers: Any = whole(parameters)
    for name, one in states["state"].items():
        numbers |= whole({f"{name}/{key}": value for key, value in one.items()})
    numbers["lr"] = states["param_groups"][0]["lr"]
    if not found:
        torch.save(numbers, folder / "expected.pt") if dist.get_rank() == 0 else None
    else:
        assert_equal(numbers, torch.load(folder / "expected.pt"), atol=0)
    model.save_to_preset(folder / "preset")
    again = Backbone.from_preset(folder / "preset", dtype=dtype)
    assert_equal(dict(again.named_parameters()), whole(dict(model.named_parameters())), atol=0)


def processes(function: Callable[[Path], None], folder: Path, count: int) -> list[int]:
    """Exit codes of this many that call it."""
    folder.mkdir(parents=True, exist_ok=True)
    store = folder / f".store{time.monotonic_ns()}"
    children = []
    for rank in range(count):
        child = os.fork()
        if not child:
            signal.alarm(SECONDS)
            _call(function, folder, store, rank, count)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _call(
    function: Callable[[Path], None], folder: Path, store: Path, rank: int, count: int
) -> None:
    try:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
        function(folder)
        if function is not death:
            dist.barrier()
    except BaseException:
        print(f"process {rank}:", file=sys.stderr)
        traceback.print_exc()
        os._exit(1)
    # A thread of gloo that lets go of a tensor while the interpreter shuts down aborts the process.
    os._exit(0)


RUNS: dict[str, Sequence[tuple[Callable[[Path], None], str, int]]] = {
    "saving": ((saving_equals, "all", 4), (some_save, "some", 4), (computing_equals, "two", 2)),
    "adapters": ((adapters, "", 4),),
    "failures": ((failures, "errors", 4), (death, "death", 4)),
    "checkpoints": tuple((checkpoints, "", count) for count in (2, 1, 4, 2)),
}
DIES = 7


if __name__ == "__main__":
    shutil.rmtree(folder := Path(sys.argv[1], sys.argv[2]), ignore_errors=True)
    for function, name, count in RUNS[sys.argv[2]]:
        codes = processes(function, folder / name, count)
        expected = [0] * count
        if function is death:
            expected[2] = DIES
        if codes != expected:
            sys.exit(f"{function.__name__} {name}: processes ended with {codes}")
