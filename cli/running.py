"""Commands that run models: `tokenize`, `embed`, `generate`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ._app import Preset, app, printable, working
from ._loading import Dtype, check_dtype, load, load_assistant


class Sampler(str, Enum):
    auto = "auto"
    greedy = "greedy"
    random = "random"
    top_k = "top_k"
    top_p = "top_p"


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
    from ..preprocessing.tokenizers.base import Tokenizer

    text = _given(text)
    with working():
        tokenizer = Tokenizer.from_preset(preset)
    ids = tokenizer.tokenize(text, special_tokens_in_strings=False if plain else None)
    if tokens:
        for id in ids:
            typer.echo(f"{id}\t{printable(tokenizer.id_to_token(id))}")
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
    check_dtype(dtype)
    from ..generation.embedding import embed as embedded

    with working():
        model = load(preset, dtype).to(device)
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
    chat: Annotated[
        bool, typer.Option("--chat", help="The prompt is what a user says; print the answer.")
    ] = False,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A picture that goes with the prompt; may be given again."),
    ] = None,
    audio: Annotated[
        Path | None,
        typer.Option(help="A wav file that goes with the prompt, or that is to be transcribed."),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(help="With --chat, what the model is told before.", show_default=False),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="How many tokens at most.")] = 32,
    sampler: Annotated[
        Sampler,
        typer.Option(
            help="How each token is chosen; auto is as a transformers checkpoint wants it, greedy "
            "where it says nothing."
        ),
    ] = Sampler.greedy,
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
    assistant: Annotated[
        str | None,
        typer.Option(
            help="Preset of a smaller model that drafts tokens, for the same text sooner.",
            show_default=False,
        ),
    ] = None,
    dtype: Dtype = None,
    device: Device = "cpu",
) -> None:
    """Continue a prompt, and print what is new as it comes: text of text, ids of ids.

    With --chat the checkpoint's chat template makes the prompt, and has its places for images and
    sound; without it they are in the prompt, in the words of the model's preprocessor.

    Example: keras-hub-torch generate gpt2_base_en "The capital of France is"

    Example: keras-hub-torch generate whisper_tiny_en --audio a.wav
    """
    media = {"image": image or [], "audio": [] if audio is None else [audio]}
    if (prompt is None and audio is None) == (ids is None):
        raise typer.BadParameter("Give either a prompt or --ids.")
    if prompt is None and image:
        raise typer.BadParameter("--image needs a prompt.")
    if (prompt is None and chat) or (not chat and system is not None):
        raise typer.BadParameter("--chat needs a prompt, and --system needs --chat.")
    row = [] if ids is None else _ids(sys.stdin.read() if ids == "-" else ids, "--ids")
    stops = _ids(stop, "--stop") if stop else []
    text: Any = None if prompt is None else _given(prompt)
    if chat:
        told = [] if system is None else [{"role": "system", "content": system}]
        parts = [{"type": kind, kind: one} for kind, paths in media.items() for one in paths]
        content = [*parts, {"type": "text", "text": text}] if parts else text
        text = [*told, {"role": "user", "content": content}]
    check_dtype(dtype)
    import torch

    from ..generation import stream

    with working():
        model = load(preset, dtype).to(device)
        drafting = None
        if assistant is not None:
            drafting = load_assistant(assistant, dtype, model).to(device)
    size = getattr(model.token_embedding, "num_embeddings", None)
    if size is not None and max(row, default=0) >= size:
        raise ValueError(f"{max(row)} is no id of {preset}, which has {size:,}.")
    if not chat and any(media.values()):
        text = _with_media(model, text, media)
    if seed is not None:
        torch.manual_seed(seed)
    steps: Iterator[Any] = stream(
        model,
        [row] if text is None else text,
        max_new_tokens=max_new_tokens,
        sampler=sampler.value,
        stop_token_ids=stops or "auto",
        assistant_model=drafting,
    )
    if text is None:
        steps = (f"{',' * (i > 0)}{tokens.item()}" for i, tokens in enumerate(steps))
    for piece in steps:
        sys.stdout.write(printable(piece))
        sys.stdout.flush()
    typer.echo()


def _with_media(model: Any, prompt: str | None, paths: dict[str, list[Path]]) -> dict[str, Any]:
    """What the model's preprocessor takes of a prompt, if there is one, and files."""
    from ..preprocessing.prompts import text_preprocessor

    preprocessor = text_preprocessor(model)
    known = getattr(preprocessor, "media", {})
    found: dict[str, Any] = {} if prompt is None else {preprocessor.text_name: prompt}
    for kind, files in paths.items():
        name = known[kind].name if kind in known else {"image": "images", "audio": "audio"}[kind]
        if files:
            found[name] = files[0] if len(files) == 1 else files
    return found


def _given(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _ids(text: str, option: str) -> list[int]:
    found = re.split(r"[\s,]+", text.strip(" \t\n,[]"))
    if not all(re.fullmatch(r"[0-9]+", one) for one in found):
        raise typer.BadParameter(f"{option} takes whole numbers with commas between, 1,2,3.")
    return list(map(int, found))
