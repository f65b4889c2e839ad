"""Text that a decoder is to continue, and text of what it has found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..backbones._model import Model
from .causal_lm import CausalLMPreprocessor, detokenized
from .chat import is_chat
from .seq_2_seq_lm import Seq2SeqLMPreprocessor
from .tokenizers.base import Tokenizer

# How text ends that stops within a character.
UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class TextPrompts:
    """Prompts that were text.

    Attributes:
        inputs: of the backbone, no longer than the longest one.
        mask: which of the tokens that it goes on with are no padding, `[batch, length]`.
        tokenizer: that they are made with.
        single: whether it was one text, and no list.
        sequence_length: how long texts become, if nothing else is said.
        is_chat: whether it was a conversation, of which the answer alone is given.
    """

    inputs: Mapping[str, torch.Tensor]
    mask: torch.Tensor
    tokenizer: Tokenizer
    single: bool
    sequence_length: int
    is_chat: bool = False

    def decoded(self, found: Mapping[str, torch.Tensor], strip_prompt: bool) -> Any:
        """Text of what was generated, of prompts and continuations or of these alone."""
        mask = found["padding_mask"].clone()
        if self.is_chat:
            ends = torch.tensor(self.tokenizer.stop_token_ids, device=mask.device)
            mask &= ~torch.isin(found["token_ids"], ends)
        if strip_prompt or self.is_chat:
            given = self.mask.to(mask.device).repeat_interleave(len(mask) // len(self.mask), 0)
            mask[:, : given.shape[1]] &= ~given
        return self._given(detokenized(self.tokenizer, found["token_ids"], mask))

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
        name = "decoder_token_ids" if "decoder_token_ids" in self.inputs else "token_ids"
        prompts = [ids[one].tolist() for ids, one in zip(self.inputs[name], self.mask)]
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
    """Whether prompts are text or conversations, and no ids."""
    if is_chat(prompts):
        return True
    if isinstance(prompts, Mapping):
        return "encoder_text" in prompts
    some = isinstance(prompts, (list, tuple)) and len(prompts) > 0
    return isinstance(prompts, str) or (some and isinstance(prompts[0], str))


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
    own = base.for_class(backbone.class_name)
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
    if found is None:  # a family without one of its own has text alone
        found = base(Tokenizer.from_preset(preset)) if own is None else own.from_preset(preset)
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
    texts = prompts.values() if isinstance(prompts, Mapping) else [prompts]
    rows = [[text] if isinstance(text, str) else list(text) for text in texts]
    # No text has more tokens than bytes, special ones aside.
    room = 16 + max(len(str(text).encode(errors="replace")) for row in rows for text in row)
    single = isinstance(next(iter(texts)), str)
    if single:
        keys = list(prompts) if isinstance(prompts, Mapping) else [None]
        prompts = dict(zip(keys, rows)) if isinstance(prompts, Mapping) else rows[0]
    options = {"sequence_length": room}
    if isinstance(preprocessor, Seq2SeqLMPreprocessor):
        options["encoder_sequence_length"] = min(room, preprocessor.encoder_sequence_length)
    make = getattr(preprocessor, "prompt_inputs", preprocessor.generate_preprocess)
    inputs = make(prompts, **options)
    for prefix in ("", "encoder_", "decoder_"):
        mask = inputs.get(f"{prefix}padding_mask")
        if mask is not None:
            kept = mask.any(0)
            for name in (f"{prefix}token_ids", f"{prefix}padding_mask"):
                inputs[name] = inputs[name][:, kept]
    mask = inputs.get("decoder_padding_mask", inputs.get("padding_mask"))
    return TextPrompts(inputs, mask, preprocessor.tokenizer, single, preprocessor.sequence_length)


def _chat_prompts(prompts: Any, preprocessor: Any, options: Mapping[str, Any]) -> TextPrompts:
    """Conversations as a decoder's inputs, with an answer begun."""
    if isinstance(preprocessor, Seq2SeqLMPreprocessor):
        raise NotImplementedError("Conversations are for decoders; give an encoder-decoder text.")
    single = isinstance(prompts[0], Mapping)
    conversations = [prompts] if single else prompts
    for message in (message for one in conversations for message in one):
        content = message.get("content")
        for part in content if isinstance(content, (list, tuple)) else ():
            kind = part.get("type", "text") if isinstance(part, Mapping) else part
            if kind != "text":
                raise NotImplementedError(
                    f"A message has content of type {kind!r}, and here conversations are text. The "
                    "model's preprocessor makes inputs of text with images or sound."
                )
    tokenizer = preprocessor.tokenizer
    begun = {"add_generation_prompt": not options.get("continue_final_message", False)}
    rows = tokenizer.apply_chat_template(conversations, **{**begun, **options})
    length = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (length - len(row)) for row in rows])
    mask = torch.arange(length) < torch.tensor([[len(row)] for row in rows])
    inputs = {"token_ids": ids, "padding_mask": mask}
    return TextPrompts(inputs, mask, tokenizer, single, preprocessor.sequence_length, is_chat=True)
