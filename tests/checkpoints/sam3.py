from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from transformers.masking_utils import create_bidirectional_mask
from transformers.models import sam3
from transformers.models.clip import modeling_clip

from .. import roi_align
from ..cases import common
from . import Checkpoint, Interface


def load_module() -> Any:
    """transformers' module, which it hides where there is no torchvision."""
    name = f"{sam3.__name__}.modeling_sam3"
    spec: Any = importlib.util.spec_from_file_location(name, f"{sam3.__path__[0]}/modeling_sam3.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    for cls in module.__all__:
        for owner in (transformers, sam3):
            setattr(owner, cls, getattr(module, cls))
    return module


def aligned(maps: torch.Tensor, boxes: Any, size: int) -> torch.Tensor:
    indexed = [torch.nn.functional.pad(one, (1, 0), value=i) for i, one in enumerate(boxes)]
    found = roi_align.roi_align(maps.permute(0, 2, 3, 1), torch.cat(indexed), (size, size))
    return found.permute(0, 3, 1, 2)


load_module().torchvision = SimpleNamespace(ops=SimpleNamespace(roi_align=aligned))


def both_ways(
    config: Any, inputs_embeds: torch.Tensor, attention_mask: torch.Tensor, **others: Any
) -> torch.Tensor:
    return create_bidirectional_mask(config, inputs_embeds, attention_mask)


def segment(model: Any, given: dict[str, torch.Tensor]) -> Any:
    """With text in both directions, as in KerasHub."""
    with mock.patch.object(modeling_clip, "create_causal_mask", both_ways):
        return model(**given)


def with_examples(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Boxes are examples of what is to be found, and there is one at least."""
    boxes = given["boxes"]
    if not boxes.shape[1]:
        boxes = torch.tensor([0, 0.5, 0.5, 0.7, 0.4]).expand(len(boxes), 1, -1)
    return {**given, "boxes": boxes, "box_labels": torch.ones_like(boxes[..., 0]).int()}


def channels_last(maps: torch.Tensor) -> torch.Tensor:
    return maps.permute(0, 2, 3, 1)


SAM3 = Interface(
    {
        "pixel_values": "pixel_values",
        "token_ids": "input_ids",
        "padding_mask": "attention_mask",
        "boxes": "input_boxes",
        "box_labels": "input_boxes_labels",
    },
    {
        "pred_masks": ("pred_masks", None),
        "pred_boxes": ("pred_boxes", None),
        "pred_logits": ("pred_logits", None),
        "presence_logits": ("presence_logits", None),
        "semantic_segs": ("semantic_seg", None),
    },
    unmatched=("text_encoder.text_projection.weight",),
    adapt=with_examples,
    forms={
        "pixel_values": lambda images: images.permute(0, 3, 1, 2),
        "boxes": lambda boxes: boxes[..., 1:],
        "pred_masks": channels_last,
        "semantic_segs": channels_last,
    },
    call=segment,
)
VIT = {
    "model_type": "sam3_vit_model",
    "hidden_size": 8,
    "intermediate_size": 9,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 20,
    "patch_size": 5,
    "num_channels": 3,
    "window_size": 2,
    "global_attn_indexes": [1],
    "pretrain_image_size": 16,
}
# transformers has this epsilon whatever a configuration says.
BLOCK = {
    "hidden_size": 8,
    "num_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 7,
    "layer_norm_eps": 1e-5,
}
CONFIG: dict[str, Any] = {
    "vision_config": {"backbone_config": VIT, "fpn_hidden_size": 8},
    "text_config": {
        "vocab_size": 23,
        "hidden_size": 6,
        "intermediate_size": 11,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 9,
        "projection_dim": 5,
        "hidden_act": "gelu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "geometry_encoder_config": {**BLOCK, "roi_size": 2},
    "detr_encoder_config": BLOCK,
    "detr_decoder_config": {**BLOCK, "num_queries": 5, "num_layers": 2},
    "mask_decoder_config": {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_upsampling_stages": 2,
        "layer_norm_eps": 1e-5,
    },
}


def inputs(
    batch: int, side: int, length: int, boxes: int
) -> Callable[[np.random.Generator], dict[str, np.ndarray]]:
    def draw(rng: np.random.Generator) -> dict[str, np.ndarray]:
        images = np.broadcast_to(np.arange(batch)[:, None, None], (batch, boxes, 1))
        places = rng.uniform(0, 1, (batch, boxes, 4))
        labels = np.ones((batch, boxes), "int32")
        labels[1:, -1] = -10
        return {
            "pixel_values": rng.normal(0, 1, (batch, side, side, 3)).astype("float32"),
            "token_ids": common.ids(rng, batch, length, 23),
            "padding_mask": common.padding(rng, batch, length),
            "boxes": np.concatenate([images, places], axis=-1).astype("float32"),
            "box_labels": labels,
        }

    return draw


def changed(part: str, **changes: Any) -> dict[str, Any]:
    return {part: {**CONFIG[part], **changes}}


def vit(**changes: Any) -> dict[str, Any]:
    return changed("vision_config", backbone_config={**VIT, **changes})


CHECKPOINTS = [
    Checkpoint(
        "sam3",
        "Sam3Model",
        "SAM3PromptableConceptBackbone",
        CONFIG,
        SAM3,
        inputs(3, 20, 5, 3),
        in_keras_hub=False,
    )
]
SQUARE = "only squares can be computed"
INEXPRESSIBLE = {
    "sam3": f"image_shape is .21, 22.; {SQUARE}",
    "sam3-boxes": f"image_shape is .11, 24.; {SQUARE}",
}
REFUSED: list[tuple[str, Mapping[str, Any], str]] = [
    ("sam3", vit(image_size=[20, 25]), f"image_size is .20, 25.; {SQUARE}"),
    ("sam3", vit(window_size=0), "window_size is 0; there the scale"),
    ("sam3", vit(rope_parameters={"rope_type": "yarn"}), "rope_type is 'yarn'"),
    ("sam3", vit(layer_scale_init_value=0.1), "layer_scale_init_value is 0.1"),
    ("sam3", changed("text_config", hidden_act="quick_gelu"), "hidden_act is 'quick_gelu'"),
]
