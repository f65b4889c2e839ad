"""Files of safetensors without a configuration, as the authors of diffusion models publish them.

What config.json is elsewhere is here the shapes of all tensors, by the parts of their names:
`{"vae": {"encoder": {"conv_in": {"weight": (128, 3, 3, 3), …}}}}`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...backbones._model import Model
from .. import single_files
from .dialect import Dialect, find_table
from .files import open_weights
from .table import Table, renamed

if TYPE_CHECKING:
    from ..sources import PresetSource

# In place of a name there.
KIND = ""
TRANSFORMER, VAE, TEXTS = "transformer.", "vae.", "text_encoders."
# Encoders of text are those of transformers; a CLIP in a file of its own does not say which it is.
T5, LONE_CLIP = f"{TEXTS}t5xxl.transformer.", f"{TEXTS}clip.transformer."
# What a transformer's own file has at its root.
ROOTS = (
    *("joint_blocks.", "pos_embed", "x_embedder.", "t_embedder.", "y_embedder."),
    *("context_embedder.", "double_blocks.", "single_blocks.", "img_in.", "txt_in."),
    *("time_in.", "vector_in.", "guidance_in.", "final_layer."),
)
# Likewise an encoder's; an autoencoder has an `encoder.`, too.
T5_ROOTS = ("shared.", "encoder.embed_tokens.", "encoder.block.", "encoder.final_layer_norm.")
CLIP_ROOTS = ("text_model.", "text_projection.", "logit_scale")
# To the names that the tables have.
RENAMES = (
    ("model.diffusion_model.*", f"{TRANSFORMER}*"),
    ("first_stage_model.*", f"{VAE}*"),
    *((f"{root}*", f"{TRANSFORMER}{root}*") for root in ROOTS),
    *((f"{root}*", f"{T5}{root}*") for root in T5_ROOTS),
    *((f"{root}*", f"{LONE_CLIP}{root}*") for root in CLIP_ROOTS),
    *((f"{half}.*", f"{VAE}{half}.*") for half in ("encoder", "decoder")),
)
# Kinds of encoders that are read alone, by their parts' names.
ALONE = {"t5": "t5xxl", "clip": "clip"}


class SingleFile(Dialect):
    """A file may hold several models: one of them is its kind. None is written."""

    name = "single-file"
    document = "file"
    packages = (single_files,)

    def recognises(self, config: Mapping[str, Any]) -> bool:
        return KIND in config

    def kind(self, config: Mapping[str, Any]) -> str:
        return str(config[KIND])

    def title(self, config: Mapping[str, Any]) -> str:
        return self.kind(config)

    def ignores(self, key: str) -> bool:
        return True  # tensors are accounted for as such

    def problems(
        self, config: Mapping[str, Any], unknown: Sequence[str], table: Table
    ) -> list[str]:
        return []

    def heading(self, table: Table, kind: str, dtype: torch.dtype) -> dict[str, Any]:
        return {}

    def weights(self, source: PresetSource) -> list[Path]:
        return [source.file(name) for name in file_of(source)]


SINGLE_FILE = SingleFile()


def file_of(source: PresetSource) -> list[str]:
    """The name of a preset's only file of safetensors; empty where there are none or several."""
    names = [name for name in source.names() if name.endswith(".safetensors")]
    return names if len(names) == 1 else []


def single_file(source: PresetSource, cls: type[Model]) -> dict[str, Any] | None:
    """The shapes of a file's tensors and which of its models is a `cls`, else the first; `None` if
    none is known.
    """
    names = file_of(source)
    if not names:
        return None
    shapes = shapes_of(source.file(names[0]))
    kinds = kinds_of(shapes)
    for kind in kinds:
        if issubclass(find_table(SINGLE_FILE, kind, source.handle).backbone, cls):
            return {KIND: kind, **shapes}
    return {KIND: kinds[0], **shapes} if kinds else None


def shapes_of(path: Path) -> dict[str, Any]:
    """Of all tensors of a file.

    Raises:
        ValueError: it is broken, or its names are no tree.
    """
    shapes: dict[str, Any] = {}
    with ExitStack() as stack:
        for tensor in open_weights(path, stack):
            *outer, last = renamed(RENAMES, tensor.name).split(".")
            place = shapes
            for part in outer:
                place = place.setdefault(part, {})
                if not isinstance(place, dict):
                    raise ValueError(f"{path} has both {part} and {tensor.name}.")
            place[last] = tensor.shape
    return shapes


def kinds_of(shapes: Mapping[str, Any]) -> list[str]:
    """The models that are in a file, the one of most parts first."""

    def inside(part: str) -> Collection[str]:
        found = shapes.get(part.removesuffix("."))
        return found if isinstance(found, Mapping) else ()

    transformer, texts = inside(TRANSFORMER), inside(TEXTS)
    kinds = []
    if "joint_blocks" in transformer:
        if {"clip_l", "clip_g"} <= set(texts) and inside(VAE):
            kinds.append("stable_diffusion_3" + "+t5" * ("t5xxl" in texts))
        kinds.append("stable_diffusion_3.transformer")
    if "double_blocks" in transformer:
        kinds.append("flux")
    if {"encoder", "decoder"} <= set(inside(VAE)):
        kinds.append("vae+flux" if "double_blocks" in transformer or not transformer else "vae")
    return kinds + [kind for kind, part in ALONE.items() if part in texts]
