"""A save is one step: whoever looks, and whoever is killed, finds the old files or the new ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from keras_hub_torch.models import Backbone, BertBackbone
from keras_hub_torch.presets import building, replacing, snapshot, uploading
from keras_hub_torch.presets.journal import JOURNAL
from keras_hub_torch.presets.snapshot import Snapshot, consistently
from keras_hub_torch.presets.sources import open_preset
from keras_hub_torch.presets.verifying import verify_preset
from keras_hub_torch.presets.writing import write_files

from .oracle import assert_same
from .test_cli import succeed
from .test_hostile import KIBI, SMALL, limited, resource

SCRIPT = Path(__file__).with_name("saving_under_fire.py")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="killed are forks")
def test_under_fire(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    everything = request.config.getoption("--all-cases")
    # A disk waits for each file to be written, memory does not.
    memory = None if everything or not Path("/dev/shm").is_dir() else "/dev/shm"
    with tempfile.TemporaryDirectory(dir=memory or tmp_path) as folder:
        result = subprocess.run(
            [sys.executable, SCRIPT, folder, "all" if everything else "some"],
            check=True,
            stdout=subprocess.PIPE,
            timeout=3600 if everything else 300,
        )
    report = json.loads(result.stdout)
    print(report["counts"])
    assert not report["problems"]
    assert min(report["counts"].values()) > 0


def filled(value: float, **options: Any) -> Any:
    model = BertBackbone(**{**SMALL, **options})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A preset of one file whose replacement by shards was killed after the first move."""
    folder = tmp_path / "preset"
    filled(3).save_to_preset(folder)
    (folder / "tokenizer.json").write_text("{}")
    with monkeypatch.context() as patch:
        moves: list[int] = []

        def replace(*args: Any) -> None:
            moves.append(1)
            if len(moves) == 3:
                raise KeyboardInterrupt
            move(*args)

        move = os.replace
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            filled(5, hidden_dim=14).save_to_preset(folder, max_shard_size=6 * KIBI)
    assert (folder / JOURNAL).exists()
    assert not (folder / "config.json").exists()
    return folder


def test_all_ways_to_read_an_unfinished_save(unfinished: Path, tmp_path: Path) -> None:
    expected = filled(5, hidden_dim=14)
    before = sorted(path.name for path in unfinished.rglob("*"))
    assert_same(Backbone.from_preset(unfinished), expected)
    for dtype in ("auto", "bfloat16"):
        assert Backbone.from_preset(unfinished, dtype=dtype).hidden_dim == 14
    model = BertBackbone(**{**SMALL, "hidden_dim": 14})
    model.load_weights(unfinished / "model.weights.json")
    assert_same(model, expected)
    verified = verify_preset(unfinished)
    assert len(verified.files) == len(verified.sizes) > 2
    names = open_preset(unfinished).sizes()
    assert names is not None
    assert {"config.json", "model.weights.json", "tokenizer.json"} < names.keys()
    assert "model.weights.h5" not in names
    assert '"hidden_dim": 14' in succeed("info", unfinished, "--json")
    assert "accounted for" in succeed("verify", unfinished)
    assert sorted(path.name for path in unfinished.rglob("*")) == before
    succeed("convert", unfinished, tmp_path / "new", "--format", "safetensors")
    assert_same(Backbone.from_preset(tmp_path / "new"), expected)
    # The next save, of anything into the folder, finishes it first.
    expected.save_weights(unfinished / "other.safetensors")
    assert not [path for path in unfinished.iterdir() if path.name.startswith(".")]
    shutil.copytree(unfinished, tmp_path / "copy")
    assert_same(Backbone.from_preset(tmp_path / "copy"), expected)


def test_uploads_of_an_unfinished_save(unfinished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import kagglehub

    uploaded: list[Any] = []

    def upload(handle: str, folder: str, **options: Any) -> None:
        filled(7).save_to_preset(unfinished)  # meanwhile
        uploaded.append(sorted(path.name for path in Path(folder).iterdir()))
        assert_same(Backbone.from_preset(folder), filled(5, hidden_dim=14))

    monkeypatch.setattr(kagglehub, "model_upload", upload)
    uploading.upload_preset("kaggle://me/bert/keras/mine", unfinished)
    assert {"config.json", "tokenizer.json", "model_00000.weights.h5"} < {*uploaded[0]}
    assert not any(name.startswith(".") or name == "model.weights.h5" for name in uploaded[0])
    assert not [path for path in unfinished.iterdir() if path.name.startswith(".")]
    assert_same(Backbone.from_preset(unfinished), filled(7))


@pytest.mark.parametrize(
    "changes",
    [
        {"staging": "../elsewhere"},
        {"staging": ".saving-x/.."},
        {"staging": ".saving-link"},
        {"staging": 3},
        {"files": ["../mine"]},
        {"files": ["a/../../mine"]},
        {"files": ["a/.saving.json"]},
        {"files": "config.json"},
        {"removed": ["a/b"]},
        {"removed": [".saving.json"]},
        {"removed": None},
    ],
)
def test_strange_journals(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "preset"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "mine").write_text("mine")
    filled(3).save_to_preset(folder)
    (folder / ".saving-link").symlink_to(tmp_path / "elsewhere")
    journal = {"staging": ".saving-x", "files": [], "removed": [], **changes}
    (folder / JOURNAL).write_text(json.dumps(journal))
    for action in (
        lambda: Backbone.from_preset(folder),
        lambda: filled(5).save_to_preset(folder),
        lambda: open_preset(folder).sizes(),
    ):
        with pytest.raises(ValueError, match=r"saving\.json is no journal that a save has written"):
            action()
    (folder / JOURNAL).unlink()
    assert_same(Backbone.from_preset(folder), filled(3))
    assert (tmp_path / "mine").exists()


def test_remains_go_and_living_saves_stay(tmp_path: Path) -> None:
    model = filled(3)
    (tmp_path / ".saving-dead").mkdir()
    (tmp_path / ".saving-dead" / replacing.LOCK).touch()
    (tmp_path / ".saving-dead" / "model.weights.h5").write_text("half")
    (tmp_path / ".saving-empty").mkdir()
    with replacing.replacing(tmp_path) as staging:
        (staging / "mine.txt").write_text("mine")
        model.save_to_preset(tmp_path)
        hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert hidden == [staging]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert_same(Backbone.from_preset(tmp_path), model)


def test_saves_without_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They wait for a reader that has tried a few times; where nobody can wait it gives up."""
    filled(3).save_to_preset(tmp_path)
    look = Snapshot(tmp_path)
    tries = []

    def read() -> None:
        tries.append(look.find("config.json"))
        if len(tries) <= snapshot.OPTIMISTIC:
            filled(len(tries)).save_to_preset(tmp_path)

    consistently(look, read)
    assert len(tries) == snapshot.OPTIMISTIC + 1
    monkeypatch.setattr(snapshot, "OPTIMISTIC", snapshot.TRIES)
    tries.clear()
    with pytest.raises(OSError, match="was saved to in each of 20 tries"):
        consistently(look, lambda: (look.find("config.json"), filled(1).save_to_preset(tmp_path)))


def test_errors_of_whole_presets_are_not_tried_again(tmp_path: Path) -> None:
    filled(3).save_to_preset(tmp_path)
    (tmp_path / "model.weights.h5").write_bytes(b"broken")
    with pytest.raises(ValueError, match="no readable HDF5 file"):
        Backbone.from_preset(tmp_path)


# Loads that fail half-way


@pytest.fixture(params=["h5", "shards", "safetensors"])
def half_read(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Any, Path]:
    name, options = {
        "h5": ("x.weights.h5", {}),
        "shards": ("x.weights.json", {"max_shard_size": 5 * KIBI}),
        "safetensors": ("x.safetensors", {}),
    }[request.param]
    path = tmp_path / name
    filled(5).save_weights(path, **options)
    model = filled(3)
    with monkeypatch.context() as patch:
        calls: list[int] = []

        def assign(*args: Any, **options: Any) -> None:
            calls.append(1)
            if len(calls) == 9:
                raise OSError("Input/output error")
            original(*args, **options)

        original = building.assign
        patch.setattr("keras_hub_torch.presets.filling.assign", assign)
        with pytest.raises(OSError, match="Input/output"):
            model.load_weights(path)
    return model, path


def test_half_read_models_are_refused(half_read: tuple[Any, Path], tmp_path: Path) -> None:
    model, path = half_read
    inputs = {"token_ids": torch.arange(1, 8)[None]}
    for use in (
        lambda: model(inputs),
        lambda: torch.compile(model, backend="eager")(inputs),
        lambda: model.save_to_preset(tmp_path / "new"),
        lambda: model.export_to_transformers(tmp_path / "new"),
        lambda: model.save_weights(tmp_path / "new.weights.h5"),
        lambda: model.load_lora_weights(tmp_path / "none.lora.h5"),
    ):
        with pytest.raises((RuntimeError, FileNotFoundError), match=r"half-way|none\.lora"):
            use()
    assert not list(tmp_path.glob("new*"))
    with pytest.raises(ValueError, match="does not fit"):  # before anything is read
        model.load_weights(save(tmp_path, filled(7, hidden_dim=14)))
    with pytest.raises(RuntimeError, match="half-way"):
        model(inputs)
    model.load_weights(path)
    assert_same(model, filled(5))
    model(inputs)
    model.save_to_preset(tmp_path / "new")


def test_state_dicts_mend(half_read: tuple[Any, Path]) -> None:
    model, _ = half_read
    state = filled(5).state_dict()
    first = next(iter(state))
    model.load_state_dict({k: v for k, v in state.items() if k != first}, strict=False)
    assert model.broken
    model.load_state_dict(state)
    model({"token_ids": torch.arange(1, 8)[None]})


def save(folder: Path, model: Any) -> Path:
    model.save_weights(folder / "wide.weights.h5")
    return folder / "wide.weights.h5"


def test_a_compiled_model_is_refused(half_read: tuple[Any, Path]) -> None:
    """Compiled before, too."""
    _, path = half_read
    model = filled(3)
    compiled = torch.compile(model, backend="eager")
    inputs = {"token_ids": torch.arange(1, 8)[None]}
    compiled(inputs)
    with pytest.raises(OSError, match="no"), building.changing(model):
        raise OSError("no")
    with pytest.raises(RuntimeError, match="half-way"):
        compiled(inputs)
    model.load_weights(path)
    compiled(inputs)


def test_full_disks_leave_an_unfinished_save(unfinished: Path) -> None:
    with limited(resource.RLIMIT_FSIZE, 0), pytest.raises(OSError, match="cannot be written"):
        filled(7).save_to_preset(unfinished)
    assert_same(Backbone.from_preset(unfinished), filled(5, hidden_dim=14))


def test_files_in_folders(tmp_path: Path) -> None:
    """They are replaced with the others, also by who comes after a killed save; links are none."""
    folder, elsewhere = tmp_path / "preset", tmp_path / "elsewhere"
    for text in ("old", "new"):
        write_files(folder, {"tokenizer.json": {"a": text}, "assets/x/y.txt": text.encode()})
        assert (folder / "assets" / "x" / "y.txt").read_text() == text
    staging = folder / ".saving-x"
    (staging / "assets" / "x").mkdir(parents=True)
    (staging / "assets" / "x" / "y.txt").write_text("newest")
    journal = {"staging": ".saving-x", "files": ["assets/x/y.txt"], "removed": []}
    (folder / JOURNAL).write_text(json.dumps(journal))
    assert open_preset(folder).file("assets/x/y.txt").read_text() == "newest"
    write_files(folder, {"z.json": {}})
    assert (folder / "assets" / "x" / "y.txt").read_text() == "newest"
    assert not (folder / JOURNAL).exists()

    elsewhere.mkdir()
    shutil.rmtree(folder / "assets")
    (folder / "assets").symlink_to(elsewhere)
    with pytest.raises(OSError, match="assets is no folder of its own"):
        write_files(folder, {"tokenizer.json": {}, "assets/x/y.txt": b"!"})
    (staging / "assets" / "x").mkdir(parents=True)
    (folder / JOURNAL).write_text(json.dumps(journal))
    with pytest.raises(OSError, match="assets is no folder of its own"):
        write_files(folder, {"z.json": {}})
    assert not list(elsewhere.iterdir())
