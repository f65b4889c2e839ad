"""Images and sound among Gemma 3n's text."""

from __future__ import annotations

from typing import Any

import torch

from ..layers.core import Dense, Embedding
from ..layers.division import Whole
from ..layers.layer import Layer
from ..layers.layout import Layout
from ..layers.multimodal import count_places, fill
from .audio import Gemma3nAudioEncoder
from .norms import Gemma3nRMSNorm, UnscaledRMSNorm
from .text import Gemma3nTextModel


class Gemma3nMultimodalEmbedder(Layer):
    """What a tower gives, and ids of a vocabulary of its own, as embeddings of text.

    Args:
        offset: the first of these ids.
        end: of what is taken for them; `None` for all that follow.
    """

    def __init__(
        self,
        dim: int,
        text_dim: int,
        epsilon: float,
        offset: int,
        vocabulary_size: int,
        end: int | None,
    ) -> None:
        super().__init__()
        self.offset = offset
        self.vocabulary_size = vocabulary_size
        self.end = end
        self.embedding = Embedding(vocabulary_size, dim)
        self.hard_embedding_norm = Gemma3nRMSNorm(dim, epsilon)
        self.soft_embedding_norm = Gemma3nRMSNorm(dim, epsilon)
        self.embedding_projection = Dense(dim, text_dim, use_bias=False)
        self.embedding_post_projection_norm = UnscaledRMSNorm(epsilon)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.project(self.soft_embedding_norm(features))

    def words(self, ids: torch.Tensor) -> torch.Tensor:
        """Of ids from 0 on."""
        return self.project(self.hard_embedding_norm(self.embedding(ids)))

    def project(self, x: torch.Tensor) -> torch.Tensor:
        return self.embedding_post_projection_norm(self.embedding_projection(x))

    def among(
        self, x: torch.Tensor, token_ids: torch.Tensor, text_vocabulary_size: int
    ) -> torch.Tensor:
        """Embeddings of text, with this vocabulary's where its ids are.

        Raises:
            ValueError: ids that are taken for its own but are beyond it (unless compiled).
        """
        size = self.vocabulary_size
        end = min(self.end or text_vocabulary_size, text_vocabulary_size)
        mine = (token_ids >= self.offset) & (token_ids < end)
        ids = torch.where(mine, token_ids - self.offset, size - 1)
        if end > self.offset + size and not torch.compiler.is_compiling() and (ids >= size).any():
            raise ValueError(
                f"token_ids from {self.offset} to {end - 1} have {size} embeddings; there is "
                f"{int(ids.max()) + self.offset}."
            )
        return torch.where(mine[..., None], self.words(ids).to(x.dtype), x)


class Gemma3nMultimodalEmbeddingProcessor(Layer):
    """Tokens, images and sound → embeddings of one sequence."""

    layout = Layout(
        names={
            "language_model": "text_model",
            "embed_vision": "vision_embedder",
            "embed_audio": "audio_embedder",
        },
        outside=True,
    )

    division = Whole()

    def __init__(
        self,
        language_model: Gemma3nTextModel,
        vision_encoder: Any,
        embed_vision: Gemma3nMultimodalEmbedder | None,
        image_token_id: int,
        audio_encoder: Gemma3nAudioEncoder | None,
        embed_audio: Gemma3nMultimodalEmbedder | None,
        audio_token_id: int,
        audio_tokens: int,
    ) -> None:
        super().__init__()
        self.embed_vision: Any
        self.audio_encoder: Any
        self.embed_audio: Any
        self.image_token_id = image_token_id
        self.audio_token_id = audio_token_id
        self.audio_tokens = audio_tokens
        self.language_model = language_model
        self.vision_encoder = vision_encoder
        self.embed_vision = embed_vision
        self.audio_encoder = audio_encoder
        self.embed_audio = embed_audio

    def forward(
        self,
        token_ids: torch.Tensor,
        images: torch.Tensor | None,
        sounds: torch.Tensor | None,
        sounds_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """See `Gemma3nBackbone`."""
        seen, heard = token_ids == self.image_token_id, token_ids == self.audio_token_id
        images = None if images is None or not images.numel() else images
        sounds = None if sounds is None or not sounds.numel() else sounds
        if images is not None:
            self.check_images(images, seen)
        if sounds is not None:
            self.check_sounds(sounds, heard)
        x = self.language_model.embed_tokens(token_ids)
        size = self.language_model.embed_tokens.embedding.num_embeddings
        for embedder in (self.embed_vision, self.embed_audio):
            if embedder is not None:
                x = embedder.among(x, token_ids, size)
        if images is not None:
            x = fill(x, self.see(images), seen)
        if sounds is not None:
            x = fill(x, self.hear(sounds, sounds_mask), heard)
        return x

    def check_images(self, images: torch.Tensor, places: torch.Tensor) -> None:
        wanted, given = self.vision_encoder.image_shape, images.shape[2:]
        for side, size in zip(wanted, given):
            if side is not None and side != size:
                raise ValueError(
                    f"images must be {' × '.join(map(str, wanted))} each, not "
                    f"{' × '.join(map(str, given))}."
                )
        if not torch.compiler.is_compiling():
            first = self.vision_encoder.data_format == "channels_first"
            height, width = self.vision_encoder.features_size(*(given[1:] if first else given[:2]))
            count_places(places, images.shape[1] * height * width, "images")

    def check_sounds(self, sounds: torch.Tensor, places: torch.Tensor) -> None:
        clips, frames, bins = sounds.shape[1:]
        if bins != self.audio_encoder.input_feat_size:
            raise ValueError(
                f"input_features must have {self.audio_encoder.input_feat_size} mel bins, not "
                f"{bins}."
            )
        if not torch.compiler.is_compiling():
            tokens = self.audio_encoder.tokens(frames)
            if tokens > self.audio_tokens:
                raise ValueError(
                    f"input_features of {frames} frames give {tokens} tokens a clip, more than "
                    f"audio_soft_tokens_per_image={self.audio_tokens}."
                )
            count_places(places, clips * self.audio_tokens, "input_features")

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, images, …]` → `[batch, tokens, dim]`."""
        features = self.vision_encoder(images.flatten(0, 1))
        if self.vision_encoder.data_format == "channels_first":
            features = features.permute(0, 2, 3, 1)
        tokens = self.embed_vision(features.flatten(1, 2) * self.vision_encoder.num_features**0.5)
        return tokens.unflatten(0, images.shape[:2]).flatten(1, 2)

    def hear(self, sounds: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`[batch, clips, frames, mel bins]` → `[batch, clips · audio_tokens, dim]`."""
        if mask is None:
            mask = torch.zeros(sounds.shape[:3], dtype=torch.bool, device=sounds.device)
        tokens = self.embed_audio(self.audio_encoder(sounds.flatten(0, 1), mask.flatten(0, 1)))
        # The last word of the vocabulary stands behind clips that are shorter.
        last = self.embed_audio.vocabulary_size - 1
        last = torch.full((tokens.shape[0], 1), last, device=tokens.device)
        places = torch.arange(self.audio_tokens, device=tokens.device).clamp(max=tokens.shape[1])
        tokens = torch.cat((tokens, self.embed_audio.words(last)), 1)[:, places]
        return tokens.unflatten(0, sounds.shape[:2]).flatten(1, 2)
