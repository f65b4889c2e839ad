"""MetaCLIP 2 (arXiv:2507.22062)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch

from ._backbone import Backbone
from ._clip import (
    CLIPTextTower,
    CLIPVisionTower,
    ComparedImages,
    ComparedTokenIds,
    check_tower,
)
from .layers.clip import EPSILON, CLIPEmbedding, CLIPEncoderLayer, CLIPHead
from .layers.core import Dense, LayerNormalization
from .layers.dtypes import DTypeLike
from .layers.layout import GRAPH, Graph, Layout

EOS = 2
ASSIGNED = (
    "vision_encoder",
    "text_encoder",
    "vision_post_layer_norm",
    "vision_projection",
    "text_projection",
    "metaclip_2_head",
)


class MetaCLIP2VisionEmbedding(CLIPEmbedding):
    """Without numbers of the positions."""


class MetaCLIP2EncoderLayer(CLIPEncoderLayer):
    """CLIP's block under its Keras name."""


class MetaCLIP2Head(CLIPHead):
    """CLIP's head under its Keras name."""


class MetaCLIP2VisionEncoder(CLIPVisionTower):
    """Vision Transformer with a norm before its blocks; that behind them is in `MetaCLIP2Backbone`.

    `images` `[batch, height, width, channels]` → `[batch, 1 + patches, hidden_dim]`, the class
    token first; or this as `sequence_output`, and of the same shape `intermediate_output`.

    Args:
        patch_size: side of a patch in pixels. What patches do not fill of an image is left out.
        hidden_dim: width of the hidden states.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        intermediate_dim: width inside the feed-forward networks.
        intermediate_activation: of the feed-forward networks.
        intermediate_output_index: the block whose output is given as well, negative ones from the
            end; `None` for none.
        image_shape: height, width and channels of the images, in the order of `data_format`;
            KerasHub takes squares only.
        data_format: `channels_last` or `channels_first`, of images; `None` for the first.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an `image_shape` without height and width, or smaller than a patch; heads that
            do not divide `hidden_dim`; no such block; images of another shape.
    """

    keras_module = "keras_hub.src.models.metaclip_2.metaclip_2_vision_encoder"
    embed = MetaCLIP2VisionEmbedding
    block = MetaCLIP2EncoderLayer
    normed = False


class MetaCLIP2TextEncoder(CLIPTextTower):
    """Transformer that sees what was before.

    `token_ids` `[batch, length]` → `[batch, length, hidden_dim]`; or this as `sequence_output`, and
    of the same shape `intermediate_output`.

    Args:
        vocabulary_size: number of token ids.
        embedding_dim: width of the embeddings: `hidden_dim`.
        hidden_dim: width of the hidden states.
        num_layers: number of blocks.
        num_heads: number of attention heads, a divisor of `hidden_dim`.
        intermediate_dim: width inside the feed-forward networks.
        intermediate_activation: of the feed-forward networks.
        intermediate_output_index: the block whose output is given as well, negative ones from the
            end; `None` for none.
        max_sequence_length: rows of the position table: the longest text.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: another width of embeddings; heads that do not divide `hidden_dim`; no such
            block; texts that are too long.
    """

    keras_module = "keras_hub.src.models.metaclip_2.metaclip_2_text_encoder"
    block = MetaCLIP2EncoderLayer
    epsilon = EPSILON


class MetaCLIP2Backbone(Backbone):
    """An encoder of images and one of texts, whose outputs are projected to be compared.

    `images` `[images, height, width, channels]` and `token_ids` `[texts, length]` →
    `vision_logits` `[images, texts]` and `text_logits`, the same transposed: cosines times a
    learned factor. A text is what its first token of id 2, the one that ends it, has become; the
    first token where there is none.

    Args:
        vision_encoder: the encoder of images. `from_preset` takes its `image_shape`, too.
        text_encoder: the encoder of texts.
        projection_dim: width of what is compared.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an encoder with an `intermediate_output_index`; as the encoders.
    """

    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        vision_encoder: MetaCLIP2VisionEncoder,
        text_encoder: MetaCLIP2TextEncoder,
        projection_dim: int,
        dtype: DTypeLike = None,
        name: str | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__(dtype, trainable, name)
        check_tower(vision_encoder, "vision_encoder")
        check_tower(text_encoder, "text_encoder")
        self.vision_encoder = vision_encoder
        self.text_encoder = text_encoder
        self.vision_post_layer_norm = LayerNormalization(vision_encoder.hidden_dim, EPSILON)
        self.vision_projection = Dense(vision_encoder.hidden_dim, projection_dim, use_bias=False)
        self.text_projection = Dense(text_encoder.hidden_dim, projection_dim, use_bias=False)
        self.metaclip_2_head = MetaCLIP2Head()

    @property
    def layout(self) -> Layout:
        graph = Graph()
        vision = graph("vision_pooler", graph(self.vision_encoder.name, graph("images")))
        vision = graph("vision_projection", graph("vision_post_layer_norm", vision))
        ids = graph("token_ids")
        text = graph("text_pooler", graph(self.text_encoder.name, ids), ids)
        text = graph("text_projection", text)
        logits = graph("metaclip_2_head", vision, text)
        return replace(GRAPH, order=graph.order(logits, logits), assigned=ASSIGNED)

    def forward(
        self, images: ComparedImages, token_ids: ComparedTokenIds
    ) -> dict[str, torch.Tensor]:
        vision = self.get_vision_embeddings(images)
        logits = self.metaclip_2_head(vision, self.get_text_embeddings(token_ids))
        return {"vision_logits": logits.mT, "text_logits": logits}

    def longest(self, given: Mapping[str, Any]) -> dict[str, int]:
        return {"token_ids": self.text_encoder.max_sequence_length}

    def get_vision_embeddings(self, images: torch.Tensor) -> torch.Tensor:
        """Of images without texts, `[images, projection_dim]`; not normalized to length one."""
        token = self.vision_encoder(images)[:, 0]
        return self.vision_projection(self.vision_post_layer_norm(token))

    def get_text_embeddings(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Of texts without images, `[texts, projection_dim]`; not normalized to length one."""
        x = self.text_encoder(token_ids)
        rows = torch.arange(x.shape[0], device=x.device)
        return self.text_projection(x[rows, (token_ids == EOS).int().argmax(-1)])
