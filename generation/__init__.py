"""Text from a decoder, token by token."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F

from ..backbones._model import Model
from ..backbones.layers.cache import Cache
from . import samplers


@torch.no_grad()
def generate(
    backbone: Model,
    token_ids: Any,
    max_length: int,
    sampler: str | samplers.Sampler = "greedy",
    *,
    padding_mask: Any = None,
    stop_token_ids: int | Sequence[int] | None = None,
    pad_token_id: int = 0,
    cache: Cache | None = None,
    compile: bool = False,
) -> dict[str, torch.Tensor]:
    """Continue prompts with the tokens a decoder finds likely.

    Logits are those of its token embedding, soft cap included. Each row goes on behind its last
    token, wherever its padding is.

    Args:
        token_ids: prompts, `[batch, length]` or rows of different lengths, or KerasHub's mapping
            of `token_ids` and `padding_mask`.
        max_length: of prompt and continuation together.
        sampler: `greedy`, `random`, `top_k`, `top_p`, or a function from logits
            `[batch, vocabulary]` to ids `[batch]`, as those in `samplers`.
        padding_mask: `[batch, length]`, nonzero for real tokens.
        stop_token_ids: a row ends with the first of these that it produces.
        pad_token_id: what stands behind a row's end.
        cache: memory to be used again, of `backbone.make_cache(batch, max_length)`.
        compile: whether to compile the step from one token to the next; the first call for a model
            then takes long. Give a `cache` too, or CUDA graphs are recorded anew in each call.

    Returns:
        `token_ids` and `padding_mask`, `[batch, max_length]`.

    Raises:
        NotImplementedError: the model is no decoder.
        ValueError: an empty prompt, one longer than `max_length`, or an unknown sampler.
    """
    device = next(backbone.parameters()).device
    ids, mask = _prompts(token_ids, padding_mask, pad_token_id, device)
    batch, length = ids.shape
    ends = (mask * torch.arange(1, length + 1, device=device)).amax(1)
    if length > max_length or not ends.all():
        raise ValueError(
            f"Prompts must have 1 to max_length={max_length} tokens, not "
            f"{length if length > max_length else 0}."
        )
    sample = samplers.get(sampler)
    step = _compiled_step(device.type) if compile else _step
    stops = torch.tensor([] if stop_token_ids is None else stop_token_ids, device=device).flatten()
    if cache is None:
        cache = backbone.make_cache(batch, max_length)

    room = max_length - length
    ids = F.pad(ids.masked_fill(~mask, pad_token_id), (0, room), value=pad_token_id)
    mask = F.pad(mask, (0, room))
    rows = torch.arange(batch, device=device)
    index = ends[:1] if bool((ends == ends[0]).all()) else ends
    finished = torch.zeros(batch, dtype=torch.bool, device=device)
    training = backbone.training
    backbone.eval()
    try:
        prompt_mask = None if bool(mask[:, :length].all()) else mask[:, :length]
        hidden = backbone(ids[:, :length], prompt_mask, cache=cache)
        logits = backbone.token_embedding(hidden[rows, ends - 1], reverse=True)
        for position in range(int(ends.min()), max_length):
            finished = finished | (index >= max_length)
            place = index.clamp(max=max_length - 1)
            token = torch.where(finished, ids[rows, place], sample(logits))
            ids[rows, place] = token
            mask[rows, place] |= ~finished
            if len(stops):
                finished = finished | torch.isin(token, stops)
                if finished.all():
                    break
            if position + 1 < max_length:
                logits = step(backbone, cache, token[:, None], place)
                index = index + 1
    finally:
        backbone.train(training)
    return {"token_ids": ids, "padding_mask": mask}


def _step(backbone: Model, cache: Cache, tokens: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Logits `[batch, vocabulary]` behind the tokens `[batch, 1]` at `index`."""
    hidden = backbone(tokens, cache=cache, cache_update_index=index)
    return backbone.token_embedding(hidden[:, -1], reverse=True)


@functools.cache
def _compiled_step(device_type: str) -> Callable[..., torch.Tensor]:
    mode = "reduce-overhead" if device_type == "cuda" else None
    return torch.compile(_step, fullgraph=True, dynamic=False, mode=mode)


def _prompts(
    token_ids: Any, padding_mask: Any, pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and boolean mask, `[batch, length]`."""
    if isinstance(token_ids, Mapping):
        padding_mask = token_ids.get("padding_mask", padding_mask)
        token_ids = token_ids["token_ids"]
    if isinstance(token_ids, (list, tuple)) and any(hasattr(row, "__len__") for row in token_ids):
        longest = max(map(len, token_ids))
        if padding_mask is None:
            padding_mask = [[i < len(row) for i in range(longest)] for row in token_ids]
        token_ids = [[*row, *[pad_token_id] * (longest - len(row))] for row in token_ids]
    ids = torch.atleast_2d(torch.as_tensor(token_ids, device=device)).long()
    if padding_mask is None:
        return ids, torch.ones_like(ids, dtype=torch.bool)
    return ids, torch.atleast_2d(torch.as_tensor(padding_mask, device=device)).bool()
