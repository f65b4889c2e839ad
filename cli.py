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
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _complete_preset(incomplete: str) -> list[str]:
    """Built-in ids; a shell completes paths where there are none."""
    from .presets import builtin

    return [one for one in builtin.presets_of() if one.startswith(incomplete)]


def _complete_family(incomplete: str) -> list[str]:
    return [one for one in _families() if one.startswith(incomplete)]


def _families() -> list[str]:
    """Those that have presets."""
    from .presets import builtin

    names = {builtin.class_of(preset) or "" for preset in builtin.presets_of()}
    return sorted(set(map(builtin.family_of, names)))


Preset = Annotated[
    str,
    typer.Argument(
        autocompletion=_complete_preset,
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
        str,
        typer.Option(
            help="Only those of this family, such as bert.",
            autocompletion=_complete_family,
            show_default=False,
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the built-in presets: id, parameters, handle.

    Example: keras-hub-torch list --family gemma
    """
    from .presets import builtin

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
    families = _families()
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
    from .presets.checkpoints import configuration
    from .presets.companions import companions
    from .presets.sources import open_preset
    from .presets.summary import layer_tree, totals

    def read() -> tuple[dict[str, Any], Any, dict[str, int] | None, list[str] | None]:
        config = configuration(source)[1]
        model = Backbone.from_preset(preset, load_weights=False, device="meta")
        sizes = source.sizes()
        return config, model, sizes, None if sizes is None else companions(source)

    with _working():
        source = open_preset(preset)
        config, model, sizes, beside = source.consistently(read)
    if as_json:
        _print_json(
            {
                "preset": preset,
                "class": type(model).__name__,
                **totals(model),
                "saved_dtype": _dtype_name(_saved_dtype(config)),
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

    from .presets.companions import summary
    from .presets.summary import summary_table, totals_line

    console = _console()
    files = "not known before the download"
    if sizes is not None:
        width = max(map(len, sizes), default=0)
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
        *([("Beside it", _printable(summary(beside)))] if beside else []),
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

    from .presets.companions import summary
    from .presets.verifying import verify_preset

    with _working():
        verified = verify_preset(preset)
    model = verified.model
    typer.echo(
        f"config.json: {type(model).__name__} with {len(model.state_dict()):,} weights, "
        f"{model.count_params():,} parameters"
    )
    for file, count in sorted(verified.files.items()):
        size = decimal(verified.sizes[file])
        tensors = "1 tensor" if count == 1 else f"{count:,} tensors"
        typer.echo(f"{_printable(file.name)}: {tensors}, {size}")
    if verified.ignored:
        typer.echo(f"No part of the backbone: {_some(verified.ignored)}")
    if verified.companions:
        typer.echo(f"Beside the backbone: {_printable(summary(verified.companions))}")
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


class Sampler(str, Enum):
    greedy = "greedy"
    random = "random"
    top_k = "top_k"
    top_p = "top_p"


Destination = Annotated[Path, typer.Argument(help="The folder to write.", show_default=False)]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32, bfloat16, float16, float64, mixed_bfloat16 or mixed_float16, also as "
        "torch.float16; auto: that of the weights' files. What config.json records by default.",
        show_default=False,
    ),
]
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
    "transformers, timm: for these."
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
) -> None:
    """Convert a preset to another format or data type.

    Tokenizer, preprocessor, converters and a task's head go along where the format has them; what
    does not is named.

    Example: keras-hub-torch convert bert_tiny_en_uncased ./bert --format transformers
    """
    _check_target(dst, format, dtype, max_shard_size, overwrite)
    from .presets.companions import summary
    from .presets.sources import open_preset

    with _working():
        model = _load(src, dtype)
        left = _not_carried(open_preset(src), dst)
        carried = _save(model, dst, format, max_shard_size, carry)
    if carried:
        typer.echo(f"Carried along: {_printable(summary(carried))}")
    same = format in (Format.keras, Format.safetensors)
    left = [name for name in left if not same or name not in summary(carried).split(", ")]
    if left:
        typer.echo(f"Not carried over: {_printable(', '.join(left))}", err=True)
    _report(model, dst)


def _check_target(
    dst: Path, format: Format, dtype: str | None, max_shard_size: float | None, overwrite: bool
) -> None:
    """Refuse what cannot be written, before anything is read."""
    if max_shard_size is not None and format is not Format.keras:
        raise typer.BadParameter("--max-shard-size needs --format keras.")
    _check_dtype(dtype)
    if dtype and dtype.startswith("mixed_") and format in (Format.transformers, Format.timm):
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


def _check_dtype(dtype: str | None) -> None:
    from .backbones.layers.dtypes import DTypePolicy

    if dtype not in (None, "auto"):
        try:
            DTypePolicy.get(dtype)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None


def _load(preset: str, dtype: str | None) -> Any:
    """The model, in the data type asked for or else in the recorded one."""
    from .backbones.layers.dtypes import DTypePolicy
    from .models import Backbone
    from .presets.checkpoints import configuration, dialect_of
    from .presets.sources import open_preset

    def read() -> Any:
        wanted = dtype
        if wanted is None:
            config = configuration(source)[1]
            wanted = _saved_dtype(config)
            if wanted not in (None, "auto") and dialect_of(config) is not None:
                try:
                    DTypePolicy.get(wanted)
                except ValueError as error:
                    warnings.warn(f"config.json: {error} It becomes float32.", stacklevel=1)
                    wanted = None
        return Backbone.from_preset(preset, dtype=wanted)

    source = open_preset(preset)
    return source.consistently(read)


def _save(
    model: Any, dst: Path, format: Format, max_shard_size: float | None, carry: bool = True
) -> list[str]:
    """Write a model. Gives the names of what went along."""
    if format is Format.transformers:
        return list(model.export_to_transformers(dst, carry=carry))
    if format is Format.timm:
        model.export_to_timm(dst)
        return []
    size = 10 if max_shard_size is None else max_shard_size
    return list(model.save_to_preset(dst, size, format=format.value, carry=carry))


def _report(model: Any, dst: Path) -> None:
    from .presets.summary import totals_line

    typer.echo(f"{dst}: {type(model).__name__}, {totals_line(model)}")


# What a backbone is read from.
CARRIED = re.compile(
    r"(config|metadata)\.json|model[^/]*\.(weights\.h5|weights\.json|safetensors(\.index\.json)?)"
    r"|pytorch_model[^/]*\.bin(\.index\.json)?"
)
# Where a hub gives no list; task.weights.h5 would be a large download.
PARTS = ("tokenizer.json", "preprocessor.json", "image_converter.json", "audio_converter.json")


def _not_carried(source: Any, dst: Path) -> list[str]:
    """The files and folders of a preset that are no part of its backbone."""
    from .presets.sources import PresetSource

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


@app.command()
def download(preset: Preset) -> None:
    """Download all files of a preset into its hub's cache, and print the folder.

    Without the hub the folder is what an earlier download left there.

    Example: keras-hub-torch download bert_tiny_en_uncased
    """
    from .presets.sources import open_preset

    with _working():
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
    from .presets.sources import open_preset
    from .presets.uploading import check_weights

    try:
        source = open_preset(folder)
        check_weights(source, source.json("config.json"))
    except FileNotFoundError as error:
        raise ConnectionError(f"{reason} And the cache holds but a part: {error}") from error


Text = Annotated[str, typer.Argument(help="Text; - reads it from stdin.", show_default=False)]
Device = Annotated[str, typer.Option(help="Such as cuda.")]


@app.command()
def tokenize(
    preset: Preset,
    text: Text,
    tokens: Annotated[bool, typer.Option("--tokens", help="Print the tokens, too.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="What looks like a special token is none.")
    ] = False,
) -> None:
    """Print the ids of a text's tokens, without those that a model gets besides.

    Example: keras-hub-torch tokenize gpt2_base_en "The capital of France is"
    """
    from .preprocessing.tokenizers.base import Tokenizer

    text = _given(text)
    with _working():
        tokenizer = Tokenizer.from_preset(preset)
    ids = tokenizer.tokenize(text, special_tokens_in_strings=False if plain else None)
    if tokens:
        for id in ids:
            typer.echo(f"{id}\t{_printable(tokenizer.id_to_token(id))}")
    else:
        typer.echo(",".join(map(str, ids)))


@app.command()
def embed(
    preset: Preset,
    texts: Annotated[list[str], typer.Argument(help="Texts.", show_default=False)],
    pooling: Annotated[
        str | None,
        typer.Option(
            help="mean, max, cls (the first token) or last. What the preset says by default.",
            show_default=False,
        ),
    ] = None,
    dtype: Dtype = None,
    device: Device = "cpu",
) -> None:
    """Print the vector of each text, a JSON list in a line of its own.

    Example: keras-hub-torch embed bert_tiny_en_uncased "A sentence." "Another one."
    """
    _check_dtype(dtype)
    from .generation.embedding import embed as embedded

    with _working():
        model = _load(preset, dtype).to(device)
        vectors = embedded(model, texts, pooling)
    for vector in vectors.tolist():
        typer.echo(json.dumps(vector))


@app.command()
def generate(
    preset: Preset,
    prompt: Annotated[
        str | None, typer.Argument(help="Text; - reads it from stdin.", show_default=False)
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            help="The prompt's token ids instead: 1,2,3 (- reads them from stdin).",
            show_default=False,
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens at most.")] = 32,
    sampler: Annotated[Sampler, typer.Option(help="How each token is chosen.")] = Sampler.greedy,
    stop: Annotated[
        str,
        typer.Option(
            help="Ids that end the text, such as 2,3; the tokenizer's by default, where there is "
            "text.",
            show_default=False,
        ),
    ] = "",
    seed: Annotated[
        int | None, typer.Option(help="Of the random samplers.", show_default=False)
    ] = None,
    dtype: Dtype = None,
    device: Device = "cpu",
) -> None:
    """Continue a prompt, and print what is new as it comes: text of text, ids of ids.

    Example: keras-hub-torch generate gpt2_base_en "The capital of France is"
    """
    if (prompt is None) == (ids is None):
        raise typer.BadParameter("Give either a prompt or --ids.")
    row = [] if ids is None else _ids(sys.stdin.read() if ids == "-" else ids, "--ids")
    stops = _ids(stop, "--stop") if stop else []
    text = None if prompt is None else _given(prompt)
    _check_dtype(dtype)
    import torch

    from .generation import stream

    with _working():
        model = _load(preset, dtype).to(device)
    size = getattr(model.token_embedding, "num_embeddings", None)
    if size is not None and max(row, default=0) >= size:
        raise ValueError(f"{max(row)} is no id of {preset}, which has {size:,}.")
    if seed is not None:
        torch.manual_seed(seed)
    steps: Iterator[Any] = stream(
        model,
        [row] if text is None else text,
        max_new_tokens=max_new_tokens,
        sampler=sampler.value,
        stop_token_ids=stops or "auto",
    )
    if text is None:
        steps = (f"{',' * (i > 0)}{tokens.item()}" for i, tokens in enumerate(steps))
    for piece in steps:
        sys.stdout.write(_printable(piece))
        sys.stdout.flush()
    typer.echo()


def _given(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _ids(text: str, option: str) -> list[int]:
    found = re.split(r"[\s,]+", text.strip(" \t\n,[]"))
    if not all(re.fullmatch(r"[0-9]+", one) for one in found):
        raise typer.BadParameter(f"{option} takes whole numbers with commas between, 1,2,3.")
    return list(map(int, found))


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
) -> None:
    """Add an adapter into the weights of its preset, and write the sum as a preset.

    Example: keras-hub-torch adapter merge bert_tiny_en_uncased my.lora.h5 ./merged
    """
    _check_target(dst, format, dtype, max_shard_size, overwrite)
    with _working():
        model = _load(preset, dtype)
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
    from .models import Backbone

    with _working():
        model = Backbone.from_preset(preset, load_weights=False, device="meta")
        # Adapters are made where the weights are; theirs is memory that nobody touches.
        model.to_empty(device="cpu")
        model.load_lora_weights(adapter)
        is_keras = dst.name.endswith(".lora.h5")
        model.save_lora_weights(dst, format="keras" if is_keras else "peft")
    typer.echo(dst)


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
