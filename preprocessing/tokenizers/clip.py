"""CLIP's tokenizer (arXiv:2103.00020): byte pairs of lower-case words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import named
from .byte_pair import BytePairTokenizer
from .cutting import Step, byte_level, replace, split
from .foreign import Foreign

WORD_END = "</w>"
WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


class CLIPTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`. Words of decoded text stand together, as in KerasHub.

    Args:
        pad_with_end_token: whether the end token pads; otherwise that of id 0.
    """

    backbone = "CLIPBackbone"
    templates = ("start $A end", "start $A end end $B end")
    special = named(start_token="<|startoftext|>", end_token="<|endoftext|>")
    unsaved = (*BytePairTokenizer.unsaved, "unsplittable_tokens")
    known_patterns = (WORDS,)

    def __init__(
        self,
        vocabulary: Any = None,
        merges: Any = None,
        pad_with_end_token: bool = False,
        **kwargs: Any,
    ) -> None:
        self.pad_with_end_token = pad_with_end_token
        super().__init__(vocabulary, merges, **kwargs)

    @classmethod
    def special_arguments(cls, files: Foreign, vocabulary: Mapping[str, int]) -> dict[str, Any]:
        if "pad_with_end_token" in cls.unsaved:
            return {}
        return {"pad_with_end_token": files.token("pad_token") == cls.special["end_token"]}

    def marks(self) -> dict[str, Any]:
        pad = {"pad_token": self.end_token} if self.pad_with_end_token else {}
        return {**super().marks(), **pad}

    def update_special_tokens(self) -> None:
        super().update_special_tokens()
        if self.pad_with_end_token and self.end_token_id is not None:
            self.pad_token_id = self.end_token_id

    def model(self, models: Any, **options: Any) -> Any:
        unknown = {"end_of_word_suffix": WORD_END, "unk_token": self.end_token}
        return super().model(models, **unknown, **options)

    def own_normalizer(self) -> Sequence[Step]:
        return [{"type": "NFC"}, replace(r"\s+", " "), {"type": "Lowercase"}]

    def own_cutters(self) -> Sequence[Step]:
        words = split(WORDS, "Removed", invert=True)
        return [words, byte_level(add_prefix_space=self.add_prefix_space)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        marks = (WORD_END, *self.special.values())
        texts = super().decode(rows)
        for mark in marks:
            texts = [text.replace(mark, "") for text in texts]
        return texts


class SAM3Tokenizer(CLIPTokenizer):
    """See `CLIPTokenizer`; the end token pads."""

    backbone = "SAM3PromptableConceptBackbone"
    unsaved = (*CLIPTokenizer.unsaved, "pad_with_end_token")

    def __init__(self, vocabulary: Any = None, merges: Any = None, **kwargs: Any) -> None:
        super().__init__(vocabulary, merges, **{"pad_with_end_token": True, **kwargs})
