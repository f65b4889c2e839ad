"""Segment Anything 3 (arXiv:2511.16719): everything in an image that text or boxes show."""

from __future__ import annotations

from typing import ClassVar

import torch

from .._backbone import Backbone
from .._inputs import Images, PaddingMask, TokenIds
from ..layers.boxes import corners_of
from ..layers.core import Dense, Dropout, LayerNormalization
from ..layers.dtypes import DTypeLike
from ..layers.layer import Layer
from ..layers.layout import Graph, Kind, Layout
from .checks import check_inputs, check_parts
from .detr_decoder import SAM3DetrDecoder
from .detr_encoder import SAM3DetrEncoder
from .geometry import SAM3GeometryEncoder
from .mask_decoder import SAM3MaskDecoder
from .parts import Boxes, BoxLabels, SAM3DecoderMLP, plane_sines
from .text import SAM3TextEncoder
from .vision import SAM3VisionEncoder


class SAM3DotProductScoring(Layer):
    """How well each query fits the prompts."""

    def __init__(self, hidden_dim: int, intermediate_dim: int, dropout: float) -> None:
        super().__init__()
        self.text_mlp = SAM3DecoderMLP(hidden_dim, intermediate_dim, hidden_dim)
        self.text_mlp_dropout = Dropout(dropout)
        self.text_mlp_out_norm = LayerNormalization(hidden_dim, 1e-6)
        self.text_proj = Dense(hidden_dim, hidden_dim)
        self.query_proj = Dense(hidden_dim, hidden_dim)

    def forward(
        self, queries: torch.Tensor, prompts: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Queries `[batch, queries, dim]` and prompts `[batch, prompts, dim]` → logits
        `[batch, queries]`.
        """
        x = self.text_mlp_out_norm(prompts + self.text_mlp_dropout(self.text_mlp(prompts)))
        if mask is None:
            mean = x.mean(1)
        else:
            there = mask.to(x.dtype)[..., None]
            mean = (x * there).sum(1) / there.sum(1).clamp(min=1)
        scores = self.query_proj(queries) @ self.text_proj(mean)[..., None]
        return (scores[..., 0] * queries.shape[-1] ** -0.5).clamp(-12, 12)


class SAM3PromptableConceptBackbone(Backbone):
    """Objects of a kind: what is meant by a short text, by boxes that show examples, or both.

    `pixel_values` `[batch, height, width, channels]`, `token_ids` and `padding_mask`
    `[batch, length]`, `boxes` `[batch, boxes, 5]` (the image's place in the batch, then centre x
    and y, width and height as parts of the image, from 0 to 1) and `box_labels` `[batch, boxes]`,
    1 for an example and 0 or, at the end, -10 for none → for each of `num_queries` objects
    `pred_masks` `[batch, rows, columns, num_queries]`, logits; `pred_boxes`
    `[batch, num_queries, 4]`, left, top, right and bottom from 0 to 1; and `pred_logits`
    `[batch, num_queries]`; for the image `presence_logits` `[batch, 1]`, whether it has any; and
    `semantic_segs` `[batch, rows, columns, 1]`, a mask of all of them.

    Boxes and their labels may be left out, or be empty, and so may the padding mask. As in KerasHub
    no box is an example of what is not to be found, and as many boxes are taken as have the label
    1, from the first one on, so put those first. With boxes KerasHub computes one image, or one
    more than an image has boxes, and then takes each one's mask for that of a box in all images;
    here there may be any number, each with its own mask.

    Args:
        vision_encoder: of the images; its last map is not used.
        text_encoder: of the text.
        geometry_encoder: of the boxes.
        detr_encoder: has the image see the prompts.
        detr_decoder: finds objects in it.
        mask_decoder: finds their masks.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: parts of different widths or resolutions; images of another shape, text that is
            too long, boxes without labels or labels without boxes, boxes outside the image, unknown
            labels.
    """

    keras_module = "keras_hub.src.models.sam3.sam3_pc_backbone"
    resampled: ClassVar = ("image_shape",)

    def __init__(
        self,
        vision_encoder: SAM3VisionEncoder,
        text_encoder: SAM3TextEncoder,
        geometry_encoder: SAM3GeometryEncoder,
        detr_encoder: SAM3DetrEncoder,
        detr_decoder: SAM3DetrDecoder,
        mask_decoder: SAM3MaskDecoder,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.vision_encoder = vision_encoder
        self.text_encoder = text_encoder
        self.geometry_encoder = geometry_encoder
        self.detr_encoder = detr_encoder
        self.detr_decoder = detr_decoder
        self.mask_decoder = mask_decoder
        check_parts(self)
        width = detr_decoder.hidden_dim
        self.text_projection = Dense(text_encoder.hidden_dim, width)
        self.dot_product_scoring = SAM3DotProductScoring(
            width, detr_decoder.intermediate_dim, detr_decoder.dropout_rate
        )

    @property
    def layout(self) -> Layout:
        graph = Graph()
        ids, padding = graph("token_ids"), graph("cast", graph("padding_mask"))
        labels = graph("box_labels")
        there = graph("cast_1", graph("where", graph("not_equal", labels)))
        maps = graph(self.vision_encoder.name, graph("pixel_values"))
        text = graph("text_projection", graph(self.text_encoder.name, ids, padding))
        shown = graph(self.geometry_encoder.name, graph("boxes"), labels, there, maps)
        prompts = graph("concatenate", text, shown), graph("concatenate_1", padding, shown)
        pixels = graph(self.detr_encoder.name, *prompts, maps)
        queries = graph(self.detr_decoder.name, *prompts, pixels)
        moves = graph("box_head", queries)
        scores = graph("dot_product_scoring", queries, *prompts)
        boxes = graph("box_decoder", moves, scores, queries)
        masks = graph(self.mask_decoder.name, maps, graph("get_item", queries), pixels, *prompts)
        return Layout(
            Kind.GRAPH,
            order=graph.order(boxes, masks),
            assigned=(
                "vision_encoder",
                "text_encoder",
                "geometry_encoder",
                "detr_encoder",
                "detr_decoder",
                "mask_decoder",
                "text_projection",
                "dot_product_scoring",
            ),
        )

    def forward(
        self,
        pixel_values: Images,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        boxes: Boxes | None = None,
        box_labels: BoxLabels | None = None,
    ) -> dict[str, torch.Tensor]:
        check_inputs(self, pixel_values, token_ids, boxes, box_labels)
        maps = self.vision_encoder(pixel_values)[:-1]
        image = maps[-1]
        width, rows, columns = image.shape[1:]
        positions = plane_sines(rows, columns, width, image.device).to(image.dtype)
        text = self.text_projection(self.text_encoder(token_ids, padding_mask))
        shown, there = self.geometry_encoder(image, positions, boxes, box_labels)
        prompts = torch.cat((text, shown), dim=1)
        mask = joined(padding_mask, text, there, shown)

        pixels = self.detr_encoder(image.flatten(2).mT, positions, prompts, mask)
        queries, found, presence = self.detr_decoder(pixels, positions, prompts, mask)
        masks, all_of_them = self.mask_decoder(queries, maps, pixels, prompts, mask)
        return {
            "pred_masks": masks,
            "pred_boxes": corners_of(found).to(queries.dtype),
            "pred_logits": self.dot_product_scoring(queries, prompts, mask),
            "presence_logits": presence,
            "semantic_segs": all_of_them,
        }


def joined(
    mask: torch.Tensor | None, x: torch.Tensor, other_mask: torch.Tensor | None, y: torch.Tensor
) -> torch.Tensor | None:
    """The mask of two sequences `[batch, length, dim]`, one after the other; `None` is all ones."""
    if mask is None and other_mask is None:
        return None
    masks = [
        torch.ones(one.shape[:2], dtype=torch.bool, device=one.device)
        if own is None
        else own.bool()
        for own, one in ((mask, x), (other_mask, y))
    ]
    return torch.cat(masks, dim=1)
