"""T5's tokenizer (arXiv:1910.10683), and those of towers for text beside images."""

from __future__ import annotations

from .base import named
from .sentence_piece import SentencePieceTokenizer


class T5Tokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "T5Backbone"
    model_file = "spiece.model"
    templates = ("$A end", "$A end $B end")
    special = named(end_token="</s>", start_token="</s>", pad_token="<pad>")


class BLIP2FlanT5Tokenizer(T5Tokenizer):
    """See `SentencePieceTokenizer`.

    Attributes:
        padding_side: of rows.
    """

    backbone = "BLIP2Backbone"
    keras_module = "keras_hub.src.models.blip2.blip2_flan_t5_tokenizer"
    padding_side = "right"


class SigLIPTokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "SigLIPBackbone"
    model_file = "spiece.model"
    templates = ("$A end", "$A end $B end")
    special = named(unknown_token="<unk>", end_token="</s>", pad_token="</s>")


class VideoPrismTokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "VideoPrismBackbone"
