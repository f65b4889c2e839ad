"""BLIP-2: an image before a text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..causal_lm import CausalLMPreprocessor
from ..images.converter import ImageConverter
from ..packers import Special
from ..preprocessor import samples
from ..seq_2_seq_lm import Seq2SeqLMPreprocessor
from ..tokenizers.base import Tokenizer
from ..tokenizers.t5 import T5Tokenizer


class BLIP2CausalLMPreprocessor(CausalLMPreprocessor):
    """Images and texts for BLIP-2 with a decoder.

    Args:
        tokenizer: the model's.
        image_converter: the model's; without one it is for text alone.
        sequence_length: of the rows.
        add_start_token: whether a text begins with the start token.
        add_end_token: whether it ends with the end token.
    """

    backbone = "BLIP2Backbone"
    text_name = "text"
    processor = "Blip2Processor"
    settings: ClassVar = {"num_query_tokens": "num_query_tokens"}
    image_converter: ImageConverter | None

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter | None = None,
        sequence_length: int = 512,
        add_start_token: bool = True,
        add_end_token: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, sequence_length, add_start_token, add_end_token, **kwargs)
        self.image_converter = image_converter

    def get_config(self) -> dict[str, Any]:
        # KerasHub writes it where there is none, too.
        return {"image_converter": None, **super().get_config()}

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> Any:
        """To train on: the backbone's inputs, the tokens that follow, and which of these count.

        Args:
            x: mapping of `text` and perhaps `images`, of one or several samples; a list of
                mappings; or text alone.
            y: ignored, as is `sample_weight`.
            sequence_length: in place of the preprocessor's.
        """
        text, images = self._parts(x)
        inputs, *rest = super().__call__(text, sequence_length=sequence_length)
        return ({**inputs, **images}, *rest)

    def generate_preprocess(self, x: Any, sequence_length: int | None = None) -> Any:
        """To generate from: the backbone's inputs; a prompt for T5's encoder has an end token."""
        text, images = self._parts(x)
        if not isinstance(self.tokenizer, T5Tokenizer):
            return {**super().generate_preprocess(text, sequence_length), **images}
        ids, mask = self.packer(
            self.tokenizer.tokenize(text), sequence_length=sequence_length, add_start_value=False
        )
        return {"token_ids": ids, "padding_mask": mask, **images}

    def _parts(self, x: Any) -> tuple[Any, dict[str, Any]]:
        x = samples(x)[0]
        if not isinstance(x, Mapping):
            return x, {}
        if "text" not in x:
            raise ValueError(f"The input needs 'text'; it has {', '.join(x)}.")
        return x["text"], converted(self.image_converter, x)


class BLIP2Seq2SeqLMPreprocessor(Seq2SeqLMPreprocessor):
    """Images and texts for BLIP-2 with Flan-T5.

    Args:
        tokenizer: the model's.
        image_converter: the model's; without one it is for text alone.
        encoder_sequence_length: of the encoder's rows.
        decoder_sequence_length: of the decoder's rows.
    """

    backbone = "BLIP2Backbone"
    processor = "Blip2Processor"
    settings: ClassVar = {"num_query_tokens": "num_query_tokens"}
    image_converter: ImageConverter | None

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter | None = None,
        encoder_sequence_length: int = 512,
        decoder_sequence_length: int = 512,
        **kwargs: Any,
    ) -> None:
        super().__init__(tokenizer, encoder_sequence_length, decoder_sequence_length, **kwargs)
        self.image_converter = image_converter

    @property
    def encoder_start(self) -> Special:
        return None

    @property
    def decoder_start(self) -> Special:
        return self.tokenizer.pad_token_id

    def get_config(self) -> dict[str, Any]:
        return {"image_converter": None, **super().get_config()}

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """As of `Seq2SeqLMPreprocessor`; the mapping may have `images`, too."""
        x = samples(x)[0]
        inputs, *rest = super().__call__(x, *args, **kwargs)
        return ({**inputs, **converted(self.image_converter, x)}, *rest)

    def generate_preprocess(self, x: Any, **kwargs: Any) -> Any:
        """As of `Seq2SeqLMPreprocessor`; the mapping may have `images`, too."""
        images = converted(self.image_converter, x) if isinstance(x, Mapping) else {}
        return {**super().generate_preprocess(x, **kwargs), **images}


def converted(converter: ImageConverter | None, x: Mapping[str, Any]) -> dict[str, Any]:
    """The images of a sample, if it has some.

    Raises:
        ValueError: it has, but there is no converter.
    """
    images = x.get("images")
    if images is None:
        return {}
    if converter is None:
        raise ValueError("There are images, but no image_converter.")
    return {"images": converter(images)}
