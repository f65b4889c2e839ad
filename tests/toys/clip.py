"""Two towers, each a graph of its own, whose layers have the tower's name before theirs; the
batches of images and of texts may differ.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import keras
import torch
from torch import nn

from keras_hub_torch.backbones._backbone import Backbone
from keras_hub_torch.backbones._inputs import Input
from keras_hub_torch.backbones._model import Component
from keras_hub_torch.backbones.layers.core import Dense, Embedding, LayerNormalization
from keras_hub_torch.backbones.layers.layout import GRAPH, Graph, Kind, Layout, Stack

Images = Annotated[torch.Tensor, Input("values", ("images", "pixels"))]
TokenIds = Annotated[torch.Tensor, Input("ids", ("batch", "length"))]


class ToyEncoderLayer(nn.Module):
    layout = Layout(attributes={"dense": "dense_1"})

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layer_norm = LayerNormalization(dim, 1e-5)
        self.dense = Dense(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dense(self.layer_norm(x))


class ToyTower(Component):
    keras_module = "toys"

    def __init__(
        self,
        hidden_dim: int,
        num_layers: int,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.add_embedding(hidden_dim)
        self.encoder_layers = Stack(
            "encoder_block_{}", (ToyEncoderLayer(hidden_dim) for _ in range(num_layers))
        )
        self.layer_norm = LayerNormalization(hidden_dim, 1e-5)

    @property
    def layout(self) -> Layout:
        return Layout(Kind.GRAPH, prefix=f"{self.name}_")

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.encoder_layers:
            x = layer(x)
        return self.layer_norm(x)


class ToyVisionTower(ToyTower):
    def add_embedding(self, hidden_dim: int) -> None:
        self.projection = Dense(6, hidden_dim)

    def forward(self, images: Images) -> torch.Tensor:
        return self.encode(self.projection(images))


class ToyTextTower(ToyTower):
    def add_embedding(self, hidden_dim: int) -> None:
        self.token_embedding = Embedding(11, hidden_dim)

    def forward(self, token_ids: TokenIds) -> torch.Tensor:
        return self.encode(self.token_embedding(token_ids))[:, 0]


class ToyCLIPBackbone(Backbone):
    keras_module = "toys"

    def __init__(
        self,
        vision_encoder: ToyVisionTower,
        text_encoder: ToyTextTower,
        projection_dim: int,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.vision_encoder = vision_encoder
        self.text_encoder = text_encoder
        self.vision_projection = Dense(vision_encoder.hidden_dim, projection_dim, use_bias=False)
        self.text_projection = Dense(text_encoder.hidden_dim, projection_dim, use_bias=False)

    @property
    def layout(self) -> Layout:
        graph = Graph()
        seen = graph("vision_projection", graph(self.vision_encoder.name, graph("images")))
        read = graph("text_projection", graph(self.text_encoder.name, graph("token_ids")))
        text_logits = graph("matmul", read, graph("transpose", seen))
        vision_logits = graph("matmul_1", seen, graph("transpose_1", read))
        return replace(GRAPH, order=graph.order(text_logits, vision_logits))

    def forward(self, images: Images, token_ids: TokenIds) -> dict[str, torch.Tensor]:
        seen = self.vision_projection(self.vision_encoder(images))
        read = self.text_projection(self.text_encoder(token_ids))
        return {"text_logits": read @ seen.mT, "vision_logits": seen @ read.mT}


def tower(kind: str, hidden_dim: int, num_layers: int, name: str) -> dict[str, Any]:
    return {
        "module": "toys",
        "class_name": kind,
        "config": {"hidden_dim": hidden_dim, "num_layers": num_layers, "name": name},
        "registered_name": f"keras_hub>{kind}",
    }


CONFIG = {
    "vision_encoder": tower("ToyVisionTower", 5, 2, "sight"),
    "text_encoder": tower("ToyTextTower", 7, 1, "toy_text_tower"),
    "projection_dim": 3,
}


@keras.saving.register_keras_serializable("toys")
class KerasEncoderLayer(keras.layers.Layer):
    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer_norm = keras.layers.LayerNormalization(epsilon=1e-5, name="layer_norm")
        self.dense_1 = keras.layers.Dense(dim, name="dense")

    def call(self, x: Any) -> Any:
        return x + self.dense_1(self.layer_norm(x))


KerasEncoderLayer.__name__ = "ToyEncoderLayer"


def keras_tower(kind: type, inputs: Any, x: Any, dim: int, count: int, name: str) -> Any:
    for i in range(count):
        x = KerasEncoderLayer(dim, name=f"{name}_encoder_block_{i}")(x)
    x = keras.layers.LayerNormalization(epsilon=1e-5, name=f"{name}_layer_norm")(x)
    x = x[:, 0] if kind is KerasText else x
    return kind(inputs, x, name=name)


class KerasVision(keras.Model):
    pass


class KerasText(keras.Model):
    pass


KerasVision.__name__, KerasText.__name__ = "ToyVisionTower", "ToyTextTower"


def keras_model(**config: Any) -> Any:
    images = keras.Input((6,), name="images")
    sight = keras_tower(
        KerasVision, images, keras.layers.Dense(5, name="sight_projection")(images), 5, 2, "sight"
    )
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    embedded = keras.layers.Embedding(11, 7, name="toy_text_tower_token_embedding")(ids)
    text = keras_tower(KerasText, ids, embedded, 7, 1, "toy_text_tower")
    images, ids = keras.Input((6,), name="images"), keras.Input((None,), dtype="int32", name="ids")
    seen = keras.layers.Dense(3, use_bias=False, name="vision_projection")(sight(images))
    read = keras.layers.Dense(3, use_bias=False, name="text_projection")(text(ids))
    outputs = {
        "text_logits": keras.ops.matmul(read, keras.ops.transpose(seen)),
        "vision_logits": keras.ops.matmul(seen, keras.ops.transpose(read)),
    }
    return keras.Model({"images": images, "token_ids": ids}, outputs, name="toy_clip_backbone")
