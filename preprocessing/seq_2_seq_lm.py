"""Pairs of texts for encoder-decoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .causal_lm import detokenized
from .packers import Special, StartEndPacker
from .preprocessor import Preprocessor, samples, with_labels
from .tokenizers.base import Tokenizer


class Seq2SeqLMPreprocessor(Preprocessor):
    """A text for the encoder and one for the decoder.

    Args:
        tokenizer: the model's.
        encoder_sequence_length: of the encoder's rows.
        decoder_sequence_length: of the decoder's rows.

    Attributes:
        encoder_marks: whether start and end are around the encoder's text, arguments of its packer.
        generating_marks: the same for text to generate from.
        decoder_ends: whether the end token is behind the decoder's text.
    """

    task = "seq_2_seq_lm"
    text_name = "encoder_text"
    lost = ("encoder_sequence_length", "decoder_sequence_length")
    tokenizer: Tokenizer
    encoder_marks: Mapping[str, bool] = {}
    generating_marks: Mapping[str, bool] = {}
    decoder_ends: bool = True

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder_sequence_length: int = 1024,
        decoder_sequence_length: int = 1024,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.tokenizer = tokenizer
        self.encoder_sequence_length = encoder_sequence_length
        self.decoder_sequence_length = decoder_sequence_length

    @property
    def sequence_length(self) -> int:
        return self.decoder_sequence_length

    @sequence_length.setter
    def sequence_length(self, value: int) -> None:
        self.decoder_sequence_length = value

    @property
    def encoder_start(self) -> Special:
        """Before the encoder's text."""
        return self.tokenizer.start_token_id

    @property
    def decoder_start(self) -> Special:
        """Before the decoder's text."""
        return self.tokenizer.start_token_id

    @property
    def encoder_packer(self) -> StartEndPacker:
        return self._packer(self.encoder_start, self.encoder_sequence_length)

    @property
    def decoder_packer(self) -> StartEndPacker:
        return self._packer(self.decoder_start, self.decoder_sequence_length)

    def _packer(self, start: Special, length: int) -> StartEndPacker:
        return StartEndPacker(
            sequence_length=length,
            start_value=start,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        """To train on: the backbone's inputs, the decoder's tokens that follow, and which count.

        Args:
            x: mapping of `encoder_text` and `decoder_text`, each a text or a list of them; or a
                list of such mappings.
            y: ignored, as is `sample_weight`.
            encoder_sequence_length: in place of the preprocessor's.
            decoder_sequence_length: as well.
            sequence_length: another name of it.
        """
        x = check_texts(samples(x)[0])
        encoder_ids, encoder_mask = self.encoder_packer(
            self.tokenizer.tokenize(x["encoder_text"]),
            sequence_length=encoder_sequence_length,
            **self.encoder_marks,
        )
        length = decoder_sequence_length or sequence_length or self.decoder_sequence_length
        decoder_ids, decoder_mask = self.decoder_packer(
            self.tokenizer.tokenize(x["decoder_text"]),
            sequence_length=length + 1,
            add_end_value=self.decoder_ends,
        )
        inputs = {
            "encoder_token_ids": encoder_ids,
            "encoder_padding_mask": encoder_mask,
            "decoder_token_ids": decoder_ids[..., :-1],
            "decoder_padding_mask": decoder_mask[..., :-1],
        }
        return with_labels(inputs, decoder_ids[..., 1:], decoder_mask[..., 1:])

    def generate_preprocess(
        self,
        x: Any,
        *,
        encoder_sequence_length: int | None = None,
        decoder_sequence_length: int | None = None,
        sequence_length: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """To generate from: the backbone's inputs, the decoder's without an end token.

        Args:
            x: text for the encoder, or a mapping as of a call, which may lack `decoder_text`.
            encoder_sequence_length: in place of the preprocessor's.
            decoder_sequence_length: as well.
            sequence_length: another name of it.
        """
        x = x if isinstance(x, Mapping) else {"encoder_text": x}
        if x.get("decoder_text") is None and "encoder_text" in x:
            text = x["encoder_text"]
            x = {**x, "decoder_text": "" if isinstance(text, str) else [""] * len(text)}
        x = check_texts(x)
        encoder_ids, encoder_mask = self.encoder_packer(
            self.tokenizer.tokenize(x["encoder_text"]),
            sequence_length=encoder_sequence_length,
            **self.generating_marks,
        )
        decoder_ids, decoder_mask = self.decoder_packer(
            self.tokenizer.tokenize(x["decoder_text"]),
            sequence_length=decoder_sequence_length or sequence_length,
            add_end_value=False,
        )
        return {
            "encoder_token_ids": encoder_ids,
            "encoder_padding_mask": encoder_mask,
            "decoder_token_ids": decoder_ids,
            "decoder_padding_mask": decoder_mask,
        }

    def generate_postprocess(self, x: Mapping[str, Any]) -> Any:
        """Text of what the decoder has generated, without padding and special tokens."""
        return detokenized(self.tokenizer, x["decoder_token_ids"], x["decoder_padding_mask"])


def check_texts(x: Any) -> Mapping[str, Any]:
    """The texts, or a ValueError if those of a side are missing."""
    if not isinstance(x, Mapping) or not x.keys() >= {"encoder_text", "decoder_text"}:
        shown = list(x) if isinstance(x, Mapping) else type(x).__name__
        raise ValueError(f"It takes a mapping of encoder_text and decoder_text, not {shown}.")
    return x


class BartSeq2SeqLMPreprocessor(Seq2SeqLMPreprocessor):
    backbone = "BartBackbone"

    @property
    def decoder_start(self) -> Special:
        end, start = self.tokenizer.end_token_id, self.tokenizer.start_token_id
        assert end is not None
        assert start is not None
        return [end, start]


class T5Seq2SeqLMPreprocessor(Seq2SeqLMPreprocessor):
    backbone = "T5Backbone"

    @property
    def encoder_start(self) -> Special:
        return None

    @property
    def decoder_start(self) -> Special:
        return self.tokenizer.pad_token_id


class T5GemmaSeq2SeqLMPreprocessor(Seq2SeqLMPreprocessor):
    """As `Seq2SeqLMPreprocessor`. The encoder's text has no end token when text is generated.

    Args:
        tokenizer: the model's.
        encoder_sequence_length: of the encoder's rows.
        decoder_sequence_length: of the decoder's rows.
        add_start_token: whether the encoder's text begins with the start token.
        add_end_token: whether texts end with the end token.
    """

    backbone = "T5GemmaBackbone"

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder_sequence_length: int = 512,
        decoder_sequence_length: int = 512,
        add_start_token: bool = False,
        add_end_token: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, encoder_sequence_length, decoder_sequence_length, **kwargs)
        self.add_start_token = add_start_token
        self.add_end_token = self.decoder_ends = add_end_token
        start = {"add_start_value": add_start_token}
        self.encoder_marks = {**start, "add_end_value": add_end_token}
        self.generating_marks = {**start, "add_end_value": False}
