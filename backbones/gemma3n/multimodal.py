"""Images and sound among Gemma 3n's text."""

from __future__ import annotations

from typing import Any

import torch

from ..layers.core import Dense, Embedding
from ..layers.layer import Layer
from ..layers.layout import Layout
from ..layers.multimodal import fill
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
        }
    )

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
        x = self.language_model.embed_tokens(token_ids)
        size = self.language_model.embed_tokens.embedding.num_embeddings
        for embedder in (self.embed_vision, self.embed_audio):
            if embedder is not None:
                x = embedder.among(x, token_ids, size)
        if self.embed_vision is not None and images is not None and images.numel():
            tokens = self.embed_vision(self.see(images))
            tokens = tokens.unflatten(0, images.shape[:2]).flatten(1, 2)
            x = fill(x, tokens, token_ids == self.image_token_id, "images")
        if self.audio_encoder is not None and sounds is not None and sounds.numel():
            tokens = self.hear(sounds, sounds_mask)
            x = fill(x, tokens, token_ids == self.audio_token_id, "input_features")
        return x

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """`[batch, images, …]` → `[batch · images, tokens, features]`."""
        tower = self.vision_encoder
        for wanted, size in zip(tower.image_shape, images.shape[2:]):
            if wanted is not None and wanted != size:
                raise ValueError(
                    f"images must be {' × '.join(map(str, tower.image_shape))} each, not "
                    f"{' × '.join(map(str, images.shape[2:]))}."
                )
        features = tower(images.flatten(0, 1))
        if tower.data_format == "channels_first":
            features = features.permute(0, 2, 3, 1)
        return features.flatten(1, 2) * tower.num_features**0.5

    def hear(self, sounds: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """`[batch, clips, frames, mel bins]` → `[batch, clips · audio_tokens, dim]`."""
        tower, embedder = self.audio_encoder, self.embed_audio
        assert tower is not None
        assert embedder is not None
        if sounds.shape[3] != tower.input_feat_size:
            raise ValueError(
                f"input_features must have {tower.input_feat_size} mel bins, not {sounds.shape[3]}."
            )
        if not torch.compiler.is_compiling() and tower.tokens(sounds.shape[2]) > self.audio_tokens:
            raise ValueError(
                f"input_features of {sounds.shape[2]} frames give {tower.tokens(sounds.shape[2])} "
                f"tokens a clip, more than audio_soft_tokens_per_image={self.audio_tokens}."
            )
        if mask is None:
            mask = torch.zeros(sounds.shape[:3], dtype=torch.bool, device=sounds.device)
        tokens = embedder(tower(sounds.flatten(0, 1), mask.flatten(0, 1)))
        # The last word of the vocabulary stands behind clips that are shorter.
        last = torch.full((tokens.shape[0], 1), embedder.vocabulary_size - 1, device=tokens.device)
        places = torch.arange(self.audio_tokens, device=tokens.device).clamp(max=tokens.shape[1])
        tokens = torch.cat((tokens, embedder.words(last)), 1)[:, places]
        return tokens.unflatten(0, sounds.shape[:2]).flatten(1, 2)
