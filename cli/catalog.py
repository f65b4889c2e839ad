"""Commands about presets: `list`, `info`, `verify`, `download`."""

from __future__ import annotations

import difflib
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ._app import (
    AsJson,
    Preset,
    app,
    complete_family,
    families,
    print_json,
    printable,
    terminal,
    working,
)
from ._loading import Dequantize, saved_dtype


@app.command("list")
def list_presets(
    text: Annotated[
        str, typer.Argument(help="Only those with this in their id or class.", show_default=False)
    ] = "",
    family: Annotated[
        str,
        typer.Option(
            help="Only those of this family, such as bert.",
            autocompletion=complete_family,
            show_default=False,
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the built-in presets: id, parameters, handle.

    Example: keras-hub-torch list --family gemma
    """
    from ..presets import builtin

    available = builtin.available()
    presets: list[dict[str, Any]] = []
    for preset_id, preset in builtin.presets_of().items():
        class_name = builtin.class_of(preset_id) or ""
        presets.append(
            {
                "id": preset_id,
                "class": class_name,
                "family": builtin.family_of(class_name),
                "parameters": preset["metadata"]["params"],
                "handle": preset["kaggle_handle"],
                "available": class_name in available,
            }
        )
    known = families()
    if family and family not in known:
        raise typer.BadParameter(f"there is no family {family!r}.{_near(family, known)}")
    found = [
        preset
        for preset in presets
        if family in ("", preset["family"])
        and text.lower() in f"{preset['id']} {preset['class']}".lower()
    ]
    if not found:
        raise ValueError(f"No built-in preset matches {text!r}.{_near(text, builtin.presets_of())}")
    found.sort(key=lambda preset: (preset["class"], preset["id"]))
    if as_json:
        print_json(found)
    else:
        _print_presets(found)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f" Did you mean {near[0]}?" if near else ""


def _print_presets(presets: list[dict[str, Any]]) -> None:
    from rich.text import Text

    console = terminal()
    width = max(len(preset["id"]) for preset in presets)
    lines = [
        (preset, f"  {preset['id']:{width}}  {_short(preset['parameters']):>6}")
        for preset in presets
    ]
    wide = all(len(line) + 2 + len(preset["handle"]) <= console.width for preset, line in lines)
    for class_name, group in itertools.groupby(lines, lambda line: line[0]["class"]):
        rows = list(group)
        heading = Text(class_name, "bold")
        if not rows[0][0]["available"]:
            heading.append("  not in this version yet", "not bold yellow")
        console.print(heading)
        for preset, line in rows:
            gap = "  " if wide else "\n      "
            console.print(Text.assemble(line, gap, (preset["handle"], "cyan")), soft_wrap=True)


def _short(number: int | None) -> str:
    """`109482240` → `109.5M`."""
    value = float(number or 0)
    for unit in ("", "K", "M", "B"):
        if value < 999.95 or unit == "B":
            break
        value /= 1000
    return f"{value:.1f}{unit}" if unit else f"{value:.0f}"


@app.command()
def info(preset: Preset, as_json: AsJson = False) -> None:
    """Show a preset's configuration, files and layers; of a remote one only config.json is fetched.

    Example: keras-hub-torch info bert_tiny_en_uncased
    """
    from ..models import Backbone
    from ..presets.checkpoints import configuration
    from ..presets.companions import companions
    from ..presets.sources import open_preset
    from ..presets.summary import layer_tree, totals

    def read() -> tuple[dict[str, Any], Any, dict[str, int] | None, list[str] | None]:
        config = configuration(source)[1]
        model = Backbone.from_preset(preset, load_weights=False, device="meta")
        sizes = source.sizes()
        return config, model, sizes, None if sizes is None else companions(source)

    with working():
        source = open_preset(preset)
        config, model, sizes, beside = source.consistently(read)
    if as_json:
        print_json(
            {
                "preset": preset,
                "class": type(model).__name__,
                **totals(model),
                "saved_dtype": _dtype_name(saved_dtype(config)),
                "quantization": _quantization(config),
                "files": sizes,
                "companions": beside,
                "config": model.get_config(),
                "layers": layer_tree(model).to_json()["layers"],
            }
        )
    else:
        _print_info(model, preset, config, sizes, beside)


def _print_info(
    model: Any,
    preset: str,
    config: dict[str, Any],
    sizes: dict[str, int] | None,
    beside: list[str] | None,
) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    from ..presets.companions import summary
    from ..presets.summary import summary_table, totals_line

    console = terminal()
    files = "not known before the download"
    if sizes is not None:
        width = max(map(len, sizes), default=0)
        files = "\n".join(f"{printable(name):{width}}  {decimal(sizes[name])}" for name in sizes)
    method = _quantization(config)
    arguments = model.get_config()
    del arguments["dtype"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in (
        ("Preset", preset),
        ("Class", type(model).__name__),
        ("Saved dtype", _dtype_name(saved_dtype(config)) or "not recorded"),
        *([("Quantized", method)] if method else []),
        ("Files", files),
        *([("Beside it", printable(summary(beside)))] if beside else []),
        ("Config", "\n".join(_lines(arguments))),
    ):
        grid.add_row(name, _plain(value))
    console.print(grid)
    console.print()
    console.print(summary_table(model, console))
    console.print(totals_line(model), highlight=False)


def _plain(text: str) -> Any:
    from rich.text import Text

    return Text(text)


def _lines(value: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A configuration as `key = value`, those within it indented."""
    for key, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield f"{indent}{key}"
            yield from _lines(inner, indent + "  ")
        else:
            yield f"{indent}{key} = {json.dumps(inner)}"


def _quantization(config: dict[str, Any]) -> str | None:
    """The method by which a checkpoint of transformers is quantized, if it is."""
    from ..presets.checkpoints import TRANSFORMERS

    settings = TRANSFORMERS.quantization(config)
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    return None if method is None else printable(str(method))


def _dtype_name(dtype: Any) -> str | None:
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        dtype = name or dtype.get("class_name")
    return dtype if isinstance(dtype, str) else None


@app.command()
def verify(preset: Preset, dequantize: Dequantize = False) -> None:
    """Check that the weights are exactly the model's: none missing, none left over, equal shapes.

    Only headers are read, so it takes no memory and little time; a remote preset is downloaded.

    Example: keras-hub-torch verify ./my_preset
    """
    from rich.filesize import decimal

    from ..presets.companions import summary
    from ..presets.verifying import verify_preset

    with working():
        verified = verify_preset(preset, dequantize)
    model = verified.model
    typer.echo(
        f"config.json: {type(model).__name__} with {len(model.state_dict()):,} weights, "
        f"{model.count_params():,} parameters"
    )
    for file, count in sorted(verified.files.items()):
        size = decimal(verified.sizes[file])
        tensors = "1 tensor" if count == 1 else f"{count:,} tensors"
        typer.echo(f"{printable(file.name)}: {tensors}, {size}")
    if verified.ignored:
        typer.echo(f"No part of the backbone: {_some(verified.ignored)}")
    if verified.companions:
        typer.echo(f"Beside the backbone: {printable(summary(verified.companions))}")
    if verified.drawn:
        typer.echo(f"Not in the files, so drawn at random: {_some(verified.drawn)}")
    typer.echo("All weights are accounted for, each once and in its shape.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
    return printable(", ".join(names[:4]) + more)


@app.command()
def download(preset: Preset) -> None:
    """Download all files of a preset into its hub's cache, and print the folder.

    Without the hub the folder is what an earlier download left there.

    Example: keras-hub-torch download bert_tiny_en_uncased
    """
    from ..presets.sources import open_preset

    with working():
        source = open_preset(preset)
        try:
            folder = source.download_all()
        except ConnectionError as error:
            cached = source.cached()
            if cached is None:
                raise
            _check_cached(cached, error)
            folder = cached
            warnings.warn(f"{error} The folder is from the cache.", stacklevel=1)
    typer.echo(folder)


def _check_cached(folder: Path, reason: ConnectionError) -> None:
    """Whether a backbone can be loaded from what is in the cache."""
    from ..presets.checkpoints import configuration
    from ..presets.sources import open_preset
    from ..presets.uploading import check_weights

    try:
        check_weights(*configuration(open_preset(folder)))
    except FileNotFoundError as error:
        raise ConnectionError(f"{reason} And the cache holds but a part: {error}") from error
