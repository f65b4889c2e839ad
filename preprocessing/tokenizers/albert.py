"""Encoders with SentencePiece and BERT's special tokens."""

from __future__ import annotations

from collections.abc import Sequence

from .base import named
from .sentence_piece import SentencePieceTokenizer


class AlbertTokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "AlbertBackbone"
    model_file = "spiece.model"
    templates = ("start $A end", "start $A end $B:1 end:1")
    special = named(
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="<pad>",
        mask_token="[MASK]",
        start_token="[CLS]",
        end_token="[SEP]",
    )


class FNetTokenizer(AlbertTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "FNetBackbone"


class DebertaV3Tokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`. A model without `[MASK]` gets it as its last token."""

    backbone = "DebertaV3Backbone"
    model_file = "spm.model"
    adds = ("[MASK]",)
    templates = ("start $A end", "start $A end $B:1 end:1")
    special = named(
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        start_token="[CLS]",
        end_token="[SEP]",
        mask_token="[MASK]",
    )

    @property
    def adds_mask(self) -> bool:
        return self.has_vocabulary and "[MASK]" not in self.ids

    def get_vocabulary(self) -> list[str]:
        return super().get_vocabulary() + ["[MASK]"] * self.adds_mask

    def id_to_token(self, id: int) -> str:
        is_mask = self.adds_mask and id == len(self.pieces)
        return "[MASK]" if is_mask else super().id_to_token(id)

    def token_to_id(self, token: str) -> int:
        is_mask = self.adds_mask and token == "[MASK]"
        return len(self.pieces) if is_mask else super().token_to_id(token)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        return super().decode([[id for id in row if id != self.mask_token_id] for row in rows])
