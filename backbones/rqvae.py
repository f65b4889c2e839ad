"""RQ-VAE: residual vector quantization (arXiv:2107.03312) between an encoder and a decoder, of
vectors that become semantic ids (arXiv:2305.05065).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch.nn import functional as F

from ._backbone import Backbone
from ._inputs import Input
from .layers.core import Dense
from .layers.dtypes import DTypeLike, in_float32
from .layers.initializers import random_normal
from .layers.layer import Layer, computed_again
from .layers.layout import Layout, Parts

Features = Annotated[torch.Tensor, Input("values", ("batch", "features"))]


@in_float32
def nearest(x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Which row of the table is nearest to each `[batch, dim]`."""
    distances = x.square().sum(1, keepdim=True) + table.square().sum(1)
    return (distances - 2 * x @ table.T).argmin(-1)


@in_float32
def totals(encodings: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The sum of the `[batch, dim]` that have the same row of the table."""
    return encodings.T @ x


class MLP(Layer):
    """Linear layers with ReLUs between them."""

    layout = Layout(unnamed=("output_layer",))

    def __init__(self, input_dim: int, layer_dims: Sequence[int], output_dim: int) -> None:
        super().__init__()
        widths = [input_dim, *layer_dims]
        self.dense_layers = Parts("{}", (Dense(a, b) for a, b in zip(widths, layer_dims)))
        self.output_layer = Dense(widths[-1], output_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.dense_layers:
            x = F.relu(layer(x))
        return self.output_layer(x)


class Encoder(MLP):
    pass


class Decoder(MLP):
    pass


class VectorQuantizerEMA(Layer):
    """The nearest of `num_embeddings` vectors, which follow their inputs in training mode."""

    embeddings: torch.Tensor
    ema_cluster_size: torch.Tensor
    ema_w: torch.Tensor

    def __init__(self, num_embeddings: int, dim: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        for name in ("embeddings", "ema_cluster_size", "ema_w"):
            shape = (num_embeddings,) if name == "ema_cluster_size" else (num_embeddings, dim)
            self.register_buffer(name, torch.zeros(shape))
        random_normal(0.05)(self.embeddings, 1, 1)
        random_normal(0.05)(self.ema_w, 1, 1)

    def forward(
        self, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """`[batch, dim]` → the vectors, which of them in one-hot form, the share of them that is
        used, and the mean square distance (in training mode, otherwise zero) in `[1]`. What is
        counted is in float32.
        """
        table, inputs = self.embeddings.float(), x.float()
        ids = nearest(inputs, table)
        encodings = F.one_hot(ids, len(table)).float()
        quantized = table[ids].to(x.dtype)
        loss = x.new_zeros(1)
        if self.training:
            loss = (inputs - table[ids]).square().mean().to(x.dtype).view(1)
            if torch.compiler.is_compiling() or not computed_again():
                self.update(encodings, inputs.detach())
            # The gradient passes straight through.
            quantized = x + (quantized - x).detach()
        used = (encodings.sum(0) > 0).float().mean()
        return quantized, encodings, used, loss

    @torch.no_grad()
    def update(self, encodings: torch.Tensor, inputs: torch.Tensor) -> None:
        size = self.ema_cluster_size.float().lerp(encodings.sum(0), 1 - self.decay)
        total = size.sum()
        size = (size + 1e-5) / (total + len(size) * 1e-5) * total
        moving = self.ema_w.float().lerp(totals(encodings, inputs), 1 - self.decay)
        self.ema_cluster_size.copy_(size)
        self.ema_w.copy_(moving)
        self.embeddings.copy_(moving / (size[:, None] + 1e-5))


class ResidualVectorQuantizer(Layer):
    """Quantizers, each of what those before it leave over."""

    def __init__(self, quantizers: Sequence[VectorQuantizerEMA]) -> None:
        super().__init__()
        self.quantizers = Parts("quantizer_{}", quantizers)

    def forward(
        self, x: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """`[batch, dim]` → the sum of all vectors; the rest as of each quantizer, stacked, and the
        sum of the losses.
        """
        found = []
        for quantizer in self.quantizers:
            found.append(quantizer(x))
            x = x - found[-1][0]
        quantized, encodings, used, losses = zip(*found)
        total = torch.stack(losses).sum(0)
        return torch.stack(quantized).sum(0), torch.stack(encodings), torch.stack(used), total


class RQVAEBackbone(Backbone):
    """Autoencoder whose latents are sums of vectors from codebooks.

    Vectors `[batch, input_dim]` → `reconstructions` likewise, `encodings`
    `[num_quantizers, batch, num_embeddings]` in one-hot form, `usage_ratios` `[num_quantizers]`
    (the share of each codebook that the batch uses) and `quantization_loss` `[1]`, which is zero in
    `eval()` mode. In training mode the codebooks follow moving averages.

    Args:
        input_dim: size of the vectors.
        encoder_layer_dims: widths of the encoder's layers.
        output_dim: size of the latents.
        decoder_layer_dims: widths of the decoder's layers.
        num_embeddings: vectors in each codebook.
        num_quantizers: number of codebooks.
        decay: what the moving averages keep.
        data_variance: what `compute_loss` divides the reconstruction's error by.
        commitment_cost: the weight of `quantization_loss` there.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: no codebooks, or vectors of another size.
    """

    registered_name = "RQVAEBackbone"
    input_dim: int
    data_variance: float
    commitment_cost: float

    def __init__(
        self,
        input_dim: int,
        encoder_layer_dims: Sequence[int],
        output_dim: int,
        decoder_layer_dims: Sequence[int],
        num_embeddings: int,
        num_quantizers: int,
        decay: float = 0.99,
        data_variance: float = 1.0,
        commitment_cost: float = 0.25,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if num_quantizers < 1:
            raise ValueError(f"num_quantizers={num_quantizers} must be positive.")
        self.encoder = Encoder(input_dim, encoder_layer_dims, output_dim)
        self.residual_quantizer = ResidualVectorQuantizer(
            [VectorQuantizerEMA(num_embeddings, output_dim, decay) for _ in range(num_quantizers)]
        )
        self.decoder = Decoder(output_dim, decoder_layer_dims, input_dim)

    def forward(self, features: Features) -> dict[str, torch.Tensor]:
        if features.shape[1] != self.input_dim:
            raise ValueError(
                f"features must have input_dim={self.input_dim} numbers, not {features.shape[1]}."
            )
        x, encodings, used, loss = self.residual_quantizer(self.encoder(features))
        return {
            "reconstructions": self.decoder(x),
            "encodings": encodings,
            "usage_ratios": used,
            "quantization_loss": loss,
        }

    def compute_loss(
        self,
        x: torch.Tensor,
        y: torch.Tensor | None,
        y_pred: dict[str, torch.Tensor],
        sample_weight: None = None,
    ) -> torch.Tensor:
        """The error of reconstructing `y`, or `x` without one, and the quantizers', in `[1]`."""
        target = x if y is None else y
        error = (y_pred["reconstructions"] - target).square().mean() / self.data_variance
        return error + self.commitment_cost * y_pred["quantization_loss"]
