"""Vectors of texts, to be compared with each other."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from ..backbones._model import Model
from ..preprocessing.prompts import texts_of
from ..preprocessing.text_classifier import SegmentsPreprocessor, TextClassifierPreprocessor
from ..preprocessing.text_embedder import TextEmbedderPreprocessor
from ..presets.companions import TASK
from ..presets.sources import open_preset

POOLINGS = ("mean", "cls", "max", "last")


def embed(
    backbone: Model,
    texts: str | list[str],
    pooling: str | None = None,
    normalize: bool | None = None,
    preprocessor: Any = None,
) -> torch.Tensor:
    """Vectors of texts `[texts, dim]`, of one text `[dim]`.

    Args:
        pooling: what becomes of a text's tokens: their `mean`, the `max` of each feature, the first
            (`cls`) or the `last` of them; by default what the preset's task says, else `last` of
            decoders and `mean` of others.
        normalize: whether vectors have length 1; by default what the task says, else they have.
        preprocessor: makes ids of text; by default that of the backbone's preset.

    Raises:
        TypeError: no text; or the backbone comes from no preset, and no preprocessor is given.
        ValueError: an unknown pooling.
        NotImplementedError: no family whose texts are embedded.
    """
    task = _task(backbone)
    pooling = pooling or task.get("pooling_mode") or ("last" if backbone.cache_shapes else "mean")
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {pooling!r}.")
    if preprocessor is None:
        preprocessor = _preprocessor(backbone)
    rows = texts_of(texts)
    inputs = {name: value.to(backbone.device) for name, value in preprocessor(rows).items()}
    mask = inputs["token_ids"] != preprocessor.tokenizer.pad_token_id
    kept = mask.any(0)  # as long as the longest, and no longer
    with torch.no_grad():
        found = backbone({name: value[:, kept] for name, value in inputs.items()})
    states = found["sequence_output"] if isinstance(found, dict) else found
    vectors = pooled(states.float(), mask[:, kept], pooling)
    if task.get("normalize", True) if normalize is None else normalize:
        vectors = F.normalize(vectors, dim=-1)
    return vectors[0] if isinstance(texts, str) else vectors


def pooled(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """One vector of those of each text's tokens, `[texts, length, dim]`."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "last":
        return states[torch.arange(len(states)), (mask.sum(1) - 1).clamp(min=0)]
    if pooling == "max":
        return states.masked_fill(~mask[..., None], -torch.inf).amax(1)
    weights = mask[..., None].to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _task(backbone: Model) -> dict[str, Any]:
    """What the preset's task says of pooling."""
    if backbone.preset is None:
        return {}
    source = open_preset(backbone.preset)
    config = source.json(TASK).get("config") if source.has(TASK) else None
    return config if isinstance(config, dict) else {}


def _preprocessor(backbone: Model) -> SegmentsPreprocessor:
    preset = backbone.preset
    if preset is None:
        raise TypeError(
            f"This {backbone.class_name} comes from no preset that has a tokenizer: give "
            "preprocessor=."
        )
    for base in (TextEmbedderPreprocessor, TextClassifierPreprocessor):
        if base.for_class(backbone.class_name) is not None:
            return base.from_preset(preset)
    raise NotImplementedError(f"No text is embedded with a {backbone.class_name}.")
