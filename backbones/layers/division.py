"""How layers are divided among processes that compute them together: what each one has of them.

A layer says it of its children and weights in `division`. Whatever has none is whole everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Division:
    """Some of a layer's heads, or of its hidden units, on each process (arXiv:1909.08053).

    Children that a model does not have are passed over.

    Attributes:
        columns: projections whose outputs are divided; their inputs are whole.
        fused: those of the columns that give several things of one size behind each other → how
            many; each of them is divided.
        rows: projections whose inputs are divided; their outputs are added up.
        weights: of the layer itself → the axis that is divided.
        shared: children with whole weights that act on what is divided (norms of each head).
        whole: children with matrices that are not divided (routers).
        tables: children, embeddings with many rows, of which each has some.
        across: children without weights that look at all of what is divided.
        heads: attributes that say how many heads there are; the processes must divide them.
        arguments: of `forward` that come whole → the axis that is divided.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    fused: Mapping[str, int] = field(default_factory=dict)
    weights: Mapping[str, int] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    across: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()
    arguments: Mapping[str, int] = field(default_factory=dict)


class Whole(Division):
    """Nothing of a layer is divided, nor of those in it that do not say otherwise."""


class Vocabulary(Division):
    """Some rows of a table, and columns of the logits."""


class Experts(Division):
    """Some experts: `forward` takes tokens, their experts and the weights of these, and gives what
    those that are there make of the tokens.
    """
