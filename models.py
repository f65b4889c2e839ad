"""`keras_hub.models`: backbones, tokenizers and preprocessors by name, imported when asked for."""

from __future__ import annotations

import difflib
from typing import Any

from .backbones._backbone import Backbone, FeaturePyramidBackbone
from .backbones._drafter import Drafter
from .backbones._model import Model
from .backbones._registry import find_class, public_classes

__all__ = ["Backbone", "FeaturePyramidBackbone"]


# How names of KerasHub's other classes end, and what there is in their place.
OTHERS = {
    "Preprocessor": "a tokenizer or a converter of the preset does its work",
    "BlockDiffusionLM": "`keras_hub_torch.generate` denoises text with the backbone",
    "CausalLM": "`keras_hub_torch.generate` continues text and token ids with a decoder",
    "TextToImage": "`keras_hub_torch.generate_images` draws with a StableDiffusion3Backbone",
    "Seq2SeqLM": "`keras_hub_torch.generate` writes text with an encoder-decoder",
    "": "a backbone and a head of your own, a `torch.nn.Linear` on its outputs, do its work",
}


class NotYet(NotImplementedError, AttributeError):
    """A class that KerasHub has and this package has not; `hasattr` says False."""


def __getattr__(name: str) -> Any:
    from .presets import builtin

    found: Any
    if name.endswith(("Tokenizer", "Preprocessor")):
        from . import preprocessing

        found = preprocessing.steps().get(name)
    else:
        found = find_class(name, Model) or find_class(name, Drafter)
    if found is not None:
        return found
    if builtin.keras_module(name) is not None:
        raise NotYet(f"{name} is not part of keras_hub_torch yet.")
    if builtin.is_other(name):
        instead = next(text for ending, text in OTHERS.items() if name.endswith(ending))
        raise NotYet(f"keras_hub_torch has KerasHub's backbones, not {name}: {instead}.")
    near = [] if name.startswith("_") else difflib.get_close_matches(name, __dir__(), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    from . import preprocessing

    return sorted(
        {*__all__, *public_classes(Model), *public_classes(Drafter), *preprocessing.steps()}
    )
