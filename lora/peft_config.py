"""`adapter_config.json` of PEFT: which options are understood, and what they say of a module."""

from __future__ import annotations

import math
import re
import reprlib
import warnings
from collections.abc import Mapping
from typing import Any

from ..presets.files import ADAPTER as CONFIG
from ..presets.files import read_json
from ..presets.refusals import shortened
from ..presets.snapshot import Snapshot
from .files import is_alpha
from .patterns import full_match

MAX_PATTERNS = 2_000  # each is compared with each module
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


def read_config(snapshot: Snapshot) -> dict[str, Any]:
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


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
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
