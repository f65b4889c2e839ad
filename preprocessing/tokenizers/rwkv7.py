"""RWKV's tokenizer: at each place the longest of its tokens, which are bytes."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterable, Sequence
from typing import Any

from .base import Tokenizer

LONGEST_LINE = 2048


class RWKVTokenizer(Tokenizer):
    """The longest token that a text goes on with, again and again.

    Args:
        vocabulary: lines of a token's id, its literal in Python, and its number of bytes.
        pad_token_id: of padding.
        start_token_id: of what text begins with.
        end_token_id: of what it ends with; by default an empty line's.
    """

    backbone = "RWKV7Backbone"
    assets = ("vocabulary.txt",)

    def __init__(
        self,
        vocabulary: Iterable[str] | None = None,
        pad_token_id: int = 0,
        start_token_id: int | None = None,
        end_token_id: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id
        self.start_token_id = start_token_id
        self.end_token_id = end_token_id or pad_token_id
        self.vocabulary: list[str] | None = None
        if vocabulary is not None:
            self.set_vocabulary(vocabulary)

    def set_vocabulary(self, vocabulary: Iterable[str]) -> None:
        """Take lines as vocabulary.

        Raises:
            ValueError: a line is something else, or the same token twice.
        """
        self.vocabulary = list(vocabulary)
        self.tokens: dict[int, bytes] = {}
        for line in self.vocabulary:
            id, token = _entry(line)
            self.tokens[id] = token
        self.ids = {token: id for id, token in self.tokens.items()}
        if len(self.ids) < len(self.vocabulary) or b"" in self.ids:
            raise ValueError("The vocabulary has a token or an id twice, or an empty token.")
        # Of each byte what may follow, and under -1 the id of what ends there.
        self.tree: dict[int, Any] = {}
        for token, id in self.ids.items():
            node = self.tree
            for byte in token:
                node = node.setdefault(byte, {})
            node[-1] = id
        if self.end_token_id == self.pad_token_id:
            self.end_token_id = self.ids.get(b"\n\n", self.end_token_id)

    @property
    def has_vocabulary(self) -> bool:
        return self.vocabulary is not None

    def get_vocabulary(self) -> list[str]:
        self.check_vocabulary()
        return list(self.vocabulary or ())

    def id_to_token(self, id: int) -> Any:
        """The bytes of an id."""
        self.check_vocabulary()
        if id not in self.tokens:
            raise ValueError(f"The vocabulary has no id {id}.")
        return self.tokens[id]

    def token_to_id(self, token: Any) -> int:
        """Id of bytes."""
        self.check_vocabulary()
        if token not in self.ids:
            raise ValueError(f"The vocabulary has no token {token!r}.")
        return self.ids[token]

    def encode(self, texts: Sequence[str], special: bool | None) -> list[list[Any]]:
        rows = [self.longest(text.encode()) for text in texts]
        if self.dtype != "string":
            return rows
        return [[self.tokens[id].decode(errors="replace") for id in row] for row in rows]

    def longest(self, text: bytes) -> list[int]:
        """Ids of the longest token at each place."""
        ids: list[int] = []
        at = 0
        while at < len(text):
            node, end, id = self.tree, at, None
            for place in range(at, len(text)):
                node = node.get(text[place], {})
                if not node:
                    break
                if -1 in node:
                    end, id = place + 1, node[-1]
            if id is None:
                raise ValueError(f"The vocabulary has no token for {text[at : at + 9]!r}.")
            ids.append(id)
            at = end
        return ids

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        parts = [b"".join(self.id_to_token(id) for id in row if id) for row in rows]
        return [part.decode(errors="replace") for part in parts]

    def set_assets(self, contents: Sequence[bytes]) -> None:
        lines = io.StringIO(contents[0].decode(), newline=None).readlines()
        if lines != self.vocabulary:  # which the configuration has, too
            self.set_vocabulary(lines)

    def asset_contents(self) -> Sequence[bytes]:
        return ["".join(self.get_vocabulary()).encode()]


def _entry(line: str) -> tuple[int, bytes]:
    """Id and bytes of a line."""
    number, _, rest = line.strip().partition(" ")
    literal, _, size = rest.rpartition(" ")
    try:
        if len(line) > LONGEST_LINE:
            raise ValueError("it is too long")
        token = ast.literal_eval(literal)
        token = token.encode() if isinstance(token, str) else token
        if not isinstance(token, bytes) or len(token) != int(size):
            raise ValueError("it is something else")
        if not 0 <= int(number) < 2**31:
            raise ValueError("no id is so large, or negative")
        return int(number), token
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"{line[:80]!r} is no id, literal and number of bytes: {error}") from error
