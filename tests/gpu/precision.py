"""Where the tests of this folder run, and how far from the exact result they may end."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
needs_cuda = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs CUDA")
# On a CPU only that it is one graph is of interest, not what a C++ compiler makes of it.
COMPILE: dict[str, Any] = (
    {"mode": "reduce-overhead"} if DEVICE.type == "cuda" else {"backend": "aot_eager"}
)
# Two orders of the same operations in the same precision differ in their error by less than this:
# between the CPU's eager, fused and compiled kernels it is a factor of 0.2 to 1.6.
FACTOR = 4


def exact(module: Any) -> Any:
    """A copy that computes in float64, on the CPU, with the very same weights."""
    return copy.deepcopy(module).cpu().double()


def rms(tensor: torch.Tensor) -> float:
    return tensor.square().mean().sqrt().item()


def assert_as_accurate(
    found: Sequence[torch.Tensor],
    peers: Sequence[torch.Tensor],
    exact: Sequence[torch.Tensor],
    magnified: float = 1,
) -> None:
    """Assert that `found` is as near to `exact` as what a plain computation of the same precision,
    `peers`, gives.

    Args:
        magnified: how many times a rounding is magnified on its way.
    """
    assert len(found) == len(peers) == len(exact)
    for one, peer, true in zip(found, peers, exact):
        assert one.dtype == peer.dtype
        if not one.is_floating_point():
            assert torch.equal(one.cpu(), peer.cpu())
            continue
        true = true.detach().cpu().double()
        error, usual = (rms(x.detach().cpu().double() - true) for x in (one, peer))
        # A peer may be exact by chance, of a sum of one product say; a rounding is allowed always.
        usual = max(usual, magnified * torch.finfo(peer.dtype).eps * rms(true))
        assert error <= FACTOR * usual, f"error {error:.1e}, of plain operations {usual:.1e}"
