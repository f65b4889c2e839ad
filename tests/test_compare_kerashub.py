"""The script that is run at each release of KerasHub, with the one that this package follows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from . import compare_kerashub as script
from .cases.bert import CASES as BERT
from .nightly import nightly_cases

# What is written otherwise here, and means the same.
KNOWN = {
    "GptOssBackbone(layer_types): only here",
    "MobileNetV5Backbone(round_chs_fn): 'adjust_channels' here, 'round_channels' there",
    "Qwen3MoeBackbone(mlp_only_layers): [] here, None there",
}


def test_the_release_that_is_followed() -> None:
    found = [*script.classes(), *script.presets(), *script.constructors()]
    ahead = {f"class {case.cls}: only here" for case in nightly_cases()}
    ahead |= {f"preset {name}: only here" for name in later_presets()}
    assert ahead <= set(found)
    rest = [line for line in found if line not in ahead | KNOWN]
    # Backbones that are not here yet.
    assert [line for line in rest if not line.endswith(": only there") or "(" in line] == []


def later_presets() -> list[str]:
    return [name for name in script.builtin.presets_of() if script.builtin.version_of(name)]


def test_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BERT[0]
    assert list(script.computed(case)) == []
    wrong = replace(case, config={**case.config, "num_heads": 0})
    assert "fails there" in next(script.computed(wrong))
    outputs = script.oracle.keras_outputs
    monkeypatch.setattr(
        script.oracle,
        "keras_outputs",
        lambda *given: {name: value + 1 for name, value in outputs(*given).items()},
    )
    assert "outputs differ" in next(script.computed(case))


def test_cases_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An argument or a weight that is not here yet is told, and the next case compared."""
    bert = script.keras_hub.models.BertBackbone
    config = bert.get_config
    with monkeypatch.context() as patched:
        patched.setattr(bert, "get_config", lambda self: {**config(self), "new": 3})
        (line,) = script.computed(BERT[0])
    assert line.startswith("case bert: fails here: ")
    assert "no argument 'new'" in line
    save = script.oracle.preset_of

    def preset_of(model: Any, folder: Path) -> Path:
        path = save(model, folder)
        with script.h5py.File(path / "model.weights.h5", "r+") as file:
            file["layers/new/vars/0"] = [1.0]
        return path

    monkeypatch.setattr(script.oracle, "preset_of", preset_of)
    assert list(script.computed(BERT[0])) == [
        "case bert: 1 paths or shapes differ, as layers/new/vars/0"
    ]


def test_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(script.keras_hub.models.BertBackbone):  # type: ignore[misc]
        def __init__(self, vocabulary_size=7, num_heads=1, hidden=2, **kwargs):  # type: ignore
            raise NotImplementedError

    monkeypatch.setattr(script.keras_hub.models, "BertBackbone", Other)
    found = [line for line in script.constructors() if line.startswith("BertBackbone")]
    assert any("(hidden): only there" in line for line in found)
    assert any("(vocabulary_size):" in line and "7 there" in line for line in found)
