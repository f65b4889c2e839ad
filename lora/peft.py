"""Adapters in PEFT's format, for the transformers export of the same backbone.

PEFT adds `B · A` of `[out, rank]` and `[rank, in]` to a whole weight: the flat form of factors
here, in which an adapter from PEFT is kept, trained and written again at its rank. Where one weight
of transformers is several of ours (GPT-2's query, key and value) these share A as one parameter,
and have their rows of B; gradients and files are then PEFT's.

Keras's form is written with a block-diagonal B, of a rank as many times as large as there are
heads, and is recognised when it is read again.

An `nn.MultiheadAttention` of transformers is adapted as a whole by PEFT: the three projections
into it, which are one weight, and the one out of it. PEFT 0.21 applies the second adapter twice,
so that there must be none.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias

import torch

from ..backbones._model import Model
from ..backbones.layers.core import Projection
from ..backbones.layers.quantized import Quantized
from ..presets.checkpoints import TRANSFORMERS
from ..presets.checkpoints.bindings import Binding, Plan
from ..presets.checkpoints.exporting import export_plan
from ..presets.checkpoints.files import FLOATS, Stored, open_weights
from ..presets.checkpoints.table import TRANSPOSE, Operation
from ..presets.files import ADAPTER as CONFIG
from ..presets.gathering import Gathering
from ..presets.replacing import replacing
from ..presets.snapshot import Snapshot
from ..presets.weights import blank_of
from .adapters import AdaptedDense, Adapter, has_heads, keras_form, to_kernel_a
from .files import Factors, Loaded, is_low, whole_adapters
from .peft_config import read_config, scale_of

WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."
# The two weights of an `nn.MultiheadAttention`, and what PEFT calls the second one.
IN, OUT, WRAPPED = ".in_proj_weight", ".out_proj", ".base_layer.out_proj"
# `[rank, in]`, `[out, rank]` and what their product is multiplied by.
PEFTFactors: TypeAlias = tuple[torch.Tensor, torch.Tensor, float]


def _plan(backbone: Model) -> Plan:
    """Where the weights are in transformers' checkpoints; of a quantized model those that it was
    made of.
    """
    if not any(isinstance(layer, Quantized) for layer in backbone.modules()):
        return export_plan(TRANSFORMERS, blank_of(backbone))
    with torch.device("meta"):
        plain = backbone.configured_class.from_config(_plain(backbone.get_config()))
    return export_plan(TRANSFORMERS, plain)


def _plain(config: Any) -> Any:
    """A configuration without policies of quantized layers."""
    if isinstance(config, Mapping):
        if config.get("class_name") == "DTypePolicyMap":
            return None
        return {key: _plain(value) for key, value in config.items()}
    return config


# Writing


def save_peft(
    backbone: Model,
    found: Mapping[str, Adapter],
    processes: Gathering,
    folder: Path,
    base_model: str | os.PathLike[str] | None,
    extra: Collection[str] = (),
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    Args:
        extra: names of whole weights that came with the adapter, and go with it.

    Raises:
        ValueError: adapters that PEFT's format has no place for.
        NotImplementedError: the family cannot be exported to transformers.
    """
    other = [path for path, layer in found.items() if not isinstance(layer, AdaptedDense)]
    if other:
        raise ValueError(f"Only projections can be written for PEFT, not {', '.join(other)}.")
    plan = _plan(backbone)
    layers = whole_adapters(found, processes)
    whole = {name: processes.whole(backbone.get_parameter(name)) for name in sorted(extra)}
    if processes.writes:
        _write_peft(backbone, plan, layers, whole, folder, base_model)


def _write_peft(
    backbone: Model,
    plan: Plan,
    found: Mapping[str, Any],
    extra: Mapping[str, Any],
    folder: Path,
    base_model: str | os.PathLike[str] | None,
) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    saved: list[str] = []
    transposed = False
    factors: dict[str, PEFTFactors] = {}
    for binding in plan.bindings:
        layers = [found.get(name.removesuffix(".weight")) for name in binding.ours]
        if any(layers) and binding.theirs:  # else nothing uses them, and they are not there
            with torch.no_grad():
                factors[_module(binding)] = _fuse(binding, layers)
            transposed |= TRANSPOSE in binding.operations
        elif binding.ours.keys() & extra.keys():
            whole = binding.save([extra[name].detach() for name in binding.ours])
            tensors |= {f"{PREFIX}{name}": one.cpu().contiguous() for name, one in whole.items()}
            saved += [name.rpartition(".")[0] for name in whole]
    factors = _with_attentions(plan, factors)
    for module, (down, up, scale) in factors.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = down
        tensors[f"{PREFIX}{module}.lora_B.weight"] = up
        owner = module.removesuffix(WRAPPED)
        ranks[owner] = len(down)
        alphas[owner] = _number(scale * len(down))
    if not ranks:
        raise ValueError(f"transformers has none of {', '.join(found)}.")
    rank, alpha = max(ranks.values()), max(alphas.values())
    base = vars(backbone).get("checkpoint") or {}
    if base_model is not None:
        base = {"base_model_name_or_path": os.fspath(base_model)}
    config = {
        "peft_type": "LORA",
        "task_type": _task(plan),
        "base_model_name_or_path": None,
        **base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "rank_pattern": {name: one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {name: one for name, one in alphas.items() if one != alpha},
        "target_modules": sorted(ranks),
        "modules_to_save": saved or None,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "inference_mode": True,
    }
    with replacing(folder, stale=(PICKLED,)) as temporary:
        (temporary / CONFIG).write_text(json.dumps(config, indent=2))
        save_file(tensors, temporary / WEIGHTS, metadata={"format": "pt"})


def _module(binding: Binding) -> str:
    """The module there whose weight it is, or `….in_proj_weight`."""
    return binding.theirs[0].removesuffix(".weight")


def _with_attentions(plan: Plan, factors: dict[str, PEFTFactors]) -> dict[str, PEFTFactors]:
    """With factors of zeros for the second weight of an `nn.MultiheadAttention`.

    Raises:
        ValueError: the second one is adapted.
    """
    bindings = {_module(one): one for one in plan.bindings if len(one.theirs) == 1}
    for module in [name for name in bindings if name.endswith(IN)]:
        attention = module.removesuffix(IN)
        second = bindings[attention + OUT]
        if attention + OUT in factors:
            layers = ", ".join(name.removesuffix(".weight") for name in second.ours)
            raise ValueError(f"PEFT applies an adapter of {layers} twice; it cannot be written.")
        if module in factors:
            first = factors.pop(module)
            rank, (outputs, inputs) = len(first[0]), next(iter(second.ours.values())).shape
            zeros = torch.zeros(rank, inputs), torch.zeros(outputs, rank), first[2]
            factors |= {attention: first, attention + WRAPPED: zeros}
    return factors


def _fuse(binding: Binding, layers: list[Any]) -> PEFTFactors:
    """A `[rank, in]` and B `[out, rank]` for a weight that consists of these layers' weights, and
    their scale.
    """
    rows = [len(weight) for weight in binding.ours.values()]
    scales = {layer.scale for layer in layers if layer is not None}
    scale = scales.pop() if len(scales) == 1 else 1.0
    downs: list[torch.Tensor] = []
    ups: list[list[torch.Tensor]] = []  # for each of `downs` the rows of all layers
    for i, layer in enumerate(layers):
        if layer is None:
            continue
        down, up = layer.flat_factors()
        same = [part for other, part in zip(downs, ups) if torch.equal(other, down)]
        if not same:
            downs.append(down)
            ups.append([down.new_zeros(count, len(down)) for count in rows])
        (same or ups)[-1][i] = up if layer.scale == scale else up * layer.scale
    joined = []
    for parts in ups:
        for step in _joining(binding):
            parts = step.save(parts)
        joined.append(parts[0])
    down, up = torch.cat(downs).float().cpu(), torch.cat(joined, dim=1).float().cpu()
    return down.contiguous(), up.contiguous(), scale


def _joining(binding: Binding) -> list[Operation]:
    """How the rows of several weights become those of one, `[out, in]`."""
    return [step for step in binding.operations if step is not TRANSPOSE]


def _number(value: float) -> float:
    """Without what a division and a product have left behind: 16, not 15.999999999999998."""
    value = float(f"{value:.15g}")
    return int(value) if value.is_integer() else value


def _task(plan: Plan) -> str:
    """The class of PEFT's that holds the model which transformers makes of an export."""
    architecture = plan.table.architecture
    if architecture.endswith(("ForCausalLM", "LMHeadModel")):
        return "CAUSAL_LM"
    if architecture.endswith("ForConditionalGeneration") and plan.config.get("is_encoder_decoder"):
        return "SEQ_2_SEQ_LM"
    return "FEATURE_EXTRACTION"


# Reading


def load_peft(
    backbone: Model,
    snapshot: Snapshot,
    found: Mapping[str, Adapter],
    ignore: Iterable[str] = (),
) -> Loaded:
    """The factors by path of our layers; shapes are compared before anything is read.

    Args:
        snapshot: of the folder.
        found: the layers with LoRA enabled, if it is.
        ignore: patterns of weights in the file that are left out.

    Raises:
        FileNotFoundError: no PEFT adapter in this folder.
        ValueError: an adapter with other options, or for another model.
    """
    folder = snapshot.folder
    config = read_config(snapshot)
    plan = _plan(backbone)
    with ExitStack() as stack:
        path = snapshot.find(WEIGHTS) or snapshot.find(PICKLED)
        if path is None:
            raise FileNotFoundError(f"{folder} is no PEFT adapter: it has no {WEIGHTS}.")
        stored = open_weights(path, stack)
        snapshot.settle()
        pairs, whole, problems = _sort(plan, stored, tuple(ignore))
        bindings = {one.theirs[0]: one for one in plan.bindings if len(one.theirs) == 1}
        scales = {}
        for module, pair in pairs.items():
            binding = _binding_of(plan, bindings, module)
            try:
                _check_pair(backbone, module, pair, binding)
                scales[module] = scale_of(config, module.removesuffix(WRAPPED), pair["A"].shape[0])
            except ValueError as error:
                problems.append(f"{module}: {error}")
        parameters = {name for name, _ in backbone.named_parameters()}
        for name, one in whole.items():
            expected = next(iter(bindings[name].expected().values()))
            if not parameters.issuperset(bindings[name].ours):
                problems.append(f"{name}: whole weights cannot replace quantized ones")
            elif one.shape != tuple(expected.shape) or one.dtype not in FLOATS:
                problems.append(f"{name}: {one.shape} of {one.dtype}, not {tuple(expected.shape)}")
        if problems:
            raise ValueError(f"{folder} has weights that do not fit:\n  " + "\n  ".join(problems))
        if not pairs:
            raise ValueError(f"{folder} holds no LoRA weights.")
        loaded = Loaded({})
        for module, pair in pairs.items():
            binding = _binding_of(plan, bindings, module)
            down, up = pair["A"].read().float(), pair["B"].read().float()
            if module.endswith(WRAPPED):  # it is there for the other weight's sake
                if down.any() and up.any():
                    raise ValueError(f"{folder}: PEFT applies {module} twice; it cannot be read.")
                continue
            loaded.factors.update(_split(backbone, binding, down, up, scales[module], found))
        for name, one in whole.items():
            loaded.base.update(bindings[name].load([one.read()]))
    return loaded


def _binding_of(plan: Plan, bindings: Mapping[str, Binding], module: str) -> Any:
    """The weight that a module's factors are for."""
    names = (f"{module}.weight", f"{module}{IN}", f"{module.replace(WRAPPED, OUT)}.weight")
    found = (bindings.get(plan.table.renamed(name)) for name in names)
    return next((one for one in found if one is not None), None)


def _sort(
    plan: Plan, stored: Iterable[Stored], ignore: tuple[str, ...]
) -> tuple[dict[str, dict[str, Stored]], dict[str, Stored], list[str]]:
    """Pairs of factors by module, whole weights by the names of the table's rules, and what is
    wrong with the rest.
    """
    pairs: dict[str, dict[str, Stored]] = {}
    whole: dict[str, Stored] = {}
    problems, foreign = [], []
    known = {
        name for binding in plan.bindings for name in binding.theirs if len(binding.theirs) == 1
    }
    for one in stored:
        name = one.name.removeprefix(PREFIX)
        name = re.sub(r"\.modules_to_save(\.default)?\.", ".", name)
        if any(fnmatchcase(name, pattern) for pattern in ignore):
            continue
        factor = re.fullmatch(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight", name)
        ours = plan.table.renamed(name)
        original = plan.table.tied.get(ours, ours)
        if factor is not None:
            pair = pairs.setdefault(factor[1], {})
            if factor[2] in pair:
                problems.append(f"{one.name}: there are two")
            pair[factor[2]] = one
        elif ".lora_" in name:
            problems.append(f"{one.name}: only factors of projections can be loaded")
        elif original not in known:
            foreign.append(name)
        elif original in whole and not torch.equal(one.read(), whole[original].read()):
            problems.append(f"{one.name}: not equal to {whole[original].name}, its other name")
        else:
            whole[original] = one
    if foreign:
        patterns = sorted({f"{name.rpartition('.')[0] or name}.*" for name in foreign})
        problems += [f"{name}: no weight of the backbone" for name in foreign]
        problems.append(f"To leave these out, give ignore=[{', '.join(map(repr, patterns))}].")
    return pairs, whole, problems


def _check_pair(
    backbone: Model, module: str, pair: Mapping[str, Stored], binding: Binding | None
) -> None:
    """Whether two factors are some for this weight.

    Raises:
        ValueError: they are not.
    """
    if binding is None:
        raise ValueError("the backbone has no such layer")
    owners = [backbone.get_submodule(name.rpartition(".")[0]) for name in binding.ours]
    if not all(isinstance(owner, Projection) for owner in owners):
        raise ValueError("no projection; only these can be adapted so")
    if pair.keys() != {"A", "B"}:
        raise ValueError(f"it has lora_{''.join(pair)} alone")
    shapes = pair["A"].shape, pair["B"].shape
    inputs = next(iter(binding.ours.values())).shape[1]
    outputs = sum(len(weight) for weight in binding.ours.values())
    rank = shapes[0][0] if shapes[0] else 0
    if rank < 1 or shapes != ((rank, inputs), (outputs, rank)) or not is_low(rank, *shapes[1]):
        raise ValueError(f"factors {shapes[0]} and {shapes[1]} for a weight {(outputs, inputs)}")
    if not {pair["A"].dtype, pair["B"].dtype} <= FLOATS:
        raise ValueError(f"factors of {pair['A'].dtype} and {pair['B'].dtype}, not of floats")


def _split(
    backbone: Model,
    binding: Binding,
    down: torch.Tensor,
    up: torch.Tensor,
    scale: float,
    found: Mapping[str, Adapter],
) -> dict[str, Factors]:
    """The factors of our layers, of A and B for the weight that consists of theirs."""
    paths = [name.removesuffix(".weight") for name in binding.ours]
    shapes = [torch.Size((len(weight), len(down))) for weight in binding.ours.values()]
    parts = [up]
    for step in reversed(_joining(binding)):
        parts = step.load(parts, shapes)
    before = [found.get(path) for path in paths]
    shared = down.T
    factors = {}
    for i, own in _own_columns(parts, before).items():
        layer: Any = backbone.get_submodule(paths[i])
        if own is None:
            factors[paths[i]] = Factors(shared, parts[i].T, scale, flat=True)
        else:
            factors[paths[i]] = _formed(layer, down[own], parts[i][:, own], scale, before[i])
    return factors


def _own_columns(parts: list[torch.Tensor], before: list[Any]) -> dict[int, torch.Tensor | None]:
    """Which parts of a weight an adapter changes, and the columns of B that are theirs alone;
    `None` where they share all.
    """
    every = torch.arange(parts[0].shape[1])
    if len(parts) == 1:
        return {0: every}
    # As these very layers would be written; their B may be zero still, and say nothing.
    sizes = [0 if layer is None else layer.rank * layer.blocks for layer in before]
    if sum(sizes) == len(every):
        own = every.split(sizes)
        if not any(part.index_fill(1, mine, 0).any() for part, mine in zip(parts, own)):
            return {i: columns for i, columns in enumerate(own) if len(columns)}
    used = [part.any(0).nonzero().flatten() for part in parts]
    changed = [i for i, columns in enumerate(used) if len(columns) or before[i] is not None]
    changed = changed or list(range(len(parts)))
    apart = len(torch.cat(used)) == len(torch.cat(used).unique())
    if apart and all(len(used[i]) for i in changed):
        return {i: used[i] for i in changed}
    return dict.fromkeys(changed)


def _formed(
    layer: Projection, down: torch.Tensor, up: torch.Tensor, scale: float, before: Any
) -> Factors:
    """Factors in Keras's form where a file was written from it, or where it is the same."""
    if not has_heads(layer):
        return Factors(to_kernel_a(layer, down.T), up.T, scale)
    keras = keras_form(layer, down, up)
    if keras is not None and (up.any() if before is None else before.rank == len(keras[1])):
        return Factors(*keras, scale)
    return Factors(down.T, up.T, scale, flat=True)
