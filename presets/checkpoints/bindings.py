"""The rules for the weights of one model: which tensors of a checkpoint are which of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...backbones._model import Model
from .files import Stored
from .table import Operation, Table, Tensors, parts


@dataclass(eq=False)
class Binding:
    """A rule for one layer of a model.

    Attributes:
        theirs: names.
        ours: names → tensors on the meta device.
        operations: from ours to theirs.
    """

    theirs: tuple[str, ...]
    ours: dict[str, torch.Tensor]
    operations: tuple[Operation, ...]

    def save(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Our tensors as theirs."""
        return dict(zip(self.theirs, self._steps(tensors)[-1]))

    def load(self, tensors: Tensors) -> dict[str, torch.Tensor]:
        """Their tensors as ours."""
        steps = self._steps(list(self.ours.values()))
        for operation, step in zip(reversed(self.operations), steps[-2::-1]):
            tensors = operation.load(tensors, [tensor.shape for tensor in step])
        return dict(zip(self.ours, tensors))

    def expected(self) -> dict[str, torch.Tensor]:
        """Theirs, on the meta device."""
        return self.save(list(self.ours.values()))

    def _steps(self, tensors: Tensors) -> list[Tensors]:
        steps = [tensors]
        for operation in self.operations:
            steps.append(operation.save(steps[-1]))
        return steps

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.ours.values())

    def __str__(self) -> str:
        return " and ".join(f"{name} {tuple(t.shape)}" for name, t in self.ours.items())


def bind(
    table: Table, arguments: Mapping[str, Any], state: Mapping[str, torch.Tensor]
) -> list[Binding]:
    """The rules for all weights of a model, `state` by name.

    Raises:
        ValueError: no rule for a weight, or more than one; it lists them all.
    """
    bindings = []
    counts: Counter[str] = Counter()
    for rule in table.weights:
        if not rule.holds(arguments):
            continue
        for name in state:
            numbers = parts(rule.ours[0], name)
            if numbers is None or not (
                rule.where is None or rule.where(int(numbers[0]), arguments)
            ):
                continue
            theirs, ours = rule.names(numbers, arguments)
            counts.update(ours)
            known = {one: state[one].to("meta") for one in ours if one in state}
            operations = tuple(
                step if isinstance(step, Operation) else step(arguments) for step in rule.operations
            )
            bindings.append(Binding(theirs, known, operations))
    problems = [
        f"{counts[name]} rules for {name}"
        for name in {**state, **counts}
        if counts[name] != (name in state)
    ]
    if problems:
        raise ValueError(
            f"The table of {table.kinds[0]} does not fit {table.backbone.__name__}:\n  "
            + "\n  ".join(problems)
        )
    return bindings


def expected_of(bindings: list[Binding]) -> dict[str, tuple[torch.Tensor, Binding]]:
    """All tensors of a checkpoint, on the meta device, and what each belongs to."""
    return {
        name: (tensor, binding)
        for binding in bindings
        for name, tensor in binding.expected().items()
    }


@dataclass
class Plan:
    """What of a checkpoint belongs where, before any of it is read or written.

    Attributes:
        config: config.json, read or to be written.
        model: on the meta device if it is to be read.
        bindings: the rules for all weights of the model.
        stored: the checkpoint's tensors by the names of the rules.
        absent: bindings whose tensors the checkpoint may lack, and lacks.
        files: how many tensors each holds.
    """

    table: Table
    config: Mapping[str, Any]
    model: Model
    bindings: list[Binding]
    stored: dict[str, Stored] = field(default_factory=dict)
    absent: list[Binding] = field(default_factory=list)
    files: Counter[Path] = field(default_factory=Counter)

    @property
    def ignored(self) -> list[str]:
        """Tensors that are known to be no part of a backbone."""
        used = {name for binding in self.bindings for name in binding.theirs}
        return [name for name in self.stored if name not in used]

    @property
    def drawn(self) -> list[str]:
        """The model's weights that the checkpoint lacks."""
        return [name for binding in self.absent for name in binding.ours]
