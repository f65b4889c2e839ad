"""Jinja's sandbox with what chat templates know, as in transformers. Needs Jinja."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_PRODUCT = 10**6


class Environment(ImmutableSandboxedEnvironment):
    """In which nothing is multiplied beyond measure."""

    intercepted_binops: ClassVar[frozenset[str]] = frozenset(("*", "**"))  # type: ignore[misc]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        check_product(operator, left, right)
        return super().call_binop(context, operator, left, right)


class Generation(Extension):
    """`{% generation %}` says what a model is trained on; it changes no text."""

    tags: ClassVar[set[str]] = {"generation"}  # type: ignore[misc]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class PlainNamespace(Namespace):
    """Without names that reach behind the sandbox."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *given = args
        attributes = dict(*given, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class Dicts:
    """Makes dictionaries, and gives no way to their class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


def template_of(text: str) -> Template:
    """The program of a chat template.

    Raises:
        TemplateError: it is none.
    """
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = as_json
    own: Mapping[str, Any] = {
        "raise_exception": _refuse,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "dict": Dicts(),
        "namespace": PlainNamespace,
    }
    environment.globals.update(own)
    return environment.from_string(text)


def as_json(
    x: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """Without the escapes for HTML that Jinja's own has."""
    check_product("*", " ", indent)
    return json.dumps(
        x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def check_product(operator: str, left: Any, right: Any) -> None:
    """Refuse numbers and texts that fill the memory."""
    numbers = [abs(one) for one in (left, right) if isinstance(one, int)]
    lengths = [len(one) for one in (left, right) if isinstance(one, (str, list, tuple))]
    if lengths and max(numbers, default=0) * max(lengths) > MAX_PRODUCT:
        raise SecurityError(f"Something is repeated {max(numbers)} times.")
    if operator == "**" and max(numbers, default=0) > 10_000:
        raise SecurityError(f"{left} to the power of {right} is too much.")


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"A namespace cannot have {name!r}.")


def _refuse(message: str) -> None:
    raise TemplateError(message)
