"""Token ids of rows of different lengths → one table, with start, separators, end and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ._layer import PreprocessingLayer

Token = int | str
Special = Token | Sequence[Token] | None


class StartEndPacker(PreprocessingLayer):
    """One text in each row: start, tokens, end, padding.

    Args:
        sequence_length: of the rows; longer text is cut at its end.
        start_value: the token, or tokens, before it.
        end_value: the one or those behind it.
        pad_value: of the padding; 0, or of text the empty one, by default.
        return_padding_mask: whether to return a mask of the tokens, too.
        padding_side: `right` or `left`.
    """

    keras_module = "keras_hub.src.layers.preprocessing.start_end_packer"

    def __init__(
        self,
        sequence_length: int,
        start_value: Special = None,
        end_value: Special = None,
        pad_value: Token | None = None,
        return_padding_mask: bool = False,
        padding_side: str = "right",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.start_value = start_value
        self.end_value = end_value
        self.pad_value = pad_value
        self.return_padding_mask = return_padding_mask
        self.padding_side = check_side(padding_side)

    def __call__(
        self,
        inputs: Any,
        sequence_length: int | None = None,
        add_start_value: bool = True,
        add_end_value: bool = True,
    ) -> Any:
        """A row's or several rows' tokens, as a table.

        Args:
            inputs: ids or tokens of one row, or lists of those of several.

        Returns:
            Ids `[rows, sequence_length]`, or `[sequence_length]` of one row, and of the same shape
            the mask, if asked for. Tokens that are text come as lists.

        Raises:
            ValueError: the special tokens alone are longer than `sequence_length`.
        """
        rows, batched = as_rows(inputs)
        start = as_list(self.start_value) if add_start_value else []
        end = as_list(self.end_value) if add_end_value else []
        length = sequence_length or self.sequence_length
        room = check_room(length, len(start) + len(end))
        packed = [start + row[:room] + end for row in rows]
        table = padded(packed, length, self.pad_value, self.padding_side)
        mask = padded([[True] * len(row) for row in packed], length, False, self.padding_side)
        if not batched:
            table, mask = table[0], mask[0]
        return (table, mask) if self.return_padding_mask else table


class MultiSegmentPacker(PreprocessingLayer):
    """Several texts in each row: start, tokens, separator, tokens, end, padding.

    Args:
        sequence_length: of the rows.
        start_value: the token, or tokens, before the first text.
        end_value: the one or those behind the last.
        sep_value: the one or those between two; by default those of the end.
        pad_value: of the padding; 0, or of text the empty one, by default.
        truncate: of what is too long `round_robin` takes tokens of each text in turn, `waterfall`
            all of the first one before any of the next.
        padding_side: `right` or `left`.
    """

    keras_module = "keras_hub.src.layers.preprocessing.multi_segment_packer"

    def __init__(
        self,
        sequence_length: int,
        start_value: Special,
        end_value: Special,
        sep_value: Special = None,
        pad_value: Token | None = None,
        truncate: str = "round_robin",
        padding_side: str = "right",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.start_value = start_value
        self.end_value = end_value
        self.sep_value = sep_value
        self.pad_value = pad_value
        self.truncate = check_truncation(truncate)
        self.padding_side = check_side(padding_side)

    def __call__(
        self,
        inputs: Any,
        sequence_length: int | None = None,
        add_start_value: bool = True,
        add_end_value: bool = True,
    ) -> tuple[Any, Any]:
        """A row's or several rows' texts, as a table.

        Args:
            inputs: a tuple of the segments, or one segment; each has ids of one row, or lists of
                those of several.

        Returns:
            Ids, and the numbers of their segments; both `[rows, sequence_length]`, or
            `[sequence_length]` of one row. What is between two segments belongs to the first.

        Raises:
            ValueError: segments of different numbers of rows, or special tokens that alone are
                longer than `sequence_length`.
        """
        segments = inputs if isinstance(inputs, tuple) else (inputs,)
        if not segments:
            raise ValueError("There is no segment to pack.")
        columns = [as_rows(segment) for segment in segments]
        batched = columns[0][1]
        if len({(one, len(rows)) for rows, one in columns}) > 1:
            raise ValueError("All segments must have as many rows.")
        start = as_list(self.start_value) if add_start_value else []
        between = as_list(self.end_value if self.sep_value is None else self.sep_value)
        end = as_list(self.end_value) if add_end_value else []
        length = sequence_length or self.sequence_length
        specials = len(start) + len(end) + (len(segments) - 1) * len(between)
        room = check_room(length, specials)
        fit = waterfall if self.truncate == "waterfall" else round_robin
        ids: list[list[Token]] = []
        numbers: list[list[int]] = []
        for row in zip(*(rows for rows, _ in columns)):
            kept = fit([len(segment) for segment in row], room)
            pieces = [segment[:count] + between for segment, count in zip(row, kept)]
            pieces[-1] = row[-1][: kept[-1]] + end
            pieces[0] = start + pieces[0]
            ids.append([token for piece in pieces for token in piece])
            numbers.append([i for i, piece in enumerate(pieces) for _ in piece])
        table = padded(ids, length, self.pad_value, self.padding_side)
        segment_ids = padded(numbers, length, 0, self.padding_side)
        return (table, segment_ids) if batched else (table[0], segment_ids[0])


def round_robin(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens each text keeps, if they are taken in turn."""
    kept = [0] * len(lengths)
    # As many full rounds as there is room for, then one token more of the first ones.
    open_ = [i for i, length in enumerate(lengths) if length]
    while open_ and room >= len(open_):
        rounds = min(room // len(open_), min(lengths[i] - kept[i] for i in open_))
        for i in open_:
            kept[i] += rounds
        room -= rounds * len(open_)
        open_ = [i for i in open_ if kept[i] < lengths[i]]
    for i in open_[:room]:
        kept[i] += 1
    return kept


def waterfall(lengths: Sequence[int], room: int) -> list[int]:
    """How many tokens each text keeps, if each takes all it can."""
    kept = []
    for length in lengths:
        kept.append(min(length, room))
        room -= kept[-1]
    return kept


def as_rows(inputs: Any) -> tuple[list[list[Any]], bool]:
    """Rows of tokens, and whether they were given as several."""
    if isinstance(inputs, (torch.Tensor, np.ndarray)):
        inputs = inputs.tolist()
    if not isinstance(inputs, (list, tuple)):
        raise TypeError(f"Tokens must be in lists, not {type(inputs).__name__}.")
    lists = [_as_list(row) for row in inputs]
    if lists and isinstance(lists[0], list):
        return lists, True
    return [lists], False


def _as_list(row: Any) -> Any:
    """A row as a list, a single token as it is."""
    if isinstance(row, (torch.Tensor, np.ndarray, np.generic)):
        return row.tolist()
    return list(row) if isinstance(row, tuple) else row


def as_list(value: Special) -> list[Any]:
    """Special tokens, of which there may be none, one or several."""
    if value is None:
        return []
    return [value] if isinstance(value, (int, str)) else list(value)


def padded(rows: Sequence[list[Any]], length: int, value: Any, side: str) -> Any:
    """Rows filled up to a length: int32 or bool tensors, or lists of text."""
    is_text = any(isinstance(token, str) for row in rows for token in row[:1])
    if value is None:
        value = "" if is_text else 0
    filled = [[value] * (length - len(row)) for row in rows]
    table = [row + more if side == "right" else more + row for row, more in zip(rows, filled)]
    if is_text:
        return table
    dtype = torch.bool if isinstance(value, bool) else torch.int32
    return torch.tensor(table, dtype=dtype).reshape(len(rows), length)


def check_side(side: str) -> str:
    """The side, or a ValueError if it is none."""
    if side not in ("left", "right"):
        raise ValueError(f"padding_side must be 'left' or 'right', not {side!r}.")
    return side


def check_truncation(truncate: str) -> str:
    """The way of truncation, or a ValueError if it is none."""
    if truncate not in ("round_robin", "waterfall"):
        raise ValueError(f"truncate must be 'round_robin' or 'waterfall', not {truncate!r}.")
    return truncate


def check_room(length: int, specials: int) -> int:
    """How many tokens there is room for."""
    if length < specials:
        raise ValueError(f"sequence_length is {length}, but {specials} tokens are special.")
    return length - specials
