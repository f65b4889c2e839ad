"""What is written is what the configuration says, whatever wraps the modules."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations

from keras_hub_torch import generate
from keras_hub_torch.models import Backbone, BertBackbone, LlamaBackbone

from . import oracle
from .conftest import Reference, reference_of

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}


def stacks(model: Any) -> list[nn.ModuleList]:
    return [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m)]


def assert_saved(model: Any, reference: Reference, folder: Path) -> None:
    """Both formats are those of the model as it was loaded."""
    expected = reference.load().state_dict()
    for format in ("keras", "safetensors"):
        model.save_to_preset(folder / format, format=format)
        again = Backbone.from_preset(folder / format).state_dict()
        assert again.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(again[name], value), name


@pytest.mark.parametrize("kind", ["checkpoint", "compile"])
def test_wrapped_blocks(first: Reference, kind: str, tmp_path: Path) -> None:
    model = first.load()
    wrap: Callable[[nn.Module], Any] = checkpoint_wrapper
    if kind == "compile":

        def wrap(module: nn.Module) -> Any:
            return torch.compile(module, backend="eager")

    for stack in stacks(model):
        for i, block in enumerate(list(stack.children())):
            stack[i] = wrap(block)
    assert_saved(model, first, tmp_path)


def test_parametrizations(first: Reference, tmp_path: Path) -> None:
    """The effective weight is saved."""
    model = first.load()
    linears = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for linear in linears[:3]:
        parametrizations.weight_norm(linear)
    model.save_to_preset(tmp_path)
    again = Backbone.from_preset(tmp_path)
    with torch.no_grad():
        oracle.assert_close(again(first.inputs), first.outputs)


def test_offloaded(first: Reference, tmp_path: Path) -> None:
    """By accelerate: weights are on the CPU, the modules' own on the meta device."""
    from accelerate import cpu_offload

    model = first.load()
    cpu_offload(model, torch.device("cpu"))
    assert any(parameter.is_meta for parameter in model.parameters())
    with torch.no_grad():
        oracle.assert_close(model(first.inputs), first.outputs)
    assert_saved(model, first, tmp_path)


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


# Some blocks return views; nothing changes them in place.
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module:UserWarning")
@pytest.mark.usefixtures("one_process")
def test_fully_sharded_blocks(first: Reference, tmp_path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    model = first.load()
    blocks = [block for stack in stacks(model) for block in stack.children()]
    for block in reversed(blocks):  # those within blocks first
        if not isinstance(block, nn.ModuleList):
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert type(model).__name__ == f"FSDP{first.case.cls}"
    oracle.assert_close(model(first.inputs), first.outputs)
    if model.cache_shapes and hasattr(model, "vocabulary_size"):
        prompt: Any = [[3, 1, 4]]
        options = {"max_new_tokens": 3}
        if "decoder_token_ids" in model.input_specs:
            prompt = {k: v for k, v in first.tensors.items() if k != "decoder_padding_mask"}
            prompt["decoder_token_ids"] = prompt["decoder_token_ids"][:, :2]
        expected = generate(first.load(), prompt, **options)
        assert torch.equal(generate(model, prompt, **options)["token_ids"], expected["token_ids"])
    assert_saved(model, first, tmp_path / "saved")


def peft(model: Any) -> None:
    from peft import LoraConfig, get_peft_model

    get_peft_model(model, LoraConfig(r=2, target_modules=["query"]))


def head(model: Any) -> None:
    model.classifier = nn.Linear(12, 2)


def fewer(model: Any) -> None:
    del model.transformer_layers[1]


def larger(model: Any) -> None:
    model.token_embedding.weight = nn.Parameter(torch.zeros(40, 12))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (peft, "merge_and_unload"),
        (head, r"take out what was added(.|\n)*superfluous: classifier.weight \(2, 12\)"),
        (fewer, "missing: transformer_layers.1.self_attention_layer"),
        (larger, "resize_token_embeddings"),
        (lambda model: model.to("meta"), "on the meta device"),
    ],
)
def test_other_weights_are_refused(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    model = BertBackbone(**SMALL)
    change(model)
    saves = [
        lambda: model.save_to_preset(tmp_path / "x"),
        lambda: model.save_to_preset(tmp_path / "x", format="safetensors"),
        lambda: model.export_to_transformers(tmp_path / "x"),
        lambda: model.save_weights(tmp_path / "x.weights.h5"),
        lambda: model.save_weights(tmp_path / "x.safetensors"),
    ]
    for save in saves:
        with pytest.raises(ValueError, match=message):
            save()
    assert not list(tmp_path.iterdir())


def test_state_dicts(tmp_path: Path) -> None:
    """Gathered elsewhere, with the names of wrappers in it, adapters merged."""
    model = BertBackbone(**SMALL).eval()
    model.enable_lora(2)
    nn.init.normal_(model.get_layer("transformer_layer_0").self_attention_layer.query.lora_kernel_b)
    gathered = {f"module._orig_mod.{k}": v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        expected = model({"token_ids": torch.arange(1, 8)[None]})["sequence_output"]
        for parameter in model.parameters():
            parameter.zero_()
    model.save_to_preset(tmp_path, state_dict=gathered)
    again = Backbone.from_preset(tmp_path)
    with torch.no_grad():
        found = again({"token_ids": torch.arange(1, 8)[None]})["sequence_output"]
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="missing: pooled_dense"):
        model.save_to_preset(
            tmp_path, state_dict={k: v for k, v in gathered.items() if "pooled_dense" not in k}
        )


def test_safetensors_are_the_librarys(tmp_path: Path) -> None:
    model = LlamaBackbone(31, 2, 2, 8, 12, 1, dtype="bfloat16")
    model.save_weights(tmp_path / "x.safetensors")
    for name, value in load_file(tmp_path / "x.safetensors").items():
        assert torch.equal(value, model.state_dict()[name])


def gradients(model: Any, inputs: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    outputs = oracle.flat(model(inputs)).values()
    model.zero_grad()
    sum(output.float().square().sum() for output in outputs).backward()
    return {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


def test_gradient_checkpointing(first: Reference, tmp_path: Path) -> None:
    model = first.load(trainable=True)
    assert model.block_classes
    expected = gradients(model, first.inputs)
    last = model.get_layer(index=-1)
    model.gradient_checkpointing()
    assert model.get_layer(index=-1) is last
    found = gradients(model, first.inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4, msg=name)
    assert_saved(model, first, tmp_path)
    model.gradient_checkpointing(False)
    gradients(model, first.inputs)


@pytest.mark.parametrize("name", ["resnet-basic", "rqvae"])
def test_statistics_know_a_batch_once(name: str, preset_folder: Path) -> None:
    """Gradient checkpointing computes it twice."""
    reference = reference_of(name, preset_folder)
    found = []
    for enabled in (False, True):
        model = reference.load(trainable=True).train()
        model.gradient_checkpointing(enabled)
        gradients(model, reference.inputs)
        found.append(dict(model.named_buffers()))
    assert found[0]
    for key, value in found[0].items():
        torch.testing.assert_close(found[1][key], value)


@pytest.mark.parametrize("name", ["bert", "gemma2", "resnet-basic", "t5"])
def test_checkpointed_blocks_compile(name: str, preset_folder: Path) -> None:
    reference = reference_of(name, preset_folder)
    model = reference.load(trainable=True)
    expected = gradients(model, reference.inputs)
    model.gradient_checkpointing()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for name, value in gradients(compiled, reference.tensors).items():
        theirs = expected[name.removeprefix("_orig_mod.")]
        torch.testing.assert_close(value, theirs, rtol=1e-3, atol=1e-3)


def test_checkpointed_blocks_run_twice() -> None:
    model = BertBackbone(**SMALL)
    calls = []
    for block in model.transformer_layers.children():
        block.register_forward_pre_hook(lambda *_: calls.append(1))
    for enabled, count in ((True, 4), (False, 2)):
        model.gradient_checkpointing(enabled)
        calls.clear()
        gradients(model, {"token_ids": np.arange(1, 8)[None]})
        assert len(calls) == count


def clipped(inputs: Any, largest: int) -> Any:
    """With ids that a smaller vocabulary has."""
    if isinstance(inputs, dict):
        return {k: clipped(v, largest) if k.endswith("token_ids") else v for k, v in inputs.items()}
    return np.minimum(inputs, largest)


@pytest.mark.parametrize("change", [5, -7])
def test_resized_vocabularies(first: Reference, change: int, tmp_path: Path) -> None:
    name = next((k for k in first.case.config if re.match("(text_)?vocab", k)), None)
    if name is None:
        with pytest.raises(NotImplementedError, match="no vocabulary"):
            first.load().resize_token_embeddings(50)
        return
    model, before = first.load(), first.load()
    size = first.case.config[name] + change
    model.resize_token_embeddings(size)
    assert getattr(model, name) == size
    for key, value in model.state_dict().items():
        old = before.state_dict()[key]
        if value.shape != old.shape:
            rows = min(size, first.case.config[name])
            kept = tuple(slice(0, min(a, b)) for a, b in zip(value.shape, old.shape))
            # PARSeq has no logits of two.
            assert {rows, rows - 2} & set(value[kept].shape)
            assert torch.equal(value[kept], old[kept])
        else:
            assert torch.equal(value, old)
    model.save_to_preset(tmp_path)
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path))
    again = Backbone.from_preset(tmp_path)
    inputs = clipped(first.inputs, size - 1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle.assert_close(again(inputs), oracle.keras_outputs(theirs, inputs))


def test_resized_rows_are_near_the_mean() -> None:
    model = BertBackbone(**SMALL)
    old = model.token_embedding.weight.detach().clone()
    model.resize_token_embeddings(60)
    new = model.token_embedding.weight[37:]
    assert (new - old.mean(0)).abs().max() < 1e-4
    assert new.std(0).max() > 0
    for size in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="vocabulary_size must be"):
            model.resize_token_embeddings(size)
    model.enable_lora(2, ["token_embedding"])
    with pytest.raises(ValueError, match="adapter"):
        model.resize_token_embeddings(40)
