"""Gemma 4's tower of sound, that of the Universal Speech Model (arXiv:2303.01037)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch

from .._inputs import Input
from .._model import Component
from ..layers.core import Dense
from ..layers.dtypes import DTypeLike, DTypePolicy
from ..layers.gemma import rms_normed
from ..layers.layout import Kind, Layout, Stack
from .conformer import (
    Gemma4AudioAttention,
    Gemma4AudioConformerBlock,
    Gemma4AudioSubSampleConvProjection,
)

AudioMel = Annotated[torch.Tensor, Input("values", ("batch", "clips", "frames", "features"))]
AudioMask = Annotated[torch.Tensor, Input("mask", ("batch", "clips", "frames"))]
# The tower alone takes them without the axis of clips, too.
Mel = Annotated[torch.Tensor, Input("any", ())]
MelMask = Annotated[torch.Tensor, Input("any", ())]


class Gemma4AudioEncoder(Component):
    """Spectrograms → tokens.

    It keeps its dtype within a model of another one.

    `audio_mel` `[batch, clips, frames, input_feat_size]` and `audio_mel_mask`
    `[batch, clips, frames]`, nonzero for real frames, or both without the axis of clips →
    `[batch, clips, tokens, output_dim]`. A token stands for as many frames as the strides say,
    perhaps for padding.

    Args:
        input_feat_size: numbers of a frame.
        hidden_size: width of the hidden states, an even number.
        num_heads: number of attention heads, a divisor of `hidden_size`.
        num_layers: number of Conformer blocks.
        chunk_size: queries that attention computes together; the result does not depend on it but
            where a frame sees none.
        context_left: one more than the frames that a frame sees, itself and before.
        context_right: has no effect on what is seen, as in KerasHub.
        logit_cap: bound on the attention scores, by tanh.
        invalid_logit_value: score of what is not seen.
        conv_kernel_size: frames that the convolutions see, itself and before.
        reduction_factor: of so many frames behind the blocks one is kept.
        residual_weight: of the feed-forward networks' outputs.
        gradient_clipping: bound on the hidden states before and after the parts of a block.
        sscp_conv_channels: channels of the two convolutions that shorten the spectrogram.
        sscp_kernel_sizes: their sizes over frames, odd and the second not smaller, and over
            features.
        sscp_stride_sizes: their strides over frames and features.
        output_proj_dims: width between the blocks and the tokens; `None` without a projection.
        output_dim: width of the tokens: the text model's `hidden_dim`.
        norm_eps: of the norms.
        sscp_norm_eps: of the norms behind the convolutions.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: an odd `hidden_size` or one that is not divisible by `num_heads`, kernels over
            frames of other sizes, or spectrograms of another shape.
    """

    keras_module = "keras_hub.src.models.gemma4.gemma4_audio_encoder"
    layout = Layout(Kind.MODEL)

    def __init__(
        self,
        input_feat_size: int = 128,
        hidden_size: int = 1024,
        num_heads: int = 8,
        num_layers: int = 12,
        chunk_size: int = 12,
        context_left: int = 13,
        context_right: int = 0,
        logit_cap: float = 50.0,
        invalid_logit_value: float = -1e9,
        conv_kernel_size: int = 5,
        reduction_factor: int = 1,
        residual_weight: float = 0.5,
        gradient_clipping: float = 1e10,
        sscp_conv_channels: Sequence[int] = (128, 32),
        sscp_kernel_sizes: Sequence[Sequence[int]] = ((3, 3), (3, 3)),
        sscp_stride_sizes: Sequence[Sequence[int]] = ((2, 2), (2, 2)),
        output_proj_dims: int | None = 1536,
        output_dim: int = 2048,
        norm_eps: float = 1e-6,
        sscp_norm_eps: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if hidden_size % 2 or hidden_size % num_heads:
            raise ValueError(
                f"hidden_size={hidden_size} must be divisible by 2 and by num_heads={num_heads}."
            )
        (first, _), (second, _) = kernel_sizes = [(k[0], k[1]) for k in sscp_kernel_sizes]
        strides = [(s[0], s[1]) for s in sscp_stride_sizes]
        if first % 2 == 0 or second < first:
            raise ValueError(
                "sscp_kernel_sizes must be odd over frames, the second one not smaller, not "
                f"{first} and {second}."
            )
        self.features = input_feat_size
        self.steps = [
            (kernel - 2 * (first // 2), stride)
            for (kernel, _), (stride, _) in zip(kernel_sizes, strides)
        ]
        self.reduction = reduction_factor
        self.epsilon = norm_eps
        self.subsample_conv_projection = Gemma4AudioSubSampleConvProjection(
            input_feat_size, hidden_size, sscp_conv_channels, kernel_sizes, strides, sscp_norm_eps
        )

        def block() -> Gemma4AudioConformerBlock:
            attention = Gemma4AudioAttention(
                hidden_size,
                num_heads,
                chunk_size,
                max(0, context_left - 1),
                context_right,
                logit_cap,
                invalid_logit_value,
            )
            return Gemma4AudioConformerBlock(
                hidden_size,
                attention,
                conv_kernel_size,
                residual_weight,
                gradient_clipping,
                norm_eps,
            )

        self.conformer_blocks = Stack("conformer_{}", (block() for _ in range(num_layers)))
        self.output_proj = None
        if output_proj_dims is not None:
            self.output_proj = Dense(hidden_size, output_proj_dims)
            hidden_size = output_proj_dims
        self.audio_output_projection = Dense(hidden_size, output_dim, use_bias=False)

    @property
    def fixed_dtype(self) -> DTypePolicy:
        return self.dtype_policy

    def forward(self, audio_mel: Mel, audio_mel_mask: MelMask) -> torch.Tensor:
        self.check(audio_mel, audio_mel_mask)
        mel, mask = audio_mel.flatten(0, -3), audio_mel_mask.bool().flatten(0, -2)
        x, mask = self.subsample_conv_projection(mel, mask)
        for block in self.conformer_blocks:
            x = block(x, mask)
        x = x[:, :: self.reduction]
        if self.output_proj is not None:
            x = self.output_proj(x)
        x = self.audio_output_projection(rms_normed(x, self.epsilon))
        return x.unflatten(0, audio_mel.shape[:-2])

    def check(self, audio_mel: torch.Tensor, audio_mel_mask: torch.Tensor) -> None:
        """Raises ValueError: spectrograms that the tower does not take."""
        shape = tuple(audio_mel.shape)
        if audio_mel.ndim not in (3, 4) or shape[-1] != self.features:
            raise ValueError(
                f"audio_mel must be [batch, clips, frames, {self.features}], not {shape}."
            )
        if audio_mel_mask.shape != shape[:-1]:
            raise ValueError(
                f"audio_mel is {shape}, so audio_mel_mask must be {shape[:-1]}, not "
                f"{tuple(audio_mel_mask.shape)}."
            )

    def count_tokens(self, frames: int) -> int:
        """Of a clip of so many frames."""
        for reach, stride in self.steps:
            frames = (frames - reach) // stride + 1
        return -(-frames // self.reduction)
