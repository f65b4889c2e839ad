"""Models for the commands that run them."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

import typer

Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16, float64, mixed_bfloat16 or mixed_float16, also as "
        "torch.float16; auto: that of the weights' files. What config.json records by default.",
        show_default=False,
    ),
]
Dequantize = Annotated[
    bool,
    typer.Option(
        "--dequantize", help="Read quantized weights of a transformers checkpoint as floats."
    ),
]


def check_dtype(dtype: str | None) -> None:
    """Refuse what is no dtype, as one of the command line's errors."""
    from ..backbones.layers.dtypes import DTypePolicy

    if dtype not in (None, "auto"):
        try:
            DTypePolicy.get(dtype)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None


def load(preset: str, dtype: str | None, dequantize: bool = False) -> Any:
    """The model, in the data type asked for or else in the recorded one."""
    from ..backbones.layers.dtypes import DTypePolicy
    from ..models import Backbone
    from ..presets.checkpoints import configuration, dialect_of
    from ..presets.sources import open_preset

    def read() -> Any:
        wanted = dtype
        if wanted is None:
            config = configuration(source)[1]
            wanted = saved_dtype(config)
            if wanted not in (None, "auto") and dialect_of(config) is not None:
                try:
                    DTypePolicy.get(wanted)
                except ValueError as error:
                    warnings.warn(f"config.json: {error} It becomes float32.", stacklevel=1)
                    wanted = None
        return Backbone.from_preset(preset, dtype=wanted, dequantize=dequantize)

    source = open_preset(preset)
    return source.consistently(read)


def load_assistant(preset: str, dtype: str | None, target: Any) -> Any:
    """What drafts for a model: a decoder, or one of the target's own assistants."""
    from ..presets.drafters import find_drafter
    from ..presets.sources import open_preset

    source = open_preset(preset)
    drafter = source.consistently(lambda: find_drafter(source))
    if drafter is None:
        return load(preset, dtype)
    return drafter.from_preset(preset, dtype=dtype or target.dtype_policy)


def saved_dtype(config: dict[str, Any]) -> Any:
    """What a preset of either format says about the data type of its weights."""
    arguments = config.get("config")
    if not isinstance(arguments, dict):
        arguments = config
    return arguments.get("dtype") or arguments.get("torch_dtype")
