"""Regular expressions are matched as Python does, but never for long."""

from __future__ import annotations

import contextlib
import random
import re
import time

import pytest

from keras_hub_torch.lora.patterns import full_match

PIECES = ["a", "b", ".", "[ab]", "[^a]", "[0-9]", r"\d", r"\W", "1", "^", "$", r"\.", ""]
REPEATS = ["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "{3,5}"]


def drawn(rng: random.Random, depth: int) -> str:
    kind = rng.random()
    if depth == 0 or kind < 0.35:
        return rng.choice(PIECES)
    first, second = drawn(rng, depth - 1), drawn(rng, depth - 1)
    if kind < 0.6:
        return first + second
    return f"({first}|{second})" if kind < 0.75 else f"(?:{first}){rng.choice(REPEATS)}"


def test_equals_re() -> None:
    rng = random.Random(0)
    for _ in range(5000):
        pattern = drawn(rng, 4)
        text = "".join(rng.choices("ab1.", k=rng.randint(0, 6)))
        assert full_match(pattern, text) == (re.fullmatch(pattern, text) is not None), pattern


@pytest.mark.parametrize(
    "pattern",
    [
        *("(a+)+b", "((.)*)*x", "(.|.)" * 50, "(a?){50}a{50}", "(((){65535}){65535}){65535}x"),
        *("(" * 90 + "a" + ")*" * 90, ".*" * 300 + "x", "((a?){65535}){65535}"),
    ],
)
def test_takes_no_time(pattern: str) -> None:
    begin = time.process_time()
    with contextlib.suppress(ValueError):
        full_match(pattern, "a" * 60)
    assert time.process_time() - begin < 1


@pytest.mark.parametrize(
    "pattern", ["(?i)a", "(?=a)a", r"(a)\1", "(", "a" * 2000, "(" * 900, r"\ba", "a**", "[b-a]"]
)
def test_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        full_match(pattern, "a")
