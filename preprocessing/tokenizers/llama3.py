"""Families that cut text as Llama 3 does (arXiv:2407.21783)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .base import named
from .byte_pair import BytePairTokenizer
from .foreign import Foreign

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TURN_END = "<|eot_id|>"
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")


class Llama3Tokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`.

    Args:
        bos_token: what text begins with. KerasHub forgets it in a preset if it is another one;
            here it is kept.
        eos_token: what it ends with, as for `bos_token`.
        misc_special_tokens: more of them; by default those of a preset's `unsplittable_tokens`.
    """

    backbone = "Llama3Backbone"
    also = ("LlamaBackbone",)
    templates = ("start $A", "start $A start $B:1")
    turn_ends = ("<|eot_id|>",)
    split_pattern = LLAMA3
    prefers_words = True
    lost = ("bos_token", "eos_token")
    unsaved = (*BytePairTokenizer.unsaved, "misc_special_tokens")

    def __init__(
        self,
        vocabulary: Any = None,
        merges: Any = None,
        bos_token: str = "<|begin_of_text|>",
        eos_token: str = "<|end_of_text|>",
        misc_special_tokens: Iterable[str] | None = None,
        *,
        unsplittable_tokens: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.bos_token, self.eos_token = bos_token, eos_token
        ends = {"end_token2": TURN_END} if eos_token == "<|end_of_text|>" else {}
        more = misc_special_tokens
        if more is None:
            more = HEADERS if unsplittable_tokens is None else unsplittable_tokens
        others = [one for one in more if one not in (bos_token, eos_token, *ends.values())]
        misc = {f"special_token_{i:03d}": token for i, token in enumerate(others)}
        self.special = {"start_token": bos_token, "end_token": eos_token, **misc, **ends}
        super().__init__(vocabulary, merges, unsplittable_tokens=unsplittable_tokens, **kwargs)

    @classmethod
    def reads(cls, files: Foreign) -> bool:
        """Others of that architecture, SmolLM say, cut text as GPT-2 does."""
        cut = any(step["type"] == "Split" for step in files.steps("pre_tokenizer"))
        return super().reads(files) and (cut or not files.kind)

    @classmethod
    def special_arguments(cls, files: Foreign, vocabulary: Mapping[str, int]) -> dict[str, Any]:
        names = ("bos_token", "eos_token")
        return {name: token for name in names if (token := files.token(name)) is not None}


class SmolLM3Tokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`."""

    backbone = "SmolLM3Backbone"
    turn_ends = ("<|im_end|>",)
    split_pattern = LLAMA3
    prefers_words = True
    special = named(
        end_token="<|end_of_text|>",
        bos_token="<|begin_of_text|>",
        start_think_token="<think>",
        end_think_token="</think>",
    )


SmolLMTokenizer = SmolLM3Tokenizer
