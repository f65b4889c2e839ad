"""What `Backbone.from_preset` is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .parts import Sharing
from .surplus import Ignore


@dataclass(frozen=True)
class Request:
    """The arguments of `Backbone.from_preset`.

    Attributes:
        overrides: of the constructor's arguments.
        sharing: with other processes, of which this one reads what it holds.
    """

    load_weights: bool
    device: torch.device
    mmap: bool | None
    ignore: Ignore
    dequantize: bool
    overrides: Mapping[str, Any]
    sharing: Sharing | None
