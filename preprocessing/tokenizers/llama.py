"""Llama's tokenizer (arXiv:2302.13971), and those of families with such vocabularies."""

from __future__ import annotations

from .base import named
from .sentence_piece import SentencePieceTokenizer


class LlamaTokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "LlamaBackbone"
    also = ("Llama3Backbone",)
    templates = ("start $A", "start $A start $B:1")
    special = named(start_token="<s>", end_token="</s>")


class MoonshineTokenizer(LlamaTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "MoonshineBackbone"


class MixtralTokenizer(LlamaTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "MixtralBackbone"


class Phi3Tokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "Phi3Backbone"
    turn_ends = ("<|end|>",)
    special = named(start_token="<s>", end_token="<|endoftext|>")
