"""Families that cut text as GPT-2 does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .base import named
from .byte_pair import BytePairTokenizer


class GPT2Tokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "GPT2Backbone"
    also = ("LlamaBackbone", "Llama3Backbone")  # SmolLM's
    turn_ends = ("<|im_end|>",)
    special = named(end_token="<|endoftext|>", start_token="<|endoftext|>")


class GPTNeoXTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "GPTNeoXBackbone"
    special = named(end_token="<|endoftext|>", start_token="<|endoftext|>")
    normalizes = True


class RobertaTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "RobertaBackbone"
    templates = ("start $A end", "start $A end end $B end")
    special = named(start_token="<s>", end_token="</s>", pad_token="<pad>", mask_token="<mask>")


class BartTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "BartBackbone"
    templates = ("start $A end", "start $A end end $B end")
    special = named(start_token="<s>", end_token="</s>", pad_token="<pad>")


class OPTTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "OPTBackbone"
    templates = ("start $A", "start $A start $B:1")
    special = named(end_token="</s>", start_token="</s>", pad_token="<pad>")


class BLIP2OPTTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`. A text ends with the line.

    Attributes:
        padding_side: of rows.
    """

    backbone = "BLIP2Backbone"
    keras_module = "keras_hub.src.models.blip2.blip2_opt_tokenizer"
    special = named(start_token="</s>", end_token="Ċ", pad_token="<pad>", image_token="<image>")
    padding_side = "right"

    def __init__(
        self,
        vocabulary: Any = None,
        merges: Any = None,
        unsplittable_tokens: Iterable[str] | None = None,
        add_prefix_space: bool = False,
        **kwargs: Any,
    ) -> None:
        if unsplittable_tokens is None:
            unsplittable_tokens = ["<pad>", "</s>", "<image>"]
        kwargs |= {"add_prefix_space": add_prefix_space, "unsplittable_tokens": unsplittable_tokens}
        super().__init__(vocabulary, merges, **kwargs)
