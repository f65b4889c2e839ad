"""Nonsense in every place of every file that a stranger may write: a model, or one clear error.

A draw of a fixed seed; with `--all-cases` all of it.
"""

from __future__ import annotations

import functools
import json
import math
import random
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from keras_hub_torch import models
from keras_hub_torch.backbones import _registry
from keras_hub_torch.backbones._model import Model
from keras_hub_torch.models import Backbone, BertBackbone
from keras_hub_torch.presets.checkpoints import TIMM, TRANSFORMERS
from keras_hub_torch.presets.checkpoints.dialect import Dialect
from keras_hub_torch.presets.checkpoints.exporting import export_plan
from keras_hub_torch.presets.verifying import verify_preset

from .cases import all_cases

CLEAR = (ValueError, TypeError, OSError, NotImplementedError)
SECONDS = 1.0
SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}
NONSENSE: list[Any] = [
    *(None, True, False, "", "x", "gelu", "x" * 20_000, "\x1b[31mx\n", "a\ud800", "../x"),
    *(-(10**18), -7, -1, 0, 1, 3, 7, 10**4, 10**6, 10**9, 10**12, 10**18, 10**400),
    *(-1.0, 0.0, 0.5, 2.0, 2.5, 1e300, math.nan, math.inf, -math.inf),
    *([], [[]], [0], [-1], [1], [2.0], [None], ["x"], [10**9] * 4, [3, 5], [1] * 50, [0.5] * 3),
    *([[1, 2], [3]], [1] * 20_000, {}, {"x": 1}, {"class_name": "x", "config": {}}, [{}]),
]


@functools.cache
def configurations() -> dict[str, dict[str, Any]]:
    """Of the first case of each class that the registry has."""
    known = _registry.public_classes(Model)
    firsts = {case.cls: case for case in reversed(all_cases()) if case.cls in known}
    with torch.device("meta"):
        return {name: known[name](**case.config).serialize() for name, case in firsts.items()}


def nonsense(config: dict[str, Any]) -> Iterator[tuple[list[str], Any]]:
    """Places in an object, those within it included, and what may stand there."""
    for key, value in config.items():
        yield from (([key], one) for one in NONSENSE)
        if isinstance(value, list):
            yield from (([key], one) for one in (value[:-1], value * 2, [*value, "x"], [value]))
        elif isinstance(value, dict):
            yield from (([key, *path], one) for path, one in nonsense(value))
    yield ["no_such_argument"], 1


def changed(config: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    first, *rest = path
    return {**config, first: changed(config[first], rest, value) if rest else value}


def drawn(items: list[Any], count: int, seed: str, request: pytest.FixtureRequest) -> list[Any]:
    if request.config.getoption("--all-cases") or len(items) <= count:
        return items
    return random.Random(seed).sample(items, count)


def mutations(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """With bytes changed, cut out or doubled."""
    rng = random.Random(seed)
    for _ in range(count):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            begin = rng.randrange(len(damaged))
            end = begin + rng.choice((1, 1, 3, 20))
            new = rng.choice((rng.randbytes(end - begin), b"", damaged[begin:end] * 2, b"9" * 30))
            damaged[begin:end] = new
        yield bytes(damaged)


def attempt(where: Path, read: Callable[[], Any], what: Any, report: Counter[str]) -> None:
    """A model, or one clear error, in a second."""
    begin = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
        report["model"] += 1
    except CLEAR as error:
        text = str(error)
        report["refused"] += 1
        trouble = str(where) not in text or len(text) > 4_100
        if trouble or not text.replace("\n", "").isprintable():
            report[f"unclear: {what}: {text[:300]!r}"] += 1
    except Exception as error:
        report[f"{what}: {type(error).__name__}: {str(error)[:200]}"] += 1
    seconds = time.process_time() - begin
    if seconds > SECONDS:
        report[f"{what}: {seconds:.1f} seconds"] += 1


def judge(report: Counter[str]) -> None:
    held = report.pop("model", 0) + report.pop("refused", 0)
    print(f"{held} tried, {len(report)} did not hold")
    assert not report, "\n".join(sorted(report))


def shown(path: list[str], value: Any) -> str:
    return f"{'.'.join(path)}={repr(value)[:60]}"


@pytest.mark.parametrize("cls", sorted({case.cls for case in all_cases()}))
def test_arguments(cls: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    config = configurations().get(cls)
    assert config is not None
    items = list(nonsense(config["config"]))
    report: Counter[str] = Counter()
    for path, value in drawn(items, 8, cls, request):
        text = json.dumps(changed(config, ["config", *path], value))
        (tmp_path / "config.json").write_text(text)
        attempt(
            tmp_path,
            lambda: Backbone.from_preset(tmp_path, load_weights=False, device="meta"),
            f"{cls} {shown(path, value)}",
            report,
        )
    judge(report)


@functools.cache
def foreign(dialect: Dialect) -> dict[str, dict[str, Any]]:
    """A config.json for each class that can be written so."""
    found = {}
    for name, config in configurations().items():
        with torch.device("meta"):
            model = getattr(models, name).from_config(config["config"])
        try:
            found[name] = dict(export_plan(dialect, model).config)
        except (NotImplementedError, ValueError):
            continue
    return found


@pytest.mark.parametrize("dialect", [TRANSFORMERS, TIMM], ids=lambda one: one.name)
def test_other_libraries(dialect: Dialect, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    report: Counter[str] = Counter()
    for name, config in foreign(dialect).items():
        for path, value in drawn(list(nonsense(config)), 5, name, request):
            (tmp_path / "config.json").write_text(json.dumps(changed(config, path, value)))
            attempt(
                tmp_path,
                lambda: Backbone.from_preset(tmp_path, load_weights=False, device="meta"),
                f"{name} {shown(path, value)}",
                report,
            )
    judge(report)


# Files


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A preset in each of its forms."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = BertBackbone(**SMALL)
    model.save_to_preset(folder / "sharded", max_shard_size=2e-6)
    model.save_to_preset(folder / "safetensors", format="safetensors")
    model.export_to_transformers(folder / "transformers")
    model.enable_lora(2)
    model.save_lora_weights(folder / "adapter", format="peft")
    model.save_lora_weights(folder / "adapter.lora.h5")
    whole = folder / "whole"
    BertBackbone(**SMALL).save_to_preset(whole)
    (folder / "archive").mkdir()
    with zipfile.ZipFile(folder / "archive" / "model.keras", "w") as archive:
        for name in ("config.json", "model.weights.h5"):
            archive.write(whole / name, name)
    return {path.name: path for path in folder.iterdir()}


def adapt(folder: Path) -> None:
    model = BertBackbone(**SMALL)
    model.load_lora_weights(folder)


READERS: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("sharded", "config.json", Backbone.from_preset),
    ("sharded", "model.weights.json", Backbone.from_preset),
    ("safetensors", "model.safetensors", verify_preset),
    ("transformers", "config.json", Backbone.from_preset),
    ("transformers", "model.safetensors", Backbone.from_preset),
    ("adapter", "adapter_config.json", adapt),
    ("adapter", "adapter_model.safetensors", adapt),
    ("archive", "model.keras", lambda folder: Backbone.from_preset(folder / "model.keras")),
]


def named(one: Any) -> str:
    """Equal in all processes of a run."""
    return one if isinstance(one, str) else getattr(one, "__name__", "read")


@pytest.mark.parametrize(("kind", "name", "read"), READERS, ids=named)
def test_bytes(
    kind: str,
    name: str,
    read: Callable[[Path], Any],
    saved: dict[str, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    for path in saved[kind].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = (saved[kind] / name).read_bytes()
    report: Counter[str] = Counter()
    every = request.config.getoption("--all-cases")
    head = 4_000 if name.endswith(".safetensors") else len(data)  # the header
    for i, damaged in enumerate(mutations(data[:head], 600 if every else 15)):
        (tmp_path / name).write_bytes(damaged + data[head:])
        attempt(tmp_path, lambda: read(tmp_path), f"{name} {i}", report)
    judge(report)


@pytest.mark.parametrize(
    ("kind", "name", "read"), [one for one in READERS if one[1].endswith(".json")], ids=named
)
def test_values(
    kind: str,
    name: str,
    read: Callable[[Path], Any],
    saved: dict[str, Path],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """Keys that are missing, and nonsense in them."""
    for path in saved[kind].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = json.loads((saved[kind] / name).read_text())
    items = list(nonsense(content))
    if name == "adapter_config.json":
        more = ("use_rslora", "layers_to_transform", "layers_pattern", "exclude_modules")
        items += list(nonsense(dict.fromkeys(more)))
        patterns = ("query", "(a+)+$", "(", "encoder.layer.0", "\\")
        items += [
            ([table, pattern], value)
            for table in ("rank_pattern", "alpha_pattern")
            for pattern in patterns
            for value in NONSENSE
        ]
        content |= {"rank_pattern": {}, "alpha_pattern": {}}
    report: Counter[str] = Counter()
    for key in content:
        (tmp_path / name).write_text(json.dumps({k: v for k, v in content.items() if k != key}))
        attempt(tmp_path, lambda: read(tmp_path), f"{name} without {key}", report)
    for value in drawn(NONSENSE, 8, name, request):
        (tmp_path / name).write_text(json.dumps(value))
        attempt(tmp_path, lambda: read(tmp_path), f"{name} {repr(value)[:60]}", report)
    for place, value in drawn(items, 25, name, request):
        (tmp_path / name).write_text(json.dumps(changed(content, place, value)))
        attempt(tmp_path, lambda: read(tmp_path), f"{name} {shown(place, value)}", report)
    judge(report)


@pytest.mark.parametrize("layer", ["query", "norm", "embedding", "nowhere"])
def test_factors(
    layer: str, saved: dict[str, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Of every rank and type, for layers that take none too."""
    paths = {
        "query": "encoder.layer.0.attention.self.query",
        "norm": "encoder.layer.0.output.LayerNorm",
        "embedding": "embeddings.word_embeddings",
        "nowhere": "a.b",
    }
    config = json.loads((saved["adapter"] / "adapter_config.json").read_text())
    config["target_modules"] = None
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    report: Counter[str] = Counter()
    shapes = [((2, 12), (12, 2)), ((0, 12), (12, 0)), ((), ()), ((2,), (2,)), ((1, 2, 12), (2, 2))]
    names = [("lora_A.weight", "lora_B.weight"), ("lora_embedding_A", "lora_embedding_B")]
    names += [("lora_A.weight", "lora_C.weight"), ("lora_A.x.weight", "lora_A.y.weight")]
    names += [("weight", "bias"), ("\x1b[31m.lora_A.weight", "\n.lora_B.weight")]
    kinds = (torch.float32, torch.bfloat16, torch.int8, torch.bool, torch.complex64)
    for pair, two, kind in drawn(list(product(names, shapes, kinds)), 20, layer, request):
        save_file(
            {
                f"base_model.model.{paths[layer]}.{name}": torch.zeros(shape, dtype=kind)
                for name, shape in zip(pair, two)
            },
            tmp_path / "adapter_model.safetensors",
        )
        attempt(tmp_path, lambda: adapt(tmp_path), f"{pair} {two} {kind}", report)
    judge(report)
