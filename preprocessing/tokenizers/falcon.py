"""Falcon's tokenizer (arXiv:2311.16867)."""

from __future__ import annotations

from typing import Any

from .base import named
from .byte_pair import BytePairTokenizer


class FalconTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`; marks stand together, digits in threes."""

    backbone = "FalconBackbone"
    special = named(end_token="<|endoftext|>", start_token="<|endoftext|>")

    def cutter(self, tokenizers: Any) -> Any:
        cutters = tokenizers.pre_tokenizers
        return cutters.Sequence(
            [
                cutters.Punctuation("contiguous"),
                cutters.ByteLevel(add_prefix_space=False),
                cutters.Digits(individual_digits=False),
                cutters.Split(tokenizers.Regex("[0-9][0-9][0-9]"), behavior="isolated"),
            ]
        )
