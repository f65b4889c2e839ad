"""Prompts and responses, alone or in batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from ..causal_lm import CausalLMPreprocessor
from ..packers import MultiSegmentPacker
from ..preprocessor import samples


def each_text(texts: Any, change: Callable[[str], str]) -> Any:
    """A text, or every one of a list, changed."""
    if isinstance(texts, str):
        return change(texts)
    if isinstance(texts, np.ndarray):
        texts = texts.tolist()
    return [each_text(one, change) for one in texts] if isinstance(texts, (list, tuple)) else texts


@dataclass(frozen=True)
class Medium:
    """Images, say, within conversations.

    Attributes:
        name: of the preprocessor's input.
        place: what a prompt has where one of them is, if it has something.
        rendered: what chat templates have there; the same, if nothing else is said.
        several: whether a prompt may have more than one.
    """

    name: str
    place: str = ""
    rendered: str = ""
    several: bool = True


class MediaPreprocessor(CausalLMPreprocessor):
    """Takes images and the like besides text.

    Attributes:
        media: kinds of content in conversations, `image`, say → what it makes of them.
        more: names of what else it takes beside prompts and responses.
    """

    media: ClassVar[Mapping[str, Medium]] = {}
    more: ClassVar[Sequence[str]] = ()

    def check_names(self, x: Mapping[str, Any]) -> None:
        """Raise ValueError for what would not be looked at."""
        known = ("prompts", "responses", *(one.name for one in self.media.values()), *self.more)
        unknown = [name for name in x if name not in known]
        if unknown:
            raise ValueError(
                f"{type(self).__name__} takes {', '.join(known)}, but no {', '.join(unknown)}."
            )

    def with_media(
        self, prompts: Sequence[str], contents: Mapping[str, Sequence[Sequence[Any]]]
    ) -> dict[str, Any]:
        """What `generate_preprocess` takes.

        Args:
            prompts: of conversations, as a template has them.
            contents: for each kind, what is in each conversation.

        Raises:
            ValueError: the template has not as many places as there are images, say.
        """
        prompts = list(prompts)
        found: dict[str, Any] = {"prompts": prompts}
        for kind, rows in contents.items():
            medium = self.media[kind]
            token = medium.rendered or medium.place
            for i, (prompt, row) in enumerate(zip(prompts, rows)):
                places = prompt.count(token) if token else len(row)
                if places != len(row):
                    raise ValueError(
                        f"A conversation has {len(row)} of type {kind!r}, and its prompt "
                        f"{places} places for them, {token}."
                    )
                if not medium.several and len(row) > 1:
                    raise ValueError(
                        f"A conversation has {len(row)} of type {kind!r}; one is the most."
                    )
                if token:
                    prompts[i] = prompt.replace(token, medium.place)
            found[medium.name] = [row if medium.several else next(iter(row), None) for row in rows]
        return found


class PromptsPreprocessor(MediaPreprocessor):
    """Prompts and the responses to them; a subclass puts images and sound between."""

    @property
    def packer(self) -> Any:
        return MultiSegmentPacker(
            sequence_length=self.sequence_length,
            start_value=self.tokenizer.start_token_id,
            end_value=self.tokenizer.end_token_id,
            sep_value=[],
            pad_value=self.tokenizer.pad_token_id,
        )

    def pack(
        self, texts: Mapping[str, Any], length: int, ends: bool = True, starts: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids `[batch, length]`, which of them belong to responses, and which are no padding.

        Args:
            texts: `prompts`, and `responses` if there are some, each a list.
            ends: whether the end token is behind them.
            starts: whether the start token is before them.
        """
        names = [name for name in ("prompts", "responses") if texts.get(name) is not None]
        segments = tuple(self.tokenizer.tokenize(texts[name]) for name in names)
        ids, numbers = self.packer(
            segments, sequence_length=length, add_start_value=starts, add_end_value=ends
        )
        return ids, numbers == 1, ids != self.tokenizer.pad_token_id


def batched(x: Any, needed: tuple[str, ...] = ("prompts",)) -> tuple[dict[str, Any], bool]:
    """A mapping of lists, and whether it was one of several samples.

    Args:
        x: a text, a list of texts, a mapping of one or several samples, or a list of mappings.
        needed: entries that there must be.

    Raises:
        ValueError: one is missing, or they are not as many.
    """
    x = samples(x)[0]
    found = dict(x) if isinstance(x, Mapping) else {"prompts": x}
    missing = [name for name in needed if found.get(name) is None]
    if missing:
        raise ValueError(f"The input has no {' and no '.join(map(repr, missing))}.")
    several = not isinstance(found["prompts"], str)
    if not several:
        found = {name: None if value is None else [value] for name, value in found.items()}
    count = len(found["prompts"])
    for name, value in found.items():
        if value is not None and hasattr(value, "__len__") and len(value) != count:
            raise ValueError(f"There are {count} prompts and {len(value)} {name}.")
    return found, several


def is_none(rows: Any) -> bool:
    """Whether no sample has an image or a clip."""
    if not isinstance(rows, (list, tuple)):
        return rows is None
    return all(row is None or (isinstance(row, (list, tuple)) and not row) for row in rows)


def unbatched(values: Any, several: bool) -> Any:
    """Tensors of a batch, or of its only sample."""
    if several:
        return values
    if isinstance(values, Mapping):
        return {key: unbatched(value, several) for key, value in values.items()}
    if isinstance(values, tuple):
        return tuple(unbatched(value, several) for value in values)
    return values[0]
