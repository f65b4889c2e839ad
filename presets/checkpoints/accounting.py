"""The tensors of a checkpoint compared with those of a model, before any of them is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..surplus import Ignore, superfluous
from .bindings import Binding, expected_of
from .files import BYTES, FLOATS, Stored
from .table import Table, matches

# What models of any kind keep beside their weights, and can make again.
BUFFERS = ("*rotary_emb.inv_freq", "*.num_batches_tracked")


def account(
    table: Table,
    bindings: list[Binding],
    stored: dict[str, Stored],
    problems: list[str],
    where: str,
    ignore: Ignore = (),
) -> list[Binding]:
    """Compare the headers of a checkpoint with a model, and take copies out of `stored`.

    Returns:
        The bindings of weights that the checkpoint may lack, and lacks.

    Raises:
        ValueError: weights are missing, superfluous or of another shape; it lists them all.
    """
    expected = expected_of(bindings)
    copies = _untie(table, expected, stored)
    absent = []
    for template in table.optional:
        group = [one for one in bindings if any(matches([template], name) for name in one.ours)]
        if not any(name in stored for binding in group for name in binding.theirs):
            absent += group
    for name, (tensor, binding) in expected.items():
        found = stored.get(name)
        shape = tuple(tensor.shape)
        if found is None:
            if binding not in absent:
                problems.append(f"missing: {name} {shape} for {binding}")
        elif found.shape != shape:
            problems.append(f"shape: {found.name} is {found.shape}, not {shape} for {binding}")
        elif found.dtype not in (FLOATS if tensor.is_floating_point() else BYTES):
            kind = "a float" if tensor.is_floating_point() else "bytes"
            problems.append(f"dtype: {found.name} is {found.dtype}, not {kind}, for {binding}")
    surplus = {
        found.name: f" {found.shape}"
        for name, found in stored.items()
        if name not in expected and not matches((*table.dropped, *BUFFERS), name)
    }
    # A head of somebody's own stands beside the model, not in it.
    roots = {name.partition(".")[0] for name in expected}
    renamed = {found.name: name for name, found in stored.items()}
    foreign = [name for name in surplus if renamed[name].partition(".")[0] not in roots]
    lines, hint = superfluous(surplus, ignore, where, foreign)
    problems += lines
    for copy, original in copies:
        if copy.shape != original.shape:
            problems.append(f"copy: {copy.name} {copy.shape} of {original.name} {original.shape}")
        elif not problems and not torch.equal(copy.read(), original.read()):
            problems.append(f"copy: {copy.name} is not equal to {original.name}")
    if problems:
        raise ValueError(
            f"The weights of {where} do not fit the model ({len(problems)} problems){hint}:"
            + "".join(f"\n  {problem}" for problem in problems)
        )
    return absent


def _untie(
    table: Table, expected: Mapping[str, Any], stored: dict[str, Stored]
) -> list[tuple[Stored, Stored]]:
    """Take copies of tied weights out of `stored`, and return them with their originals.

    A checkpoint that has only one of the two names means it for both.
    """
    copies = []
    for copy, original in table.tied.items():
        if copy in expected:
            if copy not in stored and original in stored:
                stored[copy] = stored[original].again()
        elif copy in stored:
            found = stored.pop(copy)
            if original in stored:
                copies.append((found, stored[original]))
            else:
                stored[original] = found
    return copies
