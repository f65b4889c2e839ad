"""Text that a decoder is to continue, and text of what it has found."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..backbones._model import Model
from .audio.inputs import is_one_clip
from .causal_lm import CausalLMPreprocessor
from .chat import contents_of, is_chat
from .multimodal.texts import MediaPreprocessor
from .preprocessor import Preprocessor, samples
from .seq_2_seq_lm import Seq2SeqLMPreprocessor
from .tokenizers.base import Tokenizer

# How text ends that stops within a character.
UNFINISHED = "\N{REPLACEMENT CHARACTER}"
# Entries of a mapping that are text, and those of which one tells it from ids.
TEXTS = ("prompts", "responses", "text", "encoder_text", "decoder_text")
RAW = ("prompts", "text", "encoder_text", "audio")


@dataclass(frozen=True)
class TextPrompts:
    """Prompts that were text.

    Attributes:
        inputs: of the backbone, no longer than the longest one.
        preprocessor: that they are made with.
        single: whether it was one text, and no list.
        is_chat: whether it was a conversation, of which the answer alone is given.
    """

    inputs: Mapping[str, torch.Tensor]
    preprocessor: Any
    single: bool
    is_chat: bool = False

    @property
    def tokenizer(self) -> Tokenizer:
        found: Tokenizer = self.preprocessor.tokenizer
        return found

    @property
    def sequence_length(self) -> int:
        """How long texts become, if nothing else is said."""
        found: int = self.preprocessor.sequence_length
        return found

    @property
    def prefix(self) -> str:
        """Of the names of the inputs that it goes on with."""
        return "decoder_" if "decoder_token_ids" in self.inputs else ""

    @property
    def mask(self) -> torch.Tensor:
        """Which of the tokens that it goes on with are no padding, `[batch, length]`."""
        return self.inputs[f"{self.prefix}padding_mask"]

    def decoded(self, found: Mapping[str, torch.Tensor], strip_prompt: bool) -> Any:
        """Text of what was generated, of prompts and continuations or of these alone."""
        mask = found["padding_mask"].clone()
        if self.is_chat:
            ends = torch.tensor(self.tokenizer.stop_token_ids, device=mask.device)
            mask &= ~torch.isin(found["token_ids"], ends)
        if strip_prompt or self.is_chat:
            given = self.mask.to(mask.device).repeat_interleave(len(mask) // len(self.mask), 0)
            mask[:, : given.shape[1]] &= ~given
        whole = {"token_ids": found["token_ids"], "padding_mask": mask}
        named = {f"{self.prefix}{name}": value for name, value in whole.items()}
        return self._given(self.preprocessor.generate_postprocess(named))

    def spoken(
        self,
        steps: Iterable[torch.Tensor],
        stop_token_ids: Sequence[int],
        max_length: int | None,
    ) -> Iterator[Any]:
        """What each step's tokens `[rows]` add to the texts; what is no character yet waits.

        Args:
            stop_token_ids: behind these a row has but padding.
            max_length: as behind this.
        """
        rows_of = zip(self.inputs[f"{self.prefix}token_ids"], self.mask)
        prompts = [ids[one].tolist() for ids, one in rows_of]
        rows: list[list[int]] = []
        open_: list[bool] = []
        said: list[str] = []
        for tokens in steps:
            if not rows:
                copies = len(tokens) // len(prompts)
                rows = [list(row) for row in prompts for _ in range(copies)]
                said, open_ = self._texts(rows), [True] * len(rows)
            for i, token in enumerate(tokens.tolist()):
                open_[i] &= token not in stop_token_ids and len(rows[i]) != max_length
                if open_[i]:
                    rows[i].append(token)
            texts = self._texts(rows)
            done = [old if text.endswith(UNFINISHED) else text for text, old in zip(texts, said)]
            yield self._given([text[len(old) :] for text, old in zip(done, said)])
            said = done
        rest = [text[len(old) :] for text, old in zip(self._texts(rows), said)] if rows else []
        if any(rest):
            yield self._given(rest)

    def _texts(self, rows: list[list[int]]) -> list[str]:
        special = set(self.tokenizer.special_token_ids)
        special |= set(self.tokenizer.stop_token_ids) if self.is_chat else set()
        return self.tokenizer.detokenize([[id for id in row if id not in special] for row in rows])

    def _given(self, texts: list[str]) -> Any:
        return texts[0] if self.single and len(texts) == 1 else texts


def is_text(prompts: Any) -> bool:
    """Whether prompts are text, also with images or sound, or conversations, and no ids."""
    if is_chat(prompts):
        return True
    several = isinstance(prompts, (list, tuple)) and len(prompts) > 0
    first = prompts[0] if several else prompts
    if isinstance(first, Mapping):
        return any(name in first for name in RAW)
    return isinstance(first, (str, bytes))


def texts_of(texts: Any) -> list[str]:
    """A text, or several, as a list.

    Raises:
        TypeError: something other than text.
        ValueError: no text at all.
    """
    one = isinstance(texts, (str, bytes)) or not np.iterable(texts)
    rows: list[str] = [texts] if one else list(texts)
    for row in rows:
        if not isinstance(row, str):
            hint = "; decode it first: .decode('utf-8')" if isinstance(row, bytes) else ""
            raise TypeError(f"Texts must be str, or a list of it, not {type(row).__name__}{hint}.")
    if not rows:
        raise ValueError("There is no text: the list is empty.")
    return rows


def text_preprocessor(backbone: Model, given: Any = None) -> Any:
    """What makes a decoder's inputs of text: what is given, or what the backbone's preset has.

    Args:
        given: a preprocessor, or a tokenizer.

    Raises:
        TypeError: nothing is given, and the backbone comes from no preset.
        FileNotFoundError: its preset has no tokenizer.
    """
    is_decoder_alone = "decoder_token_ids" not in backbone.input_specs
    base: Any = CausalLMPreprocessor if is_decoder_alone else Seq2SeqLMPreprocessor
    own: Any = base.for_class(backbone.class_name)
    if isinstance(given, Tokenizer):
        return (own or base)(given)
    if given is not None:
        return given
    preset = getattr(backbone, "preset", None)
    if preset is None:
        raise TypeError(
            f"Text needs a tokenizer, and this {backbone.class_name} comes from no preset that has "
            "one: give preprocessor=, a tokenizer or a preprocessor."
        )
    found = vars(backbone).get("preset_preprocessor")
    if found is None:
        own = own or Preprocessor.for_class(backbone.class_name)  # Whisper's
        if hasattr(own, "generate_preprocess"):
            found = own.from_preset(preset)
        else:  # a family without one of its own has text alone
            found = base(Tokenizer.from_preset(preset))
        vars(backbone)["preset_preprocessor"] = found
    return found


def text_prompts(
    prompts: Any, preprocessor: Any, chat_options: Mapping[str, Any] | None = None
) -> TextPrompts:
    """Prompts as a backbone's inputs, whole, whatever length the preprocessor is for.

    Args:
        chat_options: of conversations, for `Tokenizer.apply_chat_template`.
    """
    if is_chat(prompts):
        return _chat_prompts(prompts, preprocessor, chat_options or {})
    if chat_options is not None:
        raise ValueError("chat_options are for conversations, not for text.")
    if isinstance(prompts, (list, tuple)) and isinstance(prompts[0], Mapping):
        prompts = samples(prompts)[0]
    texts: Any = {None: prompts}
    if isinstance(prompts, Mapping):
        if isinstance(preprocessor, MediaPreprocessor):
            preprocessor.check_names(prompts)
        texts = {name: prompts[name] for name in TEXTS if prompts.get(name) is not None}
    rows = {name: texts_of(text) for name, text in texts.items()}
    one_text = isinstance(next(iter(texts.values()), None), str)
    single = one_text or (not texts and is_one_clip(prompts["audio"]))
    if one_text and (texts.keys() == {None} or prompts.keys() == texts.keys()):
        prompts = {**prompts, **rows} if isinstance(prompts, Mapping) else rows[None]
    inputs = _whole(preprocessor, prompts, [text for several in rows.values() for text in several])
    return TextPrompts(inputs, preprocessor, single)


def _whole(preprocessor: Any, x: Any, texts: Sequence[str]) -> dict[str, torch.Tensor]:
    """Inputs to generate from, of which nothing is cut, and without columns of padding.

    Args:
        texts: all of them in `x`.
    """
    # No text has more tokens than bytes, special ones aside. Images may have any number.
    room = 16 + max((len(text.encode(errors="replace")) for text in texts), default=0)
    if isinstance(x, Mapping):
        room += preprocessor.sequence_length
    make = getattr(preprocessor, "prompt_inputs", preprocessor.generate_preprocess)
    while True:
        options = {"sequence_length": room}
        if isinstance(preprocessor, Seq2SeqLMPreprocessor):
            options["encoder_sequence_length"] = min(room, preprocessor.encoder_sequence_length)
        inputs: dict[str, torch.Tensor] = dict(make(x, **options))
        mask = inputs.get("decoder_padding_mask", inputs.get("padding_mask"))
        assert mask is not None
        if mask.shape[-1] < room or not mask.all(-1).any():
            break
        room *= 4
    for prefix in ("encoder_", "decoder_", ""):
        if f"{prefix}token_ids" not in inputs:
            continue
        mask = inputs[f"{prefix}padding_mask"]
        kept = torch.atleast_2d(mask).any(0)
        for name, value in inputs.items():
            along = name.startswith(prefix) and name.endswith(("token_ids", "_mask"))
            if along and value.shape == mask.shape:
                inputs[name] = torch.atleast_2d(value)[:, kept]
    return inputs


def _chat_prompts(prompts: Any, preprocessor: Any, options: Mapping[str, Any]) -> TextPrompts:
    """Conversations as a decoder's inputs, with an answer begun."""
    if isinstance(preprocessor, Seq2SeqLMPreprocessor):
        raise NotImplementedError("Conversations are for decoders; give an encoder-decoder text.")
    single = isinstance(prompts[0], Mapping)
    conversations = [prompts] if single else prompts
    takes_media = isinstance(preprocessor, MediaPreprocessor)
    contents = contents_of(conversations, preprocessor.media if takes_media else ())
    tokenizer = preprocessor.tokenizer
    begun = {"add_generation_prompt": not options.get("continue_final_message", False)}
    texts = tokenizer.apply_chat_template(conversations, **{**begun, **options, "tokenize": False})
    if contents:
        x = preprocessor.with_media(texts, contents)
        inputs = _whole(_of_template(preprocessor), x, x["prompts"])
        return TextPrompts(inputs, preprocessor, single, is_chat=True)
    rows = tokenizer.chat_ids(texts)
    length = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
    return TextPrompts({"token_ids": ids, "padding_mask": mask}, preprocessor, single, is_chat=True)


def _of_template(preprocessor: Any) -> Any:
    """A preprocessor for text in which a template has put all special tokens."""
    tokenizer = copy.copy(preprocessor.tokenizer)
    tokenizer.start_token_id = None
    vars(tokenizer)["encode"] = lambda texts, special: preprocessor.tokenizer.chat_ids(texts)
    found = copy.copy(preprocessor)
    found.tokenizer = tokenizer
    return found
