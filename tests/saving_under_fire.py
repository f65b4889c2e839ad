"""A script: saves that are killed before any of their calls to the file system, and saves beside
loads and other saves. It prints what it found as JSON.

Every weight of a saved model has the same value, which also tells the kind of the save: loads that
give two values, or a value that does not belong to the configuration, are mixtures.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from keras_hub_torch.models import Backbone, BertBackbone, LlamaBackbone, ResNetBackbone
from keras_hub_torch.presets.keras import h5

KIBI = 1 / 1024**2
Save = Callable[[Path, float], None]
Found = tuple[Any, ...]


def bert(width: int = 12) -> Any:
    return BertBackbone(37, 2, 2, width, 20, max_sequence_length=17)


def llama() -> Any:
    return LlamaBackbone(31, 2, 2, 8, 12, 1)


def resnet() -> Any:
    return ResNetBackbone([64], [64], [2], [1], "basic_block", use_pre_activation=False)


MODELS = {"bert": bert, "wide": functools.partial(bert, 16), "llama": llama, "resnet": resnet}


@functools.cache
def model(name: str) -> Any:
    return MODELS[name]()


def filled(name: str, value: float) -> Any:
    backbone = model(name)
    with torch.no_grad():
        for tensor in backbone.weights():
            tensor.fill_(value)
    return backbone


def preset(name: str, **options: Any) -> Save:
    return lambda folder, value: filled(name, value).save_to_preset(folder, **options)


def transformers(name: str, size: int = 10**9) -> Save:
    def save(folder: Path, value: float) -> None:
        split = huggingface_hub.split_torch_state_dict_into_shards
        huggingface_hub.split_torch_state_dict_into_shards = functools.partial(
            split, max_shard_size=size
        )
        try:
            filled(name, value).export_to_transformers(folder)
        finally:
            huggingface_hub.split_torch_state_dict_into_shards = split

    return save


def timm(folder: Path, value: float) -> None:
    # No architecture is as small as this.
    filled("resnet", value).save_to_preset(folder, format="safetensors")


def peft(rank: int) -> Save:
    def save(folder: Path, value: float) -> None:
        backbone = bert()
        backbone.enable_lora(rank, lora_alpha=2 * rank, format="peft")
        with torch.no_grad():
            for name, parameter in backbone.named_parameters():
                if "lora_kernel" in name:
                    parameter.fill_(value)
        backbone.save_lora_weights(folder, format="peft")

    return save


def weights(size: float) -> Save:
    return lambda folder, value: filled("bert", value).save_weights(
        folder / "x.weights.json", size * KIBI
    )


PRESETS: dict[str, Save] = {
    "keras": preset("bert"),
    "shards": preset("bert", max_shard_size=5 * KIBI),
    "more shards": preset("bert", max_shard_size=2 * KIBI),
    "safetensors": preset("bert", format="safetensors"),
    "transformers": transformers("bert"),
    "transformers in shards": transformers("bert", 4000),
    "wide": preset("wide"),
    "wide shards": preset("wide", max_shard_size=6 * KIBI),
    "llama": transformers("llama"),
    "resnet": timm,
}
ADAPTERS: dict[str, Save] = {"rank 2": peft(2), "rank 4": peft(4)}
WEIGHTS: dict[str, Save] = {"few": weights(5), "many": weights(2)}


def load_preset(folder: Path) -> Found:
    backbone = Backbone.from_preset(folder)
    shape = getattr(backbone, "hidden_dim", None)
    return (type(backbone).__name__, shape, *values(backbone.weights()))


def load_adapter(folder: Path) -> Found:
    backbone = bert()
    backbone.load_lora_weights(folder)
    factors = {k: v for k, v in backbone.named_parameters() if "lora_kernel" in k}
    layers = [m for m in backbone.modules() if hasattr(m, "lora_kernel_a")]
    ranks, scales = {layer.rank for layer in layers}, {layer.scale for layer in layers}
    return (len(factors), *ranks, *scales, *values(factors.values()))


def load_weights(folder: Path) -> Found:
    backbone = model("bert")
    backbone.load_weights(folder / "x.weights.json")
    return values(backbone.weights())


def values(tensors: Any) -> tuple[float, ...]:
    ends = [end for one in tensors for end in (one.min().item(), one.max().item())]
    return tuple(sorted(set(ends)))


GROUPS: dict[str, tuple[dict[str, Save], Callable[[Path], Found], str]] = {
    "presets": (PRESETS, load_preset, "config.json"),
    "adapters": (ADAPTERS, load_adapter, "adapter_config.json"),
    "weights": (WEIGHTS, load_weights, "x.weights.json"),
}


# Kills


class Killing:
    """Ends the process before its n-th call that changes files."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __enter__(self) -> None:
        names = "replace unlink rmdir mkdir fsync open chmod link truncate close".split()
        for name in names:
            setattr(os, name, self.wrap(getattr(os, name)))
        io.open = self.wrap(io.open)  # type: ignore[misc]
        h5._Output.write = self.wrap(h5._Output.write)  # type: ignore[method-assign]

    def __exit__(self, *_: Any) -> None:
        os._exit(0)

    def wrap(self, function: Callable[..., Any]) -> Any:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self.left:
                os._exit(9)
            self.left -= 1
            return function(*args, **kwargs)

        return wrapped


def killed(save: Save, folder: Path, value: float, count: int) -> bool:
    """Whether it was; otherwise it had come to its end before that."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException), Killing(count):
            save(folder, value)
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), "a save failed"
    return status == 9


def attempt(load: Callable[[Path], Found], folder: Path) -> Any:
    try:
        return load(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class Report:
    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.problems: list[str] = []

    def note(self, what: str, holds: bool, problem: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1
        if not holds:
            self.problems.append(f"{what}: {problem}")


def kills(group: str, pairs: list[tuple[str, str]], step: int, root: Path, report: Report) -> None:
    saves, load, config = GROUPS[group]
    folder, plain, clean = root / "folder", root / "plain", root / "clean"
    for old, new in pairs:
        before, after = root / "before", root / "after"
        for place, name, value in ((before, old, 3.0), (after, new, 5.0)):
            shutil.rmtree(place, ignore_errors=True)
            saves[name](place, value)
            (place / "train.log").write_text("mine")
        whole = {load(before): "old", load(after): "new"}
        assert len(whole) == 2
        seen = set()
        total = next(n for n in itertools.count(100, 100) if not again(folder, before, saves[new], n))
        staged = None
        count = 0
        while True:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(before, folder)
            dead = killed(saves[new], folder, 5.0, count)
            where = f"{old} → {new}, call {count}"
            found = attempt(load, folder)
            report.note("kills", found in whole, f"{where}: {found}")
            seen.add(whole.get(found))
            # Who knows nothing of journals.
            shutil.rmtree(plain, ignore_errors=True)
            shutil.copytree(folder, plain, ignore=lambda _, names: hidden(names))
            if (plain / config).exists():
                found = attempt(load, plain)
                report.note("foreign views", found in whole, f"{where}: {found}")
            saves[old](folder, 3.0)
            found = attempt(load, folder)
            report.note("later saves", whole.get(found) == "old", f"{where}: {found}")
            names = {path.name for path in folder.iterdir()}
            expected = {path.name for path in before.iterdir()}
            report.note("tidy folders", names == expected, f"{where}: {names ^ expected}")
            if not dead:
                break
            # Before anything is flushed all points are alike.
            staged = staged or (count if (folder / "never").exists() else None)
            count += step if count < total // 3 else 1
        assert seen == {"old", "new"}, (old, new, seen)


def again(folder: Path, before: Path, save: Save, count: int) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(before, folder)
    return killed(save, folder, 5.0, count)


def hidden(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".saving")]
