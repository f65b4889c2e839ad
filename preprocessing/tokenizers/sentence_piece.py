"""SentencePiece (Kudo and Richardson, 2018, arXiv:1808.06226): unigram and BPE models."""

from __future__ import annotations

import base64
import binascii
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .._libraries import library
from .base import Tokenizer, read_asset

# Of pieces, in a model's file.
NORMAL, USER_DEFINED, UNUSED = 1, 4, 5
# Longer text is no path but the model itself, as Keras puts bytes into JSON.
LONGEST_PATH = 2048


class SentencePieceTokenizer(Tokenizer):
    """Pieces of text, spaces included, of a model that SentencePiece has trained.

    Args:
        proto: the model, its file, or its bytes in base 64.
        sequence_length: rows are cut or filled with the padding token to it.
        add_bos: whether rows begin with the model's begin of text.
        add_eos: whether rows end with its end of text.
    """

    keras_module = "keras_hub.src.tokenizers.sentence_piece_tokenizer"
    assets = ("vocabulary.spm",)

    def __init__(
        self,
        proto: str | os.PathLike[str] | bytes | None = None,
        sequence_length: int | None = None,
        add_bos: bool = False,
        add_eos: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.add_bos = add_bos
        self.add_eos = add_eos
        self.proto: bytes | None = None
        self.set_proto(proto)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"proto": None}  # an asset

    def set_proto(self, proto: str | os.PathLike[str] | bytes | None) -> None:
        """Take a model, or its file.

        Raises:
            ValueError: it is none.
        """
        if isinstance(proto, str) and len(proto) > LONGEST_PATH:
            try:
                proto = base64.b64decode(proto, validate=True)
            except binascii.Error as error:
                raise ValueError("proto is neither a path nor a model in base 64.") from error
        if isinstance(proto, (str, os.PathLike)):
            proto = read_asset(Path(proto))
        self.__dict__.pop("plain_library", None)
        self.proto = proto
        if proto is None:
            return
        self.library = built(proto)
        self.pieces: list[str] = self.library.id_to_piece(list(range(len(self.library))))
        self.ids = {piece: i for i, piece in enumerate(self.pieces)}
        self.unknown_id: int = self.library.unk_id()
        self.update_special_tokens()

    @functools.cached_property
    def plain_library(self) -> Any:
        """As `library`, but what looks like a special token in text is no piece."""
        assert self.proto is not None
        return built(without_special_pieces(self.proto))

    # Tokens

    @property
    def has_vocabulary(self) -> bool:
        return self.proto is not None

    def get_vocabulary(self) -> list[str]:
        self.check_vocabulary()
        return list(self.pieces)

    def id_to_token(self, id: int) -> str:
        self.check_vocabulary()
        if not 0 <= id < len(self.pieces):
            raise ValueError(f"id must be from 0 to {self.vocabulary_size() - 1}, not {id}.")
        return self.pieces[id]

    def token_to_id(self, token: str) -> int:
        """Id of a token, or of the unknown one."""
        self.check_vocabulary()
        return self.ids.get(token, self.unknown_id)

    # Text

    def encode(self, texts: Sequence[str], special: bool | None) -> list[list[Any]]:
        found = self.plain_library if special is False else self.library
        kind = str if self.dtype == "string" else int
        flags = {"add_bos": self.add_bos, "add_eos": self.add_eos}
        return found.encode(list(texts), out_type=kind, **flags)

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        size = len(self.pieces)
        for row in rows:
            if any(not 0 <= id < size for id in row):
                raise ValueError(f"ids must be from 0 to {size - 1}, not {min(row)} to {max(row)}.")
        return self.library.decode(list(map(list, rows)))

    # Files

    def set_assets(self, contents: Sequence[bytes]) -> None:
        self.set_proto(contents[0])

    def asset_contents(self) -> Sequence[bytes]:
        assert self.proto is not None
        return [self.proto]


def built(proto: bytes) -> Any:
    """The processor of the library.

    Raises:
        ValueError: the bytes are no model.
    """
    sentencepiece = library("sentencepiece", "text")
    sentencepiece.set_min_log_level(1)  # it says on stderr which models do not normalize
    try:
        if proto:  # or the library would read none
            return sentencepiece.SentencePieceProcessor(model_proto=proto)
        raise ValueError("it is empty")
    except Exception as error:  # the library raises several kinds
        raise ValueError(
            f"These {len(proto):,} bytes are no SentencePiece model: {error}"
        ) from error


def without_special_pieces(proto: bytes) -> bytes:
    """A model that does not know those of its user-defined pieces that look like special tokens."""

    def changed(number: int, value: bytes | int) -> bytes | int:
        if number != 1 or not isinstance(value, bytes):
            return value
        fields = {number: field for number, field, _ in _fields(value)}
        kind, piece = fields.get(3, NORMAL), fields.get(1, b"")
        if kind != USER_DEFINED or not isinstance(piece, bytes) or piece[:1] not in (b"<", b"["):
            return value
        return _rewritten(value, lambda number, one: UNUSED if number == 3 else one)

    return _rewritten(proto, changed)


# The wire format of protocol buffers, as far as a model's file needs it.


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
    """Numbers, values and bytes of the fields of a message."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value, message[start:at]
            continue
        size, at = _varint(message, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        yield key >> 3, message[at : at + size], message[start : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _as_varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))


def _rewritten(message: bytes, change: Callable[[int, bytes | int], bytes | int]) -> bytes:
    """A message with other values, of a field's number and its value, in some fields."""
    parts = []
    for number, value, field in _fields(message):
        new = change(number, value)
        if new is value:
            parts.append(field)
        elif isinstance(new, int):
            parts += [_as_varint(number << 3), _as_varint(new)]
        else:
            parts += [_as_varint(number << 3 | 2), _as_varint(len(new)), new]
    return b"".join(parts)
