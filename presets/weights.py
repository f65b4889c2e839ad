"""A model's weights by name, whatever wraps its modules, compared with what its configuration says.

Wrappers that only wrap are looked through: activation checkpointing, compiled blocks, DDP and FSDP,
offloading hooks of accelerate, parametrizations. Their weights are read one at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..backbones._model import Model
from .gathering import Gathering, gathering, reshard

# Where wrappers hold what they wrap.
INNER = ("_checkpoint_wrapped_module", "_orig_mod", "_fsdp_wrapped_module")
ADVICE = {
    "base_layer": "Layers of PEFT are in it: `merge_and_unload()` gives the model back.",
    "lora_": "Adapters are in it that are not this package's; merge them first.",
    "weight_g": "`torch.nn.utils.remove_weight_norm` undoes the old form of weight_norm.",
}
RESIZE = "Embeddings are resized, with the configuration, by `resize_token_embeddings`."
OTHERWISE = (
    "Presets hold exactly the weights of the model's class: take out what was added (a head, say) "
    "and save it on its own, or save `state_dict()` with torch."
)


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer of a module.

    Attributes:
        given: reads tensors of `owner` by name, if they are to come from elsewhere.
    """

    owner: nn.Module
    name: str
    given: Callable[[str], torch.Tensor] | None = None

    @property
    def tensor(self) -> torch.Tensor:
        """As it stands, without its adapter; of a sharded one the handle."""
        if self.given is not None:
            return self.given(self.name)
        tensor: torch.Tensor = getattr(self.owner, self.name)
        return tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def stored(self) -> torch.Tensor:
        """As `tensor`; of an offloaded one the numbers."""
        return self._stored(self.name)

    def read(
        self, whole: Callable[[torch.Tensor], torch.Tensor | None] = lambda tensor: tensor
    ) -> torch.Tensor | None:
        """The value, an adapter merged into it; `None` where that is for another process.

        Args:
            whole: gathers a tensor of a sharded model.
        """
        owner = self.owner
        if not hasattr(owner, "merged_tensor"):
            tensor = whole(self.stored())
            return None if tensor is None else tensor.detach()
        values = {name: whole(self._stored(name)) for name in self._parts()}
        if any(value is None for value in values.values()):
            return None
        merged: torch.Tensor = with_tensors(owner, values).merged_tensor(self.name)  # type: ignore[operator]
        return merged.detach()

    def _parts(self) -> list[str]:
        """The owner's tensors that its `merged_tensor` looks at."""
        owner: Any = self.owner
        if hasattr(owner, "merged_from"):
            return list(owner.merged_from(self.name))
        return [
            k for k, v in (*owner._parameters.items(), *owner._buffers.items()) if v is not None
        ]

    def _stored(self, name: str) -> torch.Tensor:
        if self.given is not None:
            return self.given(name)
        tensor: torch.Tensor = getattr(self.owner, name)
        if tensor.is_meta:
            hook = getattr(self.owner, "_hf_hook", None)
            for one in getattr(hook, "hooks", (hook,)):
                stored = getattr(one, "weights_map", None)
                if stored is not None:
                    tensor = stored[name]
        return tensor


def with_tensors(owner: nn.Module, tensors: Mapping[str, torch.Tensor | None]) -> nn.Module:
    """The module with other parameters and buffers of these names."""
    twin = copy.copy(owner)
    twin.__dict__ = dict(owner.__dict__)
    for kind in ("_parameters", "_buffers"):
        own = getattr(owner, kind)
        twin.__dict__[kind] = {**own, **{k: v for k, v in tensors.items() if k in own}}
    return twin


def weights_of(
    model: nn.Module, state_dict: Mapping[str, torch.Tensor] | None = None
) -> dict[str, Weight]:
    """All weights by the names that they have where nothing is wrapped; adapters are no weights.

    Args:
        state_dict: tensors to be taken for those of the model.
    """
    given = None if state_dict is None else {_plain_name(k): v for k, v in state_dict.items()}
    found: dict[str, Weight] = {}
    for prefix, module in _modules(model, ""):
        source = None
        if given is not None:

            def source(name: str, prefix: str = prefix) -> torch.Tensor:
                return given[prefix + name]

        adapted = hasattr(module, "merged_tensor")
        for name in _names(module):
            known = given is None or prefix + name in given
            if known and not (adapted and name.startswith("lora_kernel_")):
                found[prefix + name] = Weight(module, name, source)
    if given is not None:
        holder = nn.Module()
        for name, tensor in given.items():
            if name not in found and ".lora_kernel_" not in name:
                found[name] = Weight(holder, name, lambda _, tensor=tensor: tensor)  # type: ignore[misc]
    return found


def _plain_name(name: str) -> str:
    parts = [part for part in name.split(".") if part not in INNER]
    return ".".join(parts[1:] if parts[0] == "module" else parts)


def _modules(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules with the prefix of their weights' names, wrappers left out."""
    while True:
        wrapped = [module._modules[name] for name in INNER if name in module._modules]
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            wrapped = [module.module]
        if not wrapped:
            break
        assert wrapped[0] is not None
        module = wrapped[0]
    yield prefix, module
    for name, child in module.named_children():
        if name != "parametrizations":
            yield from _modules(child, f"{prefix}{name}.")


def _names(module: nn.Module) -> list[str]:
    """Of the tensors that files hold."""
    kept = [name for name, tensor in module._parameters.items() if tensor is not None]
    kept += list(getattr(module, "parametrizations", ()))
    passing = module._non_persistent_buffers_set
    return kept + [
        name
        for name, tensor in module._buffers.items()
        if tensor is not None and name not in passing
    ]


def blank_of(model: Model) -> Model:
    """A model of the same configuration on the meta device."""
    with torch.device("meta"):
        blank = model.configured_class.from_config(model.get_config())
    blank.build_parts(model.state_dict(keep_vars=True))
    return blank


def refuse_broken(model: nn.Module) -> None:
    """Raises RuntimeError: reading weights into the model has failed half-way."""
    for module in model.modules():
        if isinstance(module, Model) and module.broken is not None:
            raise RuntimeError(module.broken)


def checked_weights(
    model: Model, state_dict: Mapping[str, torch.Tensor] | None = None
) -> tuple[Model, dict[str, Weight]]:
    """A model of the same configuration on the meta device, and the weights for it.

    Raises:
        ValueError: the weights are not those of the configuration; it lists all differences.
        RuntimeError: reading weights into the model has failed half-way.
    """
    if state_dict is None:
        refuse_broken(model)
    blank = blank_of(model)
    expected, found = weights_of(blank), weights_of(model, state_dict)
    missing, surplus = expected.keys() - found.keys(), found.keys() - expected.keys()
    problems = [f"missing: {name} {expected[name].shape}" for name in missing]
    problems += [f"superfluous: {name} {found[name].shape}" for name in surplus]
    resized = False
    for name in expected.keys() & found.keys():
        if found[name].shape != expected[name].shape:
            resized = True
            problems.append(
                f"shape: {name} is {found[name].shape}, by its configuration {expected[name].shape}"
            )
    if problems:
        text = " ".join(problems)
        advice = [hint for part, hint in ADVICE.items() if part in text] or [OTHERWISE]
        advice = [RESIZE] if resized and len(problems) < 4 else advice
        raise ValueError(
            f"The model's weights are not those of a {model.class_name} of its configuration "
            f"({len(problems)} differences); nothing was written. {' '.join(advice)}\n  "
            + "\n  ".join(sorted(problems))
        )
    if any(weight.stored().is_meta for weight in found.values()):
        raise ValueError("The model is on the meta device: it has no weights to save.")
    return blank, found


@contextmanager
def together(
    model: Model, state_dict: Mapping[str, torch.Tensor] | None = None
) -> Iterator[Gathering]:
    """Where weights of a model are saved, by all processes over which it is sharded.

    If one fails, all do.
    """
    reshard(model)
    tensors = (*model.parameters(), *model.buffers(), *(state_dict or {}).values())
    with gathering(tensors) as processes:
        yield processes


def values_of(
    weights: Mapping[str, Weight], names: Iterable[str], processes: Gathering
) -> Iterator[torch.Tensor]:
    """The values of these weights in this order, for the process that writes.

    The other ones give their parts meanwhile, and get none.
    """
    values = (weights[name].read(processes.whole) for name in names)
    if processes.writes:
        yield from values  # type: ignore[misc]
    else:
        for _ in values:
            pass
