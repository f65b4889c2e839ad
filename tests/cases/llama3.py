from __future__ import annotations

from ..oracle import Case
from .llama import SMALL, STRETCHED, inputs

CASES = [
    Case("llama3", "Llama3Backbone", {**SMALL, **STRETCHED}, inputs(5, 9)),
    Case("llama3-plain", "Llama3Backbone", {**SMALL, "num_layers": 1}, inputs(3, 7)),
    Case(
        "llama3-odd",
        "Llama3Backbone",
        {**SMALL, **STRETCHED, "num_query_heads": 2, "num_layers": 3},
        inputs(2, 3),
    ),
]
