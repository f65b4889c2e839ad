"""Text from a model that denoises blocks of tokens (arXiv:2503.09573)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from typing import Any

import torch

from ..backbones._block_diffusion import BlockDiffusion
from ..backbones._model import Model
from ..backbones.layers.cache import Cache
from .decoding import Rows
from .inference import many_compilations
from .prompts import Prompts
from .samplers import EntropyBoundSampler, GreedySampler


def blocks(
    backbone: Model,
    prompts: Prompts,
    rows: Rows,
    cache: Cache | None,
    sampler: Any,
    compile: bool,
) -> Generator[torch.Tensor, None, None]:
    """Let rows grow block by block; the tokens of a block come one after the other.

    Raises:
        ValueError: a model or a sampler for single tokens, or a cache of another size.
    """
    if isinstance(sampler, GreedySampler):
        sampler = EntropyBoundSampler()
    if not isinstance(backbone, BlockDiffusion) or not isinstance(sampler, EntropyBoundSampler):
        raise ValueError(
            f"{type(backbone).__name__} does not take a {type(sampler).__name__}: an "
            "EntropyBoundSampler is for models that denoise blocks, and they have no other."
        )
    size = sampler.canvas_length
    whole = -(-rows.most // size) * size  # blocks are not cut
    length = int(prompts.lengths.max()) + whole
    if cache is None:
        cache = backbone.make_cache(len(rows.room), length)
    if cache.batch_size != len(rows.room) or cache.max_length < length:
        raise ValueError(
            f"The cache is for {cache.batch_size} rows of {cache.max_length} tokens; "
            f"this needs {len(rows.room)} of {length}."
        )
    return _blocks(backbone, prompts, rows, cache, sampler, compile)


def _blocks(
    backbone: BlockDiffusion,
    prompts: Prompts,
    rows: Rows,
    cache: Cache,
    sampler: EntropyBoundSampler,
    compile: bool,
) -> Generator[torch.Tensor, None, None]:
    prompt_of = torch.arange(len(rows.room), device=rows.room.device) // rows.copies
    first = cache
    if rows.copies > 1:
        first = backbone.make_cache(len(prompts.lengths), cache.max_length)
    backbone.encode(prompts.token_ids, prompts.padding_mask, **prompts.others, cache=first)
    if first is not cache:
        cache.take(prompt_of, first)
    step = _compiled_step() if compile else _step
    size = sampler.canvas_length
    while rows.running:
        index = prompts.lengths[prompt_of] + rows.count
        block = sampler.denoise(
            lambda canvas, before: step(backbone, canvas, cache, index, before),  # noqa: B023
            rows.tokens.new_zeros((len(rows.room), size)),
            backbone.vocabulary_size,  # type: ignore[arg-type]
        )
        for tokens in block.unbind(1):
            if not rows.running:
                break
            yield rows.append(tokens)
        if rows.running:
            backbone.encode(block, cache=cache, cache_update_index=index)


def _step(
    backbone: BlockDiffusion,
    canvas: torch.Tensor,
    cache: Cache,
    index: torch.Tensor,
    before: torch.Tensor | None,
) -> torch.Tensor:
    return backbone.denoise_step(canvas, cache, index, before)


@functools.cache
def _compiled_step() -> Callable[..., torch.Tensor]:
    return many_compilations()(torch.compile(_step, fullgraph=True, dynamic=False))
