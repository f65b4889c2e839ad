"""Embeddings of images and sound among those of text."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def interleave(
    text: torch.Tensor, tokens: torch.Tensor, indices: torch.Tensor, kept: int = 0
) -> torch.Tensor:
    """Put the tokens of images, or of sound, at their places in rows of text.

    Args:
        text: `[rows, length, dim]`.
        tokens: `[rows, tokens, dim]`, of another dtype perhaps.
        indices: of each token in its row, `[rows, tokens]`.
        kept: how many positions of each row stay text at any rate; where rows have fewer tokens,
            indices are padded with 0.

    Raises:
        ValueError: other numbers of tokens and of indices.
    """
    if tokens.shape[1] != indices.shape[1]:
        raise ValueError(
            f"The images give {tokens.shape[1]} tokens a row, but vision_indices has "
            f"{indices.shape[1]}."
        )
    places = indices.long()[..., None].expand_as(tokens)
    filled = text.scatter(1, places, tokens.to(text.dtype))
    return torch.cat((text[:, :kept], filled[:, kept:]), dim=1)


def prepend(
    text: torch.Tensor, tokens: torch.Tensor, padding_mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Put the tokens of images before rows of text, whose padding mask then shows them.

    Args:
        text: `[rows, length, dim]`.
        tokens: `[rows, tokens, dim]`, of another dtype perhaps.
        padding_mask: `[rows, length]`.
    """
    if padding_mask is not None:
        padding_mask = F.pad(padding_mask.bool(), (tokens.shape[1], 0), value=True)
    return torch.cat((tokens.to(text.dtype), text), dim=1), padding_mask
