"""Adapters in PEFT's format, for the transformers export of the same backbone.

PEFT adds `B · A` of `[out, rank]` and `[rank, in]` to a whole weight. Keras adds, head by head, a
product in which the second factor is shared: the same thing with block-diagonal B and a rank as
many times as large as there are heads. Where one weight of transformers holds several of ours
(GPT-2's query, key and value), their rows of B stand as those of the weights do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..backbones._model import Model
from ..backbones.layers.core import Projection
from ..presets.checkpoints import TRANSFORMERS
from ..presets.checkpoints.engine import Binding, export_plan
from ..presets.checkpoints.table import TRANSPOSE, Operation
from ..presets.files import read_json
from ..presets.saving import replacing
from .adapters import AdaptedDense, AdaptedInnerDense, Adapter
from .files import Factors

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Options of PEFT that would change the numbers, with the values they have without effect.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None, []),
    "trainable_token_indices": (None, [], {}),
    "lora_bias": (False, None),
    "target_parameters": (None, []),
}


def save_peft(backbone: Model, found: Mapping[str, Adapter], folder: Path) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Raises:
        ValueError: adapters that PEFT's format has no place for.
        NotImplementedError: the family cannot be exported to transformers.
    """
    from safetensors.torch import save_file

    other = [
        path
        for path, layer in found.items()
        if not isinstance(layer, AdaptedDense) or isinstance(layer, AdaptedInnerDense)
    ]
    if other:
        raise ValueError(f"Only projections can be written for PEFT, not {', '.join(other)}.")
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    transposed = False
    for binding in export_plan(TRANSFORMERS, backbone).bindings:
        layers = [found.get(name.removesuffix(".weight")) for name in binding.ours]
        if not any(layers):
            continue
        module = binding.theirs[0].removesuffix(".weight")
        down, up = _fuse(binding, layers)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = down
        tensors[f"{PREFIX}{module}.lora_B.weight"] = up
        ranks[module] = len(down)
        transposed |= TRANSPOSE in binding.operations
    largest = max(ranks.values())
    smaller = {module: rank for module, rank in ranks.items() if rank != largest}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": largest,
        "lora_alpha": largest,
        "lora_dropout": 0.0,
        "rank_pattern": smaller,
        "alpha_pattern": smaller,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": transposed,
        "bias": "none",
        "inference_mode": True,
    }
    with replacing(folder, stale=()) as temporary:
        (temporary / CONFIG).write_text(json.dumps(config, indent=2))
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def _fuse(binding: Binding, layers: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """A `[rank, in]` and B `[out, rank]` for a weight that consists of these layers' weights."""
    downs, rows = [], [len(weight) for weight in binding.ours.values()]
    ups: list[torch.Tensor] = []
    for i, layer in enumerate(layers):
        if layer is None:
            continue
        a, b = layer.factors()  # [in, heads · rank], [rank, head_dim]
        heads = a.shape[1] // layer.rank
        blocks = torch.block_diag(*[b.T * layer.scale] * heads)  # [heads · head_dim, heads · rank]
        parts = [blocks.new_zeros(count, blocks.shape[1]) for count in rows]
        parts[i] = blocks
        for step in _joining(binding):
            parts = step.save(parts)
        downs.append(a.T)
        ups.append(parts[0])
    return torch.cat(downs).detach().cpu().contiguous(), (
        torch.cat(ups, dim=1).detach().cpu().contiguous()
    )


def _joining(binding: Binding) -> list[Operation]:
    """How the rows of several weights become those of one, `[out, in]`."""
    return [step for step in binding.operations if step is not TRANSPOSE]


def load_peft(backbone: Model, folder: Path) -> tuple[Factors, float]:
    """The factors by path of our layers, in Keras's form, and their scale.

    Raises:
        FileNotFoundError: no PEFT adapter in this folder.
        ValueError: an adapter with other options, or for another model.
    """
    from ..presets.loading import open_safetensors

    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is no PEFT adapter: it has no {name}.")
    config = read_json(folder / CONFIG)
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{folder} is a {config.get('peft_type')} adapter, not LORA.")
    changed = [
        f"{name}={config[name]!r}"
        for name, values in NEUTRAL.items()
        if name in config and config[name] not in values
    ]
    if changed:
        raise ValueError(f"{folder} uses {', '.join(changed)}, which is not supported.")
    with open_safetensors(folder / WEIGHTS) as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    plan = export_plan(TRANSFORMERS, backbone)
    pairs: dict[str, dict[str, torch.Tensor]] = {}
    unknown = []
    for name, tensor in stored.items():
        module, dot, factor = name.removeprefix(PREFIX).rpartition(".lora_")
        factor = factor.replace(".default.", ".")
        if dot and factor in ("A.weight", "B.weight") and tensor.ndim == 2:
            pairs.setdefault(plan.table.renamed(f"{module}.weight"), {})[factor[0]] = tensor
        else:
            unknown.append(name)
    bindings = {one.theirs[0]: one for one in plan.bindings if one.theirs}
    unknown += [name for name, pair in pairs.items() if name not in bindings or len(pair) != 2]
    if unknown:
        raise ValueError(f"{folder} has weights that do not fit: {', '.join(unknown)}.")
    factors: Factors = {}
    for name, pair in pairs.items():
        down, up = pair["A"].float(), pair["B"].float()
        scale = _alpha(config, name) / len(down)
        ours = bindings[name].ours
        rows = [len(weight) for weight in ours.values()]
        inputs = next(iter(ours.values())).shape[1]
        if down.shape[1] != inputs or up.shape[0] != sum(rows) or up.shape[1] != len(down):
            raise ValueError(
                f"{folder} does not fit: {name} has factors {tuple(down.shape)} and "
                f"{tuple(up.shape)} for a weight of {sum(rows)} × {inputs}."
            )
        parts = [up * scale]
        for step in _joining(bindings[name]):
            parts = step.load(parts, [torch.Size((count, len(down))) for count in rows])
        for one, part in zip(ours, parts):
            if part.any():
                path = one.removesuffix(".weight")
                layer = backbone.get_submodule(path)
                assert isinstance(layer, Projection)
                used = part.abs().amax(0) > 0  # the columns of the other parts are zero
                factors[path] = _by_heads(layer, down[used], part[:, used])
    if not factors:
        raise ValueError(f"{folder} adds nothing: all of its second factors are zero.")
    rank = max(len(b) for _, b in factors.values())
    return {path: _widen(a, b, rank) for path, (a, b) in factors.items()}, 1.0


def _alpha(config: Mapping[str, Any], weight: str) -> float:
    """`lora_alpha` of a module, which a pattern may change."""
    module = weight.removesuffix(".weight")
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            return float(alpha)
    return float(config["lora_alpha"])


def _by_heads(
    layer: Projection, down: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """`[rank, in]` and `[out, rank]` → Keras's factors, of the smallest rank that is seen."""
    last = layer.kernel_shape[-1]
    heads = layer.out_features // last
    rank = len(down)
    blocks = up.unflatten(0, (heads, last))  # [heads, last, rank]
    size = rank // heads
    if (
        heads > 1
        and rank % heads == 0
        and torch.equal(up, torch.block_diag(*[blocks[0, :, :size]] * heads))
    ):
        a, b = down.T, blocks[0, :, :size].T  # written by save_peft
    elif heads * rank < last:
        a = torch.block_diag(*[torch.ones(1, rank)] * heads).T  # [heads · rank, heads]
        a = (down.T.repeat(1, heads)[:, :, None] * a).transpose(1, 2).flatten(1)
        b = blocks.permute(0, 2, 1).flatten(0, 1)  # [heads · rank, last]
    else:  # the whole of what is added, times the identity
        a, b = (up @ down).T, torch.eye(last)
    rank = len(b)
    outer = [
        size for axis, size in enumerate(layer.kernel_shape[:-1]) if axis not in layer.kernel_inputs
    ]
    inner = [layer.kernel_shape[axis] for axis in layer.kernel_inputs]
    order = [*layer.kernel_inputs]
    order += [i for i in range(len(layer.kernel_shape)) if i not in layer.kernel_inputs]
    a = a.reshape(*inner, *outer, rank).permute([order.index(i) for i in range(len(order))])
    return a, b


def _widen(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill up with zeros to a rank."""
    missing = rank - len(b)
    pad = torch.nn.functional.pad
    return pad(a, (0, missing)), pad(b, (0, 0, 0, missing))
