"""The command line: `keras-hub-torch`, or `python -m keras_hub_torch`."""

from __future__ import annotations

import contextlib
import difflib
import io
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

# What a user's input or a stranger's files can cause; anything else is a mistake of ours.
EXPECTED = (ValueError, TypeError, OSError, NotImplementedError, ImportError)


class Commands(TyperGroup):
    """Turns expected errors into a line on stderr and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--debug" in args:  # before or after the command's name
            args = ["--debug", *(arg for arg in args if arg != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _print_warning
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader has seen enough
            raise
        except EXPECTED as error:
            if ctx.params["debug"]:
                raise
            text = str(error).strip() or type(error).__name__
            if ctx.invoked_subcommand != "verify":
                text = _one_line(text)
            typer.echo(f"error: {_printable(text)}", err=True)
            raise typer.Exit(1) from None


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    typer.echo(f"warning: {_printable(_one_line(str(message)))}", err=True)


def _one_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    more = f" … and {len(lines) - 2} more lines (--debug shows them)" if len(lines) > 2 else ""
    return " ".join(lines[:2]) + more


def _printable(text: str) -> str:
    """Without the control characters that a file's names may have for a terminal."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Preset = Annotated[
    str,
    typer.Argument(
        help="A built-in id (`list` shows them), a handle (kaggle://org/model/keras/variant, "
        "hf://org/name, modelscope://org/name), or a folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not every terminal and path is UTF-8
            stream.reconfigure(errors="backslashreplace")
    app(prog_name="keras-hub-torch")


def _print_version(wanted: bool) -> None:
    if wanted:
        from . import __version__

        typer.echo(f"keras_hub_torch {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """KerasHub's pretrained backbones as plain PyTorch modules."""


@app.command("list")
def list_presets(
    text: Annotated[
        str, typer.Argument(help="Only those with this in their id or class.", show_default=False)
    ] = "",
    family: Annotated[
        str, typer.Option(help="Only those of this family, such as bert.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the built-in presets: id, parameters, handle.

    Example: keras-hub-torch list --family gemma
    """
    from .backbones._backbone import Backbone
    from .backbones._registry import public_classes
    from .presets import builtin

    available = public_classes(Backbone)
    presets: list[dict[str, Any]] = []
    for preset_id, preset in builtin.presets_of().items():
        class_name = builtin.class_of(preset_id) or ""
        presets.append(
            {
                "id": preset_id,
                "class": class_name,
                "family": (builtin.keras_module(class_name) or "").split(".")[-2],
                "parameters": preset["metadata"]["params"],
                "handle": preset["kaggle_handle"],
                "available": class_name in available,
            }
        )
    families = {preset["family"] for preset in presets}
    if family and family not in families:
        raise typer.BadParameter(f"there is no family {family!r}.{_near(family, families)}")
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
        _print_json(found)
    else:
        _print_presets(found)


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(known), 1)
    return f" Did you mean {near[0]}?" if near else ""


def _print_presets(presets: list[dict[str, Any]]) -> None:
    from rich.text import Text

    console = _console()
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
    from .models import Backbone
    from .presets.sources import open_preset
    from .presets.summary import layer_tree, totals

    with _working():
        source = open_preset(preset)
        config = source.json("config.json")
        model = Backbone.from_preset(preset, load_weights=False, device="meta")
        sizes = source.sizes()
    if as_json:
        _print_json(
            {
                "preset": preset,
                "class": type(model).__name__,
                **totals(model),
                "saved_dtype": _dtype_name(_saved_dtype(config)),
                "files": sizes,
                "config": model.get_config(),
                "layers": layer_tree(model).to_json()["layers"],
            }
        )
    else:
        _print_info(model, preset, config, sizes)


def _print_info(
    model: Any, preset: str, config: dict[str, Any], sizes: dict[str, int] | None
) -> None:
    from rich.filesize import decimal
    from rich.table import Table

    from .presets.summary import summary_table, totals_line

    console = _console()
    files = "not known before the download"
    if sizes is not None:
        width = max(map(len, sizes))
        files = "\n".join(f"{_printable(name):{width}}  {decimal(sizes[name])}" for name in sizes)
    arguments = model.get_config()
    del arguments["dtype"]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in (
        ("Preset", preset),
        ("Class", type(model).__name__),
        ("Saved dtype", _dtype_name(_saved_dtype(config)) or "not recorded"),
        ("Files", files),
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


def _saved_dtype(config: dict[str, Any]) -> Any:
    """What a preset of either format says about the data type of its weights."""
    arguments = config.get("config")
    if not isinstance(arguments, dict):
        arguments = config
    return arguments.get("dtype") or arguments.get("torch_dtype")


def _dtype_name(dtype: Any) -> str | None:
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        dtype = name or dtype.get("class_name")
    return dtype if isinstance(dtype, str) else None


@app.command()
def verify(preset: Preset) -> None:
    """Check that the weights are exactly the model's: none missing, none left over, equal shapes.

    Only headers are read, so it takes no memory and little time; a remote preset is downloaded.

    Example: keras-hub-torch verify ./my_preset
    """
    from rich.filesize import decimal

    from .presets.verifying import verify_preset

    with _working():
        verified = verify_preset(preset)
    model = verified.model
    typer.echo(
        f"config.json: {type(model).__name__} with {len(model.state_dict()):,} weights, "
        f"{model.count_params():,} parameters"
    )
    for file, count in sorted(verified.files.items()):
        size = decimal(file.stat().st_size)
        tensors = "1 tensor" if count == 1 else f"{count:,} tensors"
        typer.echo(f"{_printable(file.name)}: {tensors}, {size}")
    if verified.ignored:
        typer.echo(f"No part of the backbone: {_some(verified.ignored)}")
    if verified.drawn:
        typer.echo(f"Not in the files, so drawn at random: {_some(verified.drawn)}")
    typer.echo("All weights are accounted for, each once and in its shape.")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4:,} more" if len(names) > 4 else ""
    return _printable(", ".join(names[:4]) + more)


class Format(str, Enum):
    keras = "keras"
    safetensors = "safetensors"
    transformers = "transformers"
    timm = "timm"


class DType(str, Enum):
    """The policies of `backbones.layers.dtypes`, which would bring torch along."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float64 = "float64"
    mixed_bfloat16 = "mixed_bfloat16"
    mixed_float16 = "mixed_float16"


@app.command()
def convert(
    src: Preset,
    dst: Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)],
    format: Annotated[
        Format,
        typer.Option(
            help="keras: .weights.h5, for KerasHub and this package. safetensors: for this "
            "package only. transformers, timm: for these.",
            show_default=False,
        ),
    ],
    dtype: Annotated[
        DType | None, typer.Option(help="That of the preset by default.", show_default=False)
    ] = None,
    max_shard_size: Annotated[
        float | None,
        typer.Option(
            help="Split larger models into files of this many GiB, 10 by default; keras only.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder that is not empty.")
    ] = False,
) -> None:
    """Convert a preset's backbone to another format or data type.

    Tokenizers and preprocessors are not copied.

    Example: keras-hub-torch convert bert_tiny_en_uncased ./bert --format transformers
    """
    if max_shard_size is not None and format is not Format.keras:
        raise typer.BadParameter("--max-shard-size needs --format keras.")
    if dst.exists() and not dst.is_dir():
        raise NotADirectoryError(f"{dst} is a file; a preset is a folder.")
    if dst.is_dir() and any(dst.iterdir()) and not overwrite:
        raise FileExistsError(
            f"{dst} is not empty; with --overwrite it is written to all the same."
        )
    from .models import Backbone
    from .presets.sources import open_preset
    from .presets.summary import totals_line

    with _working():
        wanted = dtype.value if dtype else _saved_dtype(open_preset(src).json("config.json"))
        model: Any = Backbone.from_preset(src, dtype=wanted)
        if format is Format.transformers:
            model.export_to_transformers(dst)
        elif format is Format.timm:
            model.export_to_timm(dst)
        else:
            model.save_to_preset(
                dst, 10 if max_shard_size is None else max_shard_size, format=format.value
            )
    typer.echo(f"{dst}: {type(model).__name__}, {totals_line(model)}")


@app.command()
def download(preset: Preset) -> None:
    """Download all files of a preset into its hub's cache, and print the folder.

    Example: keras-hub-torch download bert_tiny_en_uncased
    """
    from .presets.sources import open_preset

    with _working():
        folder = open_preset(preset).download_all()
    typer.echo(folder)


# Output


def _console() -> Console:
    from rich.console import Console

    # In a pipe nothing is wrapped.
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=10_000 if piped else None)


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2))


@contextlib.contextmanager
def _working() -> Iterator[None]:
    """Progress goes to stderr: what the hubs' clients print, and on a terminal bars of ours."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from .presets.progress import shown_by

    progress = Progress(
        "{task.description}",
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )

    def show(items: list[Any], what: str, sizes: list[int]) -> Iterator[Any]:
        progress.start()
        # A single step has no halfway.
        task = progress.add_task(what, total=sum(sizes) if len(items) > 1 else None)
        for item, size in zip(items, sizes):
            yield item
            progress.advance(task, size)
        progress.remove_task(task)
        progress.stop()

    with contextlib.redirect_stdout(sys.stderr):
        if not progress.console.is_terminal:
            yield
            return
        with shown_by(show):
            try:
                yield
            finally:
                progress.stop()
