"""What MobileNets refuse, and what timm's MobileNetV5 computes otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from keras_hub_torch.models import Backbone, MobileNetBackbone, MobileNetV5Backbone
from keras_hub_torch.presets.timm.mobilenetv5 import WITHOUT_BIAS

from .cases import mobilenet, mobilenetv5
from .cases.mobilenetv5 import er, mqa, uir


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stackwise_num_blocks": [2]}, "equally long: stackwise_num_blocks"),
        ({"stackwise_padding": [[1], [1]]}, "stackwise_padding=.* each block"),
        ({"stackwise_activation": [["relu", "rely"], ["relu"]]}, "Unknown activation 'rely'"),
        ({"depthwise_residual": True}, "depthwise_residual=True needs depthwise_stride=1"),
        (
            {"stackwise_num_strides": [[2, 1], [1]], "stackwise_num_filters": [[16] * 2, [16]]}
            | {"stackwise_padding": [[1, 2], [0]]},
            "stackwise_padding=.* half of",
        ),
        ({"image_shape": (3, None, None)}, "image_shape"),
    ],
)
def test_mobilenet(changes: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MobileNetBackbone(**mobilenet.config(**changes))


V5 = [er(16, 2)], [uir(16, 3, 5, 2.0, 2), mqa(16, 2, 4)]


@pytest.mark.parametrize(
    ("stacks", "others", "message"),
    [
        (([er(8, block_types="ir")],), {}, "stackwise_block_types has 'ir'"),
        (([er(8, 3)],), {}, "stackwise_strides has 3; it must be 1 or 2"),
        (([er(8, se_ratios=0.5)],), {}, "stackwise_se_ratios has 0.5"),
        (([er(8, pw_kernel_sizes=0)],), {}, "stackwise_pw_kernel_sizes must be positive"),
        (([mqa(8, 0, 4)],), {}, "stackwise_num_heads has 0"),
        (([mqa(8, 3, 4, block_types="mha")],), {"stem_size": 16}, "stackwise_num_heads has 3"),
        (([er(16)],), {"pad_type": "valid", "use_msfa": False}, "adds its input"),
        (V5, {"pad_type": "sane"}, "pad_type='sane'"),
        (V5, {"norm_layer": "layer_norm"}, "norm_layer='layer_norm'"),
        (V5, {"msfa_indices": (-4, -1)}, "msfa_indices=.* from -3 to 2"),
        (V5, {"msfa_indices": (1, 1)}, "msfa_indices=.* different"),
        (V5, {"stackwise_use_cpe": [[True], [True]]}, "stackwise_use_cpe=.* each block"),
    ],
)
def test_mobilenetv5(stacks: Any, others: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MobileNetV5Backbone(**{**mobilenetv5.config(*stacks), **others})


def test_small_images() -> None:
    model = MobileNetV5Backbone(**mobilenetv5.config(*V5, pad_type="valid", use_msfa=False))
    model.eval()
    assert model(torch.zeros(1, 31, 33, 3)).shape == (1, 1, 1, 16)
    with pytest.raises(ValueError, match="at least 31, not 30 × 33"):
        model(torch.zeros(1, 30, 33, 3))
    net = MobileNetBackbone(**mobilenet.config(stackwise_padding=[[1, 2], [0]]))
    net.eval()
    assert net(torch.zeros(1, 17, 17, 3)).shape == (1, 1, 1, 32)
    with pytest.raises(ValueError, match="at least 17, not 17 × 16"):
        net(torch.zeros(1, 17, 16, 3))


def write(folder: Path, architecture: str, **model_args: Any) -> Path:
    config = {"architecture": architecture, "model_args": model_args}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_timms_padding(tmp_path: Path) -> None:
    def load(*args: Any, **kwargs: Any) -> Any:
        folder = write(tmp_path, *args, **kwargs)
        return Backbone.from_preset(folder, load_weights=False, device="meta")

    with pytest.warns(UserWarning, match="GELU's tanh form"):
        load("mobilenetv5_300m_enc")
    with (
        pytest.warns(UserWarning, match="GELU's tanh form"),
        pytest.warns(UserWarning, match="pads alike on both sides in timm"),
    ):
        load("mobilenetv5_300m.gemma3n")
    with pytest.warns(UserWarning, match="GELU"):
        model = load("mobilenetv5_base", pad_type="same", msfa_output_resolution=8)
    assert model.get_config()["msfa_output_resolution"] == 8
    for architecture, padding in (("base", {}), ("300m_enc", {"pad_type": ""})):
        with (
            pytest.warns(UserWarning, match="GELU"),
            pytest.raises(ValueError, match=r"model_args\.pad_type is ''; only 'same'"),
        ):
            load(f"mobilenetv5_{architecture}", **padding)
    with pytest.raises(ValueError, match="mobilenetv4_conv_small"):
        load("mobilenetv4_conv_small")


def test_biases_that_timm_does_not_have() -> None:
    weight, bias = torch.ones(2, 3, 1, 1), torch.zeros(2)
    (written,) = WITHOUT_BIAS.save([weight, bias])
    assert torch.equal(written, weight)
    assert torch.equal(WITHOUT_BIAS.load([written], [weight.shape, bias.shape])[1], bias)
    with pytest.raises(ValueError, match="biases other than 0"):
        WITHOUT_BIAS.save([weight, bias + 1])
