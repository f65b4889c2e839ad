"""gpt-oss' tokenizer (arXiv:2508.10925): case, too, ends a word."""

from __future__ import annotations

from .base import named
from .byte_pair import BytePairTokenizer

UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"


class GptOssTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "GptOssBackbone"
    turn_ends = ("<|return|>", "<|call|>")
    split_pattern = (
        rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTION}"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTION}"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    special = named(end_token="<|endoftext|>")
