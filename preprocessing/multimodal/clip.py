"""Images and texts that are compared with each other: CLIP, SigLIP, MetaCLIP 2."""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from typing import Any

from ..causal_lm import CausalLMPreprocessor
from ..images.converter import ImageConverter
from ..packers import StartEndPacker
from ..preprocessor import samples, with_labels
from ..tokenizers.base import Tokenizer
from .texts import each_text

# As TensorFlow and RE2 have them: of ASCII alone.
LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
SPACES = re.compile(r"[\t\n\f\r ]+")


class _PairsPreprocessor(CausalLMPreprocessor):
    """`{"prompts": …, "images": …}` → `token_ids`, `padding_mask` and `images`."""

    image_converter: ImageConverter | None

    def __init__(
        self, tokenizer: Tokenizer, image_converter: ImageConverter | None, **kwargs: Any
    ) -> None:
        super().__init__(tokenizer, **kwargs)
        self.image_converter = image_converter

    @property
    def prepare(self) -> Callable[[str], str]:
        """What is done to a text first."""
        raise NotImplementedError

    def __call__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        sequence_length: int | None = None,
    ) -> Any:
        """The backbone's inputs; labels and weights behind them if there are some.

        Args:
            x: mapping of `prompts`, a text or a list of them, and `images`, as many, as of an
                `ImageConverter`; or a list of such mappings.
            y: labels.
            sample_weight: of the labels.
            sequence_length: in place of the preprocessor's.
        """
        x, y = samples(x, y)
        if not isinstance(x, dict) or "prompts" not in x:
            raise ValueError("The input is a dictionary of 'prompts' and 'images'.")
        ids, mask = self.packer(
            self.tokenizer.tokenize(each_text(x["prompts"], self.prepare)),
            sequence_length=sequence_length,
            add_start_value=self.add_start_token,
            add_end_value=self.add_end_token,
        )
        inputs = {"token_ids": ids, "padding_mask": mask}
        images = x.get("images")
        if images is not None:
            convert = self.image_converter
            inputs["images"] = images if convert is None else convert(images)
        return with_labels(inputs, y, sample_weight)


class CLIPPreprocessor(_PairsPreprocessor):
    """Texts and images for CLIP.

    Args:
        tokenizer: the model's.
        image_converter: the model's; without one images are left as they are.
        sequence_length: of the rows.
        add_start_token: whether a text begins with the start token.
        add_end_token: whether it ends with the end token.
        to_lower: whether its ASCII letters become small ones.
    """

    backbone = "CLIPBackbone"
    processor = "CLIPProcessor"
    task = ""

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter | None = None,
        sequence_length: int = 77,
        add_start_token: bool = True,
        add_end_token: bool = True,
        to_lower: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tokenizer,
            image_converter,
            sequence_length=sequence_length,
            add_start_token=add_start_token,
            add_end_token=add_end_token,
            **kwargs,
        )
        self.to_lower = to_lower

    @property
    def prepare(self) -> Callable[[str], str]:
        return _lowered if self.to_lower else str


class MetaCLIP2CausalLMPreprocessor(CLIPPreprocessor):
    """Texts and images for MetaCLIP 2; arguments as of `CLIPPreprocessor`."""

    backbone = "MetaCLIP2Backbone"
    task = "causal_lm"


class SigLIPPreprocessor(_PairsPreprocessor):
    """Texts and images for SigLIP.

    Args:
        tokenizer: the model's.
        image_converter: the model's; without one images are left as they are.
        sequence_length: of the rows.
        add_start_token: nothing, since there is none.
        add_end_token: whether a text ends with the end token.
        canonicalize_text: whether ASCII letters become small ones, ASCII punctuation vanishes, and
            spaces in a row become one.
    """

    backbone = "SigLIPBackbone"
    processor = "SiglipProcessor"
    task = ""

    def __init__(
        self,
        tokenizer: Tokenizer,
        image_converter: ImageConverter | None = None,
        sequence_length: int = 64,
        add_start_token: bool = False,
        add_end_token: bool = True,
        canonicalize_text: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            tokenizer,
            image_converter,
            sequence_length=sequence_length,
            add_start_token=add_start_token,
            add_end_token=add_end_token,
            **kwargs,
        )
        self.canonicalize_text = canonicalize_text

    @property
    def packer(self) -> StartEndPacker:
        return StartEndPacker(
            sequence_length=self.sequence_length,
            end_value=self.tokenizer.end_token_id,
            pad_value=self.tokenizer.pad_token_id,
            return_padding_mask=True,
        )

    @property
    def prepare(self) -> Callable[[str], str]:
        return _canonical if self.canonicalize_text else str


def _lowered(text: str) -> str:
    return text.translate(LOWER)


def _canonical(text: str) -> str:
    return SPACES.sub(" ", _lowered(text).translate(NO_PUNCTUATION)).strip(" \t\n\v\f\r")
