"""What Gemma 4 computes."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch.nn import functional as F

from .._backbone import Backbone
from .._inputs import CacheIndex, CacheState, Input, PaddingMask, TokenIds
from ..layers.cache import Step
from ..layers.core import Dense, Embedding, RMSNormalization
from ..layers.division import Division
from ..layers.gemma import mean_of_tokens, scale_embeddings, times
from ..layers.layout import Stack
from ..layers.masks import Mask
from ..layers.multimodal import check_places, check_width, interleave, marked, same_image
from ..layers.rotary import Tables, rotary_frequencies, rotary_tables
from .audio import AudioMask, AudioMel, Gemma4AudioEncoder
from .text import KeyValue
from .vision import Gemma4VisionEncoder, PixelPositions, PixelValues

PositionIds = Annotated[torch.Tensor, Input("ids", ("batch", "length"))]
VisionIndices = Annotated[torch.Tensor, Input("places", ("batch", "vision_tokens"))]
AudioIndices = Annotated[torch.Tensor, Input("places", ("batch", "audio_tokens"))]
TokenMask = Annotated[torch.Tensor, Input("mask", ("batch", "length"))]
VISION = ("pixel_values", "pixel_position_ids", "vision_indices", "vision_mask")
AUDIO = ("audio_mel", "audio_mel_mask", "audio_indices", "audio_mask")


class Rotary:
    """Rotary positions of the first part of a head's pairs; the others stand still.

    Args:
        part: share of the dimensions that is turned.
    """

    def __init__(self, head_dim: int, wavelength: float, factor: float, part: float = 1.0) -> None:
        self.head_dim = head_dim
        self.wavelength = wavelength
        self.factor = factor
        self.turned = max(1, int(part * head_dim) // 2)

    def tables(self, positions: torch.Tensor, dtype: torch.dtype) -> Tables:
        frequencies = rotary_frequencies(
            self.head_dim, self.wavelength, positions.device, self.factor
        )
        still = torch.zeros_like(frequencies[self.turned :])
        return rotary_tables(positions, torch.cat((frequencies[: self.turned], still)), dtype)


class Gemma4Towers(Backbone):
    """What has Gemma 4's towers, or lacks them."""

    vision_encoder: Gemma4VisionEncoder | None
    audio_encoder: Gemma4AudioEncoder | None

    def check_towers(self, hidden_dim: int) -> None:
        """Refuse towers whose tokens are not as wide as the text's.

        Raises:
            ValueError: one of them.
        """
        for name in ("vision_encoder", "audio_encoder"):
            tower = getattr(self, name, None)
            if tower is not None:
                check_width(name, "output_dim", tower.output_dim, hidden_dim)

    def given_images(
        self,
        token_ids: torch.Tensor,
        pixels: torch.Tensor | None,
        positions: torch.Tensor | None,
        indices: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Pixels, positions and places of images, if there are any."""
        if self.vision_encoder is None or pixels is None or not pixels.shape[1]:
            return None
        if positions is None or indices is None:
            raise ValueError("pixel_values need pixel_position_ids and vision_indices.")
        self.vision_encoder.check(pixels, positions)
        tokens = self.vision_encoder.count_tokens(pixels.shape[2])
        places = check_places("vision_indices", indices, pixels.shape[1], tokens, token_ids)
        return pixels, positions, places

    def given_clips(
        self,
        token_ids: torch.Tensor,
        mel: torch.Tensor | None,
        mask: torch.Tensor | None,
        indices: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """Spectrograms, their mask and places of sound, if there is any."""
        if self.audio_encoder is None or mel is None or not mel.shape[1]:
            return None
        if mask is None or indices is None:
            raise ValueError("audio_mel needs audio_mel_mask and audio_indices.")
        self.audio_encoder.check(mel, mask)
        tokens = self.audio_encoder.count_tokens(mel.shape[2])
        places = check_places("audio_indices", indices, mel.shape[1], tokens, token_ids)
        return mel, mask, places


class Gemma4Decoder(Gemma4Towers):
    """The forward pass over the parts that `Gemma4Backbone` is built of.

    Attributes:
        is_global: whether each layer is.
        sources: layers with the keys and values of another one → which.
        rotary: of local layers and of global ones.
        per_layer_dim: width of what each token says to each layer, 0 for nothing.
    """

    tower_inputs: ClassVar = {"vision_encoder": VISION, "audio_encoder": AUDIO}
    division = Division(tables=("per_layer_token_embedding",))

    transformer_layers: Stack
    final_normalization: RMSNormalization
    per_layer_token_embedding: Embedding
    per_layer_model_projection: Dense
    per_layer_projection_norm: RMSNormalization
    pooling_dense_1: Dense
    embedding_projection: Dense
    is_global: list[bool]
    sources: dict[int, int]
    rotary: tuple[Rotary, Rotary]
    window: int | None
    per_layer_dim: int
    soft_capped: bool
    both_ways: bool
    images_both_ways: bool
    is_embedding_model: bool

    def forward(
        self,
        token_ids: TokenIds,
        padding_mask: PaddingMask | None = None,
        position_ids: PositionIds | None = None,
        pixel_values: PixelValues | None = None,
        pixel_position_ids: PixelPositions | None = None,
        vision_indices: VisionIndices | None = None,
        vision_mask: TokenMask | None = None,
        audio_mel: AudioMel | None = None,
        audio_mel_mask: AudioMask | None = None,
        audio_indices: AudioIndices | None = None,
        audio_mask: TokenMask | None = None,
        cache: CacheState | None = None,
        cache_update_index: CacheIndex = 0,
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        if len(self.sources) == len(self.is_global) > 0:
            raise ValueError("An assistant has the keys and values of another model's layers.")
        images = self.given_images(token_ids, pixel_values, pixel_position_ids, vision_indices)
        clips = self.given_clips(token_ids, audio_mel, audio_mel_mask, audio_indices)
        x = self.token_embedding(token_ids)
        step = Step(x, padding_mask, cache, cache_update_index)
        if images is not None and self.vision_encoder is not None:
            tokens = self.vision_encoder(images[0], images[1])
            x = placed(x, tokens, images[2])
            vision_mask = marked(token_ids, images[2]) if vision_mask is None else vision_mask
        if clips is not None and self.audio_encoder is not None:
            tokens = self.audio_encoder(clips[0], clips[1])
            x = placed(x, tokens, clips[2])
            audio_mask = marked(token_ids, clips[2]) if audio_mask is None else audio_mask
        x = scale_embeddings(x)

        said = self._said_to_layers(x, token_ids, vision_mask, audio_mask)
        masks = self._mask(step, vision_mask, self.window), self._mask(step)
        positions = step.positions if position_ids is None else position_ids
        tables = [rotary.tables(positions, x.dtype) for rotary in self.rotary]
        found: dict[int, KeyValue] = {}
        own = 0
        for i, (layer, kind) in enumerate(zip(self.transformer_layers, self.is_global)):
            shared = past = None
            if i in self.sources:
                shared = found[self.sources[i]]
            else:
                past = step.past(own)
                own += 1
            x, key_value = layer(x, masks[kind], tables[kind], past, shared, said[i])
            if i in self.sources.values():
                found[i] = key_value
        x = self.final_normalization(x)
        if not self.is_embedding_model:
            return x
        return {"sequence_output": x, "pooled_output": self._pool(x, padding_mask)}

    def _said_to_layers(
        self, x: torch.Tensor, token_ids: torch.Tensor, *masks: torch.Tensor | None
    ) -> list[torch.Tensor | None]:
        """What the tokens say to each layer, `[batch, length, per_layer_dim]`; images and sound
        speak as token 0 does.
        """
        if not self.per_layer_dim:
            return [None] * len(self.is_global)
        for mask in masks:
            token_ids = token_ids if mask is None else token_ids.masked_fill(mask.bool(), 0)
        by_token = self.per_layer_token_embedding(token_ids).to(x.dtype)
        by_token = times(by_token, self.per_layer_dim**0.5).unflatten(-1, (-1, self.per_layer_dim))
        by_state = times(self.per_layer_model_projection(x), x.shape[-1] ** -0.5)
        by_state = self.per_layer_projection_norm(by_state.unflatten(-1, (-1, self.per_layer_dim)))
        return list(times(by_state + by_token, 2**-0.5).unbind(2))

    def _mask(
        self, step: Step, vision_mask: torch.Tensor | None = None, window: int | None = None
    ) -> Mask:
        padding = step.padding_mask
        if self.both_ways:
            if padding is None:
                shape = (1, 1, step.length, step.length)
                return torch.ones(shape, dtype=torch.bool, device=step.device)
            return (padding[:, None, :] & padding[:, :, None])[:, None]
        if vision_mask is None or not self.images_both_ways:
            return step.full_mask(window) if self.soft_capped else step.mask(window)
        if not step.fresh:
            raise ValueError("Images belong to the first call, with cache_update_index=0.")
        together = same_image(vision_mask.bool())
        if padding is not None:
            together = together & padding[:, None, :]
        return step.full_mask(window) | together[:, None]

    def _pool(self, x: torch.Tensor, padding_mask: torch.Tensor | None) -> torch.Tensor:
        """The mean of the tokens, projected twice, of length 1."""
        pooled = self.pooling_dense_1(mean_of_tokens(x, padding_mask))
        pooled = self.embedding_projection(pooled)
        return F.normalize(pooled.float(), dim=-1).to(pooled.dtype)


def placed(x: torch.Tensor, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Tokens `[batch, many, tokens, dim]`, the first ones of each image or clip, put into `x`."""
    each = places.shape[1] // tokens.shape[1]
    # They are not scaled as text is, or rather are scaled back before.
    tokens = times(tokens[:, :, :each].flatten(1, 2), x.shape[-1] ** -0.5)
    return interleave(x, tokens, places, kept=1)
