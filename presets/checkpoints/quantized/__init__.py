"""Quantized weights of foreign checkpoints, read as floats: a module for each family of formats.

No table knows of them. Where a file has `q_proj.qweight`, `q_proj.scales` and so on, the tables'
rules find one `q_proj.weight`, whose values are computed when it is read.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..files import Stored
from . import awq, bitsandbytes, compressed_tensors, fp8, gptq, mxfp4
from .packing import Format, Packing, Parts, Settings

__all__ = ("FORMATS", "Dequantized", "Format", "dequantized", "format_of")

FORMATS: dict[str, Format] = {
    format.method: format
    for module in (gptq, awq, bitsandbytes, fp8, compressed_tensors, mxfp4)
    for format in module.FORMATS
}


def format_of(settings: Any) -> Format:
    """The format of a `quantization_config`.

    Raises:
        ValueError: it cannot be read.
    """
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    format = FORMATS.get(method) if isinstance(method, str) else None
    if format is None:
        shown = f"{method[:40]!r}" if isinstance(method, str) else repr(type(method).__name__)
        raise ValueError(
            f"quantized weights (quant_method {shown}) cannot be read; known are "
            f"{', '.join(FORMATS)}"
        )
    format.check(settings)
    return format


@dataclass(frozen=True, eq=False)
class Dequantized(Stored):
    """A weight that several tensors make."""

    def read(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        value = self.get()
        return value if dtype is None else value.to(dtype)

    def turned(self) -> Dequantized:
        """The matrix transposed."""
        return Dequantized(self.name, self.shape[::-1], self.dtype, lambda: self.get().T)


def dequantized(
    format: Format, settings: Settings, stored: Iterable[Stored], problems: list[str]
) -> list[Stored]:
    """The tensors of a checkpoint, weights in place of what they are packed in."""
    left = {tensor.name: tensor for tensor in stored}
    found: list[Stored] = []
    for packing in format.packings:
        *_, mark = packing.parts
        for name in [name for name in left if name.endswith(mark)]:
            stem = name.removesuffix(mark)
            known = packing.parts.keys() | packing.optional.keys()
            parts = {one: left[stem + one] for one in known if stem + one in left}
            if mark not in parts:
                continue  # belongs to a weight already
            for part in parts.values():
                del left[part.name]
            try:
                found.append(_weight(packing, stem, parts, settings))
            except ValueError as error:
                problems.append(f"quantized: {stem}{packing.weight}: {error}")
    kept = [one for name, one in left.items() if not name.endswith(format.dropped or ("\0",))]
    return kept + found


def _weight(packing: Packing, stem: str, parts: Parts, settings: Settings) -> Dequantized:
    missing = [suffix for suffix in packing.parts if suffix not in parts]
    if missing:
        raise ValueError(f"{' and '.join(stem + suffix for suffix in missing)} missing")
    for suffix, part in parts.items():
        kinds = packing.parts.get(suffix) or packing.optional[suffix]
        if part.dtype not in kinds:
            raise ValueError(f"{part.name} is {part.dtype}, not {' or '.join(sorted(kinds))}")
    shape = packing.shape(parts, settings)

    def get() -> torch.Tensor:
        try:
            values = {suffix: part.read() for suffix, part in parts.items()}
            return packing.values(values, settings, shape)
        except ValueError as error:
            raise ValueError(f"{stem}{packing.weight}: {error}") from error

    return Dequantized(stem + packing.weight, shape, "float32", get)
