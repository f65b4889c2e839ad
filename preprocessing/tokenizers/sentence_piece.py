"""SentencePiece (Kudo and Richardson, 2018, arXiv:1808.06226): unigram and BPE models."""

from __future__ import annotations

import base64
import binascii
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from ...presets.sources import PresetSource
from .._libraries import library
from .base import Tokenizer, read_asset
from .cutting import Step
from .foreign import Foreign, added_tokens, check_options
from .model_file import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    ModelFile,
    Piece,
    fields,
    rewritten,
)

# What transformers calls the file, in families old and new.
FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
SCHEME = "prepend_scheme.json"
# Longer text is no path but the model itself, as Keras puts bytes into JSON.
LONGEST_PATH = 2048
# Pieces that stand for no text, with no score; those of other names are a family's own.
NO_TEXT = ("<pad>", "<s>", "</s>", "[CLS]", "[SEP]", "[MASK]", "[PAD]")
# What steps of `tokenizer.json` are made of that a model of SentencePiece does by itself.
SPACES = r"[]'\AzZs \u2581▁{2,}|+$^nrt(?=)"
# Ids that no token of a checkpoint has.
MAX_GAP = 1000


class SentencePieceTokenizer(Tokenizer):
    """Pieces of text, spaces included, of a model that SentencePiece has trained.

    Args:
        proto: the model, its file, or its bytes in base 64.
        sequence_length: rows are cut or filled with the padding token to it.
        add_bos: whether rows begin with the model's begin of text.
        add_eos: whether rows end with its end of text.
        token_options: of a checkpoint's tokens in conversations, as of `BytePairTokenizer`.
    """

    keras_module = "keras_hub.src.tokenizers.sentence_piece_tokenizer"
    assets = ("vocabulary.spm",)
    own: ClassVar[Sequence[str]] = ("token_options",)
    # What transformers calls it, and tokens that it has before the model's own.
    model_file: ClassVar[str] = "tokenizer.model"
    first: ClassVar[Sequence[str]] = ()
    # Those that it has behind them whatever the model.
    adds: ClassVar[Sequence[str]] = ()

    # Where a conversation has spaces that no text has, as of a checkpoint of transformers.
    prepend_scheme: str | None = None

    def __init__(
        self,
        proto: str | os.PathLike[str] | bytes | None = None,
        sequence_length: int | None = None,
        add_bos: bool = False,
        add_eos: bool = False,
        *,
        token_options: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sequence_length = sequence_length
        self.add_bos = add_bos
        self.add_eos = add_eos
        self.token_options = token_options
        check_options(token_options)
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

    def chat_ids(self, texts: Sequence[str]) -> list[list[int]]:
        # sentencepiece itself finds no control tokens in text.
        proto, found = vars(self).get("chat_library", (None, None))
        if proto is not self.proto:
            found = self.to_library()
            vars(self)["chat_library"] = (self.proto, found)
        return [one.ids for one in found.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        size = len(self.pieces)
        for row in rows:
            if any(not 0 <= id < size for id in row):
                raise ValueError(f"ids must be from 0 to {size - 1}, not {min(row)} to {max(row)}.")
        return self.library.decode(list(map(list, rows)))

    # Transformers

    @classmethod
    def reads(cls, files: Foreign) -> bool:
        if files.first(*FILES) is not None:
            return True
        return files.kind == "Unigram" or (files.kind == "BPE" and is_of_pieces(files))

    @classmethod
    def arguments_of(cls, files: Foreign) -> dict[str, Any]:
        path = files.first(*FILES)
        added = {token: id for token, id in files.added.items() if token not in cls.adds}
        if path is None:
            proto = of_json(files, cls.first, cls.adds)
        else:
            proto = read_asset(path)
            proto = proto if cls.first else with_added(proto, added)
        steps = (*files.steps("normalizer"), *files.steps("pre_tokenizer"))
        unknown = [step["type"] for step in steps if not is_of_model(step)]
        if unknown:
            names = ", ".join(dict.fromkeys(unknown))
            files.warn(f"{cls.__name__} knows no {names}: text is cut without it.")
        options = {"token_options": files.token_options} if files.token_options else {}
        return {"proto": proto, **options, **cls.special_arguments(ModelFile.read(proto))}

    @classmethod
    def special_arguments(cls, model: ModelFile) -> dict[str, Any]:
        """Those of the family's own arguments that a model settles."""
        return {}

    def read_checkpoint(self, files: Foreign) -> None:
        super().read_checkpoint(files)
        self.prepend_scheme = prepend_scheme_of(files)

    def to_transformers(self) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
        yield from super().to_transformers()
        assert self.proto is not None
        yield self.model_file, self.proto

    def to_library(self) -> Any:
        assert self.proto is not None
        tokenizers = library("tokenizers", "text")
        model = ModelFile.read(self.proto)
        kinds = {piece.text: piece for piece in model.pieces}
        vocabulary = self.get_vocabulary()
        unknown = self.token_to_id("")
        normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
        steps = []
        if model.charsmap:  # which is looked up for each grapheme, if that is composed
            steps += [normalizers.NFC(), normalizers.Precompiled(model.charsmap)]
        if model.remove_extra_whitespaces:
            ends = tokenizers.Regex(r"\A +| +\z")
            steps += [normalizers.Replace(ends, "")]
            steps += [normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
        if model.is_bpe:
            built = tokenizers.models.BPE(
                {token: i for i, token in enumerate(vocabulary)},
                merges_of(model),
                unk_token=vocabulary[unknown],
                fuse_unk=True,
                byte_fallback=model.byte_fallback,
            )
            found = tokenizers.Tokenizer(built)
            steps += [normalizers.Prepend("▁")] if model.add_dummy_prefix else []
            steps += [normalizers.Replace(" ", "▁")]
            parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            parts += [decoders.Strip(" ", 1, 0)] if model.add_dummy_prefix else []
            found.decoder = decoders.Sequence(parts)
            if self.prepend_scheme and model.add_dummy_prefix and len(steps) == 2:
                steps = []
                spaces = tokenizers.pre_tokenizers.Metaspace
                found.pre_tokenizer = spaces("▁", self.prepend_scheme, split=False)
        else:
            scores = [kinds[one].score if one in kinds else 0.0 for one in vocabulary]
            pairs = list(zip(vocabulary, scores))
            found = tokenizers.Tokenizer(tokenizers.models.Unigram(pairs, unknown))
            scheme = "always" if model.add_dummy_prefix else "never"
            found.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace("▁", scheme)
            found.decoder = decoders.Metaspace("▁", scheme)
        if steps:
            found.normalizer = normalizers.Sequence(steps)
        known = self.token_options or {}
        found.add_special_tokens(added_tokens(self.special_tokens, known))
        found.add_tokens(
            [
                tokenizers.AddedToken(
                    piece.text,
                    normalized="▁" in piece.text,
                    special=False,
                    **dict.fromkeys(known.get(piece.text, ()), True),
                )
                for piece in model.pieces
                if piece.kind == USER_DEFINED and piece.text not in self.special_tokens
            ]
        )
        return found

    # Files

    def files(self) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
        yield from super().files()
        if self.chat_template is not None and self.prepend_scheme is not None:
            folder = f"assets/{self.config_file.partition('.')[0]}"
            yield f"{folder}/{SCHEME}", {"prepend_scheme": self.prepend_scheme}

    def read_assets(self, source: PresetSource) -> None:
        super().read_assets(source)
        name = f"assets/{self.config_file.partition('.')[0]}/{SCHEME}"
        if self.chat_template is not None and source.has(name):
            self.prepend_scheme = checked_scheme(source.json(name).get("prepend_scheme"))

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


def prepend_scheme_of(files: Foreign) -> str | None:
    """Where transformers puts a space before text, `first` or `always`, also behind special tokens;
    `None` where it does what the model says.
    """
    if str(files.config.get("tokenizer_class")).startswith("LlamaTokenizer"):
        return "always" if files.config.get("legacy") else "first"
    steps = (step for step in files.steps("pre_tokenizer") if step.get("type") == "Metaspace")
    return checked_scheme(next(steps, {}).get("prepend_scheme"))


def checked_scheme(value: Any) -> str | None:
    """One of the schemes that transformers has; `None` for anything else."""
    return value if value in ("first", "always") else None


def without_special_pieces(proto: bytes) -> bytes:
    """A model that does not know those of its user-defined pieces that look like special tokens."""

    def changed(number: int, value: bytes | int) -> bytes | int:
        if number != 1 or not isinstance(value, bytes):
            return value
        found = {number: field for number, field, _ in fields(value)}
        kind, piece = found.get(3, NORMAL), found.get(1, b"")
        if kind != USER_DEFINED or not isinstance(piece, bytes) or piece[:1] not in (b"<", b"["):
            return value
        return rewritten(value, lambda number, one: UNUSED if number == 3 else one)

    return rewritten(proto, changed)


def merges_of(model: ModelFile) -> list[tuple[str, str]]:
    """All ways to make a piece of two others, the pieces that are made first in front."""
    ids = {piece.text: i for i, piece in enumerate(model.pieces) if piece.kind == NORMAL}
    made = [
        (-piece.score, ids[piece.text[:at]], ids[piece.text[at:]])
        for piece in model.pieces
        if piece.kind == NORMAL
        for at in range(1, len(piece.text))
        if piece.text[:at] in ids and piece.text[at:] in ids
    ]
    return [(model.pieces[i].text, model.pieces[j].text) for _, i, j in sorted(made)]


def is_of_pieces(files: Foreign) -> bool:
    """Whether byte pairs are those of SentencePiece: they have their spaces within."""
    return any("▁" in token for token in files.model["vocab"])


def with_added(proto: bytes, added: Mapping[str, int]) -> bytes:
    """A model with tokens of higher ids as its own."""
    size = len(ModelFile.read(proto).pieces)
    more = {id: token for token, id in added.items() if id >= size}
    if not more or max(more) - size > len(more) + MAX_GAP:
        return proto
    pieces = [
        Piece(more[id], 0.0, USER_DEFINED) if id in more else Piece(f"<unused{id}>", 0.0, UNUSED)
        for id in range(size, max(more) + 1)
    ]
    return proto + b"".join(piece.write() for piece in pieces)


def is_of_model(step: Step) -> bool:
    """Whether a model of SentencePiece does what a step of `tokenizer.json` does."""
    if step["type"] in ("Precompiled", "Prepend", "Metaspace", "WhitespaceSplit", "NFC"):
        return True
    pattern = step.get("pattern")
    spaces = pattern if isinstance(pattern, Mapping) else {}
    return step["type"] in ("Replace", "Split") and set(str([*spaces.values()])) <= set(SPACES)


def of_json(files: Foreign, first: Sequence[str], adds: Sequence[str] = ()) -> bytes:
    """A model of what `tokenizer.json` describes.

    Args:
        first: tokens that it has before those of a model, which has the unknown token, begin and
            end instead.
        adds: tokens that it has behind them and a model has not.
    """
    is_bpe = files.kind == "BPE"
    vocabulary = files.model["vocab"]
    scores: dict[str, float]
    if is_bpe:
        ids = {**vocabulary, **files.added}
        tokens = sorted(ids, key=lambda token: int(ids[token]))
        if [ids[token] for token in tokens] != list(range(len(tokens))):
            raise ValueError("The ids of tokenizer.json are not all the numbers from 0 on.")
        scores = {}
        for rank, rule in enumerate(files.model["merges"]):
            left, right = rule.split(" ") if isinstance(rule, str) else rule
            scores.setdefault(left + right, -float(rank))
    else:
        tokens, scores = [token for token, _ in vocabulary], dict(vocabulary)
        size = len(tokens)
        later = sorted((id, token) for token, id in files.added.items() if id >= size)
        tokens += [token for _, token in later if not first]
    marks = {name: files.token(f"{name}_token") for name in ("unk", "bos", "eos", "pad")}
    unknown = files.model.get("unk_token") if is_bpe else tokens[files.model.get("unk_id") or 0]
    marks["unk"] = unknown or marks["unk"] or "<unk>"
    if first:
        tokens = ["<unk>", "<s>", "</s>", *(one for one in tokens[len(first) :] if one != "<mask>")]
    while tokens and tokens[-1] in adds:
        tokens.pop()
    named = [files.token(f"{name}_token") for name in ("bos", "eos", "pad", "cls", "sep")]
    control = {*NO_TEXT, *(token for token in named if token and not token.startswith("<|"))}

    def kind(token: str) -> int:
        if token == marks["unk"]:
            return UNKNOWN
        if (token in control and not scores.get(token)) or (first and token in first):
            return CONTROL
        if token in files.added:
            return USER_DEFINED
        return BYTE if re.fullmatch(r"<0x[0-9A-F]{2}>", token) else NORMAL

    steps = files.steps("normalizer")
    cutters = [step["type"] for step in files.steps("pre_tokenizer")]
    schemes = [step.get("prepend_scheme") for step in files.steps("pre_tokenizer")]
    prepends = any(one in ("always", "first") for one in schemes)
    charsmaps = [step.get("precompiled_charsmap") for step in steps]
    lowest = -float(len(tokens)) if is_bpe else 0.0
    return ModelFile(
        [Piece(token, float(scores.get(token, lowest)), kind(token)) for token in tokens],
        is_bpe,
        bool(files.model.get("byte_fallback")),
        b"".join(base64.b64decode(one) for one in charsmaps if one),
        prepends or any(step["type"] == "Prepend" for step in steps),
        any(" {2,}" in str(step.get("pattern")) for step in steps) or "WhitespaceSplit" in cutters,
        {name: mark for name, mark in marks.items() if mark is not None},
    ).write()
