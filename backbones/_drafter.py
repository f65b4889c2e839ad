"""Models that draft tokens from what another model has computed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from torch import nn

from ._backbone import Backbone
from ._model import Model
from .layers.cache import Cache
from .layers.dtypes import DTypeLike

DrafterType = TypeVar("DrafterType", bound="Drafter")


class Drafter(nn.Module):
    """A backbone without keys and values of its own, and what ties it to another model's.

    Attributes:
        backbone_class: class of the backbone, the first argument of the constructor.
        architecture: what transformers calls the whole.
        settings: names of the other arguments, in a Keras `task.json` and in transformers'
            `config.json` alike.
        weights: of all but the backbone, by their names here: their paths in `task.weights.h5`, and
            their names in transformers' checkpoints.
        backbone: the model's layers.
        num_speculative_tokens: how many tokens are drafted at a time.
    """

    backbone_class: ClassVar[type[Backbone]]
    architecture: ClassVar[str]
    settings: ClassVar[tuple[str, ...]]
    weights: ClassVar[Mapping[str, tuple[str, str]]]

    backbone: Backbone
    num_speculative_tokens: int

    @classmethod
    def from_preset(
        cls: type[DrafterType],
        preset: str | os.PathLike[str],
        *,
        dtype: DTypeLike = None,
        device: str | torch.device | None = None,
    ) -> DrafterType:
        """From a preset of KerasHub or a checkpoint of transformers; see `Backbone.from_preset`.

        Raises:
            ValueError: the preset has no such model, or other weights than it needs.
        """
        from ..presets.drafters import load_drafter

        return load_drafter(cls, preset, dtype, device)

    @property
    def device(self) -> torch.device:
        return self.backbone.device

    def check(self, target: Model) -> None:
        """Raises ValueError: it cannot draft for that model."""
        raise NotImplementedError

    def draft(
        self,
        target: Model,
        cache: Cache,
        tokens: torch.Tensor,
        states: torch.Tensor,
        positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What may follow.

        Args:
            cache: what the target has computed of the positions before, with all of them kept.
            tokens: the last ones, `[rows, 1]`.
            states: the target's, of the position before, `[rows, 1, dim]`; or of the draft before.
            positions: of the last token that is the target's, `[rows]` or `[1]`.

        Returns:
            Logits `[rows, vocabulary]`, and states for the next draft.
        """
        raise NotImplementedError
