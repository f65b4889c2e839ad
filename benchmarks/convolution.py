"""Convolutional backbones beside timm's (both in `channels_last`) and KerasHub's."""

from __future__ import annotations

import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import pairs
import torch

# Class here and in KerasHub, its preset's id in `tests/cases`, timm's name.
MODELS = {
    "ResNet-50": ("ResNetBackbone", "resnet_50_imagenet", "resnet50"),
    "EfficientNet-B0": ("EfficientNetBackbone", "efficientnet_b0_ra_imagenet", "efficientnet_b0"),
    "MobileNetV3-large": (
        "MobileNetBackbone",
        "mobilenet_v3_large_100_imagenet",
        "mobilenetv3_large_100",
    ),
}


def build(who: str, name: str) -> pairs.Built:
    import keras_hub_torch
    from keras_hub_torch.tests import timm_models
    from keras_hub_torch.tests.cases import all_presets

    cls, preset, architecture = MODELS[name]
    if who == "timm":
        model = timm_models.import_timm().create_model(architecture, num_classes=0)
        model = model.to(memory_format=torch.channels_last)
        return pairs.Built(model, lambda images: model.forward_features(images.permute(0, 3, 1, 2)))
    if who == "KerasHub":
        import keras_hub

        model = getattr(keras_hub.models, cls)(**all_presets()[preset])
        return pairs.Built(model, lambda images: model(images, training=model.training))
    model = getattr(keras_hub_torch.models, cls)(**all_presets()[preset])
    model = model.to(memory_format=torch.channels_last)
    return pairs.Built(model, model)


if __name__ == "__main__":
    pairs.main(__doc__, build, dict.fromkeys(MODELS, ("timm", 8, 224)))
