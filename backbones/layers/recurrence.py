"""Linear recurrences over the chunks of a sequence."""

from __future__ import annotations

from typing import Any

import torch


# An operator of its own, for compilers: they would unroll the loop over the chunks.
@torch.library.custom_op("keras_hub_torch::accumulate", mutates_args=())
def accumulate(state: torch.Tensor, factors: torch.Tensor, summands: torch.Tensor) -> torch.Tensor:
    """`S_{i+1} = S_i F_i + G_i`.

    Args:
        state: the first S, `[batch, heads, M, N]`.
        factors: F, `[batch, heads, count, N, N]`.
        summands: G, `[batch, heads, count, M, N]`.

    Returns:
        All S, `[batch, heads, count + 1, M, N]`.
    """
    states = summands.new_empty((*summands.shape[:2], summands.shape[2] + 1, *summands.shape[3:]))
    states[:, :, 0] = state
    for i in range(summands.shape[2]):
        states[:, :, i + 1] = states[:, :, i] @ factors[:, :, i] + summands[:, :, i]
    return states


@accumulate.register_fake
def _(state: torch.Tensor, factors: torch.Tensor, summands: torch.Tensor) -> torch.Tensor:
    shape = (*summands.shape[:2], summands.shape[2] + 1, *summands.shape[3:])
    return summands.new_empty(shape)


def _keep(ctx: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1], output)


def _backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The gradients follow the same rule from the end."""
    factors, states = ctx.saved_tensors
    flipped = accumulate(
        gradient[:, :, -1], factors.mT.flip(2).contiguous(), gradient[:, :, :-1].flip(2)
    )
    gradients = flipped.flip(2)
    return gradients[:, :, 0], states[:, :, :-1].mT @ gradients[:, :, 1:], gradients[:, :, 1:]


accumulate.register_autograd(_backward, setup_context=_keep)
