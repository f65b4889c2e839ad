"""D-FINE, whose network has a configuration of its own in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...backbones.d_fine import DFineBackbone
from ..checkpoints.table import (
    Key,
    Table,
    assumed,
    constant,
    fixed,
    heads,
    key,
    layer,
    norm,
    only,
    rule,
    under,
)
from .hgnetv2 import HGNETV2

# What models are trained with; transformers takes the grids from each image.
SIZE = (640, 640)
