"""How far reading and writing weights have come, for whoever wants to show it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")
# The items, what is being done with them, and their sizes in bytes → the same items.
Wrapper = Callable[[list[Any], str, list[int]], Iterable[Any]]
_wrapper: ContextVar[Wrapper | None] = ContextVar("progress", default=None)


@contextlib.contextmanager
def shown_by(wrapper: Wrapper) -> Iterator[None]:
    """Within this context every long loop runs over its items through `wrapper`.

    `lambda items, what, sizes: tqdm(items, what)` is one.
    """
    token = _wrapper.set(wrapper)
    try:
        yield
    finally:
        _wrapper.reset(token)


def track(items: Iterable[T], what: str, nbytes: Callable[[T], int]) -> Iterable[T]:
    """The items of a long loop, untouched unless somebody watches."""
    wrapper = _wrapper.get()
    if wrapper is None:
        return items
    items = list(items)
    return wrapper(items, what, [nbytes(item) for item in items])
