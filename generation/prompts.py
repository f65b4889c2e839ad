"""What `generate` is given to continue."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from ..backbones._inputs import Input


def text_inputs(inputs: Mapping[str, Input]) -> tuple[str, str]:
    """What a model calls the ids that it goes on with, and their mask."""
    decoder = "decoder_" if "decoder_token_ids" in inputs else ""
    return f"{decoder}token_ids", f"{decoder}padding_mask"


@dataclass(frozen=True)
class Prompts:
    """Rows as they were given, and without their padding.

    Attributes:
        given: `[batch, length]`.
        given_mask: `[batch, length]`, true for tokens.
        token_ids: each row's tokens from position 0 on, `[batch, longest]`.
        padding_mask: of these; `None` where no row is shorter than another.
        lengths: tokens of each row, `[batch]`.
        ends: where each row ends in `given`, `[batch]`.
        others: what belongs to the rows besides, images or an encoder's inputs, by their names.
        shift: by how much positions behind each row's tokens are ahead of their number, `[batch]`,
            where images have positions in space.
    """

    given: torch.Tensor
    given_mask: torch.Tensor
    token_ids: torch.Tensor
    padding_mask: torch.Tensor | None
    lengths: torch.Tensor
    ends: torch.Tensor
    others: Mapping[str, torch.Tensor] = field(default_factory=dict)
    shift: torch.Tensor | None = None


def read_prompts(
    token_ids: Any,
    padding_mask: Any,
    vocabulary_size: int,
    device: torch.device,
    inputs: Mapping[str, Input],
) -> Prompts:
    """Compare prompts with what a model takes, and move each row's tokens to its start.

    Args:
        inputs: those of the model.

    Raises:
        TypeError: something else than integers.
        ValueError: an empty prompt, unknown ids, a mask that does not fit, or keys other than
            `token_ids`, `padding_mask` and what the model takes of each row besides.
    """
    others: dict[str, Any] = {}
    images: dict[str, Any] = {}
    if isinstance(token_ids, Mapping):
        text = text_inputs(inputs)
        besides = [
            name
            for name, spec in inputs.items()
            if name not in text and spec.axes[:1] == ("batch",)
        ]
        of_all = [name for name, spec in inputs.items() if spec.axes[:1] == ("images_batch",)]
        besides += [*of_all, "position_ids"] if of_all else []
        *first, last = *text, *besides
        if not {text[0]} <= token_ids.keys() <= {*text, *besides}:
            raise ValueError(
                f"Prompts are {', '.join(first)} and {last}; there is "
                f"{', '.join(map(str, token_ids)) or 'nothing'}."
            )
        others = {name: token_ids[name] for name in besides if token_ids.get(name) is not None}
        positions = others.pop("position_ids", None)  # each row's tokens stand from 0 on
        images = {name: others.pop(name) for name in of_all if name in others}
        if images and positions is not None:
            images["space_positions"] = positions
        padding_mask = token_ids.get(text[1], padding_mask)
        token_ids = token_ids[text[0]]
    ids, filled = _matrix("token_ids", token_ids)
    if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise TypeError(f"token_ids must hold integers, not {ids.dtype}.")
    if padding_mask is not None:
        mask, _ = _matrix("padding_mask", padding_mask)
        if mask.shape != ids.shape:
            raise ValueError(
                f"padding_mask has shape {tuple(mask.shape)}, token_ids {tuple(ids.shape)}."
            )
        if bool((mask < 0).any()):
            raise ValueError("padding_mask must be nonzero for tokens and 0 for padding.")
        filled = filled & (mask.to(filled.device) != 0)
    ids, filled = ids.to(device).long(), filled.to(device)
    lengths = filled.sum(1)
    if not len(ids) or not bool(lengths.all()):
        raise ValueError("Every prompt must have at least one token.")
    ids = ids.masked_fill(~filled, 0)
    if bool(((ids < 0) | (ids >= vocabulary_size)).any()):
        raise ValueError(
            f"token_ids must be from 0 to {vocabulary_size - 1}; there are {int(ids.min())} to "
            f"{int(ids.max())}."
        )
    longest = int(lengths.max())
    order = filled.int().argsort(dim=1, descending=True, stable=True)[:, :longest]
    mask = torch.arange(longest, device=device) < lengths[:, None]
    images = {name: torch.as_tensor(value).to(device) for name, value in images.items()}
    images |= _in_space(images, filled, order)
    furthest = None
    if "space_positions" in images:
        furthest = images["space_positions"].masked_fill(~mask[:, None], 0).amax((1, 2))
    return Prompts(
        given=ids,
        given_mask=filled,
        token_ids=ids.gather(1, order),
        padding_mask=None if bool(mask.all()) else mask,
        lengths=lengths,
        ends=(filled * torch.arange(1, ids.shape[1] + 1, device=device)).amax(1),
        others={
            found: tensor
            for name, value in others.items()
            for found, tensor in _of_rows(name, value, inputs, filled, order).items()
            if found == name or found not in others
        }
        | images,
        shift=None if furthest is None else furthest + 1 - lengths,
    )


def _in_space(
    images: Mapping[str, torch.Tensor], filled: torch.Tensor, order: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Places of images in all rows, one row behind the other, and positions in time, rows and
    columns of tokens, after these have been put into `order`.
    """
    found = {}
    if "vision_indices" in images:
        places = images["vision_indices"].long()
        if bool(((places < 0) | (places >= filled.numel())).any()):
            raise ValueError(f"vision_indices must be from 0 to {filled.numel() - 1}.")
        rows, columns = places // filled.shape[1], places % filled.shape[1]
        if not bool(filled[rows, columns].all()):
            raise ValueError("vision_indices has places of padding.")
        moved = filled.cumsum(1) - 1
        found["vision_indices"] = rows * order.shape[1] + moved[rows, columns]
    if "space_positions" in images:
        positions = images["space_positions"].long()
        positions = positions if positions.ndim == 3 else positions[None]
        positions = positions[:, -3:]  # without those of text, which may be before them
        index = order[:, None].expand(-1, positions.shape[1], -1)
        found["space_positions"] = positions.gather(2, index)
    return found


def _of_rows(
    name: str, value: Any, inputs: Mapping[str, Input], filled: torch.Tensor, order: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What the rows have besides their ids, after these have been put into `order`; of lists of
    different lengths their mask, too.
    """
    spec = inputs[name]
    if spec.axes[1:] == ("length",):
        rows, _ = _matrix(name, value)
        if rows.shape != filled.shape:
            raise ValueError(
                f"{name} has shape {tuple(rows.shape)}, token_ids {tuple(filled.shape)}."
            )
        return {name: rows.to(order.device).gather(1, order)}
    if spec.kind == "ids" and len(spec.axes) == 2:
        rows, real = (tensor.to(order.device) for tensor in _matrix(name, value))
        mask = name.replace("token_ids", "padding_mask")
        return {name: rows} if bool(real.all()) or mask not in inputs else {name: rows, mask: real}
    if isinstance(value, (list, tuple)):
        shapes = {tuple(np.shape(one)) for one in value}
        if len(shapes) > 1:
            shown = " and ".join(map(str, sorted(shapes)))
            raise ValueError(
                f"All rows of {name} must have one shape, not {shown}: fill the shorter ones up."
            )
        value = np.stack([np.asarray(one) for one in value])
    rows = torch.as_tensor(np.array(value) if isinstance(value, np.ndarray) else value)
    # One row may be given without the batch's axis.
    rows = (rows if rows.ndim == len(spec.axes) else rows[None]).to(order.device)
    if spec.kind != "places" or "decoder_token_ids" in inputs:  # places in the encoder's row
        return {name: rows}
    # Places of images' tokens; 0 stands for none.
    places = rows.long()
    if bool(((places < 0) | (places >= filled.shape[1])).any()):
        raise ValueError(f"{name} must be from 0 to {filled.shape[1] - 1}.")
    if not bool((filled.gather(1, places) | (places == 0)).all()):
        raise ValueError(f"{name} has places of padding.")
    return {name: (filled.cumsum(1) - 1).clamp(min=0).gather(1, places)}


def _matrix(name: str, value: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """`[batch, length]`, and where its rows have something."""
    if isinstance(value, (list, tuple)) and any(hasattr(row, "__len__") for row in value):
        rows = [_tensor(name, row) for row in value]
        rows = [row if row.numel() else row.long() for row in rows]
        if any(row.ndim != 1 for row in rows):
            raise ValueError(f"Each row of {name} must have one axis.")
        lengths = torch.tensor([len(row) for row in rows])
        matrix = pad_sequence(rows, batch_first=True)
        return matrix, (torch.arange(matrix.shape[1]) < lengths[:, None]).to(matrix.device)
    matrix = torch.atleast_2d(_tensor(name, value))
    if matrix.ndim != 2:
        raise ValueError(f"{name} must be [batch, length], not {tuple(matrix.shape)}.")
    return matrix, torch.ones_like(matrix, dtype=torch.bool)


def _tensor(name: str, value: Any) -> torch.Tensor:
    try:
        if hasattr(value, "__array__") and not isinstance(value, torch.Tensor):
            value = np.array(value)  # PyTorch takes no reversed or read-only ones
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must hold integers, not {reprlib.repr(value)}; a tokenizer makes them of text."
        ) from error
