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


def check_places(
    name: str, indices: torch.Tensor, many: int, tokens: int, token_ids: torch.Tensor
) -> torch.Tensor:
    """The places of as many images or clips, as many of each as of any other.

    Args:
        indices: `[rows, places]`; those beyond all tokens must be 0, for padding.
        tokens: that an image or a clip gives; there may be fewer places.

    Raises:
        ValueError: places for more tokens, for other numbers of them, or (unless compiled) outside
            of the text.
    """
    most, length = many * tokens, token_ids.shape[1]
    places = indices[:, :most]
    if places.shape[1] % many:
        raise ValueError(
            f"{name} has {indices.shape[1]} places for {many} times {tokens} tokens; each image "
            "or clip needs as many."
        )
    if not torch.compiler.is_compiling() and not indices.is_meta:
        if bool((indices[:, most:] != 0).any()):
            raise ValueError(
                f"{name} has {indices.shape[1]} places, but there are {many} times {tokens} tokens."
            )
        check_range(name, places, length)
    return places


def check_range(name: str, indices: torch.Tensor, length: int) -> None:
    """Refuse indices outside of a text, unless compiled.

    Raises:
        ValueError: there are some.
    """
    if torch.compiler.is_compiling() or indices.is_meta:
        return
    if bool(((indices < 0) | (indices >= length)).any()):
        raise ValueError(
            f"{name} must be from 0 to {length - 1}; there are {int(indices.min())} to "
            f"{int(indices.max())}."
        )


def check_width(tower: str, argument: str, width: int, dim: int) -> None:
    """Refuse a tower whose tokens are not as wide as the text's.

    Raises:
        ValueError: they are not.
    """
    if width != dim:
        raise ValueError(f"{tower} has {argument}={width}, but the text is {dim} wide.")


def marked(token_ids: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    """`[rows, length]`, 1 at these places, but 0 at the first, which stands for padding."""
    mask = torch.zeros_like(token_ids).scatter(1, indices.long(), 1)
    return mask * (torch.arange(mask.shape[1], device=mask.device) > 0)


def same_image(vision_mask: torch.Tensor) -> torch.Tensor:
    """Which tokens belong to the same image: `[batch, length]` → `[batch, length, length]`."""
    starts = vision_mask & ~F.pad(vision_mask, (1, 0))[:, :-1]
    image = starts.cumsum(-1)
    both = vision_mask[:, :, None] & vision_mask[:, None, :]
    return (image[:, :, None] == image[:, None, :]) & both


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


def count_places(places: torch.Tensor, tokens: int, kind: str) -> None:
    """Compare the places in `[rows, length]` with the tokens that each row has for them.

    Args:
        kind: what the tokens are of, for the message.

    Raises:
        ValueError: more places than tokens, or fewer in a row before one that has some.
    """
    if places.is_meta:
        return
    counts = places.sum(1)
    before = counts.cumsum(0) - counts
    rows = torch.arange(len(counts), device=counts.device)
    if bool(((counts > tokens) | ((counts > 0) & (before != rows * tokens))).any()):
        raise ValueError(
            f"{kind} give {tokens} tokens a row, but token_ids have places for "
            f"{counts.tolist()}: there may be fewer only where no row behind has any."
        )


def fill(text: torch.Tensor, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Put the tokens of images, or of sound, one after the other where there are places for them.

    Args:
        text: `[rows, length, dim]`.
        tokens: `[rows, tokens, dim]`, of another dtype perhaps.
        places: `[rows, length]`, true where a token goes.
    """
    return text.masked_scatter(places[..., None], tokens.to(text.dtype))
