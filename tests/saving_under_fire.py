"""A script: saves that are killed before any of their calls to the file system, and saves beside
loads and other saves. It prints what it found as JSON.

Every weight of a saved model has the same value, which also tells the kind of the save: loads that
give two values, or a value that does not belong to the configuration, are mixtures.
"""

from __future__ import annotations

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import torch

from keras_hub_torch.models import Backbone, BertBackbone, LlamaBackbone, ResNetBackbone
from keras_hub_torch.presets.keras import h5
from keras_hub_torch.presets.timm.resnet import V1

KIBI = 1 / 1024**2
KILLED = 9
OLD, NEW, LATER = 3.0, 5.0, 7.0
# Pairs for every day.
CHOSEN = {
    ("more shards", "shards"),
    ("wide shards", "transformers"),
    ("transformers in shards", "timm"),
    ("rank 2", "rank 4"),
    ("many", "few"),
}
Save = Callable[[Path, float], None]
Found = tuple[Any, ...]


def bert(width: int = 12) -> Any:
    return BertBackbone(37, 2, 2, width, 20, max_sequence_length=17)


def llama() -> Any:
    return LlamaBackbone(31, 2, 2, 8, 12, 1)


def resnet() -> Any:
    return ResNetBackbone(**V1.variants["resnet4"])


# An architecture that timm would have, if it were for tests.
V1.variants["resnet4"] = {  # type: ignore[index]
    **V1.variants["resnet18"],
    "stackwise_num_filters": [64],
    "stackwise_num_blocks": [1],
    "stackwise_num_strides": [1],
}


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
    filled("resnet", value).export_to_timm(folder)


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
    "timm": timm,
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


class Watched:
    """Notes the calls that may change files, and ends the process before the n-th of them."""

    def __init__(self, last: float = float("inf")) -> None:
        self.last = last
        self.calls: list[str] = []

    def watch(self) -> None:
        for name in CALLS:
            setattr(os, name, self.wrap(getattr(os, name)))
        io.open = self.wrap(io.open)
        h5._Output.write = self.wrap(h5._Output.write)  # type: ignore[method-assign]

    def wrap(self, function: Any) -> Any:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if len(self.calls) == self.last:
                os._exit(KILLED)
            self.calls.append(function.__name__)
            return function(*args, **kwargs)

        return wrapped


CALLS = ("replace", "unlink", "rmdir", "mkdir", "fsync", "open", "chmod", "link", "close")
# What others see at once.
SWITCHES = ("replace", "unlink", "rmdir")


def calls_of(save: Callable[[], None]) -> list[str]:
    reading, writing = os.pipe()
    if not os.fork():
        watched = Watched()
        watched.watch()
        save()
        os.write(writing, json.dumps(watched.calls).encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        calls: list[str] = json.load(file)
    os.wait()
    return calls


def kill(save: Callable[[], None], count: int) -> bool:
    """Whether it came to this call."""
    child = os.fork()
    if not child:
        try:
            Watched(count).watch()
            save()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, KILLED), "a save failed"
    return status == KILLED


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
    """Before each call of the commit that changes the folder, and before every `step`th."""
    saves, load, config = GROUPS[group]
    folder, plain, before, after = (root / name for name in ("folder", "plain", "old", "new"))
    for old, new in pairs:
        for place, name, value in ((before, old, OLD), (after, new, NEW)):
            fresh(place)
            saves[name](place, value)
        whole = {load(before): "old", load(after): "new"}
        assert len(whole) == 2
        fresh(folder, before)
        save = functools.partial(saves[new], folder, NEW)
        calls = calls_of(save)
        commit = calls.index("fsync")
        points = [
            i for i, call in enumerate(calls) if i % step == 0 or (i > commit and call in SWITCHES)
        ]
        points.append(len(calls))
        seen = []
        for point in points:
            where = f"{old} → {new}, call {point}"
            fresh(folder, before)
            dead = kill(save, point)
            assert dead == (point < len(calls)), where
            found = attempt(load, folder)
            report.note("kills", found in whole, f"{where}: {found}")
            seen.append(whole.get(found))
            # Who knows nothing of journals.
            fresh(plain, folder)
            for path in plain.glob(".saving*"):
                path.unlink() if path.is_file() else shutil.rmtree(path)
            if (plain / config).exists():
                found = attempt(load, plain)
                report.note("foreign views", found in whole, f"{where}: {found}")
            saves[old](folder, OLD)
            found = attempt(load, folder)
            report.note("later saves", whole.get(found) == "old", f"{where}: {found}")
            left = {path.name for path in folder.iterdir()}
            tidy = not any(name.startswith(".") for name in left)
            mine = (folder / "train.log").read_text() == "mine"
            report.note("tidy folders", tidy and mine, f"{where}: {left}")
        changes = sum(one != two for one, two in itertools.pairwise(seen))
        assert (seen[0], seen[-1], changes) == ("old", "new", 1), (old, new, seen)


def fresh(folder: Path, source: Path | None = None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if source is None:
        folder.mkdir()
        (folder / "train.log").write_text("mine")
    else:
        shutil.copytree(source, folder)


def twice(group: str, names: tuple[str, str, str], root: Path, report: Report) -> None:
    """A save that finishes a killed one is killed itself."""
    saves, load, _ = GROUPS[group]
    folder, before, between = (root / name for name in ("folder", "old", "between"))
    whole = {}
    for name, value in zip(names, (OLD, NEW, LATER)):
        fresh(before)
        saves[name](before, value)
        whole[load(before)] = name
    fresh(before)
    saves[names[0]](before, OLD)
    fresh(folder, before)
    calls = calls_of(lambda: saves[names[1]](folder, NEW))
    last = len(calls) - 1 - calls[::-1].index("replace")
    for first in range(last - calls[: last + 1].count("replace"), last + 2):
        fresh(between, before)
        kill(lambda: saves[names[1]](between, NEW), first)
        fresh(folder, between)
        calls = calls_of(lambda: saves[names[2]](folder, LATER))
        for point in range(len(calls) + 1):
            fresh(folder, between)
            kill(lambda: saves[names[2]](folder, LATER), point)
            found = attempt(load, folder)
            report.note("second kills", found in whole, f"{names}, {first}, {point}: {found}")


# Side by side


def beside(
    group: str, names: list[str], writers: int, loads: int, root: Path, report: Report
) -> None:
    """Loads beside saves of all kinds; the value tells the kind."""
    saves, load, _ = GROUPS[group]
    folder = root / "folder"
    kinds = {}
    for i, name in enumerate(names):
        fresh(root / "new")
        saves[name](root / "new", float(i + 1))
        *shape, value = load(root / "new")
        kinds[int(value) % len(names)] = shape
    fresh(folder)
    saves[names[0]](folder, 1.0)
    enough = root / "enough"
    enough.unlink(missing_ok=True)
    children = []
    for writer in range(writers):
        child = os.fork()
        if not child:
            try:
                for i in itertools.count(writer):
                    saves[names[i % len(names)]](folder, float(i + 1))
                    if enough.exists():
                        break
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        children.append(child)
    what = f"loads beside {writers} writer{'s' * (writers > 1)}"
    seen = set()
    end = time.monotonic() + 60
    while (loads > 0 or len(seen) < 4) and time.monotonic() < end:
        loads -= 1
        found = attempt(load, folder)
        holds = isinstance(found, tuple) and kinds.get(int(found[-1]) % len(names)) == [*found[:-1]]
        report.note(what, holds, f"{names}: {found}")
        seen.add(found)
    enough.touch()
    for child in children:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        report.note("writers", status == 0, f"of {names}, it ended with {status}")
    assert len(seen) > 1, "nothing was saved meanwhile"
    found = attempt(load, folder)
    holds = isinstance(found, tuple) and kinds.get(int(found[-1]) % len(names)) == [*found[:-1]]
    report.note("what writers leave", holds, f"{names}: {found}")
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    report.note("tidy folders", not left, f"{names}: {left}")


def main(root: Path, everything: bool) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    report = Report()
    for group, (saves, _, _) in GROUPS.items():
        pairs = list(itertools.product(saves, repeat=2))
        if not everything:
            pairs = [pair for pair in pairs if pair in CHOSEN]
        kills(group, pairs, 2 if everything else 25, root, report)
        for names in [list(saves), *([one] for one in saves)] if everything else [list(saves)]:
            for writers in (1, 2):
                beside(group, names, writers, 150 if everything else 8, root, report)
        if everything:
            for three in itertools.islice(itertools.permutations(saves, 3), 0, None, 40):
                twice(group, three, root, report)
    if everything:
        twice("weights", ("few", "many", "few"), root, report)
        twice("adapters", ("rank 2", "rank 4", "rank 2"), root, report)
    print(json.dumps({"counts": report.counts, "problems": report.problems}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "all")
