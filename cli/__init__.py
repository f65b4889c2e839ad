"""The command line: `keras-hub-torch`, or `python -m keras_hub_torch`."""

from __future__ import annotations

import io
import sys

from . import catalog, converting, running  # noqa: F401 - each adds its commands
from ._app import app


def main() -> None:
    """What the command `keras-hub-torch` runs."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal and path is UTF-8
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="keras-hub-torch")
