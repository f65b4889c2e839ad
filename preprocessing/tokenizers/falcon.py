"""Falcon's tokenizer (arXiv:2311.16867)."""

from __future__ import annotations

from collections.abc import Sequence

from .base import named
from .byte_pair import BytePairTokenizer
from .cutting import Step, byte_level, split

THREE_DIGITS = "[0-9][0-9][0-9]"


class FalconTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`; marks stand together, digits in threes."""

    backbone = "FalconBackbone"
    special = named(end_token="<|endoftext|>", start_token="<|endoftext|>")
    known_patterns = (THREE_DIGITS,)

    def own_cutters(self) -> Sequence[Step]:
        return [
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(),
            {"type": "Digits", "individual_digits": False},
            split(THREE_DIGITS),
        ]
