"""Checkpoints of other libraries: one engine, one language of tables, a dialect for each library.

The tables are in the folder of the library's name beside this one, a module for each family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .diffusers import DIFFUSERS
from .engine import Dialect
from .timm import TIMM
from .transformers import TRANSFORMERS

__all__ = ("DIALECTS", "DIFFUSERS", "TIMM", "TRANSFORMERS", "dialect_of")

DIALECTS: tuple[Dialect, ...] = (TRANSFORMERS, TIMM, DIFFUSERS)


def dialect_of(config: Mapping[str, Any]) -> Dialect | None:
    """The dialect of a config.json; `None` for Keras's own."""
    return next((dialect for dialect in DIALECTS if dialect.recognises(config)), None)
