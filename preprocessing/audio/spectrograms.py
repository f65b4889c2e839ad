"""Windows and filters of mel spectrograms."""

from __future__ import annotations

import numpy as np
import torch

# Slaney's scale: linear below, logarithmic above.
BREAK_HZ = 1000.0
MEL_HZ = 200.0 / 3
LOG_STEP = np.log(6.4) / 27.0


def hann_window(length: int) -> torch.Tensor:
    """Periodic, rounded to float32 but once."""
    return torch.hann_window(length, dtype=torch.float64).float()


def slaney_points(low: float, high: float, count: int) -> np.ndarray:
    """Frequencies, in Hz, that are evenly spaced on Slaney's scale from `low` to `high` mel."""
    mels = np.linspace(low, high, count)
    above = BREAK_HZ * np.exp(LOG_STEP * (mels - BREAK_HZ / MEL_HZ))
    return np.where(mels >= BREAK_HZ / MEL_HZ, above, MEL_HZ * mels)


def htk_mel(frequency: float) -> float:
    """Of a frequency in Hz, on the scale of HTK."""
    return float(2595.0 * np.log10(1.0 + frequency / 700.0))


def htk_points(low: float, high: float, count: int, dtype: str = "float64") -> np.ndarray:
    """Frequencies, in Hz, that are evenly spaced on HTK's scale between two of them.

    Raises:
        ValueError: they are no two frequencies.
    """
    if not 0 <= low < high:
        raise ValueError(f"Filters between min_frequency={low} and max_frequency={high}: none.")
    mels = np.linspace(htk_mel(low), htk_mel(high), count, dtype=dtype)
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)


def triangles(points: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Filters `[bins, mels]`, of which each rises from one point to the next and falls again.

    Args:
        points: frequencies, two more than filters.
        bins: frequencies of a spectrum.
    """
    widths = np.diff(points)
    slopes = points[None, :] - bins[:, None]
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    return np.maximum(0.0, np.minimum(rising, falling))
