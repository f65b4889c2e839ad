"""PaliGemma (arXiv:2407.07726) and PaliGemma 2 (arXiv:2412.03555)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import CacheIndex, CacheState, Images, Input, PaddingMask, TokenIds
from .layers.activations import Activation
from .layers.cache import KeyValueShape, Step, is_first
from .layers.core import Dense, ReversibleEmbedding, UnitRMSNormalization
from .layers.dtypes import DTypeLike
from .layers.gemma import CachedGemmaAttention, GemmaDecoderBlock, scale_embeddings
from .layers.initializers import variance_scaling
from .layers.layer import Layer
from .layers.layout import GRAPH, Graph, Layout, Stack
from .layers.masks import Mask
from .layers.multimodal import prepend
from .layers.rotary import rotary_frequencies, rotary_tables
from .layers.siglip import SiglipAttention, SiglipBlock, SiglipEmbeddings, SiglipEncoder
from .layers.vision import check_at_least, check_choice

ResponseMask = Annotated[torch.Tensor, Input("mask", ("batch", "length"))]


class PaliGemmaVitEmbeddings(SiglipEmbeddings):
    pass


class PaliGemmaVitAttention(SiglipAttention):
    pass


class PaliGemmaVitEncoderBlock(SiglipBlock):
    pass


class PaliGemmaVitEncoder(SiglipEncoder):
    pass


class PaliGemmaVit(Layer):
    """Images `[batch, image_size, image_size, 3]` → `[batch, patches, num_classes]`."""

    layout = GRAPH

    def __init__(
        self,
        image_size: int,
        patch_size: int,
        num_heads: int,
        hidden_dim: int,
        num_layers: int,
        intermediate_dim: int,
        num_classes: int,
        classifier_activation: str | Mapping[str, Any] | None,
    ) -> None:
        super().__init__()
        self.image_encoder = PaliGemmaVitEncoder(
            PaliGemmaVitEmbeddings(image_size, patch_size, hidden_dim),
            (
                PaliGemmaVitEncoderBlock(
                    PaliGemmaVitAttention(hidden_dim, num_heads), hidden_dim, intermediate_dim
                )
                for _ in range(num_layers)
            ),
            hidden_dim,
        )
        self.image_classifier = Dense(hidden_dim, num_classes)
        self.activation = Activation(classifier_activation)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.activation(self.image_classifier(self.image_encoder(images)))


class PaliGemmaDecoderBlock(GemmaDecoderBlock):
    """Gemma's, under its Keras name."""


class PaliGemmaBackbone(Backbone):
    """SigLIP's tower and a Gemma decoder, which reads the images' tokens before those of the text.

    Images and prompt see each other both ways; tokens of the response see all of them, and of
    themselves those before. With a cache, images and prompt belong to the first call, and what
    comes in later ones is the response; positions count the images' tokens, too.

    `token_ids`, `padding_mask` and `response_mask` `[batch, length]`, `images`
    `[batch, image_size, image_size, 3]` → `[batch, image_sequence_length + length, hidden_dim]`.
    Without `images` the text is all there is, without `response_mask` it is all prompt.

    Args:
        vocabulary_size: number of token ids.
        image_size: side of the images in pixels.
        num_layers: number of blocks of the decoder.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: twice the width inside the feed-forward networks: the gate and what it
            gates are counted together.
        head_dim: dimensions of a head.
        vit_patch_size: side of a patch in pixels.
        vit_num_heads: number of attention heads of the tower, a divisor of `vit_hidden_dim`.
        vit_hidden_dim: width of the tower's hidden states.
        vit_num_layers: number of its blocks.
        vit_intermediate_dim: width inside its feed-forward networks; `None` for 4304.
        vit_pooling: `None`. KerasHub's pooled towers give a vector of an image, which cannot stand
            before the text.
        vit_classifier_activation: of the tower's tokens; `None` for none.
        vit_name: of the tower's Keras layer.
        query_head_dim_normalize: has no effect, as in KerasHub: scores are divided by the root of
            `head_dim`.
        use_post_ffw_norm: whether the feed-forward network's output is normed, too.
        use_post_attention_norm: whether attention's output is normed, too.
        attention_logit_soft_cap: bound on the attention scores, by tanh; `None` for none.
        final_logit_soft_cap: bound on the logits of `token_embedding(x, reverse=True)`, by tanh;
            `None` for none.
        use_sliding_window_attention: whether the first, third, … block has a window.
        sliding_window_size: keys that a query sees there to either side, itself included.
        layer_norm_epsilon: of the last norm; the others have 1e-6, as in KerasHub.
        dropout: rate on the attention weights and the output of attention.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: a `vit_pooling`, heads that do not divide the tower's width, images smaller than
            a patch; images of another size, or not in the first call.
    """

    obsolete: ClassVar = {"include_rescaling": False}
    resampled: ClassVar = ("image_size",)

    def __init__(
        self,
        vocabulary_size: int,
        image_size: int,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        vit_patch_size: int,
        vit_num_heads: int,
        vit_hidden_dim: int,
        vit_num_layers: int,
        vit_intermediate_dim: int | None = None,
        vit_pooling: str | None = None,
        vit_classifier_activation: str | Mapping[str, Any] | None = None,
        vit_name: str | None = None,
        query_head_dim_normalize: bool = True,
        use_post_ffw_norm: bool = False,
        use_post_attention_norm: bool = False,
        attention_logit_soft_cap: float | None = None,
        final_logit_soft_cap: float | None = None,
        use_sliding_window_attention: bool = False,
        sliding_window_size: int = 4096,
        layer_norm_epsilon: float = 1e-6,
        dropout: float = 0,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_choice([None], vit_pooling=vit_pooling)
        check_at_least(vit_patch_size, image_size=image_size)
        if vit_hidden_dim % vit_num_heads:
            raise ValueError(
                f"vit_hidden_dim={vit_hidden_dim} is not divisible by vit_num_heads="
                f"{vit_num_heads}."
            )
        self.vit_intermediate_dim = vit_intermediate_dim or 4304
        self.vit_name = vit_name
        self.head_dim = head_dim
        self.soft_capped = attention_logit_soft_cap is not None
        self.window = sliding_window_size if use_sliding_window_attention else None
        self.cache_shapes = [
            KeyValueShape(num_key_value_heads, head_dim, self.window if i % 2 == 0 else None)
            for i in range(num_layers)
        ]
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=variance_scaling(1.0, "fan_in", "untruncated_normal"),
            logit_soft_cap=final_logit_soft_cap,
        )
        self.vit_encoder = PaliGemmaVit(
            image_size,
            vit_patch_size,
            vit_num_heads,
            vit_hidden_dim,
            vit_num_layers,
            self.vit_intermediate_dim,
            hidden_dim,
            vit_classifier_activation,
        )
        self.transformer_layers = Stack(
            "decoder_block_{}",
            (
                PaliGemmaDecoderBlock(
                    CachedGemmaAttention(
                        hidden_dim,
                        num_query_heads,
                        num_key_value_heads,
                        head_dim,
                        attention_logit_soft_cap,
                        dropout,
                    ),
                    hidden_dim,
                    intermediate_dim // 2,
                    use_post_ffw_norm,
                    use_post_attention_norm,
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.final_normalization = UnitRMSNormalization(hidden_dim, layer_norm_epsilon)

    @property
    def image_sequence_length(self) -> int:
        """How many tokens an image gives."""
        return self.vit_encoder.image_encoder.encoder_embeddings.num_patches

    def positions_before_text(self, inputs: Mapping[str, Any]) -> int:
        return 0 if inputs.get("images") is None else self.image_sequence_length

    def default_lora_layer_names(self) -> list[str]:
        return [*super().default_lora_layer_names(), "query_proj", "value_proj"]

    @property
    def layout(self) -> Layout:
        graph = Graph()
        tower = self.vit_name or "vit_encoder"
        tokens = graph(tower, graph("images"))
        text = graph("multiply", graph("token_embedding", graph("token_ids")))
        x = graph("concatenate", tokens, text)
        masks = graph("padding_mask"), graph("response_mask")
        for layer in self.transformer_layers.names():
            x = graph(layer, x, *masks)
        return replace(
            GRAPH,
            names={"vit_encoder": tower},
            unnamed=() if self.vit_name else ("vit_encoder",),
            order=graph.order(graph("final_normalization", x)),
            assigned=(
                "token_embedding",
                "vit_encoder",
                "transformer_layers",
                "final_normalization",
            ),
        )

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        images: Images | None = None,
        response_mask: ResponseMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        if not is_first(cache, cache_update_index) and (
            images is not None or response_mask is not None
        ):
            raise ValueError(
                "images and response_mask belong to the first call, with cache_update_index=0."
            )
        response = None if response_mask is None else response_mask.bool()
        visible = padding_mask
        if response is not None and padding_mask is not None:
            visible = padding_mask.bool() | response  # as in KerasHub, where no response is padding
        tokens = None if images is None else self.vit_encoder(images)
        x = scale_embeddings(self.token_embedding(token_ids))
        if tokens is not None:
            x, visible = prepend(x, tokens, visible)
            response = None if response is None else F.pad(response, (tokens.shape[1], 0))
        step = Step(x, visible, cache, cache_update_index)
        frequencies = rotary_frequencies(self.head_dim, 1e4, x.device)
        tables = rotary_tables(step.positions, frequencies, x.dtype)
        mask, local = self._mask(step, response), self._mask(step, response, self.window)
        for i, layer in enumerate(self.transformer_layers):
            x = layer(x, local if i % 2 == 0 else mask, tables, step.past(i))
        return self.final_normalization(x)

    def _mask(self, step: Step, response: torch.Tensor | None, window: int | None = None) -> Mask:
        """`[batch, 1, queries, keys]`: all of the prompt, and of the response what came before."""
        if not step.fresh:
            return step.full_mask(window)
        prompt = step.padding_mask
        if prompt is None and response is None and window is None and not self.soft_capped:
            return None
        distance = step.positions[:, :, None] - step.positions[:, None, :]
        mask = torch.ones_like(distance, dtype=torch.bool)
        if response is not None:
            mask = ~response[:, None, :] | (distance >= 0)
        if prompt is not None:
            mask = mask & prompt[:, None, :]
        if window is not None:
            mask = mask & (distance.abs() < window)
        return mask[:, None]
