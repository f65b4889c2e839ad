"""What SAM 3 refuses."""

from __future__ import annotations

from typing import Any

import torch

from ..layers.vision import check_at_least, check_images


def check_heads(hidden_dim: int, num_heads: int, multiple: int = 4) -> None:
    """Refuse a width that heads, or sines and cosines of rows and columns, do not divide.

    Raises:
        ValueError: it names both.
    """
    check_at_least(1, num_heads=num_heads)
    if hidden_dim % num_heads or hidden_dim % multiple:
        raise ValueError(
            f"hidden_dim={hidden_dim} must be divisible by num_heads={num_heads} and by {multiple}."
        )


def check_parts(model: Any) -> None:
    """Refuse parts that do not fit each other.

    Raises:
        ValueError: it names them.
    """
    vision, width = model.vision_encoder, model.vision_encoder.fpn_hidden_dim
    for name in ("geometry_encoder", "detr_encoder", "detr_decoder", "mask_decoder"):
        found = getattr(model, name).hidden_dim
        if found != width:
            raise ValueError(
                f"hidden_dim={found} of the {name} must be fpn_hidden_dim={width} of the "
                "vision_encoder."
            )
    factors = vision.fpn_scale_factors
    if len(factors) < 3:
        raise ValueError(
            f"fpn_scale_factors={factors} of the vision_encoder must be at least three: for a map, "
            "one that its masks are enlarged to, and a last one, which is not used."
        )
    model.mask_decoder.keep_stages(len(factors) - 2)
    grid = tuple(int(side * factors[-2]) for side in vision.grid)
    if grid != model.detr_decoder.grid:
        raise ValueError(
            f"image_shape={tuple(model.detr_decoder.image_shape)} and patch_size="
            f"{model.detr_decoder.patch_size} of the detr_decoder make {model.detr_decoder.grid} "
            f"patches, but the last map but one of the vision_encoder has {grid} pixels."
        )


def check_inputs(
    model: Any,
    pixel_values: torch.Tensor,
    token_ids: torch.Tensor,
    boxes: torch.Tensor | None,
    box_labels: torch.Tensor | None,
) -> None:
    """Refuse images and prompts that do not fit the model, before anything is computed.

    Raises:
        ValueError: it says what would be right.
    """
    shape = model.vision_encoder.image_shape
    check_images(pixel_values, "channels_last", shape[2], shape[:2])
    longest = model.text_encoder.max_sequence_length
    if token_ids.shape[1] > longest:
        raise ValueError(
            f"token_ids has {token_ids.shape[1]} positions, but the text_encoder's "
            f"max_sequence_length is {longest}."
        )
    if (boxes is None) != (box_labels is None):
        there, missing = ("box_labels", "boxes") if boxes is None else ("boxes", "box_labels")
        raise ValueError(f"{there} need {missing}, one for each; leave both out for none.")
    if boxes is None or box_labels is None:
        return
    if boxes.shape[2] != 5:
        raise ValueError(
            "boxes must have five numbers, the image's place in the batch, then centre, width and "
            f"height of the box, x before y, not shape {tuple(boxes.shape)}."
        )
    if torch.compiler.is_compiling() or boxes.is_meta:
        return
    known = (box_labels == 0) | (box_labels == 1)
    inside = ((boxes[..., 1:] >= 0) & (boxes[..., 1:] <= 1)).all(-1)
    image = (boxes[..., 0] > -1) & (boxes[..., 0] < len(pixel_values))
    fit = known & inside & image | (box_labels == -10)
    if not bool(fit.all()):
        row, place = (~fit).nonzero()[0].tolist()
        raise ValueError(
            f"boxes[{row}, {place}]={boxes[row, place].tolist()} with the label "
            f"{box_labels[row, place].item()} does not fit: a box is the image's place in the "
            f"batch of {len(pixel_values)}, from 0, then centre, width and height as parts of the "
            "image, from 0 to 1; labels are 1, 0 or -10, for an example or none."
        )
    none = box_labels == -10
    if bool((none[:, :-1] & ~none[:, 1:]).any()):
        raise ValueError("box_labels must have -10, for no box, at the end of their rows only.")
