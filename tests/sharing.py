"""Run by every process of a group: presets are loaded over a mesh, run, trained and generated from,
and compared with what one process makes of them.
"""

from __future__ import annotations

import copy
import os
import pickle
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.utils._pytree import tree_leaves

from keras_hub_torch import models
from keras_hub_torch.generation import generate
from keras_hub_torch.models import Backbone
from keras_hub_torch.quantizers import Int4QuantizationConfig

MODELS: dict[str, Callable[[], Any]] = {
    "bert": lambda: models.BertBackbone(37, 2, 2, 12, 7, max_sequence_length=17),
    "gemma": lambda: models.GemmaBackbone(31, 2, 4, 2, 10, 12, 4),
    "llama": lambda: models.LlamaBackbone(31, 2, 4, 16, 18, 2),
    "mixtral": lambda: models.MixtralBackbone(31, 2, 4, 16, 9, 2, 4),
    "modern_bert": lambda: models.ModernBertBackbone(31, 12, 7, 2, 2, 2),
    "t5": lambda: models.T5Backbone(31, 1, 2, 12, 18, dropout=0.0),
    "vit": lambda: models.ViTBackbone((8, 8, 3), (4, 4), 2, 2, 12, 9),
}
DECODERS = ("gemma", "llama", "mixtral")
ADAPTED = {
    "llama": ["query", "value", "attention_output", "token_embedding"],
    "gemma": ["query", "key", "attention_output", "ffw_gating", "ffw_linear", "token_embedding"],
    "modern_bert": ["qkv", "wi_0", "output_dense"],
}
ENDS = (".lora.h5", "-adapted")
SAVED = ("mixtral", "modern_bert")
FORMATS = {"gemma": ("transformers", "safetensors"), "llama": ("shards",)}


def write(folder: Path) -> None:
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_to_preset(folder / name)
        if name == "gemma":
            model.export_to_transformers(folder / f"{name}-transformers", carry=False)
            model.save_to_preset(folder / f"{name}-safetensors", format="safetensors")
        if name == "llama":
            model.save_to_preset(folder / f"{name}-shards", max_shard_size=4e-6)


@contextmanager
def bytes_read() -> Iterator[list[int]]:
    """How many each reading of a file gives."""
    counts: list[int] = []
    read = os.preadv

    def counted(*args: Any) -> int:
        counts.append(read(*args))
        return counts[-1]

    os.preadv = counted  # type: ignore[assignment]
    try:
        yield counts
    finally:
        os.preadv = read


def inputs_of(name: str, rows: slice = slice(None)) -> Any:
    generator = torch.Generator().manual_seed(1)
    if name == "vit":
        return torch.randn(4, 8, 8, 3, generator=generator)[rows]
    ids = torch.randint(1, 31, (4, 6), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    ids, mask = ids[rows], mask[rows]
    if name == "t5":
        decoder = {"decoder_token_ids": ids.flip(1), "decoder_padding_mask": mask}
        return {"encoder_token_ids": ids, "encoder_padding_mask": mask, **decoder}
    return {"token_ids": ids, "padding_mask": mask}


def outputs_of(model: Any, inputs: Any) -> dict[str, torch.Tensor]:
    return {f"output {i}": value for i, value in enumerate(tree_leaves(model(inputs)))}


def close(found: torch.Tensor, expected: torch.Tensor, name: str, relative: float = 2e-5) -> None:
    error = (found - expected).abs().max().item()
    most = relative * max(1.0, expected.abs().max().item())
    assert error <= most, f"{name}: {error} > {most}"


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def check_loading(folder: Path, mesh: DeviceMesh, plan: str) -> Any:
    """The model, if each process has read no more than its parts of the file."""
    plain = Backbone.from_preset(folder)
    with bytes_read() as counts:
        model = Backbone.from_preset(folder, device_mesh=mesh, plan=plan)
    state, expected = model.state_dict(), plain.state_dict()
    assert list(state) == list(expected)
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    for name, tensor in state.items():
        assert torch.equal(whole(tensor), expected[name]), name
    held = sum((t.to_local() if isinstance(t, DTensor) else t).nbytes for t in state.values())
    divided = sum(
        t.nbytes for t in state.values() if not all(p == Replicate() for p in t.placements)
    )
    everywhere = sum(t.nbytes for t in expected.values()) - divided
    assert sum(counts) <= held * 1.001, (sum(counts), held)
    # What does not divide evenly is more on some processes: a row of each of these small tables.
    assert held <= 1.3 * divided / mesh.size() + everywhere
    return plain, model


def check_training(name: str, plain: Any, model: Any, rows: slice) -> None:
    """Three steps; `rows` are those of the inputs that this process takes."""
    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2, eps=1e-3) for m in (plain, model)]
    for _ in range(3):
        expected, found = (
            outputs_of(plain, inputs_of(name)),
            outputs_of(model, inputs_of(name, rows)),
        )
        for key, value in expected.items():
            close(found[key], value[rows], f"{name} {key}")
            assert type(found[key]) is torch.Tensor
        for optimizer, values in zip(optimizers, (expected, found)):
            optimizer.zero_grad()
            sum(value.square().mean() for value in values.values()).backward()  # type: ignore[union-attr]
        most = max(p.grad.abs().max().item() for p in plain.parameters() if p.grad is not None)
        for (key, theirs), ours in zip(plain.named_parameters(), model.parameters()):
            if theirs.grad is not None:
                assert isinstance(ours.grad, DTensor)
                assert ours.grad.placements == ours.placements
                close(whole(ours.grad) / most, theirs.grad / most, f"gradient of {name} {key}")
        for optimizer in optimizers:
            optimizer.step()
        for (key, theirs), ours in zip(plain.named_parameters(), model.named_parameters()):
            close(whole(ours[1]), theirs, f"{name} {key} after a step", 1e-4)


def check_generation(name: str, plain: Any, model: Any) -> None:
    prompts = {key: value[:2, :4] for key, value in inputs_of(name).items()}
    expected = generate(plain, prompts, 9)
    found = generate(model, prompts, 9)
    assert torch.equal(found["token_ids"], expected["token_ids"])


def check_plans(folder: Path) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = slice(rank * 4 // size, (rank + 1) * 4 // size)
    shards = init_device_mesh("cpu", (size,))
    tensors = init_device_mesh("cpu", (size,), mesh_dim_names=("tensor",))
    for name in MODELS:
        for plan, mesh, rows in (("fsdp", shards, mine), ("tensor", tensors, slice(None))):
            for form in FORMATS.get(name, ()):
                check_loading(folder / f"{name}-{form}", mesh, plan)
            plain, model = check_loading(folder / name, mesh, plan)
            if name in DECODERS:
                check_generation(name, plain, model)
            if name in SAVED and plan == "tensor":
                check_saving(folder / name, model)
            check_training(name, plain, model, rows)
    for name in ADAPTED:
        check_adapters(folder / name, tensors, slice(None))


def check_adapters(folder: Path, mesh: DeviceMesh, rows: slice) -> None:
    """Those of all kinds of layers learn, are saved and merged as in one process."""
    name = folder.name
    plain = Backbone.from_preset(folder)
    model = Backbone.from_preset(folder, device_mesh=mesh, plan="tensor")
    names = ADAPTED[name]
    for seed, one in ((0, plain), (dist.get_rank(), model)):
        torch.manual_seed(seed)
        one.enable_lora(2, names, lora_alpha=3.0)
    check_training(name, plain, model, rows)
    files, presets = ([folder.with_name(f"{name}-{i}{end}") for i in range(2)] for end in ENDS)
    if dist.get_rank() == 0:
        plain.save_lora_weights(files[0])
    dist.barrier()
    again = Backbone.from_preset(folder)
    again.enable_lora(2, names, lora_alpha=3.0)
    for one in (again, model):
        one.load_lora_weights(files[0])
    if dist.get_rank() == 0:
        again.save_lora_weights(files[0])
        again.save_to_preset(presets[0], carry=False)
    model.save_lora_weights(files[1])
    model.save_to_preset(presets[1], carry=False)
    dist.barrier()
    assert files[0].read_bytes() == files[1].read_bytes()
    weights = [preset / "model.weights.h5" for preset in presets]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    expected = outputs_of(again, inputs_of(name, rows))
    for change in ("merge_lora", "unmerge_lora"):
        getattr(model, change)()
        for key, value in outputs_of(model, inputs_of(name, rows)).items():
            close(value, expected[key], f"{name} {key}: {change}")
    for one in (plain, model):  # one first factor for all heads
        one.delete_lora()
        torch.manual_seed(0)
        one.enable_lora(2, names, lora_alpha=3.0, format="peft")
    check_training(name, plain, model, rows)


def check_saving(folder: Path, model: Any) -> None:
    again = folder.with_name(f"{folder.name}-again")
    model.save_to_preset(again, carry=False)
    dist.barrier()
    weights = "model.weights.h5"
    assert (again / weights).read_bytes() == (folder / weights).read_bytes()
    check_reading(folder, model)


def check_reading(folder: Path, model: Any) -> None:
    """Weights read into a model that is shared, and what adapters are then, equal everywhere."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    torch.manual_seed(dist.get_rank())
    model.load_weights(folder / "model.weights.h5")
    expected = Backbone.from_preset(folder).state_dict()
    adapters = {}
    for name, tensor in model.state_dict().items():
        if name in expected:
            assert torch.equal(whole(tensor), expected[name]), name
        else:
            adapters[name] = whole(tensor)
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, adapters)
    for name, tensor in adapters.items():
        assert tensor.any() == name.endswith("_a")
        assert all(torch.equal(other[name], tensor) for other in everywhere)


def check_options(folder: Path) -> None:
    """Plans by weights' names, activation checkpointing, mixed precision."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tensor",))
    for plan in ("fsdp", "tensor"):
        plain = Backbone.from_preset(folder / "llama")
        model = Backbone.from_preset(
            folder / "llama", device_mesh=mesh, plan=plan, checkpoint_activations=True
        )
        check_training("llama", plain, model, slice(None))
    plan = {"*dense*weight": Shard(0), "token_embedding.*": Shard(-1)}
    plain = Backbone.from_preset(folder / "bert")
    model = Backbone.from_preset(folder / "bert", device_mesh=mesh, plan=plan)
    assert model.token_embedding.weight.placements == (Shard(1),)
    check_training("bert", plain, model, slice(None))
    for one in (plain, model):
        torch.manual_seed(0)
        one.enable_lora(2)
    check_training("bert", plain, model, slice(None))
    check_reading(folder / "bert", model)
    for plan in ("fsdp", "tensor"):
        check_customs(folder / "llama", mesh, plan)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    model = Backbone.from_preset(folder / "llama", device_mesh=mesh, plan="fsdp", mp_policy=policy)
    assert model(inputs_of("llama")).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def check_customs(folder: Path, mesh: DeviceMesh, plan: str) -> None:
    """What PyTorch's users do to sharded models."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True)
    model = Backbone.from_preset(folder, device_mesh=mesh, plan=plan)
    plain = Backbone.from_preset(folder)
    state = copy.deepcopy(get_model_state_dict(model, options=options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    set_model_state_dict(model, state, options=options)
    equal_states(model, plain, plan)
    if plan == "tensor":
        copied = pickle.loads(pickle.dumps(copy.deepcopy(model)))
        expected = outputs_of(plain, inputs_of("llama"))
        close(outputs_of(copied, inputs_of("llama"))["output 0"], expected["output 0"], "copy")
    else:  # gradients of two batches, averaged once
        model.set_requires_gradient_sync(False)
        outputs_of(model, inputs_of("llama"))["output 0"].sum().backward()
        model.set_requires_gradient_sync(True)
    for one, count in ((model, 1 if plan == "fsdp" else 2), (plain, 2)):
        for _ in range(count):
            outputs_of(one, inputs_of("llama"))["output 0"].sum().backward()
    norms = [torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0) for one in (model, plain)]
    close(whole(norms[0]) / norms[1], torch.ones(()), f"norm {plan}", 1e-4)
    for verb, given in (("quantize", "int8"), ("resize_token_embeddings", 40)):
        with pytest.raises(ValueError, match="is shared by several processes"):
            getattr(model, verb)(given)


def check_refusals(folder: Path) -> None:
    size = dist.get_world_size()
    mesh = init_device_mesh("cpu", (size,), mesh_dim_names=("tensor",))
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    refused: list[tuple[str, dict[str, Any], str]] = [
        ("bert", {"plan": "tp", "device_mesh": mesh}, "plan is 'tp'; it must be one of"),
        ("bert", {"plan": "fsdp"}, "device_mesh is missing"),
        ("bert", {"device_mesh": mesh}, "needs a plan"),
        ("bert", {"plan": "fsdp", "device_mesh": mesh, "device": "meta"}, "device is 'meta'"),
        ("bert", {"plan": "fsdp", "device_mesh": mesh, "mmap": True}, "mmap=True"),
        ("int8", {"plan": "fsdp", "device_mesh": mesh, "load_weights": False}, "be random"),
        ("int8", {"plan": "fsdp", "device_mesh": mesh, "mp_policy": half}, "has a param_dtype"),
        ("int4", {"plan": "tensor", "device_mesh": mesh}, "ffw_gating has 6 outputs, two in a b"),
        ("vgg", {"plan": "tensor", "device_mesh": mesh}, "VGGBackbone has no tensor plan"),
        ("odd", {"plan": "tensor", "device_mesh": mesh}, "num_key_value_heads is 1"),
        ("bert", {"plan": {"x.*": Shard(0)}, "device_mesh": mesh}, "has no weight 'x.*'"),
        ("bert", {"plan": {"*": 0}, "device_mesh": mesh}, "'*' must be Shard(axis)"),
        ("bert", {"plan": {"*": Shard(1)}, "device_mesh": mesh}, "has no axis 1"),
    ]
    plain = init_device_mesh("cpu", (1, size))
    named = init_device_mesh("cpu", (1, size), mesh_dim_names=("data", "model"))
    refused += [
        ("bert", {"plan": "fsdp", "device_mesh": plain}, "needs names"),
        ("bert", {"plan": "tensor", "device_mesh": named}, "called 'tensor'; it has 'data', 'mo"),
    ]
    if dist.get_rank() == 0:
        models.GemmaBackbone(31, 1, 4, 1, 10, 12, 4).save_to_preset(folder / "odd")
        models.VGGBackbone([1], [4]).save_to_preset(folder / "vgg")
        for name in ("int8", "int4"):
            model = models.GemmaBackbone(31, 1, 4, 2, 10, 12, 4)
            model.quantize(name)
            model.save_to_preset(folder / name)
    dist.barrier()
    missing = dist.get_rank() == 1
    name, message = ("none", "none") if missing else ("bert", "process 1 has failed")
    with pytest.raises((ValueError, OSError), match=message):
        Backbone.from_preset(folder / name, device_mesh=mesh, plan="fsdp")
    for name, arguments, message in refused:
        with pytest.raises(ValueError, match=re.escape(message)):
            Backbone.from_preset(folder / name, **arguments)


def equal_states(model: Any, plain: Any, name: str) -> None:
    state, expected = model.state_dict(), plain.state_dict()
    assert list(state) == list(expected)
    for key, tensor in state.items():
        assert torch.equal(whole(tensor), expected[key]), f"{name} {key}"


def check_beginnings(folder: Path) -> None:
    """Random weights, all or some, and tables for images of another size."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tensor",))
    headless = folder / "headless"
    if dist.get_rank() == 0:
        Backbone.from_preset(folder / "bert").export_to_transformers(headless, carry=False)
        file = headless / "model.safetensors"
        tensors = {k: v for k, v in load_file(file).items() if "pooler" not in k}
        save_file(tensors, file, metadata={"format": "pt"})
    dist.barrier()
    ways: list[tuple[str, str, dict[str, Any]]] = [
        ("bert", "fsdp", {"load_weights": False, "dtype": "bfloat16"}),
        ("vit", "tensor", {"load_weights": False}),
        ("headless", "tensor", {}),
        ("vit", "tensor", {"image_shape": (16, 12, 3)}),
    ]
    for name, plan, given in ways:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* drawn at random")
            torch.manual_seed(3)
            plain = Backbone.from_preset(folder / name, **given)
            torch.manual_seed(3 + dist.get_rank())  # the first one's counts
            model = Backbone.from_preset(folder / name, device_mesh=mesh, plan=plan, **given)
        equal_states(model, plain, name)
        assert model.get_config() == plain.get_config()


def quantized(mode: str) -> Any:
    torch.manual_seed(0)
    if mode == "float8":
        model: Any = models.LlamaBackbone(31, 1, 4, 16, 18, 2)
    else:
        model = models.GemmaBackbone(33, 1, 4, 2, 10, 24, 4)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    # Half of the inputs are no whole groups of three.
    model.quantize(mode, Int4QuantizationConfig(block_size=3) if mode == "int4" else None)
    return model


def check_quantized(folder: Path, mesh: DeviceMesh) -> None:
    """Outputs, gradients, adapters and files of models with weights of few bits."""
    plans = {"int8": ("tensor", "fsdp"), "int4": ("tensor",), "float8": ("tensor",)}
    for mode in plans if mesh.ndim == 1 else ("int4",):
        preset = folder / f"quantized-{mode}"
        if dist.get_rank() == 0:
            quantized(mode).save_to_preset(preset)
        dist.barrier()
        for plan in plans[mode]:
            plain = Backbone.from_preset(preset)
            model = Backbone.from_preset(preset, device_mesh=mesh, plan=plan)
            equal_states(model, plain, mode)
            if mode != "float8":
                for one in (plain, model):
                    torch.manual_seed(0)
                    one.enable_lora(2, lora_alpha=3.0)
                    for module in one.modules():
                        if hasattr(module, "lora_kernel_b"):
                            torch.nn.init.constant_(module.lora_kernel_b, 0.1)
            for one in (plain, model):
                one.train()
                outputs_of(one, inputs_of("gemma"))["output 0"].square().mean().backward()
            expected = outputs_of(plain.eval(), inputs_of("gemma"))["output 0"]
            found = outputs_of(model.eval(), inputs_of("gemma"))["output 0"]
            close(found, expected, f"{mode} {plan}")
            for (key, theirs), (_, ours) in zip(_learning(plain), _learning(model)):
                largest = theirs.grad.abs().max()
                close(whole(ours.grad) / largest, theirs.grad / largest, f"{mode} {key}", 1e-4)
            again = folder / f"again-{mode}-{plan}-{mesh.ndim}"
            if dist.get_rank() == 0:
                plain.save_to_preset(again / "expected", carry=False)
            model.save_to_preset(again / "found", carry=False)
            dist.barrier()
            close_files(again / "found", again / "expected")


def _learning(model: Any) -> list[tuple[str, Any]]:
    return [(key, one) for key, one in model.named_parameters() if one.grad is not None]


def close_files(found: Path, expected: Path) -> None:
    """What adapters have been merged into may be rounded the other way, here and there."""
    states = [Backbone.from_preset(one).state_dict() for one in (found, expected)]
    for key, value in states[1].items():
        error = (states[0][key].float() - value.float()).abs()
        assert (error > 1e-5).float().mean() <= 0.05, key


def check_two_dimensions(folder: Path) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("fsdp", "tensor"))
    first = mesh["fsdp"].get_local_rank() * 2
    for name in ("bert", "gemma", "llama", "mixtral", "t5"):
        plain, model = check_loading(folder / name, mesh, "tensor")
        assert any(
            sum(isinstance(place, Shard) or "Strided" in repr(place) for place in p.placements) == 2
            for p in model.parameters()
        )
        if name in DECODERS:
            check_generation(name, plain, model)
        check_training(name, plain, model, slice(first, first + 2))
    check_adapters(folder / "gemma", mesh, slice(first, first + 2))
    check_quantized(folder, mesh)


def check_death(folder: Path) -> None:
    """A process that is no more ends what the others wait for."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("tensor",))
    plan = "tensor" if dist.get_world_size() == 2 else "fsdp"
    model = Backbone.from_preset(folder / "llama", device_mesh=mesh, plan=plan)
    dist.barrier()
    if dist.get_rank() == 1:
        os._exit(0)
    try:
        model(inputs_of("llama"))
    except RuntimeError:
        return
    raise AssertionError("computed without one of the processes")


def check_families(folder: Path, plan: str) -> None:
    name = "tensor" if plan == "tensor" else "fsdp"
    mesh = init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=(name,))
    for preset in sorted(folder.iterdir()):
        inputs, given = torch.load(preset / "inputs.pt")
        plain = Backbone.from_preset(preset, **given)
        model = Backbone.from_preset(preset, device_mesh=mesh, plan=plan, **given)
        both = [
            {key: value for key, value in outputs_of(one, inputs).items() if value.requires_grad}
            for one in (plain, model)
        ]
        for values in both:
            torch.manual_seed(2)
            sum((value * torch.randn(value.shape)).sum() for value in values.values()).backward()  # type: ignore[union-attr]
        for key, value in both[0].items():
            close(both[1][key], value, f"{preset.name} {key}")
        most = max(p.grad.abs().max().item() for p in plain.parameters() if p.grad is not None)
        for (key, theirs), ours in zip(plain.named_parameters(), model.parameters()):
            if theirs.grad is not None:
                # Some are zero but for rounding.
                largest = max(theirs.grad.abs().max().item(), 1e-2 * most)
                label = f"gradient of {preset.name} {key}"
                close(whole(ours.grad) / largest, theirs.grad / largest, label, 1e-4)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        check_families(folder, sys.argv[2])
        dist.barrier()
        os._exit(0)
    if dist.get_rank() == 0:
        write(folder)
    dist.barrier()
    if dist.get_world_size() == 2:
        check_plans(folder)
        check_options(folder)
        check_beginnings(folder)
        check_quantized(folder, init_device_mesh("cpu", (2,), mesh_dim_names=("tensor",)))
        check_refusals(folder)
    else:
        check_two_dimensions(folder)
    check_death(folder)
    os._exit(0)
