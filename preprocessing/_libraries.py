"""What others have written, imported when it is needed."""

from __future__ import annotations

import importlib
from typing import Any


def library(name: str, extra: str) -> Any:
    """A library that is no dependency of the package.

    Args:
        name: of the module.
        extra: of this package, that brings it.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise
        raise ImportError(
            f"This needs `{error.name}`. Run `pip install 'keras_hub_torch[{extra}]'`."
        ) from error
