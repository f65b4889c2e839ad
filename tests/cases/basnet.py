from __future__ import annotations

from typing import Any

from ..oracle import Case
from .resnet import images
from .retinanet import encoder


def layer(class_name: str, name: str, **others: Any) -> dict[str, Any]:
    return {
        "module": "keras.layers",
        "class_name": class_name,
        "config": {"name": name, **others},
        "registered_name": None,
    }


def head(name: str, *layers: dict[str, Any]) -> dict[str, Any]:
    """A serialized `keras.Sequential`."""
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": name, "layers": list(layers)},
        "registered_name": None,
    }


def heads(many: int, classes: int) -> list[dict[str, Any]]:
    """Heads, each another one."""
    found = []
    for i in range(many):
        conv = layer("Conv2D", f"conv_{i}", filters=classes, kernel_size=[3, 1], padding="same")
        layers = [conv, layer("BatchNormalization", "norm", epsilon=0.01, momentum=0.9)]
        layers += [layer("UpSampling2D", "large", size=[2, 3])] if i % 2 else []
        layers += [layer("ReLU", "relu")] if i % 3 == 1 else []
        found.append(head(f"head_{i}", *layers))
    return found


def refinement(classes: int, strides: int) -> dict[str, Any]:
    conv = {"filters": 3, "kernel_size": 3, "padding": "same", "activation": "elu"}
    larger = layer("UpSampling2D", "larger", size=strides, interpolation="bilinear")
    return head(
        "refinement",
        layer("Conv2D", "smaller", strides=strides, **conv),
        layer("Conv2D", "last", filters=classes, kernel_size=[1, 1], use_bias=False),
        *([larger] if strides > 1 else []),
        layer("Activation", "tanh", activation="tanh"),
        layer("Dropout", "dropout", rate=0.0),
    )


def config(classes: int, many: int, **others: Any) -> dict[str, Any]:
    return {
        "num_classes": classes,
        "prediction_heads": heads(many, classes),
        "refinement_head": refinement(classes, 3 - classes),
        **others,
    }


CASES = [
    Case(
        "basnet",
        "BASNetBackbone",
        config(
            2,
            3,
            image_encoder=encoder(input_conv_filters=[2], block_type="basic_block_vd"),
            projection_filters=2,
            image_shape=(64, 96, 3),  # smaller ones have norms of few pixels: rounding is magnified
        ),
        images(2, 64, 96),
        deviation=0.1,
        training_dtype="float64",
    ),
    Case(
        "basnet-free",
        "BASNetBackbone",
        config(
            1,
            7,
            image_encoder=encoder(
                input_conv_filters=[2],
                block_type="bottleneck_block",
                stackwise_num_filters=[64, 3, 2, 4, 2],
                stackwise_num_blocks=[1, 2, 1, 1, 1],
                stackwise_num_strides=[2, 2, 2, 2, 1],
            ),
            projection_filters=2,
            image_shape=(None, None, 1),
        ),
        images(2, 63, 64, 1),  # of a single one torch finds no gradient of Keras's single filters
        deviation=0.1,
        most_draws=16,
    ),
]
RESNET34 = {"stackwise_num_filters": [64, 128, 256, 512], "stackwise_num_blocks": [3, 4, 6, 3]}
PRESETS: dict[str, dict[str, Any]] = {
    "basnet_duts": {"image_encoder": encoder(**RESNET34), "num_classes": 1}
}
# KerasHub's registry leaves out the stem of the encoder, which is in the file and is not used.
MISCOUNTED = {"basnet_duts": -9664}
