"""ModernBERT's tokenizer."""

from __future__ import annotations

from typing import ClassVar

from .base import named
from .byte_pair import BytePairTokenizer


class ModernBertTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`; space before a mask token belongs to it."""

    backbone = "ModernBertBackbone"
    normalizes = True
    usual_options: ClassVar = {"[MASK]": ("lstrip",)}
    templates = ("cls $A sep", "cls $A sep $B:1 sep:1")
    special = named(pad_token="[PAD]", mask_token="[MASK]", cls_token="[CLS]", sep_token="[SEP]")

    @property
    def start_token_id(self) -> int | None:  # type: ignore[override]
        return self.cls_token_id

    @property
    def end_token_id(self) -> int | None:  # type: ignore[override]
        return self.sep_token_id
