"""Families with WordPieces."""

from __future__ import annotations

from typing import Any

from .base import named
from .word_piece import WordPieceTokenizer


class BertTokenizer(WordPieceTokenizer):
    """See `WordPieceTokenizer`."""

    backbone = "BertBackbone"
    templates = ("start $A end", "start $A end $B:1 end:1")
    special = named(
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        start_token="[CLS]",
        end_token="[SEP]",
    )

    def __init__(self, vocabulary: Any = None, lowercase: bool = False, **kwargs: Any) -> None:
        super().__init__(vocabulary, lowercase=lowercase, **kwargs)


class DistilBertTokenizer(BertTokenizer):
    """See `WordPieceTokenizer`."""

    backbone = "DistilBertBackbone"


class ElectraTokenizer(BertTokenizer):
    """See `WordPieceTokenizer`."""

    backbone = "ElectraBackbone"


class RoformerV2Tokenizer(BertTokenizer):
    """See `WordPieceTokenizer`."""

    backbone = "RoformerV2Backbone"


class ESMTokenizer(WordPieceTokenizer):
    """Amino acids; see `WordPieceTokenizer`. Each is a word, with spaces between them."""

    backbone = "ESMBackbone"
    templates = ("start $A end", "start $A end $B:1 end:1")
    special = named(
        cls_token="<cls>",
        sep_token="<eos>",
        pad_token="<pad>",
        mask_token="<mask>",
        start_token="<cls>",
        end_token="<eos>",
    )

    def __init__(
        self,
        vocabulary: Any = None,
        lowercase: bool = False,
        oov_token: str = "<unk>",
        **kwargs: Any,
    ) -> None:
        super().__init__(vocabulary, lowercase=lowercase, oov_token=oov_token, **kwargs)
