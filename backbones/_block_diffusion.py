"""Models that find text a block at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ._backbone import Backbone
from .layers.cache import Cache, KeyValueShape


class BlockDiffusion(Backbone):
    """A backbone that encodes a prompt into a cache, and denoises blocks of tokens behind it.

    Attributes:
        block_shapes: what each layer keeps of a position.
    """

    block_shapes: Sequence[KeyValueShape]

    def make_cache(
        self,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        windows: bool = False,
    ) -> Cache:
        """As of decoders, and always with all positions: those of a block are written anew by each
        step.
        """
        dtype = dtype or self.dtype_policy.compute_dtype
        where = self.device if device is None else torch.device(device)
        return Cache(self.block_shapes, batch_size, max_length, dtype, where, windows=False)

    def encode(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """States of tokens, each of which sees those before it, whose keys and values are kept.

        Args:
            cache: of `make_cache`.
            cache_update_index: the position of the first token, as of decoders.
        """
        raise NotImplementedError

    def denoise_step(
        self,
        canvas: torch.Tensor,
        cache: Cache,
        cache_update_index: torch.Tensor,
        previous_logits: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Logits `[batch, length, vocabulary]` of a block, whose tokens see each other and what is
        in the cache before them.

        Args:
            canvas: token ids, `[batch, length]`.
            cache: as of `encode`; the places of the block are written to.
            cache_update_index: of the first of these places, `[1]` or `[batch]`.
            previous_logits: of the step before, after its temperature.
        """
        raise NotImplementedError
