"""What all commands share: the application, its errors and warnings, and what they print."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
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
                text = one_line(text)
            typer.echo(f"error: {printable(text)}", err=True)
            raise typer.Exit(1) from None


def _print_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    typer.echo(f"warning: {printable(one_line(str(message)))}", err=True)


def one_line(text: str) -> str:
    """The first two lines of an error as one, and how many more there are."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    more = f" … and {len(lines) - 2} more lines (--debug shows them)" if len(lines) > 2 else ""
    return " ".join(lines[:2]) + more


def printable(text: str) -> str:
    """Without the control characters that a file's names may have for a terminal."""
    return re.sub(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

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


def complete_preset(incomplete: str) -> list[str]:
    """Built-in ids; a shell completes paths where there are none."""
    from ..presets import builtin

    return [one for one in builtin.presets_of() if one.startswith(incomplete)]


def complete_family(incomplete: str) -> list[str]:
    """What a shell suggests."""
    return [one for one in families() if one.startswith(incomplete)]


def families() -> list[str]:
    """Those that have presets."""
    from ..presets import builtin

    names = {builtin.class_of(preset) or "" for preset in builtin.presets_of()}
    return sorted(set(map(builtin.family_of, names)))


Preset = Annotated[
    str,
    typer.Argument(
        autocompletion=complete_preset,
        help="A built-in id (`list` shows them), a handle (kaggle://org/model/keras/variant, "
        "hf://org/name, modelscope://org/name), or a folder.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# Output


def terminal() -> Console:
    """For tables."""
    from rich.console import Console

    # In a pipe nothing is wrapped.
    piped = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=10_000 if piped else None)


def print_json(value: Any) -> None:
    """To stdout."""
    typer.echo(json.dumps(value, indent=2))


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Progress goes to stderr: what the hubs' clients print, and on a terminal bars of ours."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    from ..presets.progress import shown_by

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
