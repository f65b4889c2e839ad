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
import math
import os
import re
import reprlib
import warnings
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
from ..presets.files import read_json
from ..presets.gathering import Gathering
from ..presets.refusals import shortened
from ..presets.replacing import replacing
from ..presets.snapshot import Snapshot
from ..presets.weights import blank_of
from .adapters import AdaptedDense, Adapter, has_heads, keras_form, to_kernel_a
from .files import Factors, Loaded, is_alpha, is_low, whole_adapters
from .patterns import full_match

MAX_PATTERNS = 2_000  # each is compared with each module
WEIGHTS = "adapter_model.safetensors"
PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."
# The two weights of an `nn.MultiheadAttention`, and what PEFT calls the second one.
IN, OUT, WRAPPED = ".in_proj_weight", ".out_proj", ".base_layer.out_proj"
# `[rank, in]`, `[out, rank]` and what their product is multiplied by.
PEFTFactors: TypeAlias = tuple[torch.Tensor, torch.Tensor, float]
# Options that make other numbers than a plain LoRA, with the values without effect.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    **dict.fromkeys(
        (
            *("use_dora", "use_qalora", "lora_bias", "use_bdlora", "layer_replication"),
            *("trainable_token_indices", "target_parameters", "alora_invocation_tokens"),
            *("arrow_config", "kasa_config", "monteclora_config", "velora_config"),
        ),
        (False, None, [], {}),
    ),
}
# Options that are honoured, that the tensors in the file say as well, or that do not matter once
# an adapter is trained.
KNOWN = {
    *("peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode"),
    *("peft_version", "auto_mapping", "r", "lora_alpha", "rank_pattern", "alpha_pattern"),
    *("use_rslora", "lora_dropout", "fan_in_fan_out", "modules_to_save", "ensure_weight_tying"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config"),
    *("lora_ga_config", "qalora_group_size", "runtime_config"),
    *NEUTRAL,
}


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
    config = _read_config(snapshot)
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
                scales[module] = _scale(config, module.removesuffix(WRAPPED), pair["A"].shape[0])
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


def _read_config(snapshot: Snapshot) -> dict[str, Any]:
    """`adapter_config.json`, none of whose options would be ignored.

    Raises:
        FileNotFoundError: there is none.
        ValueError: options that are not supported, or values that cannot be meant.
    """
    folder, path = snapshot.folder, snapshot.find(CONFIG)
    if path is None:
        raise FileNotFoundError(f"{folder} is no PEFT adapter: it has no {CONFIG}.")
    config = read_json(path)
    if config.get("peft_type") != "LORA":
        kind = reprlib.repr(config.get("peft_type"))
        raise ValueError(f"{folder} has the peft_type {kind}; only LORA can be loaded.")
    changed = [
        f"{name}={reprlib.repr(config[name])}"
        for name, values in NEUTRAL.items()
        if name in config and config[name] not in values
    ]
    if changed:
        hint = ""
        if any(name.startswith("init_lora_weights") for name in changed):
            hint = (
                " Such an initialisation changes the base weights; PEFT's save_pretrained("
                "path_initial_model_for_weight_conversion=…) makes a plain adapter of it."
            )
        raise ValueError(f"{folder} uses {', '.join(changed)}, which is not supported.{hint}")
    for name, patterns, is_meant, wanted in (
        ("r", "rank_pattern", _is_rank, "a positive integer"),
        ("lora_alpha", "alpha_pattern", is_alpha, "a finite number other than 0"),
    ):
        table = config.get(patterns) or {}
        if not isinstance(table, dict):
            raise ValueError(f"{folder}: {patterns} must be an object.")
        if len(table) > MAX_PATTERNS:
            raise ValueError(f"{folder}: {patterns} has more than {MAX_PATTERNS:,} entries.")
        values = {name: config.get(name)} | {f"{patterns}[{key!r}]": table[key] for key in table}
        for key, value in values.items():
            if not is_meant(value):
                raise ValueError(f"{folder}: {key} must be {wanted}, not {reprlib.repr(value)}.")
    if not isinstance(config.get("use_rslora"), (bool, type(None))):
        raise ValueError(f"{folder}: use_rslora must be true or false.")
    unknown = [
        f"{name}={reprlib.repr(value)}"
        for name, value in config.items()
        if name not in KNOWN and value not in (None, False, [], {}, "")
    ]
    if unknown:
        warnings.warn(
            f"{folder} has options that are not known and have no effect here; it may have been "
            f"saved by a newer PEFT: {shortened(', '.join(unknown))}.",
            stacklevel=7,
        )
    return config


def _is_rank(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31


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


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies a module's adapter by.

    Raises:
        ValueError: its options do not make an adapter of this rank for the module.
    """
    if not _is_targeted(config, module):
        raise ValueError(
            "target_modules, exclude_modules or layers_to_transform leave it out, so that PEFT "
            "would not load it"
        )
    declared = _by_pattern(config.get("rank_pattern"), module, config["r"])
    if declared != rank:
        raise ValueError(f"factors of rank {rank}, but r and rank_pattern make it {declared}")
    alpha = float(_by_pattern(config.get("alpha_pattern"), module, config["lora_alpha"]))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name, or the end of it, matches."""
    for pattern, value in (patterns or {}).items():
        if _ends_with(module, pattern):
            return value
    return default


def _ends_with(module: str, pattern: str) -> bool:
    plain = re.fullmatch(r"(\w|\\?\.)*", pattern)  # most are, and of these there may be many
    if plain:
        return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
    return full_match(rf"(.*\.)?({pattern})", module)


def _is_targeted(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT would adapt this module.

    Raises:
        ValueError: options that cannot be understood.
    """

    def listed(names: Any) -> bool:
        if isinstance(names, str):
            return full_match(names, module)
        if not _is_list(names, str):
            raise ValueError(f"the modules {reprlib.repr(names)} are no list of names")
        return any(module == name or module.endswith(f".{name}") for name in names)

    targets, excluded = config.get("target_modules"), config.get("exclude_modules")
    layers, parents = config.get("layers_to_transform"), config.get("layers_pattern") or []
    if excluded and listed(excluded):
        return False
    if targets is None or targets == "all-linear":
        return True
    if not listed(targets):
        return False
    if layers is None or layers == [] or isinstance(targets, str):
        return True
    layers = [layers] if isinstance(layers, int) else layers
    parents = [parents] if isinstance(parents, str) else parents
    if not _is_list(layers, int) or not _is_list(parents, str):
        raise ValueError("layers_to_transform must be numbers, layers_pattern names")
    return _layer_of(module, parents) in layers


def _layer_of(module: str, parents: list[str]) -> int | None:
    """The first number in a module's name that follows one of these names."""
    for match in re.finditer(r"\.(\d{1,9})(?=\.)", module):
        before = module[: match.start()]
        if any(_ends_with(before, pattern) for pattern in parents) or (
            not parents and "." in before
        ):
            return int(match[1])
    return None


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


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
