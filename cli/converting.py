"""Commands that write presets and adapters: `convert`, `adapter`."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ._app import Preset, app, printable, working
from ._loading import Dequantize, Dtype, check_dtype, load


class Format(str, Enum):
    keras = "keras"
    safetensors = "safetensors"
    transformers = "transformers"
    timm = "timm"
    diffusers = "diffusers"


OWN = (Format.keras, Format.safetensors)


Destination = Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)]


Shards = Annotated[
    float | None,
    typer.Option(
        help="Split larger models into files of this many GiB, 10 by default; keras only.",
        show_default=False,
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")
]
FORMATS = (
    "keras: .weights.h5, for KerasHub and this package. safetensors: for this package only. "
    "transformers, timm, diffusers: for these."
)


@app.command()
def convert(
    src: Preset,
    dst: Destination,
    format: Annotated[Format, typer.Option(help=FORMATS, show_default=False)],
    dtype: Dtype = None,
    max_shard_size: Shards = None,
    overwrite: Overwrite = False,
    carry: Annotated[
        bool, typer.Option("--carry/--alone", help="Whether tokenizer and the like go along.")
    ] = True,
    dequantize: Dequantize = False,
) -> None:
    """Convert a preset to another format or data type.

    Tokenizer, preprocessor, converters and a task's head go along where the format has them; what
    does not is named.

    Example: keras-hub-torch convert bert_tiny_en_uncased ./bert --format transformers
    """
    _check_target(dst, format, dtype, max_shard_size, overwrite)
    from ..presets.companions import left_behind, summary
    from ..presets.sources import open_preset

    with working():
        model = load(src, dtype, dequantize)
        left = _not_carried(open_preset(src), dst)
        carried = _save(model, dst, format, max_shard_size, carry)
    if carried:
        typer.echo(f"Carried along: {printable(summary(carried))}")
    left = left_behind(left, carried)
    if left:
        typer.echo(f"Not carried over: {printable(', '.join(left))}", err=True)
    _report(model, dst)


def _check_target(
    dst: Path, format: Format, dtype: str | None, max_shard_size: float | None, overwrite: bool
) -> None:
    """Refuse what cannot be written, before anything is read."""
    if max_shard_size is not None and format is not Format.keras:
        raise typer.BadParameter("--max-shard-size needs --format keras.")
    check_dtype(dtype)
    if dtype and dtype.startswith("mixed_") and format not in OWN:
        raise typer.BadParameter(
            f"{format.value} has no {dtype}: it stores float32 and computes in another type by "
            "autocast. Choose float32, or the type that the weights shall have."
        )
    if dst.exists() and not dst.is_dir():
        raise NotADirectoryError(f"{dst} is a file; a preset is a folder.")
    if dst.is_dir() and any(dst.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{dst} is not empty; with --overwrite it is written to all the same."
        )


def _save(
    model: Any, dst: Path, format: Format, max_shard_size: float | None, carry: bool = True
) -> list[str]:
    """Write a model. Gives the names of what went along."""
    if format is Format.transformers:
        return list(model.export_to_transformers(dst, carry=carry))
    if format is Format.timm:
        model.export_to_timm(dst, carry=carry)
        return []
    if format is Format.diffusers:
        return list(model.export_to_diffusers(dst, carry=carry))
    size = 10 if max_shard_size is None else max_shard_size
    return list(model.save_to_preset(dst, size, format=format.value, carry=carry))


def _report(model: Any, dst: Path) -> None:
    from ..presets.summary import totals_line

    typer.echo(f"{dst}: {type(model).__name__}, {totals_line(model)}")


# What a backbone, or each part of a pipeline, is read from.
CARRIED = re.compile(
    r"(metadata|model_index)\.json|(transformer|vae|scheduler|text_encoder(_\d)?)/.*"
    r"|model[^/]*\.(weights\.h5|weights\.json)"
    r"|(open_clip_)?(config\.json|(pytorch_)?model[^/]*\.(safetensors|bin)(\.index\.json)?)"
)
# Where a hub gives no list; task.weights.h5 would be a large download.
PARTS = ("tokenizer.json", "preprocessor.json", "image_converter.json", "audio_converter.json")


def _not_carried(source: Any, dst: Path) -> list[str]:
    """The files and folders of a preset that are no part of its backbone."""
    from ..presets.sources import PresetSource

    assert isinstance(source, PresetSource)
    names = source.sizes()
    if names is None:
        return [name for name in (*PARTS, "task.json") if source.has(name)]
    if Path(os.path.expanduser(source.handle)).resolve() == dst.resolve():
        return []  # they stay there
    found = {
        name.partition("/")[0] + "/" * ("/" in name)
        for name in names
        if not name.startswith(".") and not CARRIED.fullmatch(name)
    }
    return sorted(found)


# Adapters

adapter = typer.Typer(no_args_is_help=True, help="LoRA adapters, of KerasHub or PEFT.")
app.add_typer(adapter, name="adapter")
AdapterFile = Annotated[
    Path,
    typer.Argument(help="A .lora.h5 file, or a folder that PEFT wrote.", show_default=False),
]


@adapter.command("merge")
def merge_adapter(
    preset: Preset,
    adapter: AdapterFile,
    dst: Destination,
    format: Annotated[Format, typer.Option(help=FORMATS)] = Format.keras,
    dtype: Dtype = None,
    max_shard_size: Shards = None,
    overwrite: Overwrite = False,
    dequantize: Dequantize = False,
) -> None:
    """Add an adapter into the weights of its preset, and write the sum as a preset.

    Example: keras-hub-torch adapter merge bert_tiny_en_uncased my.lora.h5 ./merged
    """
    _check_target(dst, format, dtype, max_shard_size, overwrite)
    with working():
        model = load(preset, dtype, dequantize)
        model.load_lora_weights(adapter)
        model.merge_lora()
        _save(model, dst, format, max_shard_size)
    typer.echo(f"{dst}: {type(model).__name__} with {adapter}")


@adapter.command("convert")
def convert_adapter(
    preset: Preset,
    adapter: AdapterFile,
    dst: Annotated[
        Path,
        typer.Argument(
            help="A file in .lora.h5 for KerasHub, or a folder for PEFT.", show_default=False
        ),
    ],
) -> None:
    """Convert an adapter between .lora.h5 and PEFT; of the preset only config.json is read.

    Example: keras-hub-torch adapter convert bert_tiny_en_uncased my.lora.h5 ./peft
    """
    if dst.exists():
        raise FileExistsError(f"{dst} is there already.")
    from ..models import Backbone

    with working():
        model = Backbone.from_preset(preset, load_weights=False, device="meta")
        # Adapters are made where the weights are; theirs is memory that nobody touches.
        model.to_empty(device="cpu")
        model.load_lora_weights(adapter)
        is_keras = dst.name.endswith(".lora.h5")
        model.save_lora_weights(dst, format="keras" if is_keras else "peft")
    typer.echo(dst)
