"""What D-FINE refuses."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from ..layers.vision import check_at_least, check_choice, check_equally_long
from .attention import SAMPLERS


def check_arguments(model: Any) -> None:
    """Refuse arguments that make no network.

    Raises:
        ValueError: it names them.
    """
    check_choice(SAMPLERS, decoder_method=model.decoder_method)
    check_equally_long(
        out_features=model.out_features,
        decoder_in_channels=model.decoder_in_channels,
        encoder_in_channels=model.encoder_in_channels,
    )
    check_at_least(len(model.out_features), num_feature_levels=model.num_feature_levels)
    for name in ("feat_strides", "decoder_n_points"):
        value = getattr(model, name)
        if not isinstance(value, int) and len(value) != model.num_feature_levels:
            raise ValueError(
                f"{name}={value} must have one number for each of num_feature_levels="
                f"{model.num_feature_levels}."
            )
    check_at_least(
        1,
        decoder_n_points=model.decoder_n_points,
        num_decoder_layers=model.num_decoder_layers,
        num_lqe_layers=model.num_lqe_layers,
    )
    for name, count in (
        ("hidden_dim", "decoder_attention_heads"),
        ("encoder_hidden_dim", "num_attention_heads"),
    ):
        width, heads = getattr(model, name), getattr(model, count)
        if width % heads:
            raise ValueError(f"{name}={width} must be divisible by {count}={heads}.")
    if model.encoder_hidden_dim % 4:
        raise ValueError(
            f"encoder_hidden_dim={model.encoder_hidden_dim} must be divisible by 4, for sines "
            "and cosines of rows and columns."
        )
    if not model.projected and model.encoder_hidden_dim != model.hidden_dim:
        raise ValueError(
            f"encoder_hidden_dim={model.encoder_hidden_dim} must be hidden_dim="
            f"{model.hidden_dim}, as decoder_in_channels={model.decoder_in_channels} says."
        )
    maps = range(len(model.out_features))
    if not set(model.encode_proj_layers) <= set(maps) or (
        model.num_encoder_layers and not model.encode_proj_layers
    ):
        raise ValueError(
            f"encode_proj_layers={model.encode_proj_layers} must be some of {list(maps)}."
        )
    if not -model.num_decoder_layers <= model.eval_idx < model.num_decoder_layers:
        raise ValueError(
            f"eval_idx={model.eval_idx} must be one of {model.num_decoder_layers} layers."
        )
    if len(model.anchor_image_size) != 2 or min(model.anchor_image_size) < max(model.feat_strides):
        raise ValueError(
            f"anchor_image_size={model.anchor_image_size} must be a height and a width of at "
            f"least {max(model.feat_strides)}, the largest of feat_strides."
        )


def check_features(network: Any, names: Sequence[str]) -> None:
    """Refuse features that are no outputs of the network, or not the finest first.

    Raises:
        ValueError: it names those that are.
    """
    known = [name for name in network.stage_names if name in network.out_features]
    if list(names) != [name for name in known if name in names]:
        raise ValueError(
            f"out_features={names} must be some of the backbone's, the finest first: "
            f"{', '.join(known)}."
        )


def check_sizes(model: Any, images: torch.Tensor) -> None:
    """Refuse images of which maps do not fit each other, and too small or too many ones.

    Raises:
        ValueError: it says what would be right.
    """
    axes = (1, 2) if model.data_format == "channels_last" else (2, 3)
    height, width = (images.shape[axis] for axis in axes)
    sizes = [(-(-height // s), -(-width // s)) for s in model.strides]
    for (rows, columns), half in pairwise(sizes):
        if (rows, columns) != (2 * half[0], 2 * half[1]):
            raise ValueError(
                f"Images must be of a size where each map is twice as large as the next one, "
                f"not {height} × {width} ({rows} × {columns} and {half[0]} × {half[1]}): take "
                f"a height and a width divisible by {model.strides[-1]}."
            )
    while len(sizes) < model.num_feature_levels:
        rows, columns = sizes[-1]
        sizes.append((-(-rows // 2), -(-columns // 2)) if model.projected else sizes[-1])
    there, sampled = (sum(x * y for x, y in sizes_) for sizes_ in (sizes, model.grids))
    if there < sampled:
        rows, columns = model.anchor_image_size
        raise ValueError(
            f"Images must be of anchor_image_size, {rows} × {columns}, not {height} × {width}."
        )
    if there < model.num_queries:
        raise ValueError(
            f"Images must have a pixel of their maps for each of num_queries="
            f"{model.num_queries}; those of {height} × {width} have {there}."
        )
    if model.denoising is not None and len(images) > len(model.denoising.classes):
        raise ValueError(
            f"There are labels for {len(model.denoising.classes)} images; a batch must not have "
            f"{len(images)}."
        )


def fitting(backbone: Any, data_format: str, channels: int) -> Any:
    """The network of this data format.

    Raises:
        ValueError: another class, or images of other channels.
    """
    if backbone.class_name != "HGNetV2Backbone":
        raise ValueError(f"backbone must be an HGNetV2Backbone, not a {backbone.class_name}.")
    if backbone.channels != channels:
        raise ValueError(
            f"backbone has image_shape={tuple(backbone.image_shape)} and must have {channels} "
            "channels, as image_shape of this model."
        )
    if backbone.data_format == data_format:
        return backbone
    shape = tuple(reversed(backbone.image_shape))
    config = backbone.get_config() | {"data_format": data_format, "image_shape": shape}
    turned = type(backbone).from_config(config)
    turned.load_state_dict(backbone.state_dict())
    return turned.train(backbone.training)
