"""What is made of the hidden states between blocks: which are taken, their norm, their maps."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ._inputs import check_keys
from .layers.convolution import channels_back, channels_first, pair
from .layers.core import LayerNormalization, RMSNormalization, UnitRMSNormalization
from .layers.layout import Parts, Stack
from .layers.watching import Watch

NORMS = (LayerNormalization, RMSNormalization, UnitRMSNormalization)


def intermediates(
    model: Any,
    kind: type[nn.Module],
    inputs: Any,
    indices: int | Sequence[int] | None,
    norm: bool,
    maps: bool,
    prefix_tokens: bool,
    intermediates_only: bool,
) -> Any:
    """`Model.forward_intermediates`.

    Args:
        kind: of the parts that have blocks for themselves, `Model`.
    """
    stacks = list(stacks_of(model, kind))
    owners = [stack for stack in stacks for _ in range(len(stack) * stack.repeats)]
    if not owners:
        inner = (name for name, part in model.named_children() if isinstance(part, kind))
        parts = [name for name in inner if any(stacks_of(getattr(model, name), kind))]
        hint = f"; ask its {' or '.join(parts)}" if parts else ""
        raise NotImplementedError(f"{model.class_name} has no blocks in a row{hint}.")
    numbers = numbers_of(indices, len(owners), model.class_name)
    images = next((name for name, s in model.input_specs.items() if s.kind == "images"), "")
    only_images = list(model.input_specs) == [images]
    of_videos = all(owners[number].rows for number in numbers)
    if (maps or prefix_tokens) and not (only_images or of_videos):
        raise ValueError(
            "maps and prefix_tokens are of images alone; "
            f"{model.class_name} takes {', '.join(model.input_specs)}."
        )
    given = model._given(inputs, (), {}, partly=intermediates_only)
    watch = Watch(stacks, numbers, intermediates_only)
    try:
        outputs = watch.run(model.forward, **given)
    except (AttributeError, TypeError):
        check_keys(given, model.input_specs, type(model).__name__)  # what is missing is needed
        raise
    found: list[Any] = []
    for number in numbers:
        x = watch.found[number]
        behind = norm_behind(model, owners[number]) if norm else None
        x = x if behind is None else behind(x)
        if owners[number].rows and (maps or prefix_tokens):
            x = _of_videos(model, x, given[images], owners[number].rows, maps, prefix_tokens)
        elif only_images:
            x = _as_asked(model, x, given[images], maps, prefix_tokens)
        found.append(x)
    return found if intermediates_only else (outputs, found)


def numbers_of(indices: int | Sequence[int] | None, count: int, where: str) -> list[int]:
    """Those of the blocks that are meant, from 0.

    Args:
        indices: the last so many, or each one's number, from -1 backwards; `None` for all.

    Raises:
        ValueError: there are no such blocks.
        TypeError: no integers.
    """
    if indices is None:
        return list(range(count))
    if isinstance(indices, (str, bytes, bool)):
        raise TypeError(f"indices must be integers, not {indices!r}.")
    if not isinstance(indices, Iterable):
        last = operator.index(indices)
        if not 0 < last <= count:
            raise ValueError(f"indices={last} must be 1 to {count}, how many blocks {where} has.")
        return list(range(count - last, count))
    numbers = [operator.index(index) for index in indices]
    if not numbers:
        raise ValueError("indices names no block.")
    for number in numbers:
        if not -count <= number < count:
            raise ValueError(
                f"indices has {number}, but {where} has {count} blocks, 0 to {count - 1}."
            )
    return [number % count for number in numbers]


def stacks_of(model: nn.Module, kind: type[nn.Module]) -> Iterator[Stack]:
    """Those whose blocks are gone through in a row, in order; not those within blocks.

    Args:
        kind: of the parts that have blocks for themselves.
    """
    for child in model.children():
        if isinstance(child, Stack):
            blocks = list(child.children())
            if blocks and isinstance(blocks[0], Stack):
                yield from stacks_of(child, kind)
            elif blocks and not isinstance(child, Parts):
                yield child
        elif not isinstance(child, kind):
            yield from stacks_of(child, kind)


def norm_behind(model: nn.Module, stack: Stack) -> nn.Module | None:
    """The norm that follows the blocks of a stack, if one does."""
    if stack.norm == "":
        return None
    if stack.norm is not None:
        (owner,) = (one for one in model.modules() if any(stack is x for x in one.children()))
        return owner.get_submodule(stack.norm)
    behind = False
    for module in _leaves(model):
        if behind and not isinstance(module, (nn.Dropout, nn.Identity)):
            return module if isinstance(module, NORMS) else None
        behind = behind or module is stack
    return None


def _leaves(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, Stack) or not list(child.children()):
            yield child
        else:
            yield from _leaves(child)


def _grid(images: torch.Tensor, order: str, patch_size: int | Sequence[int]) -> tuple[int, int]:
    """Patches in height and width."""
    height, width = images.shape[-3:-1] if order == "channels_last" else images.shape[-2:]
    down, right = pair(patch_size)
    return height // down, width // right


def _of_videos(
    model: Any,
    x: torch.Tensor,
    videos: torch.Tensor,
    rows: Sequence[str],
    maps: bool,
    prefix_tokens: bool,
) -> Any:
    """What a block of a model of videos gives, `[batch, frames, patches, dim]` in any case.

    Args:
        rows: as of `Stack`.
    """
    order = model.data_format
    grid = _grid(videos, order, model.patch_size)
    sizes = {"batch": videos.shape[0], "frames": videos.shape[1], "patches": grid[0] * grid[1]}
    axes = [*rows, *(axis for axis in sizes if axis not in rows)]
    x = x.reshape(*(sizes[axis] for axis in axes), x.shape[-1])
    x = x.permute(*(axes.index(axis) for axis in sizes), 3)
    before = x[:, :, :0]
    if maps:
        x = x.unflatten(2, grid)
        x = x if order == "channels_last" else x.movedim(4, 2)
    return (x, before) if prefix_tokens else x


def _as_asked(
    model: Any, x: torch.Tensor, images: torch.Tensor, maps: bool, prefix_tokens: bool
) -> Any:
    """What a block of a model of images gives, in the order of `data_format`."""
    order = getattr(model, "data_format", None) or "channels_last"
    if x.ndim == 4:
        if prefix_tokens:
            raise ValueError(f"The blocks of {model.class_name} give maps without prefix_tokens.")
        return channels_back(channels_first(x, model.maps_format), order)
    if not (maps or prefix_tokens):
        return x
    patch_size = getattr(model, "patch_size", None)
    (spec,) = model.input_specs.values()
    if patch_size is None or "frames" in spec.axes:
        raise ValueError(f"The blocks of {model.class_name} do not give the patches of an image.")
    rows, columns = _grid(images, order, patch_size)
    before, patches = x[:, : -rows * columns], x[:, -rows * columns :]
    if maps:
        patches = patches.unflatten(1, (rows, columns))
        patches = channels_back(channels_first(patches, "channels_last"), order)
    return (patches, before) if prefix_tokens else patches
