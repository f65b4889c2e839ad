"""Errors of models of videos, and of images with labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import keras_hub_torch

from .cases import parseq, video_prism

TEXT = {"vocabulary_size": 19, "num_text_layers": 1}


def of_videos(**config: Any) -> Any:
    config = video_prism.config(2, 8, 4, 3, **config)
    return keras_hub_torch.models.VideoPrismBackbone(**config)


def test_videos_of_other_shapes() -> None:
    model = of_videos()
    with pytest.raises(ValueError, match="num_frames=2 frames, not 3"):
        model(torch.zeros(1, 3, 8, 4, 3))
    with pytest.raises(ValueError, match="Images must be of height, width and channels 8 × 4 × 3"):
        model(torch.zeros(1, 2, 4, 8, 3))
    with pytest.raises(ValueError, match="must have 5 axes"):
        model(torch.zeros(1, 8, 4, 3))
    with pytest.raises(ValueError, match="multiple of patch_size=5"):
        of_videos(patch_size=5)


def test_text_is_there_or_not() -> None:
    videos, ids = torch.zeros(1, 2, 8, 4, 3), torch.zeros(1, 5, dtype=torch.int32)
    with pytest.raises(ValueError, match="token_ids needs num_text_layers, which this"):
        of_videos()(pixel_values=videos, token_ids=ids)
    model = of_videos(**TEXT).eval()
    with pytest.raises(ValueError, match="missing: token_ids"):
        model(videos)
    both = model(pixel_values=videos, token_ids=ids)
    assert both["vision_embeddings"].equal(model.get_vision_embeddings(videos))
    assert both["text_embeddings"].equal(model.get_text_embeddings(ids))


def test_parseq_refuses() -> None:
    config: dict[str, Any] = dict(parseq.CASES[1].config)
    model = keras_hub_torch.models.PARSeqBackbone(**config)
    images = torch.zeros(1, 8, 4, 1)
    with pytest.raises(ValueError, match="have 13 tokens, but max_label_length"):
        model(images=images, token_ids=torch.zeros(1, 13, dtype=torch.int32))
    with pytest.raises(ValueError, match="decoder_hidden_dim=12 must be the image_encoder's"):
        keras_hub_torch.models.PARSeqBackbone(**{**config, "decoder_hidden_dim": 12})
