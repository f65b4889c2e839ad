"""Vision transformers beside timm's or transformers', with scaled dot products, and KerasHub's."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import pairs
import torch

# Class here and in KerasHub, its preset's id in `tests/cases`, timm's name or transformers.
MODELS = {
    "ViT-B/16": ("ViTBackbone", "vit_base_patch16_224_imagenet", "vit_base_patch16_224"),
    "Swin-T": (
        "SwinTransformerBackbone",
        "swin_tiny_patch4_window7_224",
        "swin_tiny_patch4_window7_224",
    ),
    "DINOv2-S": ("DINOV2Backbone", "dinov2_small", "vit_small_patch14_dinov2"),
    "SAM-B encoder": ("ViTDetBackbone", "sam_base_sa1b", "transformers"),
}
PEERS = {name: "transformers" if "SAM" in name else "timm" for name in MODELS}
# SAM's images are of 1024 pixels a side: minutes on a CPU.
BATCHES = {name: (1, 512) if "SAM" in name else (8, 224) for name in MODELS}


def build(who: str, name: str) -> pairs.Built:
    import keras_hub_torch
    from keras_hub_torch.tests import timm_models
    from keras_hub_torch.tests.cases import all_presets

    cls, preset, architecture = MODELS[name]
    side = BATCHES[name][1]
    config = all_presets()[preset]
    config = config["image_encoder"]["config"] if "image_encoder" in config else config
    config = {**config, "image_shape": (side, side, 3)}
    if who == "transformers":
        from transformers import SamVisionConfig, SamVisionModel

        peer = SamVisionModel(SamVisionConfig(image_size=side, attn_implementation="sdpa"))
        return pairs.Built(peer, lambda images: peer(images.permute(0, 3, 1, 2)).last_hidden_state)
    if who == "timm":
        peer = timm_models.import_timm().create_model(architecture, img_size=side, num_classes=0)
        return pairs.Built(peer, lambda images: peer.forward_features(images.permute(0, 3, 1, 2)))
    if who == "KerasHub":
        import keras_hub

        model = getattr(keras_hub.models, cls)(**config)
        return pairs.Built(model, lambda images: first(model(images, training=model.training)))
    model = getattr(keras_hub_torch.models, cls)(**config)
    return pairs.Built(model, lambda images: first(model(images)))


def first(output: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
    return next(iter(output.values())) if isinstance(output, dict) else output


if __name__ == "__main__":
    pairs.main(__doc__, build, {name: (PEERS[name], *BATCHES[name]) for name in MODELS})
