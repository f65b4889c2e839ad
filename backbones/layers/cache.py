"""Keys and values that a decoder keeps from one call to the next.

All memory is allocated at the start and written in place, so that a compiled step meets the same
tensors and shapes for every token. Positions index the sequence including its padding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch

from .masks import Causal, causal_mask, decoder_mask

Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]
Project: TypeAlias = Callable[[torch.Tensor], Pair]


class KeyValues:
    """Keys and values of one layer, `[batch, heads, size, head_dim]`.

    Without a window `size` is the longest sequence; with one it is the window, and position p is
    at p modulo `size`.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, window: int | None) -> None:
        self.keys = keys
        self.values = values
        self.window = window


@dataclass(frozen=True)
class KeyValueShape:
    """What a layer keeps of each position; with a `window`, of the last ones only.

    Attributes:
        positions: how many the model has, if it has a table of them.
    """

    num_heads: int
    head_dim: int
    window: int | None = None
    positions: int | None = None

    def allocate(
        self, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> KeyValues:
        """Memory for `max_length` positions.

        Raises:
            ValueError: the model has fewer.
        """
        if self.positions is not None and self.positions < max_length:
            raise ValueError(
                f"max_length is {max_length}, but the position table has {self.positions}."
            )
        window = None if self.window is None or self.window >= max_length else self.window
        shape = (batch_size, self.num_heads, window or max_length, self.head_dim)
        keys, values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        return KeyValues(static(keys), static(values), window)


class Remembered:
    """Tensors of one call that later ones look at again, in memory that stays where it is as long
    as their shapes do.
    """

    def __init__(self) -> None:
        self.tensors: tuple[torch.Tensor, ...] = ()

    def put(self, *new: torch.Tensor) -> None:
        if [t.shape for t in self.tensors] == [t.shape for t in new]:
            for kept, tensor in zip(self.tensors, new):
                kept.copy_(tensor)
            return
        self.tensors = tuple(tensor.detach().clone() for tensor in new)
        if not torch.compiler.is_compiling():
            for tensor in self.tensors:
                static(tensor)


class CrossKeyValues(KeyValues):
    """What a layer keeps that attends to an encoder's output too: the keys and values of that
    output, computed once.
    """

    def __init__(self, own: KeyValues) -> None:
        super().__init__(own.keys, own.values, own.window)
        self.encoded = Remembered()


@dataclass(frozen=True)
class CrossKeyValueShape(KeyValueShape):
    """As `KeyValueShape`, of a layer that attends to an encoder's output too."""

    def allocate(
        self, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device
    ) -> CrossKeyValues:
        return CrossKeyValues(super().allocate(batch_size, max_length, dtype, device))


def static(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, marked as one that CUDA graphs may write to where it is."""
    torch._dynamo.mark_static_address(tensor)
    return tensor


class Cache:
    """What a decoder remembers of the tokens it has seen, one entry of `layers` for each layer.

    Attributes:
        windows: whether layers with a window keep no more than that.
        visible: `[batch, max_length]`, false where the last token written was padding.
        encoded_mask: of an encoder's output, `[batch, encoder_length]`, if it has padding.
    """

    def __init__(
        self,
        shapes: Sequence[Any],
        batch_size: int,
        max_length: int,
        dtype: torch.dtype,
        device: torch.device,
        windows: bool = True,
    ) -> None:
        self.windows = windows
        if not windows:
            shapes = [
                replace(shape, window=None) if isinstance(shape, KeyValueShape) else shape
                for shape in shapes
            ]
        self.layers = [shape.allocate(batch_size, max_length, dtype, device) for shape in shapes]
        visible = torch.ones((batch_size, max_length), dtype=torch.bool, device=device)
        self.visible = static(visible)
        self.encoded_mask = Remembered()

    @property
    def has_encoded(self) -> bool:
        """Whether an encoder's output is remembered."""
        return any(kept.tensors for kept in _remembered(self))

    @property
    def batch_size(self) -> int:
        return self.visible.shape[0]

    @property
    def max_length(self) -> int:
        return self.visible.shape[1]

    def take(self, rows: torch.Tensor, source: Cache | None = None, encoded: bool = True) -> None:
        """Remember for each row what the row `rows[i]` of `source` (by default of this cache) does.

        Args:
            source: of the same model and length; its batch may be another one.
            encoded: whether an encoder's output goes with its row; rows of one input share it.
        """
        source = source or self
        for mine, theirs in zip(_tensors(self), _tensors(source)):
            mine.copy_(theirs[rows])
        if encoded:
            for kept, other in zip(_remembered(self), _remembered(source)):
                kept.put(*(tensor[rows] for tensor in other.tensors))


def _tensors(memory: Any) -> Iterator[torch.Tensor]:
    """All that is allocated for a cache, or for what a layer keeps in it; rows come first."""
    values = memory if isinstance(memory, list) else vars(memory).values()
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif not isinstance(value, Remembered) and (
            isinstance(value, list) or hasattr(value, "__dict__")
        ):
            yield from _tensors(value)


def _remembered(cache: Cache) -> Iterator[Remembered]:
    yield cache.encoded_mask
    yield from (layer.encoded for layer in cache.layers if isinstance(layer, CrossKeyValues))


class Step:
    """The tokens of one call: where they stand, and which keys they see.

    Args:
        x: what the call is about, `[batch, length, …]`.
        index: the position of the first token, a tensor of one for all rows or `[batch]`; with
            the number 0 what the cache holds is not looked at.

    Attributes:
        positions: `[1 or batch, length]`.
        key_positions: of the keys that layers without window give, `[1, keys]`.
        visible: `[batch, keys]`, or `None` where no key is padding.

    Raises:
        TypeError: `cache` or `index` is something else.
        ValueError: the cache is too short, or for another batch size.
    """

    def __init__(
        self,
        x: torch.Tensor,
        padding_mask: torch.Tensor | None,
        cache: Cache | None,
        index: int | torch.Tensor,
    ) -> None:
        batch, self.length = x.shape[:2]
        self.device = x.device
        self.padding_mask = None if padding_mask is None else padding_mask.bool()
        self.cache = cache
        self.fresh = is_first(cache, index)
        offsets = torch.arange(self.length, device=x.device)[None]
        if cache is None:
            self.positions = self.key_positions = offsets
            self.visible = self.padding_mask
            return
        if not isinstance(cache, Cache):
            raise TypeError(f"cache must come from make_cache, not be {type(cache).__name__}.")
        if batch != cache.batch_size:
            raise ValueError(f"The cache is for {cache.batch_size} rows, the input has {batch}.")
        _check_index(index, batch, self.length, cache.max_length)
        start = index.reshape(-1, 1) if isinstance(index, torch.Tensor) else index
        self.positions = start + offsets
        seen = self.padding_mask
        if seen is None:
            seen = torch.ones((batch, self.length), dtype=torch.bool, device=x.device)
        _write(cache.visible, seen, self.positions, 1)
        self.key_positions = offsets if self.fresh else _range(cache.max_length, x.device)
        self.visible = self.padding_mask if self.fresh else cache.visible

    def past(self, layer: int) -> Past | None:
        """Where that layer finds earlier keys and values and leaves its own."""
        if self.cache is None:
            return None
        return Past(self, self.cache.layers[layer])

    def cross(self, layer: int) -> Crossing | None:
        """Where that layer finds the keys and values of an encoder's output."""
        return None if self.cache is None else Crossing(self.cache.layers[layer])

    def encoded_mask(
        self, encoded: torch.Tensor | None, padding_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        """That of an encoder's output in this call, or of earlier calls where there is none now.

        `[batch, encoder_length]`, boolean, or `None` where all of it is real.
        """
        mask = None if padding_mask is None else padding_mask.bool()
        if self.cache is None:
            return mask
        if encoded is not None:
            self.cache.encoded_mask.put(*([] if mask is None else [mask]))
        return next(iter(self.cache.encoded_mask.tensors), None)

    def mask(self, window: int | None = None) -> torch.Tensor | Causal:
        """`[1 or batch, 1, length, keys]`."""
        if self.fresh:
            return decoder_mask(self.padding_mask, self.length, self.device, window)
        return self.full_mask(window)

    def full_mask(self, window: int | None = None) -> torch.Tensor:
        """A tensor even where the mask is `CAUSAL`."""
        if self.cache is None or self.fresh:
            mask = decoder_mask(self.padding_mask, self.length, self.device, window)
            return mask if isinstance(mask, torch.Tensor) else causal_mask(self.length, self.device)
        visible = self.cache.visible
        if window is None or not self.cache.windows or window >= self.cache.max_length:
            keys = self.key_positions
        else:
            # The window's slots: after the write of a single token, or before that of several.
            several = self.length > 1
            last = self.positions[:, :1] - 1 if several else self.positions
            keys = held_positions(last, window)
            if several:
                keys = torch.cat((keys, self.positions), dim=1)
            visible = visible.gather(1, keys.clamp(min=0).expand(visible.shape[0], -1))
        distance = self.positions[:, :, None] - keys[:, None, :]
        seen = (distance >= 0) & (keys >= 0)[:, None, :]
        if window is not None:
            seen = seen & (distance < window)
        return (seen & visible[:, None, :])[:, None]


def is_first(cache: Cache | None, index: int | torch.Tensor) -> bool:
    """Whether nothing that the cache holds is looked at."""
    return cache is None or (isinstance(index, int) and index == 0)


class Past:
    """A layer's keys and values at one step."""

    def __init__(self, step: Step, layer: Any) -> None:
        self.step = step
        self.layer = layer

    def keys_values(self, x: torch.Tensor, project: Project) -> Pair:
        """As `extend`, of hidden states."""
        return self.extend(*project(x))

    def extend(self, key: torch.Tensor, value: torch.Tensor) -> Pair:
        """Keep new keys and values, and give all that the step's mask speaks of.

        No gradient flows through what is kept.
        """
        step, layer = self.step, self.layer
        if layer.window is None or step.length == 1:
            slots = step.positions if layer.window is None else step.positions % layer.window
            for kept, new in ((layer.keys, key), (layer.values, value)):
                _write(kept, new.detach().to(kept.dtype), slots, 2)
            if step.fresh:
                return key, value
            return layer.keys.to(key.dtype), layer.values.to(value.dtype)
        found = tuple(
            new if step.fresh else torch.cat((kept.to(new.dtype), new), dim=2)
            for kept, new in ((layer.keys, key), (layer.values, value))
        )
        # Each slot takes the last token that falls on it; padding after a row's end takes none.
        last = step.positions
        if step.padding_mask is not None:
            last = last.masked_fill(~step.padding_mask, -1)
        positions = held_positions(last.amax(1, keepdim=True), layer.window)
        source = positions - step.positions[:, :1]
        taken = (source >= 0)[:, None, :, None]
        source = source.clamp(min=0)[:, None, :, None]
        for kept, new in ((layer.keys, key), (layer.values, value)):
            chosen = new.detach().gather(2, source.expand_as(kept)).to(kept.dtype)
            kept.copy_(torch.where(taken, chosen, kept))
        return found  # type: ignore[return-value]


class Crossing:
    """What a layer keeps of an encoder's output."""

    def __init__(self, layer: CrossKeyValues) -> None:
        self.encoded = layer.encoded

    def keys_values(self, encoded: torch.Tensor | None, project: Project) -> Pair:
        """Of what the encoder gave, or, where that is `None`, those of an earlier call."""
        if encoded is None:
            key, value = self.encoded.tensors
        else:
            key, value = project(encoded)
            self.encoded.put(key, value)
        return key, value


def encoder_decoder_outputs(
    encoded: torch.Tensor | None, decoded: torch.Tensor
) -> dict[str, torch.Tensor]:
    """By name; the encoder's if it ran in this call."""
    outputs = {"decoder_sequence_output": decoded}
    return outputs if encoded is None else {"encoder_sequence_output": encoded, **outputs}


def held_positions(last: torch.Tensor, window: int) -> torch.Tensor:
    """Which position each slot of a window holds when `last` `[rows, 1]` was the last one;
    negative where none has been.
    """
    return last - (last - _range(window, last.device)) % window


def _range(size: int, device: torch.device) -> torch.Tensor:
    return torch.arange(size, device=device)[None]


def _write(kept: torch.Tensor, new: torch.Tensor, slots: torch.Tensor, axis: int) -> None:
    """Put `new` at `slots` `[1 or batch, length]` of an axis."""
    if slots.shape[0] == 1:
        kept.index_copy_(axis, slots[0], new)
        return
    index = slots.reshape(slots.shape[0], *[1] * (axis - 1), -1, *[1] * (kept.ndim - axis - 1))
    kept.scatter_(axis, index.expand_as(new), new)


def _check_index(index: Any, batch: int, length: int, max_length: int) -> None:
    if isinstance(index, torch.Tensor):
        if index.is_floating_point() or index.numel() not in (1, batch):
            raise TypeError(
                "cache_update_index must be an integer, a tensor of one, or one for each row, not "
                f"{index.dtype} {tuple(index.shape)}."
            )
        index = 0
    if not isinstance(index, int):
        raise TypeError(f"cache_update_index must be an integer, not {type(index).__name__}.")
    if index < 0 or index + length > max_length:
        raise ValueError(
            f"Positions {index} to {index + length - 1} do not fit a cache of {max_length}."
        )
