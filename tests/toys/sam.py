"""An image encoder, a graph of its own as a preset, whose layers are those of the whole graph here;
and a prompt encoder with a configuration of its own that is a plain layer, with a Sequential in it.
"""

from __future__ import annotations

from typing import Annotated, Any

import keras
import torch

from keras_hub_torch.backbones._backbone import Backbone
from keras_hub_torch.backbones._inputs import Input
from keras_hub_torch.backbones._model import Component
from keras_hub_torch.backbones.layers.activations import Activation
from keras_hub_torch.backbones.layers.core import Dense, Embedding, LayerNormalization
from keras_hub_torch.backbones.layers.layout import Graph, Kind, Layout, Sequential, flattened

Patches = Annotated[torch.Tensor, Input("values", ("batch", "patches", "pixels"))]
Labels = Annotated[torch.Tensor, Input("ids", ("batch", "points"))]
DIM = 6


class ToyViTDetBackbone(Backbone):
    keras_module = "toys"

    def __init__(
        self,
        hidden_dim: int,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.patching = Dense(4, hidden_dim)
        self.neck = Dense(hidden_dim, DIM)
        self.neck_norm = LayerNormalization(DIM, 1e-6)

    def forward(self, images: Patches) -> torch.Tensor:
        return self.neck_norm(self.neck(self.patching(images)))


class ToyPromptEncoder(Component):
    keras_module = "toys"
    layout = Layout(
        Kind.LAYER,
        names={"mask_downscaler": "downscaler", "foreground_point_embed": "{}_point"},
        attributes={"norm": "layer_norm"},
    )

    def __init__(
        self,
        hidden_dim: int,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.foreground_point_embed = Embedding(2, hidden_dim)
        self.mask_downscaler = Sequential(
            Dense(hidden_dim, 3), Activation("relu"), Dense(3, hidden_dim)
        )
        self.norm = LayerNormalization(hidden_dim, 1e-6)

    def forward(self, labels: Labels) -> torch.Tensor:
        return self.norm(self.mask_downscaler(self.foreground_point_embed(labels)))


class ToySAMBackbone(Backbone):
    keras_module = "toys"

    def __init__(
        self,
        image_encoder: ToyViTDetBackbone,
        prompt_encoder: ToyPromptEncoder,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.image_encoder = image_encoder
        self.prompt_encoder = prompt_encoder
        self.decoder = Dense(DIM, 2)

    @property
    def layout(self) -> Layout:
        graph = Graph()
        images = graph("neck_norm", graph("neck", graph("patching", graph("images"))))
        prompts = graph("mean", graph(self.prompt_encoder.name, graph("labels")))
        decoded = graph("decoder", graph("add", images, prompts))
        return Layout(Kind.GRAPH, order=graph.order(decoded), inside={"image_encoder": flattened})

    def forward(self, images: Patches, labels: Labels) -> torch.Tensor:
        prompts = self.prompt_encoder(labels).mean(1, keepdim=True)
        return self.decoder(self.image_encoder(images) + prompts)


CONFIG = {
    "image_encoder": {
        "module": "toys",
        "class_name": "ToyViTDetBackbone",
        "config": {"hidden_dim": 5, "name": "vit"},
        "registered_name": "keras_hub>ToyViTDetBackbone",
    },
    "prompt_encoder": {
        "module": "toys",
        "class_name": "ToyPromptEncoder",
        "config": {"hidden_dim": DIM, "name": "prompts"},
        "registered_name": "keras_hub>ToyPromptEncoder",
    },
}


@keras.saving.register_keras_serializable("toys")
class KerasPromptEncoder(keras.layers.Layer):
    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.foreground_point_embed = keras.layers.Embedding(2, dim, name=f"{self.name}_point")
        self.mask_downscaler = keras.Sequential(
            [keras.layers.Dense(3, activation="relu"), keras.layers.Dense(dim)], name="downscaler"
        )
        self.layer_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm")

    def call(self, labels: Any) -> Any:
        return self.layer_norm(self.mask_downscaler(self.foreground_point_embed(labels)))


KerasPromptEncoder.__name__ = "ToyPromptEncoder"


def keras_model(**config: Any) -> Any:
    images = keras.Input((None, 4), name="images")
    x = keras.layers.Dense(5, name="patching")(images)
    x = keras.layers.Dense(DIM, name="neck")(x)
    x = keras.layers.LayerNormalization(epsilon=1e-6, name="neck_norm")(x)
    encoder = keras.Model(images, x, name="vit")
    labels = keras.Input((None,), dtype="int32", name="labels")
    prompts = keras.ops.mean(KerasPromptEncoder(DIM, name="prompts")(labels), 1, keepdims=True)
    x = keras.layers.Dense(2, name="decoder")(encoder.output + prompts)
    return keras.Model({"images": images, "labels": labels}, x, name="toy_sam_backbone")
