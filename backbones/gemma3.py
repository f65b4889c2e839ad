"""Gemma 3 (arXiv:2503.19786) and EmbeddingGemma (arXiv:2509.20354)."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from ._backbone import Backbone
from ._gemma3_vision import Gemma3VisionEncoder, ImagesOfRows, VisionIndices
from ._inputs import CacheIndex, CacheState, Input, PaddingMask, TokenIds
from .layers.cache import KeyValueShape, Past, Step
from .layers.core import Dense, ReversibleEmbedding, UnitRMSNormalization
from .layers.dtypes import DTypeLike
from .layers.gemma import (
    CachedGemmaAttention,
    GemmaDecoderBlock,
    mean_of_tokens,
    scale_embeddings,
    within_range,
)
from .layers.initializers import variance_scaling
from .layers.layout import Stack
from .layers.masks import Mask
from .layers.multimodal import check_width, interleave, marked, same_image
from .layers.rotary import Tables, rotary_frequencies, rotary_tables

__all__ = ["Gemma3Backbone", "Gemma3VisionEncoder"]

VisionMask = Annotated[torch.Tensor, Input("mask", ("batch", "length"))]
LOCAL_WAVELENGTH = 1e4
GLOBAL_WAVELENGTH = 1e6


class CachedGemma3Attention(CachedGemmaAttention):
    """The attention under its Keras name."""


class Gemma3DecoderBlock(GemmaDecoderBlock):
    """As Gemma's, but what overflows float16, as these sums do, stays at its limit."""

    def forward(
        self, x: torch.Tensor, mask: Mask, tables: Tables, past: Past | None
    ) -> torch.Tensor:
        x = within_range(x)
        x = within_range(x + self.attend(x, mask, tables, past))
        return within_range(x + self.feed_forward(x))


class Gemma3Backbone(Backbone):
    """Decoder in which, with sliding windows, every sixth layer sees all that was before.

    With a `vision_encoder` the tokens of `images` take the places `vision_indices` (padded with 0),
    and those of one image, a run of ones in `vision_mask`, see each other both ways. Both belong to
    the first call with a cache.

    `token_ids` and `padding_mask` `[batch, length]`, `images`
    `[batch, images, image_size, image_size, 3]`, `vision_indices` `[batch, images · tokens]` and
    `vision_mask` `[batch, length]` → `[batch, length, hidden_dim]`; an embedding model gives this
    as `sequence_output`, and `pooled_output` `[batch, embedding_dim]` of length 1.

    Args:
        vocabulary_size: number of token ids.
        image_size: side of the images in pixels, `None` without them. It has no effect here: the
            tower's own counts.
        num_layers: number of blocks.
        num_query_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        hidden_dim: width of the hidden states.
        intermediate_dim: twice the width inside the feed-forward networks: the gate and what it
            gates are counted together.
        head_dim: dimensions of a head.
        query_head_dim_normalize: has no effect, as in KerasHub: scores are divided by the root of
            `head_dim`.
        use_query_key_norm: whether the queries and keys of each head are normed.
        use_post_ffw_norm: whether the feed-forward network's output is normed, too.
        use_post_attention_norm: whether attention's output is normed, too.
        attention_logit_soft_cap: bound on the attention scores, by tanh; `None` for none.
        final_logit_soft_cap: bound on the logits of `token_embedding(x, reverse=True)`, by tanh;
            `None` for none.
        use_sliding_window_attention: whether five of six blocks have a window.
        sliding_window_size: keys that a query sees there, itself included; with
            `use_bidirectional_attention` it stands in their middle.
        local_rope_scaling_factor: divides the positions in blocks with a window.
        global_rope_scaling_factor: divides the positions in the others.
        vision_encoder: the tower of images; `None` for a model of text, which has no inputs for
            them.
        layer_norm_epsilon: of the last norm; the others have 1e-6, as in KerasHub.
        use_bidirectional_attention: whether a query sees what comes after it, too.
        dropout: rate on the attention weights and the output of attention.
        is_embedding_model: whether the outputs are pooled.
        pooling_intermediate_dim: width between the two projections of the pooled output; `None`
            without one.
        embedding_dim: width of the pooled output; `None` without one.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an embedding model without `pooling_intermediate_dim` and `embedding_dim`;
            images without indices or not at the start.
    """

    tower_inputs: ClassVar = {"vision_encoder": ("images", "vision_indices", "vision_mask")}

    def __init__(
        self,
        vocabulary_size: int,
        image_size: int | None,
        num_layers: int,
        num_query_heads: int,
        num_key_value_heads: int,
        hidden_dim: int,
        intermediate_dim: int,
        head_dim: int,
        query_head_dim_normalize: bool = True,
        use_query_key_norm: bool = True,
        use_post_ffw_norm: bool = False,
        use_post_attention_norm: bool = False,
        attention_logit_soft_cap: float | None = None,
        final_logit_soft_cap: float | None = None,
        use_sliding_window_attention: bool = False,
        sliding_window_size: int = 1024,
        local_rope_scaling_factor: float = 1.0,
        global_rope_scaling_factor: float = 1.0,
        vision_encoder: Gemma3VisionEncoder | None = None,
        layer_norm_epsilon: float = 1e-6,
        use_bidirectional_attention: bool = False,
        dropout: float = 0,
        is_embedding_model: bool = False,
        pooling_intermediate_dim: int | None = None,
        embedding_dim: int | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.head_dim = head_dim
        self.soft_capped = attention_logit_soft_cap is not None
        self.bidirectional = use_bidirectional_attention
        self.window = sliding_window_size if use_sliding_window_attention else None
        self.scaling_factors = (local_rope_scaling_factor, global_rope_scaling_factor)
        self.is_local = [use_sliding_window_attention and i % 6 < 5 for i in range(num_layers)]
        if not use_bidirectional_attention:
            self.cache_shapes = [
                KeyValueShape(num_key_value_heads, head_dim, self.window if local else None)
                for local in self.is_local
            ]

        def norm() -> nn.Module | None:
            return UnitRMSNormalization(head_dim) if use_query_key_norm else None

        self.token_embedding = ReversibleEmbedding(
            vocabulary_size,
            hidden_dim,
            embeddings_initializer=variance_scaling(1.0, "fan_in", "untruncated_normal"),
            logit_soft_cap=final_logit_soft_cap,
        )
        self.vision_encoder = vision_encoder
        if vision_encoder is not None:
            check_width("vision_encoder", "output_dim", vision_encoder.output_dim, hidden_dim)
        self.transformer_layers = Stack(
            "decoder_block_{}",
            (
                Gemma3DecoderBlock(
                    CachedGemma3Attention(
                        hidden_dim,
                        num_query_heads,
                        num_key_value_heads,
                        head_dim,
                        attention_logit_soft_cap,
                        dropout,
                        query_norm=norm(),
                        key_norm=norm(),
                    ),
                    hidden_dim,
                    intermediate_dim,
                    use_post_ffw_norm,
                    use_post_attention_norm,
                    dropout,
                )
                for _ in range(num_layers)
            ),
        )
        self.final_normalization = UnitRMSNormalization(hidden_dim, layer_norm_epsilon)
        self.is_embedding_model = is_embedding_model
        if is_embedding_model:
            if pooling_intermediate_dim is None or embedding_dim is None:
                raise ValueError(
                    "An embedding model needs pooling_intermediate_dim and embedding_dim."
                )
            self.pooling_dense_1 = Dense(hidden_dim, pooling_intermediate_dim, use_bias=False)
            self.embedding_projection = Dense(
                pooling_intermediate_dim, embedding_dim, use_bias=False
            )

    def default_lora_layer_names(self) -> list[str]:
        names = super().default_lora_layer_names()
        return names if self.vision_encoder is None else [*names, "query_proj", "value_proj"]

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        images: ImagesOfRows | None = None,
        vision_indices: VisionIndices | None = None,
        vision_mask: VisionMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        tokens = None
        if self.vision_encoder is not None and images is not None:
            self.vision_encoder.check(images, vision_indices, token_ids)
            tokens = self.vision_encoder.tokens_of_rows(images)
        x = scale_embeddings(self.token_embedding(token_ids))
        step = Step(x, padding_mask, cache, cache_update_index)
        if tokens is not None and vision_indices is not None:
            x = interleave(x, tokens, vision_indices, kept=1)
            if vision_mask is None:
                vision_mask = marked(token_ids, vision_indices)

        mask, local = self._mask(step, vision_mask), self._mask(step, vision_mask, self.window)
        tables, local_tables = (
            rotary_tables(
                step.positions,
                rotary_frequencies(self.head_dim, wavelength, x.device, factor),
                x.dtype,
            )
            for wavelength, factor in (
                (GLOBAL_WAVELENGTH, self.scaling_factors[1]),
                (LOCAL_WAVELENGTH, self.scaling_factors[0]),
            )
        )
        for i, (layer, is_local) in enumerate(zip(self.transformer_layers, self.is_local)):
            if is_local:
                x = layer(x, local, local_tables, step.past(i))
            else:
                x = layer(x, mask, tables, step.past(i))
        x = self.final_normalization(x)
        if not self.is_embedding_model:
            return x
        return {"sequence_output": x, "pooled_output": self._pool(x, padding_mask)}

    def _mask(
        self, step: Step, vision_mask: torch.Tensor | None, window: int | None = None
    ) -> Mask:
        positions = torch.arange(step.length, device=step.device)
        distance = positions[:, None] - positions
        padding = step.padding_mask
        if self.bidirectional:
            visible = torch.ones_like(distance, dtype=torch.bool)
            if window is not None:
                # Of an even window one key more lies after than before.
                after = window // 2
                visible = (distance < window - after) & (distance >= -after)
            if padding is None:
                return visible[None, None]
            return (visible & padding[:, None, :] & padding[:, :, None])[:, None]
        if vision_mask is None:
            return step.full_mask(window) if self.soft_capped else step.mask(window)
        if not step.fresh:
            raise ValueError("Images belong to the first call, with cache_update_index=0.")
        together = same_image(vision_mask.bool())
        if window is not None:
            together = together & (distance.abs() < window)
        if padding is not None:
            together = together & padding[:, None, :]
        return step.full_mask(window) | together[:, None]

    def _pool(self, x: torch.Tensor, padding_mask: torch.Tensor | None) -> torch.Tensor:
        """The mean of the tokens, projected twice, of length 1."""
        mean = mean_of_tokens(x, padding_mask)
        pooled = self.embedding_projection(self.pooling_dense_1(mean))
        return F.normalize(pooled.float(), dim=-1).to(pooled.dtype)
