"""Tokens chosen at random to be found again (Devlin et al., 2018, arXiv:1810.04805)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ._layer import PreprocessingLayer
from .packers import as_rows


class MaskedLMMaskGenerator(PreprocessingLayer):
    """Masks tokens. Random numbers are PyTorch's: `torch.manual_seed` seeds them, and each worker
    of a `DataLoader` has others.

    Args:
        vocabulary_size: of the ids that tokens are replaced by.
        mask_selection_rate: probability of a token to be chosen.
        mask_token_id: of the mask.
        mask_selection_length: how many are chosen of a row at most; rows of the result have this
            length. `None` for lists of as many as there are.
        unselectable_token_ids: which are never chosen.
        mask_token_rate: share of the chosen ones that the mask replaces.
        random_token_rate: share of those that a random token replaces; the rest stay.
    """

    keras_module = "keras_hub.src.layers.preprocessing.masked_lm_mask_generator"

    def __init__(
        self,
        vocabulary_size: int,
        mask_selection_rate: float,
        mask_token_id: int,
        mask_selection_length: int | None = None,
        unselectable_token_ids: Sequence[int] = (0,),
        mask_token_rate: float = 0.8,
        random_token_rate: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 <= mask_token_id < vocabulary_size:
            raise ValueError(
                f"mask_token_id must be from 0 to {vocabulary_size - 1}, not {mask_token_id}."
            )
        self.vocabulary_size = vocabulary_size
        self.mask_selection_rate = mask_selection_rate
        self.mask_token_id = mask_token_id
        self.mask_selection_length = mask_selection_length
        self.unselectable_token_ids = unselectable_token_ids
        self.mask_token_rate = mask_token_rate
        self.random_token_rate = random_token_rate

    def __call__(self, inputs: Any) -> dict[str, Any]:
        """Choose tokens of a row, or of each of several.

        Returns:
            `token_ids` with the masks in them, and of the chosen ones `mask_positions`, `mask_ids`
            (what was there) and `mask_weights`, 0 where nothing was chosen.
        """
        rows, batched = as_rows(inputs)
        found = [self.mask(torch.tensor(row, dtype=torch.int32)) for row in rows]
        merged = {name: [row[name] for row in found] for name in found[0]}
        if not batched:
            return {name: values[0] for name, values in merged.items()}
        return {
            name: torch.stack(values) if len({len(one) for one in values}) == 1 else values
            for name, values in merged.items()
        }

    def mask(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """As of a call, for the ids `[length]` of one row."""
        barred = torch.tensor(list(self.unselectable_token_ids), dtype=ids.dtype)
        chosen = ~torch.isin(ids, barred) & (torch.rand(len(ids)) < self.mask_selection_rate)
        positions = chosen.nonzero()[:, 0]
        most = self.mask_selection_length
        if most is not None and len(positions) > most:
            positions = positions[torch.randperm(len(positions))[:most]].sort().values
        old = ids[positions]
        draw = torch.rand(len(positions))
        other = torch.randint(self.vocabulary_size, old.shape, dtype=ids.dtype)
        new = torch.where(draw < self.mask_token_rate + self.random_token_rate, other, old)
        new = new.masked_fill(draw < self.mask_token_rate, self.mask_token_id)
        empty = 0 if most is None else most - len(positions)

        def filled(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            return torch.nn.functional.pad(values.to(dtype), (0, empty))

        return {
            "token_ids": ids.index_put((positions,), new),
            "mask_positions": filled(positions, torch.int32),
            "mask_ids": filled(old, torch.int32),
            "mask_weights": filled(torch.ones(len(positions)), torch.float32),
        }
