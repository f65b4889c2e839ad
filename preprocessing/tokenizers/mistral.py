"""Mistral's tokenizers: SentencePiece, then Tekken (byte pairs)."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from .base import named
from .byte_pair import BytePairTokenizer, byte_characters, known_patterns
from .cutting import pattern_of
from .foreign import Foreign, json_of
from .sentence_piece import SentencePieceTokenizer

# Those of Mistral's own releases, which cut any text at once.
KNOWN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)
# Special tokens of the first versions, whose files do not list them.
OLD_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]"),
    *("[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]"),
    *("[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),
    "[TOOL_CONTENT]",
)
MOST_SPECIAL, LONGEST = 100_000, 1000


class MistralTokenizer(SentencePieceTokenizer):
    """See `SentencePieceTokenizer`."""

    backbone = "MistralBackbone"
    templates = ("start $A", "start $A start $B:1")
    special = named(start_token="<s>", end_token="</s>")


class MistralTekkenTokenizer(BytePairTokenizer):
    """See `BytePairTokenizer`.

    Args:
        split_pattern: what words are, a regular expression. One that is not Mistral's own has five
            seconds for a text.
    """

    backbone = "MistralBackbone"
    templates = ("start $A", "start $A start $B:1")
    special = named(start_token="<s>", end_token="</s>")
    own = (*BytePairTokenizer.own, "unsplittable_tokens")
    known_patterns = KNOWN
    prefers_words = True
    split_pattern: str | None

    def __init__(
        self,
        vocabulary: Any = None,
        merges: Any = None,
        split_pattern: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.split_pattern = split_pattern
        super().__init__(vocabulary, merges, **kwargs)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if self.unsplittable_tokens == self.special_tokens:
            del config["unsplittable_tokens"]
        return config

    @classmethod
    def is_known(cls, pattern: str) -> bool:
        return pattern in known_patterns()

    # Transformers

    @classmethod
    def reads(cls, files: Foreign) -> bool:
        return super().reads(files) or (not files.kind and files.source.has("tekken.json"))

    @classmethod
    def arguments_of(cls, files: Foreign) -> dict[str, Any]:
        if files.kind or not files.source.has("tekken.json"):
            return super().arguments_of(files)
        return of_tekken(json_of(files.source.file("tekken.json")))

    @classmethod
    def special_arguments(cls, files: Foreign, vocabulary: Mapping[str, int]) -> dict[str, Any]:
        cuts = files.steps("pre_tokenizer")
        pattern = pattern_of(cuts[0]) if cuts else None
        return {} if pattern is None else {"split_pattern": pattern}


def of_tekken(content: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's arguments of what `tekken.json` says.

    Any two pieces that make a third are merged, that of the lowest rank first.

    Raises:
        ValueError: it says nothing of the kind.
    """
    try:
        config = content["config"]
        count, size = int(config["default_num_special_tokens"]), int(config["default_vocab_size"])
        listed = content.get("special_tokens")
        special = list(OLD_SPECIAL) if listed is None else [""] * len(listed)
        for token in listed or ():
            special[token["rank"]] = str(token["token_str"])
        entries = content["vocab"][: max(size - count, 0)]
        pieces = [base64.b64decode(entry["token_bytes"], validate=True) for entry in entries]
        pattern = str(config["pattern"])
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(f"tekken.json is no tokenizer: {type(error).__name__} {error}.") from error
    if not len(special) <= count <= MOST_SPECIAL or max(map(len, pieces), default=0) > LONGEST:
        raise ValueError("tekken.json has more special tokens than places, or too long tokens.")
    special += [f"<SPECIAL_{i}>" for i in range(len(special), count)]
    ranks = {piece: i for i, piece in enumerate(pieces)}
    merges = []
    for piece in pieces:
        parts = ((piece[:at], piece[at:]) for at in range(1, len(piece)))
        known = [pair for pair in parts if pair[0] in ranks and pair[1] in ranks]
        merges += sorted(known, key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
    characters = byte_characters()

    def shown(piece: bytes) -> str:
        return "".join(map(characters.__getitem__, piece))

    tokens = {token: i for i, token in enumerate(special)}
    vocabulary = dict(tokens)
    for piece, rank in ranks.items():
        vocabulary.setdefault(shown(piece), rank + count)
    return {
        "vocabulary": vocabulary,
        "merges": [f"{shown(left)} {shown(right)}" for left, right in merges],
        "unsplittable_tokens": list(tokens),
        "split_pattern": pattern,
    }
