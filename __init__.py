"""KerasHub's backbones as plain PyTorch modules."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "embed",
    "generate",
    "generate_images",
    "layers",
    "models",
    "samplers",
    "tokenizers",
    "upload_preset",
]

if TYPE_CHECKING:
    from . import layers as layers
    from . import models as models
    from .generation import embed as embed
    from .generation import generate as generate
    from .generation import generate_images as generate_images
    from .generation import samplers as samplers
    from .generation import stream as stream
    from .preprocessing import tokenizers as tokenizers
    from .presets.uploading import upload_preset as upload_preset
else:

    def _standing_for(name: str, home: str) -> ModuleType:
        """A module, also of `import`'s, with the names of another one, imported for the first."""
        module = ModuleType(f"{__name__}.{name}", f"See `{__name__}{home}`.")

        def find(attribute: str) -> Any:
            if attribute.startswith("__") and attribute != "__all__":  # many look for such in all
                raise AttributeError(f"module {module.__name__!r} has no attribute {attribute!r}")
            return getattr(importlib.import_module(home, __name__), attribute)

        module.__getattr__ = find
        module.__dir__ = lambda: dir(importlib.import_module(home, __name__))
        sys.modules[module.__name__] = module
        return module

    samplers = _standing_for("samplers", ".generation.samplers")
    tokenizers = _standing_for("tokenizers", ".preprocessing.tokenizers")

    def __getattr__(name: str) -> Any:
        if name in ("layers", "models"):
            return importlib.import_module(f".{name}", __name__)
        if name in ("embed", "generate", "generate_images", "stream"):
            return getattr(importlib.import_module(".generation", __name__), name)
        if name == "upload_preset":
            from .presets.uploading import upload_preset

            return upload_preset
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
