"""BLIP-2 (arXiv:2301.12597)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from .._backbone import Backbone
from .._inputs import (
    CacheIndex,
    CacheState,
    EncoderPaddingMask,
    EncoderTokenIds,
    Images,
    PaddingMask,
    TokenIds,
)
from ..layers.cache import is_first
from ..layers.dtypes import DTypeLike
from .flan_t5 import BLIP2FlanT5
from .opt import BLIP2CustomOPT
from .qformer import BLIP2QFormer
from .vision import BLIP2VisionEncoder

OF_DECODER = ("token_ids", "padding_mask", "images", "cache", "cache_update_index")
OF_ENCODER_DECODER = (
    "encoder_token_ids",
    "encoder_padding_mask",
    "decoder_token_ids",
    "decoder_padding_mask",
    "images",
    "cache",
    "cache_update_index",
)


class BLIP2Backbone(Backbone):
    """A tower of images, a Q-Former that sums each one up, and a language model that reads what it
    says before the text.

    With an OPT, `token_ids` and `padding_mask` `[batch, length]`, and `images`
    `[batch, height, width, 3]` → `[batch, num_query_tokens + length, hidden_dim]`. With a Flan-T5,
    the text's names begin with `encoder_`, and `decoder_token_ids` and `decoder_padding_mask`
    `[batch, decoder_length]` → `[batch, decoder_length, hidden_dim]`. Without `images` the text is
    all there is.

    Args:
        vision_encoder: the tower; `None` for a model of text, which has no input for images.
        qformer: `None` without a tower.
        language_model: an OPT, which generates text, or a Flan-T5.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: parts that do not go together; images of another size, or, with a cache, not in
            the first call.
    """

    tower_inputs: ClassVar = {"vision_encoder": ("images",)}
    vision_encoder: Any
    qformer: Any
    language_model: Any

    def __init__(
        self,
        vision_encoder: BLIP2VisionEncoder | None,
        qformer: BLIP2QFormer | None,
        language_model: BLIP2CustomOPT | BLIP2FlanT5,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_parts(vision_encoder, qformer, language_model)
        self.vision_encoder = vision_encoder
        self.qformer = qformer
        self.language_model = language_model
        self.cache_shapes = language_model.cache_shapes
        self.is_encoder_decoder = isinstance(language_model, BLIP2FlanT5)
        names = OF_ENCODER_DECODER if self.is_encoder_decoder else OF_DECODER
        self.input_specs = {
            name: replace(self.input_specs[name], required=name.endswith("token_ids"))
            for name in names
        }

    @property
    def token_embedding(self) -> torch.nn.Module:
        return self.language_model.token_embedding

    @property
    def vocabulary_size(self) -> int:
        return self.language_model.vocabulary_size

    @property
    def multimodal(self) -> bool:
        """Whether there is a tower of images."""
        return self.vision_encoder is not None

    @property
    def num_query_tokens(self) -> int:
        """How many tokens an image gives."""
        return 0 if self.qformer is None else self.qformer.num_query_tokens

    @property
    def qformer_hidden_dim(self) -> int:
        return 0 if self.qformer is None else self.qformer.hidden_dim

    def build_parts(self, names: Iterable[str]) -> None:
        if isinstance(self.language_model, BLIP2FlanT5) and any("lm_head" in n for n in names):
            self.language_model.build_head()

    def positions_before_text(self, inputs: Mapping[str, Any]) -> int:
        if self.is_encoder_decoder or inputs.get("images") is None:
            return 0
        return self.num_query_tokens

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.language_model.logits(hidden)

    def longest(self, given: Mapping[str, Any]) -> dict[str, int]:
        if self.is_encoder_decoder:
            return {}
        seen = 0 if given.get("images") is None else self.language_model.num_query_tokens
        return {"token_ids": self.language_model.max_sequence_length - seen}

    def forward(
        self,
        token_ids: TokenIds | None = None,
        padding_mask: PaddingMask | None = None,
        images: Images | None = None,
        encoder_token_ids: EncoderTokenIds | None = None,
        encoder_padding_mask: EncoderPaddingMask | None = None,
        decoder_token_ids: TokenIds | None = None,
        decoder_padding_mask: PaddingMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        features = {}
        if self.vision_encoder is not None and images is not None:
            if self.is_encoder_decoder:
                if encoder_token_ids is None:
                    raise ValueError("images belong to encoder_token_ids: give both or none.")
            elif not is_first(cache, cache_update_index):
                raise ValueError("Images belong to the first call, with cache_update_index=0.")
            features["qformer_features"] = self.qformer(self.vision_encoder(images))
        if self.is_encoder_decoder:
            return self.language_model(
                token_ids=encoder_token_ids,
                padding_mask=encoder_padding_mask,
                decoder_token_ids=decoder_token_ids,
                decoder_padding_mask=decoder_padding_mask,
                **features,
                cache=cache,
                cache_update_index=cache_update_index,
            )
        return self.language_model(
            token_ids=token_ids,
            padding_mask=padding_mask,
            **features,
            cache=cache,
            cache_update_index=cache_update_index,
        )


def check_parts(
    vision_encoder: BLIP2VisionEncoder | None,
    qformer: BLIP2QFormer | None,
    language_model: BLIP2CustomOPT | BLIP2FlanT5,
) -> None:
    """Refuse parts of different widths, or parts without others."""
    if (vision_encoder is None) != (qformer is None):
        raise ValueError("vision_encoder and qformer go together: give both, or None for both.")
    if vision_encoder is None or qformer is None:
        return
    said = {
        "vision_dim": qformer.vision_dim,
        "qformer_hidden_dim": language_model.qformer_hidden_dim,
        "num_query_tokens": language_model.num_query_tokens,
    }
    wanted = {
        "vision_dim": vision_encoder.hidden_dim,
        "qformer_hidden_dim": qformer.hidden_dim,
        "num_query_tokens": qformer.num_query_tokens,
    }
    for name, value in said.items():
        if value != wanted[name]:
            raise ValueError(f"{name}={value}, but the part before it has {wanted[name]}.")
