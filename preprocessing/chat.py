"""Conversations as text, as the template of a checkpoint has it.

A template is a program of a stranger's. It runs in Jinja's sandbox, as in transformers, on plain
data, for a limited time.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from ..presets.sources import PresetSource
from ._libraries import library

# A template, or several by name.
Templates = str | Mapping[str, str]

JINJA = "chat_template.jinja"
# Beside that one, those of other names; as transformers before version 5 had all.
JSON = "chat_template.json"
MAX_BYTES = 1024**2
SECONDS = 10.0
REASONING = ("reasoning_content", "thinking", "reasoning")
# Where an image, say, is, if not in the message itself.
PLACES = ("path", "url")
TAG = "CONTINUE_FINAL_MESSAGE_TAG "


# Files


def of_checkpoint(source: PresetSource, config: Mapping[str, Any]) -> Templates | None:
    """What a checkpoint of transformers has.

    Args:
        config: its tokenizer_config.json.

    Raises:
        ValueError: it is no template.
    """
    if source.has(JINJA):
        sizes = source.sizes() or {}
        folder = "additional_chat_templates/"
        more = [name for name in sizes if name.startswith(folder) and name.endswith(".jinja")]
        found = {name[len(folder) : -len(".jinja")]: _read(source.file(name)) for name in more}
        return checked({"default": _read(source.file(JINJA)), **found})
    value = config.get("chat_template")
    if value is None and source.has(JSON):
        value = source.json(JSON).get("chat_template")
    if isinstance(value, list):
        try:
            value = {str(one["name"]): one["template"] for one in value}
        except (KeyError, TypeError) as error:
            raise ValueError("chat_template is no list of names and templates.") from error
    return None if value is None else checked(value)


def of_preset(source: PresetSource, folder: str) -> Templates | None:
    """What is beside the assets of a Keras preset's tokenizer."""
    if not source.has(f"{folder}/{JINJA}"):
        return None
    found = {"default": _read(source.file(f"{folder}/{JINJA}"))}
    if source.has(f"{folder}/{JSON}"):
        found |= source.json(f"{folder}/{JSON}")
    return checked(found)


def files(templates: Templates, folder: str = "") -> Iterator[tuple[str, bytes | dict[str, Any]]]:
    """Contents of the files of a Keras preset, by their names."""
    named = {"default": templates} if isinstance(templates, str) else dict(templates)
    yield f"{folder}{JINJA}", named.pop("default", "").encode()
    if named:
        yield f"{folder}{JSON}", named


def transformers_files(templates: Templates) -> Iterator[tuple[str, bytes | dict[str, Any]]]:
    """Those that transformers reads."""
    named = {"default": templates} if isinstance(templates, str) else templates
    for name, template in named.items():
        place = JINJA if name == "default" else f"additional_chat_templates/{name}.jinja"
        yield place, template.encode()


def _read(path: Path) -> str:
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES:,} bytes; no chat template is.")
    return path.read_text(encoding="utf-8")


def checked(templates: Any) -> Templates:
    """Templates, or the only one.

    Raises:
        ValueError: something else, or names that are no file's.
    """
    named = {"default": templates} if isinstance(templates, str) else templates
    for name, template in named.items() if isinstance(named, Mapping) else [("", None)]:
        if not isinstance(template, str) or len(template) > MAX_BYTES:
            raise ValueError(f"The chat template {name!r} is none.")
        if not name.replace("_", "").replace("-", "").isalnum():
            raise ValueError(f"A chat template cannot be named {name!r}.")
    return str(named["default"]) if list(named) == ["default"] else dict(named)


# Conversations


def is_chat(prompts: Any) -> bool:
    """Whether it is a conversation, a list of messages, or a list of conversations."""
    first = prompts[0] if isinstance(prompts, (list, tuple)) and prompts else None
    if isinstance(first, (list, tuple)) and first:
        first = first[0]
    return isinstance(first, Mapping) and "role" in first


def contents_of(
    conversations: Sequence[Sequence[Mapping[str, Any]]], known: Container[str]
) -> dict[str, list[list[Any]]]:
    """Images and the like, by their kinds: for each conversation those within its messages.

    Args:
        known: kinds that the model takes besides text.

    Raises:
        NotImplementedError: another kind.
        ValueError: an image that is not there, or would have to be downloaded.
    """
    found: dict[str, list[list[Any]]] = {}
    for i, conversation in enumerate(conversations):
        for message in conversation:
            content = message.get("content") if isinstance(message, Mapping) else None
            for part in content if isinstance(content, (list, tuple)) else ():
                kind = part.get("type", "text") if isinstance(part, Mapping) else part
                if kind == "text":
                    continue
                if kind not in known:
                    raise NotImplementedError(
                        f"A message has content of type {kind!r}, which this model's preprocessor "
                        "makes no inputs of."
                    )
                rows = found.setdefault(kind, [[] for _ in conversations])
                rows[i].append(_content(kind, part))
    return found


def _content(kind: str, part: Mapping[str, Any]) -> Any:
    """The image, say, of a part of a message."""
    value = next((part[key] for key in (kind, *PLACES) if part.get(key) is not None), None)
    if value is None:
        raise ValueError(f"A message has no {kind} in a part of type {kind!r}: give it as {kind}=.")
    if isinstance(value, str) and "://" in value:
        raise ValueError(f"{value!r:.300} is not downloaded: give the {kind}, or a file's path.")
    return value


def chosen(templates: Templates | None, name: str | None, tools: Any) -> str:
    """The template to take: the one of that name, that name itself, or the usual one.

    Raises:
        ValueError: there is none.
    """
    named = {"default": templates} if isinstance(templates, str) else templates or {}
    if name is not None:
        return named.get(name, name)
    usual = "tool_use" if tools is not None and "tool_use" in named else "default"
    if not named.get(usual):
        known = f": there are {', '.join(named)}" if named else ""
        raise ValueError(
            f"This tokenizer has no chat template{known}. Presets of KerasHub have none; give "
            "chat_template, one of a checkpoint of transformers say."
        )
    return named[usual]


def rendered(
    template: str,
    conversation: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    **variables: Any,
) -> str:
    """The text of a conversation, as transformers has it.

    Raises:
        TypeError: messages, tools or documents that are no dictionaries.
        ValueError: the template is broken or refuses the conversation, or runs for too long.
        ImportError: Jinja is not installed.
    """
    if continue_final_message and add_generation_prompt:
        raise ValueError(
            "continue_final_message goes on with a message, add_generation_prompt not."
        )
    for what, items in (("tool", tools), ("document", documents), ("message", conversation)):
        for item in items or ():
            if not isinstance(item, Mapping):
                raise TypeError(f"A {what} must be a dictionary, not {type(item).__name__}.")
    if not conversation:
        raise ValueError("The conversation has no message.")
    messages = [_message(message) for message in conversation]
    last = _tagged(messages[-1]) if continue_final_message else ""
    text = _run(
        template,
        {
            **plain(variables),
            "messages": messages,
            "tools": plain(tools),
            "documents": plain(documents),
            "add_generation_prompt": add_generation_prompt,
        },
    )
    if not continue_final_message:
        return text
    before, tag, behind = text.rpartition(TAG.strip())
    if not tag or last.strip() not in text:
        raise ValueError("The chat template leaves out the message that should be continued.")
    return before if behind.startswith(" ") else before.rstrip()


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """With what models have thought under the names that templates know."""
    found: dict[str, Any] = plain({k: value for k, value in message.items() if value is not None})
    thought = next((found[name] for name in REASONING if found.get(name) is not None), None)
    return found if thought is None else {"thinking": thought, **found, REASONING[0]: thought}


def _tagged(message: dict[str, Any]) -> str:
    """Mark where the text of a message ends. Gives the text."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + TAG
        return content
    for part in reversed(content or ()):
        if isinstance(part, dict) and "text" in part:
            text = str(part["text"])
            part["text"] = text + TAG
            return text
    raise ValueError("The last message has no text to continue.")


def plain(value: Any) -> Any:
    """A copy of plain data; what else there is becomes the name of its kind."""
    if value is None:
        return None
    for kind in (bool, int, float, str):
        if isinstance(value, kind):  # without what a class of its own can do besides
            return value if type(value) is kind else kind(value)
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return f"<{type(value).__name__}>"


# Templates


def _run(template: str, variables: Mapping[str, Any]) -> str:
    jinja2 = library("jinja2", "text")
    try:
        program = compiled(template)
        with _limited(SECONDS):
            return str(program.render(**variables))
    except jinja2.TemplateError as error:
        raise ValueError(f"The chat template: {error}") from error
    except (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"The chat template: {type(error).__name__}: {error}") from error


@functools.lru_cache(maxsize=16)
def compiled(template: str) -> Any:
    """The program that a template is."""
    library("jinja2", "text")
    from ._jinja import template_of

    return template_of(template)


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Refuse what Python code runs for longer within."""
    end = time.monotonic() + seconds
    before = sys.gettrace()

    def watch(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise ValueError(f"The chat template runs for more than {seconds:g} seconds.")
        return watch

    sys.settrace(watch)
    try:
        yield
    finally:
        sys.settrace(before)
