"""The script that is run at each release of KerasHub, with the one that this package follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from . import compare_kerashub as script
from .cases.bert import CASES as BERT
from .nightly import nightly_cases

# What is written otherwise here, and means the same.
KNOWN = {
    "GptOssBackbone(layer_types): only here",
    "Qwen3MoeBackbone(mlp_only_layers): () here, None there",
}
OTHERWISE = ("MobileNetV5Backbone(round_chs_fn)", "MobileNetV5Backbone(se_layer)")


def test_the_release_that_is_followed() -> None:
    found = [*script.classes(), *script.presets(), *script.constructors()]
    ahead = {f"class {case.cls}: only here" for case in nightly_cases()}
    ahead |= {f"preset {name}: only here" for name in later_presets()}
    assert ahead <= set(found)
    rest = [line for line in found if line not in ahead | KNOWN]
    # Backbones that are not here yet.
    rest = [line for line in rest if not line.endswith(": only there") or "(" in line]
    assert all(line.startswith(OTHERWISE) for line in rest), rest


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


def test_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(script.keras_hub.models.BertBackbone):  # type: ignore[misc]
        def __init__(self, vocabulary_size=7, num_heads=1, hidden=2, **kwargs):  # type: ignore
            raise NotImplementedError

    monkeypatch.setattr(script.keras_hub.models, "BertBackbone", Other)
    found = [line for line in script.constructors() if line.startswith("BertBackbone")]
    assert any("(hidden): only there" in line for line in found)
    assert any("(vocabulary_size):" in line and "7 there" in line for line in found)
