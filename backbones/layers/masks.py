"""Attention masks.

They are boolean, broadcastable to `[batch, heads, queries, keys]`, true where a query may look;
`None` hides nothing, and `CAUSAL` nothing but the future.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import torch

# Types of layers: with a window, and without.
SLIDING, FULL = "sliding_attention", "full_attention"


class Causal(Enum):
    CAUSAL = "each query sees itself and before"


CAUSAL = Causal.CAUSAL
Mask = torch.Tensor | Causal | None


def padding_mask_of(padding_mask: torch.Tensor | None) -> torch.Tensor | None:
    """`[batch, keys]`, nonzero for real tokens → `[batch, 1, 1, keys]`."""
    return None if padding_mask is None else padding_mask.bool()[:, None, None, :]


def causal_mask(length: int, device: torch.device, window: int | None = None) -> torch.Tensor:
    """`[1, 1, length, length]`: each query sees itself and before, `window` keys at most."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions
    visible = distance >= 0
    if window is not None:
        visible = visible & (distance < window)
    return visible[None, None]


def near_mask(length: int, reach: int, device: torch.device) -> torch.Tensor:
    """`[1, 1, length, length]`: each query sees itself and `reach` keys on either side."""
    positions = torch.arange(length, device=device)
    return ((positions[:, None] - positions).abs() <= reach)[None, None]


def decoder_mask(
    padding_mask: torch.Tensor | None,
    length: int,
    device: torch.device,
    window: int | None = None,
) -> torch.Tensor | Causal:
    """Causal mask joined with the padding."""
    # A window that holds everything needs no mask; compiled code serves all lengths alike.
    if window is not None and not torch.compiler.is_compiling() and length <= window:
        window = None
    if padding_mask is None and window is None:
        return CAUSAL
    visible = causal_mask(length, device, window)
    return visible if padding_mask is None else visible & padding_mask.bool()[:, None, None, :]


def hiding_bias(mask: torch.Tensor) -> torch.Tensor:
    """What is added to scores: -1e9 where nothing may be seen, float32."""
    return (~mask).float() * -1e9


def padding_bias(padding_mask: torch.Tensor) -> torch.Tensor:
    """`[batch, keys]`, nonzero for real tokens → what is added to scores, `[batch, 1, 1, keys]`."""
    return hiding_bias(padding_mask.bool()[:, None, None, :])


def check_layer_types(
    layer_types: Sequence[str], count: int, known: Sequence[str] = (SLIDING, FULL)
) -> list[str]:
    """The types of `count` layers; surplus ones are left out.

    Raises:
        ValueError: there are fewer, or unknown ones.
    """
    if len(layer_types) < count or not set(layer_types) <= set(known):
        raise ValueError(
            f"layer_types must be {count} of {' and '.join(known)}, not {list(layer_types)}."
        )
    return list(layer_types[:count])
