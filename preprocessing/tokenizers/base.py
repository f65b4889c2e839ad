"""What all tokenizers do around their algorithm."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch

from ...presets import builtin
from ...presets.companions import GENERATION
from ...presets.files import CONFIG, refuse_pointer, safe_name
from ...presets.sources import PresetSource
from .. import chat
from .._layer import PreprocessingLayer, backbone_of, class_of, dtype_name, public_classes
from .._libraries import library
from .foreign import Foreign

# How tokens are chosen, in the words of `generation_config.json`.
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
TokenizerType = TypeVar("TokenizerType", bound="Tokenizer")
MAX_ASSET_BYTES = 64 * 1024**2
CONFIG_FILE = "tokenizer.json"
# Names of special tokens, Keras's and transformers'.
MARKS = (
    *(("start", "bos"), ("end", "eos"), ("pad", "pad"), ("cls", "cls"), ("sep", "sep")),
    *(("mask", "mask"), ("bos", "bos"), ("eos", "eos"), ("unk", "unk"), ("oov", "unk")),
)


class Tokenizer(PreprocessingLayer):
    """Text → token ids and back.

    Text is a string, or lists of them in lists; ids have the structure of the text.

    Args:
        config_file: of the preset; its assets are in the folder of the same name.
        dtype: `int32` for ids, `string` for tokens.

    Attributes:
        backbone: name of the class of the models that it is for.
        also: others of which some have it.
        special: the special tokens by name; each is an attribute, and its id that of `{name}_id`.
        assets: names of the files that hold the vocabulary.
        templates: what transformers is to put around a text and a pair of them, in the words of
            the `tokenizers` library; `start`, `end` and the like stand for special tokens.
        turn_ends: tokens besides the end token with which a model ends its turn, if it has them.
        chat_template: how a conversation becomes text, a template of Jinja or several by name.
    """

    backbone: ClassVar[str | None] = None
    also: ClassVar[Sequence[str]] = ()
    special: Mapping[str, str] = {}
    assets: ClassVar[Sequence[str]] = ()
    turn_ends: ClassVar[Sequence[str]] = ()
    templates: ClassVar[tuple[str, str]] = ("$A", "$A $B:1")
    config_file = CONFIG_FILE
    sequence_length: int | None = None
    chat_template: chat.Templates | None = None
    # Ids of a checkpoint's own, and how it wants tokens to be chosen.
    further_ends: Sequence[int] = ()
    sampling: Mapping[str, Any] = {}

    start_token: str | None = None
    end_token: str | None = None
    pad_token: str | None = None
    start_token_id: int | None = None
    end_token_id: int | None = None
    pad_token_id: int = 0
    cls_token_id: int
    sep_token_id: int
    mask_token_id: int | None

    def __init__(
        self,
        *,
        config_file: str = CONFIG_FILE,
        dtype: Any = "int32",
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(name=name, trainable=trainable, dtype=dtype or "int32")
        if self.dtype != "string" and "int" not in self.dtype:
            raise ValueError(f"dtype must be an integer type or string, not {dtype_name(dtype)!r}.")
        self.config_file = safe_name(config_file)
        for attribute, token in self.special.items():
            setattr(self, attribute, token)
            setattr(self, f"{attribute}_id", None)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.backbone is not None and "keras_module" not in vars(cls):
            family = builtin.family_of(cls.backbone)
            cls.keras_module = f"keras_hub.src.models.{family}.{family}_tokenizer"

    # Tokens

    def get_vocabulary(self) -> Any:
        """All tokens, in the order of their ids where they have one."""
        raise NotImplementedError

    def vocabulary_size(self) -> int:
        """How many ids there are."""
        return len(self.get_vocabulary())

    def token_to_id(self, token: str) -> int:
        """Id of a token. Raises ValueError if there is no such one."""
        raise NotImplementedError

    def id_to_token(self, id: int) -> str:
        """Token of an id. Raises ValueError if there is no such one."""
        raise NotImplementedError

    @property
    def special_tokens(self) -> list[str]:
        return list(dict.fromkeys(self.special.values()))

    @property
    def special_token_ids(self) -> list[int]:
        self.check_vocabulary()
        return list(dict.fromkeys(getattr(self, f"{name}_id") for name in self.special))

    @property
    def stop_token_ids(self) -> list[int]:
        """What a generated text ends with: the end tokens, and those of a turn."""
        names = ("end_token", "end_token2", "eos_token")
        ends = [getattr(self, f"{name}_id", None) for name in names]
        known = self.get_vocabulary()
        ends += [self.token_to_id(token) for token in self.turn_ends if token in known]
        return [id for id in dict.fromkeys((*ends, *self.further_ends)) if id is not None]

    def update_special_tokens(self) -> None:
        """Look the special tokens up in a new vocabulary.

        Raises:
            ValueError: it has not all of them.
        """
        vocabulary = self.get_vocabulary()
        known = vocabulary if isinstance(vocabulary, Mapping) else set(vocabulary)
        missing = [token for token in self.special_tokens if token not in known]
        if missing:
            raise ValueError(
                f"The vocabulary of {type(self).__name__} has not the special token"
                f"{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}."
            )
        for name, token in self.special.items():
            setattr(self, f"{name}_id", self.token_to_id(token))

    def check_vocabulary(self) -> None:
        """Raise ValueError if there is none yet."""
        if not self.has_vocabulary:
            raise ValueError(f"{type(self).__name__} has no vocabulary yet: give it one.")

    @property
    def has_vocabulary(self) -> bool:
        return True

    # Text

    def __call__(self, inputs: Any, *, special_tokens_in_strings: bool | None = None) -> Any:
        return self.tokenize(inputs, special_tokens_in_strings=special_tokens_in_strings)

    def tokenize(self, inputs: Any, *, special_tokens_in_strings: bool | None = None) -> Any:
        """Ids of the tokens of text.

        Args:
            inputs: a string, or lists of strings, also in lists.
            special_tokens_in_strings: whether what looks like a special token is one; by default
                as KerasHub's class has it. False for text that strangers have typed.

        Returns:
            A list for each string; tensors of `sequence_length` where that is set.

        Raises:
            TypeError: something other than text.
            ValueError: no text at all, or half a character.
        """
        self.check_vocabulary()
        texts: list[Any] = []
        structure = self.flatten(inputs, texts)
        if not texts:
            raise ValueError("There is no text: the list is empty.")
        rows = self.encode(texts, special_tokens_in_strings)
        length = self.sequence_length
        if length is None:
            return _rebuild(structure, iter(rows))
        if self.dtype == "string":
            padded = [row[:length] + [""] * (length - len(row)) for row in rows]
            return _rebuild(structure, iter(padded))
        dtype = getattr(torch, self.dtype)
        table = torch.full((len(rows), length), self.padding, dtype=dtype)
        for i, row in enumerate(rows):
            table[i, : len(row)] = torch.tensor(row[:length], dtype=dtype)
        return _stacked(_rebuild(structure, iter(table)))

    def flatten(self, inputs: Any, texts: list[Any]) -> Any:
        """Append all texts, in order; gives their structure."""
        return flatten(inputs, texts)

    @property
    def padding(self) -> int:
        """What rows are filled with up to `sequence_length`."""
        return self.pad_token_id

    def encode(self, texts: Sequence[Any], special: bool | None) -> list[list[Any]]:
        """Ids of each text's tokens, or where `dtype` is `string` the tokens."""
        raise NotImplementedError

    def apply_chat_template(
        self,
        conversation: Any,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        tokenize: bool = True,
        **variables: Any,
    ) -> Any:
        """Ids, or text, of a conversation or a list of them, as in transformers.

        Args:
            conversation: messages `{"role": …, "content": …}`.
            tools: that the model may call, as JSON schemas.
            documents: that it may quote.
            chat_template: the template, or the name of one of several.
            add_generation_prompt: whether an answer is begun.
            continue_final_message: whether the last message is left open.
            tokenize: whether there are ids, or text.
            variables: what else the template asks for.

        Raises:
            TypeError: messages, tools or documents that are no dictionaries.
            ValueError: there is no template, or it is broken, refuses the conversation or runs for
                too long.
            ImportError: Jinja is not installed.
        """
        single = bool(conversation) and isinstance(conversation[0], Mapping)
        template = chat.chosen(self.chat_template, chat_template, tools)
        texts = [
            chat.rendered(
                template,
                one,
                tools,
                documents,
                add_generation_prompt,
                continue_final_message,
                **{**self.marks(), **variables},
            )
            for one in ([conversation] if single else conversation)
        ]
        found: list[Any] = self.chat_ids(texts) if tokenize else texts
        return found[0] if single else found

    def chat_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of text that a template has made, in which special tokens are what they look like."""
        return self.encode(texts, True)

    def detokenize(self, inputs: Any) -> Any:
        """Text of ids: a string of a row, lists of strings of more.

        Raises:
            TypeError: something other than integers.
            ValueError: ids that no token has.
        """
        self.check_vocabulary()
        ids = _as_lists(inputs)
        if isinstance(ids, int):
            ids = [ids]
        rows: list[list[int]] = []
        structure = _rows(ids, rows)
        return _rebuild(structure, iter(self.decode(rows)))

    def decode(self, rows: Sequence[Sequence[int]]) -> list[Any]:
        """Text of each row of ids."""
        raise NotImplementedError

    # Files

    @classmethod
    def load(
        cls: type[TokenizerType],
        source: PresetSource,
        config_file: str,
        overrides: Mapping[str, Any],
    ) -> TokenizerType:
        files = Foreign(source)
        if not files.is_foreign:
            return super().load(source, config_file, overrides)
        for found in cls.candidates(files.backbone):
            if found.reads(files):
                tokenizer = found(**{**found.arguments_of(files), **overrides})
                tokenizer.read_checkpoint(files)
                return tokenizer
        raise FileNotFoundError(
            f"{source.handle} has no tokenizer of a {files.backbone} that can be read here."
        )

    @classmethod
    def candidates(cls: type[TokenizerType], backbone: str) -> list[type[TokenizerType]]:
        """The tokenizers that models of a class can have, those of the family first."""
        found = [one for one in public_classes().values() if issubclass(one, cls)]
        return sorted(
            (one for one in found if backbone in (one.backbone, *vars(one).get("also", ()))),
            key=lambda one: one.backbone != backbone,
        )

    @classmethod
    def reads(cls, files: Foreign) -> bool:
        """Whether a checkpoint of transformers has a tokenizer of this kind."""
        return False

    @classmethod
    def arguments_of(cls, files: Foreign) -> dict[str, Any]:
        """The constructor's arguments for the tokenizer of a checkpoint of transformers."""
        raise NotImplementedError

    def read_checkpoint(self, files: Foreign) -> None:
        """Take what is no argument from a checkpoint of transformers."""
        self.chat_template = chat.of_checkpoint(files.source, files.config)
        self.read_generation(files.source)

    def to_transformers(self) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
        """Contents of the files, by their names, of which `AutoTokenizer` makes this tokenizer.

        Raises:
            NotImplementedError: transformers has no such tokenizer.
        """
        self.check_vocabulary()
        tokenizers = library("tokenizers", "text")
        found = self.to_library()
        single, pair = map(self._template, self.templates)
        tokens = {token: self.token_to_id(token) for token in self.special_tokens}
        found.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=list(tokens.items())
        )
        yield CONFIG_FILE, found.to_str(pretty=True).encode()
        yield (
            "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "clean_up_tokenization_spaces": False,
                **self.marks(),
            },
        )
        if self.chat_template is not None:
            yield from chat.transformers_files(self.chat_template)

    def marks(self) -> dict[str, Any]:
        """More of `tokenizer_config.json`: special tokens by transformers' names."""
        marks = ((theirs, getattr(self, f"{ours}_token", None)) for ours, theirs in MARKS)
        return {f"{theirs}_token": token for theirs, token in marks if isinstance(token, str)}

    def _template(self, template: str) -> str:
        return re.sub(r"[a-z_]+", lambda mark: str(getattr(self, f"{mark[0]}_token")), template)

    def to_library(self) -> Any:
        """A tokenizer of the `tokenizers` library that gives the same ids.

        Raises:
            NotImplementedError: it can make none.
        """
        raise NotImplementedError(f"transformers has no tokenizer like {type(self).__name__}")

    @classmethod
    def found_in(
        cls: type[TokenizerType], config: Mapping[str, Any], config_file: str, source: PresetSource
    ) -> type[TokenizerType]:
        # Presets of one family may have another one's tokenizer, SigLIP 2's Gemma's.
        if cls.backbone is not None and source.has(CONFIG) and cls.backbone == backbone_of(source):
            found: Any = class_of(config, f"{source.handle}'s {config_file}", Tokenizer)
            return found
        return super().found_in(config, config_file, source)

    def read_assets(self, source: PresetSource) -> None:
        folder = f"assets/{self.config_file.partition('.')[0]}"
        if self.assets:
            paths = source.download(f"{folder}/{name}" for name in self.assets)
            self.set_assets([read_asset(path) for path in paths])
        self.chat_template = chat.of_preset(source, folder)
        if self.chat_template is not None:  # one that comes from transformers
            self.read_generation(source)

    def read_generation(self, source: PresetSource) -> None:
        """Take what the `generation_config.json` of transformers says, if there is one."""
        said = source.json(GENERATION) if source.has(GENERATION) else {}
        self.further_ends = ends_in(said)
        self.sampling = sampling_in(said)

    def load_assets(self, dir_path: str | os.PathLike[str]) -> None:
        """Read the vocabulary from the files of a folder.

        Raises:
            ValueError: they are no vocabulary.
        """
        self.set_assets([read_asset(Path(dir_path, name)) for name in self.assets])

    def save_assets(self, dir_path: str | os.PathLike[str]) -> None:
        """Write the vocabulary into a folder."""
        for name, content in zip(self.assets, self.asset_contents()):
            Path(dir_path, name).write_bytes(content)

    def set_assets(self, contents: Sequence[bytes]) -> None:
        """Take the contents of the files in `assets` as vocabulary."""
        raise NotImplementedError

    def asset_contents(self) -> Sequence[bytes]:
        """The contents of the files in `assets`."""
        raise NotImplementedError

    def files(self) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
        self.check_vocabulary()
        yield self.config_file, self.serialize()
        folder = f"assets/{self.config_file.partition('.')[0]}"
        for name, content in zip(self.assets, self.asset_contents()):
            yield f"{folder}/{name}", content
        if self.chat_template is not None:
            yield from chat.files(self.chat_template, f"{folder}/")


def named(**tokens: str) -> Mapping[str, str]:
    """Special tokens by their names."""
    return tokens


def ends_in(said: Mapping[str, Any]) -> list[int]:
    """What text ends with by a `generation_config.json`."""
    value = said.get("eos_token_id")
    ids = value if isinstance(value, list) else [value]
    return [id for id in ids if type(id) is int and 0 <= id < 2**31]


def sampling_in(said: Mapping[str, Any]) -> dict[str, Any]:
    """How tokens are chosen by a `generation_config.json`."""
    numbers = {name: said.get(name) for name in SAMPLING}
    found = {name: one for name, one in numbers.items() if type(one) in (int, float)}
    return {"do_sample": True, **found} if said.get("do_sample") is True else found


def read_asset(path: Path) -> bytes:
    """Contents of a file.

    Raises:
        ValueError: it is larger than any vocabulary, or a pointer of Git LFS.
    """
    if path.stat().st_size > MAX_ASSET_BYTES:
        raise ValueError(f"{path} is larger than {MAX_ASSET_BYTES:,} bytes; no vocabulary is.")
    refuse_pointer(path)
    return path.read_bytes()


def lines_of(content: bytes) -> list[str]:
    """Lines of a text file, without what ends them."""
    # Of the characters that `splitlines` takes for ends only these are.
    lines = content.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines


# Structures: None stands for a string or a row, a list for a list.


def flatten(inputs: Any, texts: list[str]) -> Any:
    """Append all strings, in order; gives their structure."""
    if isinstance(inputs, np.ndarray):
        inputs = inputs.tolist()
    if isinstance(inputs, str):
        try:
            inputs.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"Text has half a character (a surrogate): {error}.") from error
        texts.append(str(inputs))
        return None
    if isinstance(inputs, (list, tuple)):
        if all(type(one) is str for one in inputs) and _is_whole("".join(inputs)):
            texts.extend(inputs)
            return [None] * len(inputs)
        return [flatten(one, texts) for one in inputs]
    hint = "; decode it first: .decode('utf-8')" if isinstance(inputs, bytes) else ""
    raise TypeError(f"Text must be str, or lists of it, not {type(inputs).__name__}{hint}.")


def _is_whole(text: str) -> bool:
    """Whether there is no half of a character in it."""
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:
        return False


def _rows(ids: Any, rows: list[list[int]]) -> Any:
    if not isinstance(ids, list):
        raise TypeError(f"Ids must be integers, or lists of them, not {type(ids).__name__}.")
    if ids and isinstance(ids[0], list):
        return [_rows(one, rows) for one in ids]
    if any(isinstance(one, bool) or not isinstance(one, int) for one in ids):
        raise TypeError("Ids must be integers, those of a row in one list.")
    rows.append(ids)
    return None


def _as_lists(value: Any) -> Any:
    if isinstance(value, (torch.Tensor, np.ndarray, np.integer)):
        return value.tolist()
    return [_as_lists(one) for one in value] if isinstance(value, (list, tuple)) else value


def _rebuild(structure: Any, values: Iterator[Any]) -> Any:
    return next(values) if structure is None else [_rebuild(one, values) for one in structure]


def _stacked(value: Any) -> Any:
    """Lists of tensors of one shape as tensors."""
    if isinstance(value, torch.Tensor):
        return value
    inner = [_stacked(one) for one in value]
    if all(isinstance(one, torch.Tensor) and one.shape == inner[0].shape for one in inner):
        return torch.stack(inner) if inner else inner
    return inner
