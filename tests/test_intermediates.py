"""Hidden states between blocks: equal to what the blocks give in a whole run, and nothing more is
computed; compiled, exported, trained. Those of timm and transformers are in their tests.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from keras_hub_torch.backbones._intermediates import NORMS, norm_behind, stacks_of
from keras_hub_torch.backbones._model import Model
from keras_hub_torch.backbones.layers.layout import Stack
from keras_hub_torch.models import (
    AlbertBackbone,
    BertBackbone,
    Gemma3Backbone,
    Gemma3VisionEncoder,
    GPT2Backbone,
    MiTBackbone,
    ResNetBackbone,
    SegFormerBackbone,
    T5Backbone,
    VideoPrismBackbone,
    ViTBackbone,
)

from . import oracle
from .conftest import Reference
from .test_families import batches, images_of_one_size, several, shrunk

BERT: dict[str, Any] = {
    "vocabulary_size": 17,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
    "intermediate_dim": 12,
}
VIT: dict[str, Any] = {
    "image_shape": (8, 12, 3),
    "patch_size": 4,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 8,
    "mlp_dim": 12,
}
VIDEO: dict[str, Any] = {
    "num_frames": 6,
    "patch_size": 4,
    "hidden_dim": 8,
    "intermediate_dim": 12,
    "num_heads": 2,
    "num_spatial_layers": 2,
    "num_temporal_layers": 1,
    "num_auxiliary_layers": 0,
    "image_shape": (8, 12, 3),
}
IDS = {"token_ids": torch.arange(1, 11).view(2, 5)}


def blocks_of(model: Any) -> list[Stack]:
    return list(stacks_of(model, Model))


@contextmanager
def seen(model: nn.Module) -> Iterator[list[tuple[nn.Module, Any, Any]]]:
    """Modules in the order in which they end, with their first input and a copy of their output."""
    found: list[tuple[nn.Module, Any, Any]] = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        copy = output.clone() if isinstance(output, torch.Tensor) else output
        found.append((module, inputs[0] if inputs else None, copy))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def same(map_of_block: torch.Tensor, found: torch.Tensor, model: Any) -> bool:
    """Whether two are equal, but for the order of a map's axes."""
    if map_of_block.ndim == 4 and map_of_block.shape != found.shape:
        last = model.maps_format == "channels_last"
        map_of_block = map_of_block.permute(*((0, 3, 1, 2) if last else (0, 2, 3, 1)))
    return torch.equal(map_of_block, found)


@torch.no_grad()
def test_every_family(first: Reference) -> None:
    model, inputs = first.load(), first.tensors
    stacks = blocks_of(model)
    if not stacks:
        with pytest.raises(NotImplementedError, match=f"{first.case.cls} has no blocks in a row"):
            model.forward_intermediates(inputs)
        return
    blocks = {block: stack for stack in stacks for block in stack.children()}
    with seen(model) as calls:
        expected = model(inputs)
    numbered = [(m, output) for m, _, output in calls if m in blocks]
    assert len(numbered) == sum(len(stack) * stack.repeats for stack in stacks)
    # In order, and untouched by what comes after.
    outputs, found = model.forward_intermediates(inputs, intermediates_only=False)
    oracle.assert_close(outputs, oracle.named(expected), 0)
    assert len(found) == len(numbered)
    assert all(same(output, x, model) for (_, output), x in zip(numbered, found))
    # The norm behind a stack is the one that takes what its last block gives.
    for stack in stacks:
        last = next(stack_output for m, stack_output in reversed(numbered) if blocks[m] is stack)
        takers = [
            m
            for m, x, _ in calls
            if isinstance(m, NORMS) and isinstance(x, torch.Tensor) and x.numel() == last.numel()
            if torch.equal(x, last.view_as(x))
            if not any(m in set(block.modules()) for block in blocks)
        ]
        assert [norm_behind(model, stack)] == (takers or [None])
    # Nothing begins behind the last one.
    number = len(numbered) // 2
    begun: list[nn.Module] = []
    hooks = [m.register_forward_pre_hook(lambda m, _: begun.append(m)) for m in model.modules()]
    (one,) = model.forward_intermediates(inputs, [number])
    for hook in hooks:
        hook.remove()
    assert torch.equal(one, found[number])
    block = numbered[number][0]
    assert begun[-1] in set(block.modules())
    assert sum(m in blocks for m in begun) == number + 1
    if not isinstance(inputs, torch.Tensor) or inputs.ndim != 4:
        return
    if one.ndim == 4 or hasattr(model, "patch_size"):
        assert_is_map(model, inputs)
    else:  # queries, say
        with pytest.raises(ValueError, match="do not give the patches of an image"):
            model.forward_intermediates(inputs, 1, maps=True)


def assert_is_map(model: Any, images: torch.Tensor) -> None:
    """Height and width, where the image has them, are the image's over one stride."""
    (x,) = model.forward_intermediates(images, 1, maps=True)
    axes = (2, 3) if getattr(model, "data_format", None) == "channels_first" else (1, 2)
    sides = [(images.shape[axis], x.shape[axis]) for axis in axes]
    assert any(all(abs(a / s - b) < 1 for a, b in sides) for s in range(1, 65)), sides


class First(nn.Module):
    """What a user writes around a backbone."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, inputs: Any) -> Any:
        return self.backbone.forward_intermediates(inputs, [0])[0]


@torch.no_grad()
def test_compiled_and_exported(compiled: Reference) -> None:
    """One graph for all sizes, and nothing in it that comes behind the block."""
    model, inputs = compiled.load(), compiled.tensors
    stacks = blocks_of(model)
    if not stacks:
        pytest.skip("no blocks")
    torch._dynamo.reset()
    counters.clear()
    wrapped = First(model)
    run = torch.compile(wrapped, fullgraph=True, dynamic=True, backend="eager")
    fixed, many = images_of_one_size(model), several(model)
    one_size = fixed and isinstance(inputs, torch.Tensor)
    smaller = shrunk(inputs, fixed.union(compiled.case.steady), many)
    for given in (inputs, batches(inputs, 3) if one_size else smaller):
        oracle.assert_close(run(given), oracle.named(wrapped(given)))
    assert counters["stats"]["unique_graphs"] == 1
    program = torch.export.export(wrapped, (inputs,))
    oracle.assert_close(program.module()(inputs), oracle.named(wrapped(inputs)))
    used = {node.name for node in program.graph.nodes if node.users}
    names = program.graph_signature.inputs_to_parameters
    reached = {name for node, name in names.items() if node in used}
    later = [block for stack in stacks for block in stack.children()][1:]
    unreached = {id(p) for block in later for p in block.parameters()}
    first_block = {id(p) for p in next(stacks[0].children()).parameters()}
    for name, parameter in wrapped.named_parameters():
        if id(parameter) in unreached - first_block:
            assert name not in reached


def test_indices() -> None:
    model = BertBackbone(**BERT).eval()
    every = model.forward_intermediates(IDS)
    assert len(every) == 3

    def is_of(indices: Any, *expected: int) -> None:
        found = model.forward_intermediates(IDS, indices)
        assert len(found) == len(expected)
        assert all(torch.equal(x, every[i]) for x, i in zip(found, expected))

    is_of(2, 1, 2)
    is_of((2, 0), 2, 0)
    is_of([-1, -3], 2, 0)
    is_of(range(2), 0, 1)
    is_of(np.array([1, 1]), 1, 1)
    for indices in (0, 4, -1):
        with pytest.raises(ValueError, match="must be 1 to 3, how many blocks BertBackbone has"):
            model.forward_intermediates(IDS, indices)
    for indices in ([3], (0, -4)):
        with pytest.raises(ValueError, match=f"{indices[-1]}, but .* has 3 blocks, 0 to 2"):
            model.forward_intermediates(IDS, indices)
    with pytest.raises(ValueError, match="names no block"):
        model.forward_intermediates(IDS, ())
    for wrong in ("1", True, 1.0, [0.5]):
        with pytest.raises(TypeError):
            model.forward_intermediates(IDS, wrong)


def test_text_has_no_maps() -> None:
    model = BertBackbone(**BERT)
    for option in ("maps", "prefix_tokens"):
        with pytest.raises(ValueError, match="are of images alone; BertBackbone takes token_ids"):
            model.forward_intermediates(IDS, **{option: True})


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@torch.no_grad()
def test_maps(data_format: str) -> None:
    """Row by row, without the class token."""
    first = data_format == "channels_first"
    shape = (3, 8, 12) if first else (8, 12, 3)
    model = ViTBackbone(**{**VIT, "image_shape": shape}, data_format=data_format).eval()
    images = torch.rand(2, *shape)
    whole = model.forward_intermediates(images)
    tokens = model.forward_intermediates(images, prefix_tokens=True)
    maps = model.forward_intermediates(images, maps=True)
    both = model.forward_intermediates(images, maps=True, prefix_tokens=True)
    for x, (patches, before), image, (again, again_before) in zip(whole, tokens, maps, both):
        assert torch.equal(torch.cat((before, patches), 1), x)
        assert before.shape == (2, 1, 8)
        last = image.permute(0, 2, 3, 1) if first else image
        assert last.shape == (2, 2, 3, 8)
        assert torch.equal(last.flatten(1, 2), patches)
        assert torch.equal(again, image)
        assert torch.equal(again_before, before)
    assert torch.equal(model.forward_intermediates(images, 1, norm=True)[0], model(images))


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@torch.no_grad()
def test_maps_of_videos(data_format: str) -> None:
    """Frames stand behind the batch, of blocks in space and of blocks in time."""
    first = data_format == "channels_first"
    # As many frames as patches, which shapes alone could not tell apart.
    config = {**VIDEO, "image_shape": (3, 8, 12) if first else (8, 12, 3)}
    model = VideoPrismBackbone(**config, data_format=data_format).eval()
    videos = torch.rand(2, 6, *config["image_shape"])
    output, maps = model.forward_intermediates(
        videos, norm=True, maps=True, intermediates_only=False
    )
    if first:
        maps = [x.permute(0, 1, 3, 4, 2) for x in maps]
    assert [x.shape for x in maps] == [(2, 6, 2, 3, 8)] * 3
    assert torch.equal(maps[2].flatten(2, 3), output)
    # Blocks in space see no other frame.
    still = videos.clone()
    still[:, 1:] = videos[:, :1]
    (again,) = model.forward_intermediates(still, [1], norm=True, maps=True)
    again = again.permute(0, 1, 3, 4, 2) if first else again
    torch.testing.assert_close(again[:, 0], maps[1][:, 0])
    ((patches, before),) = model.forward_intermediates(videos, [0], prefix_tokens=True)
    assert torch.equal(model.forward_intermediates(videos, [0])[0].view_as(patches), patches)
    assert before.shape == (2, 6, 0, 8)
    assert model(videos[:0]).shape == (0, 6, 6, 8)


@torch.no_grad()
def test_maps_of_videos_with_text() -> None:
    text = {"vocabulary_size": 9, "num_text_layers": 1, "num_auxiliary_layers": 1}
    model = VideoPrismBackbone(**{**VIDEO, **text}).eval()
    inputs = {"pixel_values": torch.rand(2, 6, 8, 12, 3), "token_ids": torch.ones(2, 3).long()}
    found = model.forward_intermediates(inputs, range(4), maps=True)
    assert [x.shape for x in found] == [(2, 6, 2, 3, 8)] * 4
    with pytest.raises(ValueError, match="are of images alone; VideoPrismBackbone takes pixel"):
        model.forward_intermediates(inputs, [-1], maps=True)


def test_convolutions_have_maps_only() -> None:
    config: dict[str, Any] = {
        "input_conv_filters": [64],
        "input_conv_kernel_sizes": [3],
        "stackwise_num_filters": [64, 8],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_strides": [1, 2],
        "block_type": "basic_block",
    }
    for data_format, shape in (("channels_last", (9, 9, 3)), ("channels_first", (3, 9, 9))):
        given = {"image_shape": shape, "data_format": data_format}
        model = ResNetBackbone(**config, **given).eval()
        images = torch.rand(1, *shape)
        found = model.forward_intermediates(images, norm=True)
        pyramid = model.pyramid_outputs(images)
        assert torch.equal(found[0], pyramid["P2"])
        assert torch.equal(found[2], pyramid["P3"])
        with pytest.raises(ValueError, match="ResNetBackbone give maps without prefix_tokens"):
            model.forward_intermediates(images, prefix_tokens=True)


@torch.no_grad()
def test_encoder_without_decoder() -> None:
    model = T5Backbone(17, 2, 2, 8, 12).eval()
    ids = torch.arange(1, 6)[None]
    inputs = {"encoder_token_ids": ids, "decoder_token_ids": ids[:, :2]}
    expected = model(inputs)
    for given in (inputs, {"encoder_token_ids": ids}):
        (last,) = model.forward_intermediates(given, [1], norm=True)
        assert torch.equal(last, expected["encoder_sequence_output"])
    (last,) = model.forward_intermediates(inputs, 1, norm=True)
    assert torch.equal(last, expected["decoder_sequence_output"])
    for options in ({"indices": 1}, {"indices": [0], "intermediates_only": False}):
        with pytest.raises(ValueError, match="missing: decoder_token_ids"):
            model.forward_intermediates({"encoder_token_ids": ids}, **options)
    with pytest.raises(ValueError, match="missing: encoder_token_ids, decoder_token_ids"):
        model.forward_intermediates({})


@torch.no_grad()
def test_towers() -> None:
    """Their blocks are their own, and not counted with those of the model around them."""
    tower = Gemma3VisionEncoder(8, 4, 2, 8, 3, 12, 8, 2).eval()
    images = torch.rand(2, 1, 8, 8, 3)
    with seen(tower) as calls:
        tower(images)
    normed = next(y for m, _, y in calls if m is tower.image_encoder.encoder_layer_norm)
    assert torch.equal(tower.forward_intermediates(images, 1, norm=True)[0], normed)
    (patches,) = tower.forward_intermediates(images, 1)
    (found,) = tower.forward_intermediates(images, 1, maps=True)
    assert torch.equal(found, patches.unflatten(1, (2, 2)))
    model = Gemma3Backbone(17, 8, 2, 2, 1, 8, 8, 12, vision_encoder=tower).eval()
    assert len(model.forward_intermediates(IDS)) == 2
    encoder = MiTBackbone([1, 1], 2, [1, 1], [1, 1], 0.0, [3, 3], [2, 2], (8, 8, 3), [4, 6])
    with pytest.raises(NotImplementedError, match="no blocks in a row; ask its image_encoder"):
        SegFormerBackbone(encoder, 8).forward_intermediates(torch.rand(1, 8, 8, 3))


def test_layers_that_are_called_again() -> None:
    """ALBERT's are few, and each call counts."""
    model = AlbertBackbone(17, 4, 2, 4, 8, 12, num_groups=2, num_inner_repetitions=1).eval()
    outputs, found = model.forward_intermediates(IDS, intermediates_only=False)
    assert len(found) == 4
    assert torch.equal(found[-1], outputs["sequence_output"])
    with seen(model) as calls:
        model.forward_intermediates(IDS, [2])
    assert sum(type(m).__name__ == "TransformerEncoder" for m, *_ in calls) == 3


def gradients_of(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    model.zero_grad()
    sum(x.square().sum() for x in model.forward_intermediates(IDS, (0, 1))).backward()  # type: ignore[operator]
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_gradients() -> None:
    """They reach the blocks that have been run; with checkpointing they are the same."""
    model = BertBackbone(**BERT)
    expected = gradients_of(model)
    assert {name.split(".")[1] for name in expected if "transformer_layers" in name} == {"0", "1"}
    assert not any("pooled" in name for name in expected)
    model.gradient_checkpointing()
    found = gradients_of(model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    model.gradient_checkpointing(False)
    model.enable_lora(2)
    assert all("lora" in name for name in gradients_of(model))
    assert len(gradients_of(model)) == 2 * 2 * 2


def test_dtypes() -> None:
    for dtype, expected in (("mixed_bfloat16", torch.bfloat16), ("float16", torch.float16)):
        model = BertBackbone(**BERT, dtype=dtype).eval()
        found = model.forward_intermediates(IDS)
        assert all(x.dtype == expected and x.isfinite().all() for x in found)


@torch.no_grad()
def test_threads() -> None:
    """Each sees its own blocks, however their calls interleave."""
    model = GPT2Backbone(17, 3, 2, 8, 12, max_sequence_length=8).eval()
    expected = model.forward_intermediates(IDS)
    whole = model(IDS)
    barrier = threading.Barrier(3)

    def wait(*_: Any) -> None:
        barrier.wait(5)

    model.embeddings_dropout.register_forward_hook(wait)
    found: dict[int, Any] = {}

    def run(number: int) -> None:
        with torch.no_grad():
            call = model.forward_intermediates if number < 2 else model
            found[number] = call(IDS, [number + 1]) if number < 2 else call(IDS)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(found[0][0], expected[1])
    assert torch.equal(found[1][0], expected[2])
    assert torch.equal(found[2], whole)


@torch.no_grad()
def test_wrapped() -> None:
    model = BertBackbone(**BERT).eval()
    expected = model.forward_intermediates(IDS, 1)[0]
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    assert torch.equal(compiled.forward_intermediates(IDS, 1)[0], expected)
    for block in model.transformer_layers.children():
        block.compile(backend="eager")
    assert torch.equal(model.forward_intermediates(IDS, 1)[0], expected)
    model.compile(backend="eager")
    assert torch.equal(model.forward_intermediates(IDS, 1)[0], expected)


def test_nothing_is_left_of_a_call_that_fails() -> None:
    model = BertBackbone(**BERT).eval()
    with pytest.raises(ValueError, match="600 positions"):
        model.forward_intermediates({"token_ids": torch.ones(1, 600, dtype=torch.int64)}, [0])
    assert model(IDS)["pooled_output"].shape == (2, 8)
