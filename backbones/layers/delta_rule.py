"""The generalized delta rule (RWKV-7, arXiv:2503.14456), in chunks.

`S_t = S_{t-1} (diag w_t + a_t b_tᵀ) + v_t k_tᵀ` and `o_t = S_t r_t`, for each head.
Shapes: B batch, L length, H heads, N head size, C tokens of a chunk.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .dtypes import in_float32
from .recurrence import accumulate

CHUNK = 32


@in_float32
def delta_rule(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Within a chunk `u_t = S_{t-1} a_t` solves a triangular system, so that all chunks are
    computed at once but for the states before them, each of which takes one product.

    Args:
        r, log_w, k, v, a, b: `[B, L, H, N]`, float32; `log_w`, the logarithms of the decays, from
            -0.61 to 0, so that what a chunk decays to, 1e-9, can be divided by.
        state: the first S, `[B, H, N, N]`, values × keys; zeros by default.

    Returns:
        The outputs `[B, L, H, N]` and the last S.
    """
    batch, length, heads, size = r.shape
    if state is None:
        state = r.new_zeros((batch, heads, size, size))
    if length == 1:
        return _single(r[:, 0], log_w[:, 0], k[:, 0], v[:, 0], a[:, 0], b[:, 0], state)
    # Compilers take sizes of 1 for special ones: with one chunk more there is none.
    count = (length + CHUNK - 1) // CHUNK + int(torch.compiler.is_compiling())

    def chunks(x: torch.Tensor) -> torch.Tensor:
        """`[B, H, chunks, C, N]`; the zeros at the end change no state."""
        x = F.pad(x, (0, 0, 0, 0, 0, count * CHUNK - length))
        return x.reshape(batch, count, CHUNK, heads, size).permute(0, 3, 1, 2, 4)

    r, log_w, k, v, a, b = (chunks(x) for x in (r, log_w, k, v, a, b))
    decay = log_w.cumsum(-2)
    r = r * decay.exp()
    a = a * (decay - log_w).exp()
    grown = (-decay).exp()
    k, b = k * grown, b * grown
    u_of_v = (a @ k.mT).tril(-1) @ v
    solved = torch.linalg.solve_triangular(
        -(a @ b.mT).tril(-1), torch.cat((a, u_of_v), dim=-1), upper=False, unitriangular=True
    )
    u_of_state, u_of_v = solved.chunk(2, dim=-1)  # u = u_of_state Sᵀ + u_of_v
    end = decay[..., -1, :].exp()
    k_end, b_end = k * end[..., None, :], b * end[..., None, :]
    factors = end.diag_embed() + u_of_state.mT @ b_end
    states = accumulate(state, factors, u_of_v.mT @ b_end + v.mT @ k_end)
    before = states[:, :, :-1].mT
    u = u_of_state @ before + u_of_v
    out = r @ before + (r @ b.mT).tril() @ u + (r @ k.mT).tril() @ v
    out = out.permute(0, 2, 3, 1, 4).reshape(batch, count * CHUNK, heads, size)
    return out[:, :length], states[:, :, -1]


def _single(
    r: torch.Tensor,
    log_w: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token, `[B, H, N]`."""
    u = state @ a[..., None]
    state = state * log_w.exp()[..., None, :] + u * b[..., None, :] + v[..., None] * k[..., None, :]
    return (state @ r[..., None])[..., 0][:, None], state
