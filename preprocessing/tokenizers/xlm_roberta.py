"""XLM-RoBERTa's tokenizer (arXiv:1911.02116): pieces of SentencePiece, numbered by fairseq."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .base import named
from .sentence_piece import SentencePieceTokenizer

# Before all others; SentencePiece has the unknown one, start and end instead.
FIRST = ("<s>", "<pad>", "</s>", "<unk>")
THEIR_FIRST = 3


class MetaCLIP2Tokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`. Ids are those of the model and one, but of special tokens."""

    backbone = "MetaCLIP2Backbone"
    model_file = "sentencepiece.bpe.model"
    first = FIRST
    templates = ("start $A end", "start $A end end $B end")
    special = named(start_token="<s>", pad_token="<pad>", end_token="</s>", unk_token="<unk>")

    def get_vocabulary(self) -> list[str]:
        return [*FIRST, *super().get_vocabulary()[THEIR_FIRST:]]

    def id_to_token(self, id: int) -> str:
        return FIRST[id] if 0 <= id < len(FIRST) else super().id_to_token(id - 1)

    def token_to_id(self, token: str) -> int:
        if token in FIRST:
            return FIRST.index(token)
        id = super().token_to_id(token)
        return FIRST.index("<unk>") if id == self.unknown_id else id + 1

    def encode(self, texts: Sequence[str], special: bool | None) -> list[list[Any]]:
        rows = super().encode(texts, special)
        if self.dtype == "string":
            return rows
        return [[id + 1 if id else FIRST.index("<unk>") for id in row] for row in rows]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return super().decode([[id - 1 for id in row if id >= len(FIRST)] for row in rows])


class XLMRobertaTokenizer(MetaCLIP2Tokenizer):
    """See `MetaCLIP2Tokenizer`; the last token is `<mask>`."""

    backbone = "XLMRobertaBackbone"
    also = ("BertBackbone",)  # multilingual E5's

    def update_special_tokens(self) -> None:
        super().update_special_tokens()
        self.mask_token_id = len(self.pieces) + 1

    def get_vocabulary(self) -> list[str]:
        return [*super().get_vocabulary(), "<mask>"]

    def id_to_token(self, id: int) -> str:
        return "<mask>" if id == self.mask_token_id else super().id_to_token(id)

    def token_to_id(self, token: str) -> int:
        return len(self.pieces) + 1 if token == "<mask>" else super().token_to_id(token)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        # Padding and what is unknown are shown as unknown; start and end are not shown.
        numbers = {FIRST.index("<s>"): 1, FIRST.index("</s>"): 2, FIRST.index("<unk>"): 0}
        kept = ((id for id in row if id != self.mask_token_id) for row in rows)
        theirs = [[numbers.get(id, id - 1) for id in row] for row in kept]
        return SentencePieceTokenizer.decode(self, theirs)
