"""Gemma 3n: a decoder of text, with towers for images and sound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch

from .._backbone import Backbone
from .._configuration import constructor_arguments, deserialize
from .._inputs import CacheIndex, CacheState, Input, PaddingMask, TokenIds
from ..layers.cache import KeyValueShape, Step
from ..layers.dtypes import DTypeLike
from ..layers.layout import Kind, Layout
from ..layers.masks import FULL, SLIDING, check_layer_types
from .audio import Gemma3nAudioEncoder
from .multimodal import Gemma3nMultimodalEmbedder, Gemma3nMultimodalEmbeddingProcessor
from .text import (
    Gemma3nTextAltUp,
    Gemma3nTextAttention,
    Gemma3nTextDecoderBlock,
    Gemma3nTextLaurelBlock,
    Gemma3nTextMLP,
    Gemma3nTextModel,
)

ImagesOfRows = Annotated[
    torch.Tensor, Input("images", ("batch", "images", "height", "width", "channels"))
]
Sounds = Annotated[torch.Tensor, Input("values", ("batch", "clips", "frames", "mel_bins"))]
SoundsMask = Annotated[torch.Tensor, Input("mask", ("batch", "clips", "frames"))]


class Gemma3nBackbone(Backbone):
    """Decoder of text, images and sound.

    The tokens of `images` and `input_features` take the places of `image_token_id` and
    `audio_token_id` in `token_ids`, one after the other; of the last rows those that have no place
    are left out.

    `token_ids` and `padding_mask` `[batch, length]`, `images` `[batch, images, height, width, 3]`
    (channels first if that is the tower's data format), `input_features`
    `[batch, clips, frames, mel bins]` and `input_features_mask` `[batch, clips, frames]`, nonzero
    for what is padding → `[batch, length, text_hidden_size]`.

    Args:
        text_vocab_size: number of token ids, those of images and sound included.
        text_hidden_size: width of the hidden states.
        num_hidden_layers: number of blocks.
        pad_token_id: has no effect, as in KerasHub.
        num_attention_heads: number of heads of the queries.
        num_key_value_heads: number of heads of the keys and values; it divides that of the queries.
        head_dim: dimensions of a head.
        intermediate_size: width inside the feed-forward network of each block.
        hidden_activation: activation of the feed-forward networks and gates.
        layer_types: `sliding_attention` or `full_attention` for each block.
        sliding_window: keys that a query of `sliding_attention` sees, itself included.
        rope_theta: base of the rotary frequencies of `full_attention`.
        max_position_embeddings: has no effect, as in KerasHub.
        vocab_size_per_layer_input: token ids that have inputs for each layer; the others have
            those of id 0.
        hidden_size_per_layer_input: width of these inputs.
        altup_num_inputs: streams of hidden states.
        laurel_rank: rank of the residual connections.
        attention_bias: whether the projections of attention have a bias.
        attention_dropout: rate on the attention weights.
        rope_scaling: divides the positions of all blocks; `None` for 1.
        rope_local_base_freq: base of the rotary frequencies of `sliding_attention`.
        activation_sparsity_pattern: share of each feed-forward network's neurons that are silent;
            `None` for 0.
        altup_coef_clip: has no effect, as in KerasHub.
        altup_active_idx: the stream that blocks compute.
        altup_correct_scale: whether that stream has a factor for each dimension in the gates.
        num_kv_shared_layers: blocks at the end that use keys and values of the last one before
            them that has their type.
        final_logit_soft_cap: bound on the logits of `token_embedding(x, reverse=True)`, by tanh;
            `None` for none.
        vision_encoder_config: arguments of the tower of images, a `MobileNetV5Backbone`; `None`
            for a model without images.
        vision_hidden_size: channels of the tower's features.
        vision_vocab_size: token ids that are embedded as images are.
        vision_vocab_offset: the first of these.
        vision_soft_tokens_per_image: has no effect, as in KerasHub: the tower gives as many as it
            gives.
        image_token_id: the token id that stands for a token of an image.
        audio_encoder_config: arguments of the tower of sound; `None` for a model without.
        audio_hidden_size: width of the tower's tokens.
        audio_vocab_size: token ids that are embedded as sound is.
        audio_vocab_offset: the first of these.
        audio_soft_tokens_per_image: tokens of each clip; longer ones are refused, which KerasHub
            cuts.
        audio_token_id: the token id that stands for a token of sound.
        rms_norm_eps: epsilon of the norms, but for the towers'.
        dtype, trainable, name: as in `Model`.

    Raises:
        ValueError: arguments of which there are too few or that do not go together, towers of
            other widths, or images and sound that are too large or do not have the places they
            need.
    """

    listed: ClassVar = True
    text_vocab_size: int
    tower_inputs: ClassVar = {
        "vision_encoder": ("images",),
        "audio_encoder": ("input_features", "input_features_mask"),
    }

    def __init__(
        self,
        text_vocab_size: int,
        text_hidden_size: int,
        num_hidden_layers: int,
        pad_token_id: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        intermediate_size: Sequence[int],
        hidden_activation: str,
        layer_types: Sequence[str],
        sliding_window: int | None,
        rope_theta: float,
        max_position_embeddings: int,
        vocab_size_per_layer_input: int,
        hidden_size_per_layer_input: int,
        altup_num_inputs: int,
        laurel_rank: int,
        attention_bias: bool = False,
        attention_dropout: float = 0.0,
        rope_scaling: float | None = None,
        rope_local_base_freq: float = 10000.0,
        activation_sparsity_pattern: Sequence[float] | None = None,
        altup_coef_clip: float | None = None,
        altup_active_idx: int = 0,
        altup_correct_scale: bool = True,
        num_kv_shared_layers: int = 0,
        final_logit_soft_cap: float | None = None,
        vision_encoder_config: Mapping[str, Any] | None = None,
        vision_hidden_size: int = 2048,
        vision_vocab_size: int = 128,
        vision_vocab_offset: int = 100,
        vision_soft_tokens_per_image: int = 256,
        image_token_id: int = 98,
        audio_encoder_config: Mapping[str, Any] | None = None,
        audio_hidden_size: int = 32,
        audio_vocab_size: int = 128,
        audio_vocab_offset: int = 228,
        audio_soft_tokens_per_image: int = 188,
        audio_token_id: int = 99,
        rms_norm_eps: float = 1e-6,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        kinds = check_layer_types(layer_types, num_hidden_layers)
        sparsity = activation_sparsity_pattern or [0.0] * num_hidden_layers
        for argument, values in (
            ("intermediate_size", intermediate_size),
            ("activation_sparsity_pattern", sparsity),
        ):
            if len(values) < num_hidden_layers:
                raise ValueError(f"{argument}={values} must be of {num_hidden_layers} blocks.")
        if not max(sparsity, default=0) < 1:
            raise ValueError(f"activation_sparsity_pattern={sparsity} must be below 1.")
        if not -altup_num_inputs <= altup_active_idx < altup_num_inputs:
            raise ValueError(
                f"altup_active_idx={altup_active_idx} must be one of {altup_num_inputs} streams."
            )
        own = num_hidden_layers
        if 0 < num_hidden_layers - num_kv_shared_layers < num_hidden_layers:
            own -= num_kv_shared_layers
        if not set(kinds[own:]) <= set(kinds[:own]):
            raise ValueError(
                f"num_kv_shared_layers={num_kv_shared_layers} blocks have none of their type among "
                f"the first {own} of layer_types={kinds}, whose keys they could use."
            )
        self.cache_shapes = [
            KeyValueShape(
                num_key_value_heads, head_dim, sliding_window if kind == SLIDING else None
            )
            for kind in kinds[:own]
        ]

        def block(i: int) -> Gemma3nTextDecoderBlock:
            return Gemma3nTextDecoderBlock(
                Gemma3nTextAttention(
                    text_hidden_size,
                    num_attention_heads,
                    num_key_value_heads,
                    head_dim,
                    attention_dropout,
                    attention_bias,
                    rms_norm_eps,
                ),
                Gemma3nTextMLP(
                    text_hidden_size, intermediate_size[i], hidden_activation, sparsity[i]
                ),
                Gemma3nTextAltUp(
                    text_hidden_size,
                    altup_num_inputs,
                    altup_active_idx,
                    rms_norm_eps,
                    altup_correct_scale,
                ),
                Gemma3nTextLaurelBlock(text_hidden_size, laurel_rank, rms_norm_eps),
                text_hidden_size,
                hidden_size_per_layer_input,
                hidden_activation,
                rms_norm_eps,
            )

        vision_encoder = audio_encoder = embed_vision = embed_audio = None
        if vision_encoder_config:
            tower = {"class_name": "MobileNetV5Backbone", "config": {**vision_encoder_config}}
            found, arguments = deserialize(tower, "vision_encoder_config")
            vision_encoder = found(**arguments)
            check_width("vision", vision_hidden_size, vision_encoder.output_channels)
            embed_vision = Gemma3nMultimodalEmbedder(
                vision_hidden_size,
                text_hidden_size,
                rms_norm_eps,
                vision_vocab_offset,
                vision_vocab_size,
                audio_vocab_offset
                if audio_encoder_config
                else vision_vocab_offset + vision_vocab_size,
            )
        if audio_encoder_config:
            # As in KerasHub further keys are passed over.
            known = constructor_arguments(Gemma3nAudioEncoder).keys() - {"dtype"}
            audio_encoder = Gemma3nAudioEncoder(
                **{key: value for key, value in audio_encoder_config.items() if key in known}
            )
            check_width("audio", audio_hidden_size, audio_encoder.hidden_size)
            embed_audio = Gemma3nMultimodalEmbedder(
                audio_hidden_size,
                text_hidden_size,
                rms_norm_eps,
                audio_vocab_offset,
                audio_vocab_size,
                None,
            )
        self.embedding_processor = Gemma3nMultimodalEmbeddingProcessor(
            Gemma3nTextModel(
                [block(i) for i in range(num_hidden_layers)],
                text_hidden_size,
                hidden_size_per_layer_input,
                head_dim,
                text_vocab_size,
                vocab_size_per_layer_input,
                altup_num_inputs,
                kinds,
                own,
                sliding_window,
                {SLIDING: rope_local_base_freq, FULL: rope_theta},
                rope_scaling or 1.0,
                final_logit_soft_cap,
                rms_norm_eps,
            ),
            vision_encoder,
            embed_vision,
            image_token_id,
            audio_encoder,
            embed_audio,
            audio_token_id,
            audio_soft_tokens_per_image,
        )

    @property
    def layout(self) -> Layout:
        return Layout(
            Kind.GRAPH,
            names={"embedding_processor": "multimodal_embedding_processor"},
            assigned=(
                "embedding_processor.vision_encoder",
                "embedding_processor.audio_encoder",
                "embedding_processor.language_model",
                "embedding_processor.embed_vision",
                "embedding_processor.embed_audio",
                "embedding_processor",
            ),
        )

    @property
    def language_model(self) -> Gemma3nTextModel:
        return self.embedding_processor.language_model

    @property
    def vision_encoder(self) -> Any:
        """The tower of images, if there is one."""
        return self.embedding_processor.vision_encoder

    @property
    def audio_encoder(self) -> Gemma3nAudioEncoder | None:
        """The tower of sound, if there is one."""
        return self.embedding_processor.audio_encoder

    @property
    def token_embedding(self) -> Any:
        return self.language_model.embed_tokens

    @property
    def vocabulary_size(self) -> int:
        return self.text_vocab_size

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        images: ImagesOfRows | None = None,
        input_features: Sounds | None = None,
        input_features_mask: SoundsMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor:
        x = self.embedding_processor(token_ids, images, input_features, input_features_mask)
        per_layer_inputs = self.language_model.per_layer_inputs(token_ids, x)
        step = Step(x, padding_mask, cache, cache_update_index)
        return self.language_model(x, per_layer_inputs, step)


def check_width(tower: str, given: int, width: int) -> None:
    if given != width:
        raise ValueError(f"{tower}_hidden_size={given} must be that of the tower, {width}.")
