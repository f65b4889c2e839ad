"""An autoencoder whose two halves are layers of whatever graph it stands in."""

from __future__ import annotations

from typing import Any

import keras
import torch
from torch import nn

from keras_hub_torch.backbones._backbone import Backbone
from keras_hub_torch.backbones._inputs import Images
from keras_hub_torch.backbones._model import Component
from keras_hub_torch.backbones.layers.convolution import Conv2D, GroupNormalization
from keras_hub_torch.backbones.layers.layout import Kind, Layout, flattened


class ToyHalf(nn.Module):
    layout = Layout(attributes={"input_projection": "_projection"})

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.input_projection = Conv2D(inputs, 4, 3, padding="same")
        self.norm = GroupNormalization(2, 4, 1e-6)
        self.output_projection = Conv2D(4, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output_projection(self.norm(self.input_projection(x)))


class ToyVAE(Component):
    keras_module = "toys"

    def __init__(
        self,
        latent_channels: int,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.vae_encoder = ToyHalf(3, latent_channels)
        self.vae_decoder = ToyHalf(latent_channels, 3)

    def forward(self, images: Images) -> torch.Tensor:
        latents = self.vae_encoder(images.permute(0, 3, 1, 2))
        return self.vae_decoder(latents).permute(0, 2, 3, 1)


class ToyDiffusionBackbone(Backbone):
    keras_module = "toys"
    layout = Layout(
        Kind.GRAPH,
        inside={"vae": flattened},
        order=("vae_encoder", "diffuser", "vae_decoder"),
        assigned=("vae_encoder", "vae_decoder", "diffuser"),
    )

    def __init__(
        self,
        vae: ToyVAE,
        dtype: Any = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        self.diffuser = Conv2D(vae.latent_channels, vae.latent_channels, 1)
        self.vae = vae

    def forward(self, images: Images) -> torch.Tensor:
        latents = self.vae.vae_encoder(images.permute(0, 3, 1, 2))
        return self.vae.vae_decoder(self.diffuser(latents)).permute(0, 2, 3, 1)


CONFIG = {
    "vae": {
        "module": "toys",
        "class_name": "ToyVAE",
        "config": {"latent_channels": 2, "name": "vae"},
        "registered_name": "keras_hub>ToyVAE",
    }
}


@keras.saving.register_keras_serializable("toys")
class KerasHalf(keras.layers.Layer):
    def __init__(self, outputs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._projection = keras.layers.Conv2D(4, 3, padding="same", name="input_projection")
        self.norm = keras.layers.GroupNormalization(2, epsilon=1e-6, name="norm")
        self.output_projection = keras.layers.Conv2D(outputs, 1, name="output_projection")

    def call(self, x: Any) -> Any:
        return self.output_projection(self.norm(self._projection(x)))


KerasHalf.__name__ = "ToyHalf"


def keras_model(**config: Any) -> Any:
    images = keras.Input((None, None, 3), name="images")
    latents = KerasHalf(2, name="vae_encoder")(images)
    latents = keras.layers.Conv2D(2, 1, name="diffuser")(latents)
    decoded = KerasHalf(3, name="vae_decoder")(latents)
    return keras.Model(images, decoded, name="toy_diffusion_backbone")
