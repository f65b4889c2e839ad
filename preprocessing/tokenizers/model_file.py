"""The file of a SentencePiece model: its pieces and settings, in the wire format of protocol
buffers as far as it needs that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

# Kinds of pieces.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
UNIGRAM, BPE = 1, 2
MARKS = ("unk", "bos", "eos", "pad")
# Numbers of fields: of a model, a piece, a trainer's settings and a normalizer's.
PIECES, TRAINER, NORMALIZER = 1, 2, 3
TEXT, SCORE, KIND = 1, 2, 3
MODEL_TYPE, BYTE_FALLBACK, FIRST_MARK_ID, FIRST_MARK = 3, 35, 40, 45
CHARSMAP, ADD_DUMMY_PREFIX, REMOVE_EXTRA_WHITESPACES = 2, 3, 4


@dataclass(frozen=True)
class Piece:
    """A token of a model."""

    text: str
    score: float = 0.0
    kind: int = NORMAL

    def write(self) -> bytes:
        score = as_varint(SCORE << 3 | 5) + struct.pack("<f", self.score)
        return field(PIECES, field(TEXT, self.text.encode()) + score + field(KIND, self.kind))


@dataclass(frozen=True)
class ModelFile:
    """A model of a unigram language model or of byte pairs.

    Attributes:
        charsmap: how characters are normalized; empty if they are not.
        marks: the pieces that stand for unknown text, begin, end and padding, by `MARKS`.
    """

    pieces: Sequence[Piece]
    is_bpe: bool
    byte_fallback: bool
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    marks: Mapping[str, str]

    @classmethod
    def read(cls, content: bytes) -> ModelFile:
        pieces, settings = [], {TRAINER: dict[int, bytes | int](), NORMALIZER: {}}
        for number, value, _ in fields(content):
            if isinstance(value, bytes) and number == PIECES:
                found = {number: one for number, one, _ in fields(value)}
                score = found.get(SCORE, bytes(4))
                text, kind = found.get(TEXT, b""), found.get(KIND, NORMAL)
                assert isinstance(text, bytes)
                assert isinstance(score, bytes)
                pieces.append(Piece(text.decode(), struct.unpack("<f", score)[0], int(kind)))
            elif isinstance(value, bytes) and number in settings:
                settings[number] = {number: one for number, one, _ in fields(value)}
        trainer, normalizer = settings[TRAINER], settings[NORMALIZER]
        named = {mark: trainer.get(FIRST_MARK + i) for i, mark in enumerate(MARKS)}
        return cls(
            pieces,
            trainer.get(MODEL_TYPE, UNIGRAM) == BPE,
            bool(trainer.get(BYTE_FALLBACK, 0)),
            bytes(normalizer.get(CHARSMAP, b"")),
            bool(normalizer.get(ADD_DUMMY_PREFIX, 1)),
            bool(normalizer.get(REMOVE_EXTRA_WHITESPACES, 1)),
            {mark: name.decode() for mark, name in named.items() if isinstance(name, bytes)},
        )

    def write(self) -> bytes:
        ids = {piece.text: i for i, piece in enumerate(self.pieces)}
        trainer: list[tuple[int, bytes | int]] = [(MODEL_TYPE, BPE if self.is_bpe else UNIGRAM)]
        trainer += [(BYTE_FALLBACK, int(self.byte_fallback))]
        names = {mark: self.marks.get(mark) or f"<{mark}>" for mark in MARKS}
        absent = (1 << 64) - 1  # -1
        trainer += [(FIRST_MARK_ID + i, ids.get(names[m], absent)) for i, m in enumerate(MARKS)]
        trainer += [(FIRST_MARK + i, names[mark].encode()) for i, mark in enumerate(MARKS)]
        normalizer: list[tuple[int, bytes | int]] = [
            (CHARSMAP, self.charsmap),
            (ADD_DUMMY_PREFIX, int(self.add_dummy_prefix)),
            (REMOVE_EXTRA_WHITESPACES, int(self.remove_extra_whitespaces)),
        ]
        parts = [piece.write() for piece in self.pieces]
        parts.append(field(TRAINER, b"".join(field(*one) for one in trainer)))
        parts.append(field(NORMALIZER, b"".join(field(*one) for one in normalizer)))
        return b"".join(parts)


def fields(message: bytes) -> Iterator[tuple[int, bytes | int, bytes]]:
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


def as_varint(value: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes((*found, value))


def field(number: int, value: bytes | int) -> bytes:
    """A field of a message."""
    if isinstance(value, int):
        return as_varint(number << 3) + as_varint(value)
    return as_varint(number << 3 | 2) + as_varint(len(value)) + value


def rewritten(message: bytes, change: Callable[[int, bytes | int], bytes | int]) -> bytes:
    """A message with other values, of a field's number and its value, in some fields."""
    parts = []
    for number, value, old in fields(message):
        new = change(number, value)
        parts.append(old if new is value else field(number, new))
    return b"".join(parts)
