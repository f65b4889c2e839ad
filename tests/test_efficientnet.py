"""EfficientNet: old names of coefficients, unsaved arguments, refused configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras_hub
import pytest
import torch

from keras_hub_torch.models import Backbone, EfficientNetBackbone

from . import oracle
from .cases.efficientnet import config, v1


def small(*block_types: str, **others: Any) -> EfficientNetBackbone:
    return EfficientNetBackbone(**config(*block_types, num_features=12, **others)).eval()


@pytest.mark.parametrize("scale", [1.2, [1.2, 1.5]])
def test_coefficients_by_their_old_names(scale: Any) -> None:
    given = {
        **config("v1", "fused"),
        "stackwise_width_coefficients": None,
        "width_coefficient": scale,
        "depth_coefficient": scale,
    }
    del given["stackwise_depth_coefficients"]
    model, theirs = EfficientNetBackbone(**given), keras_hub.models.EfficientNetBackbone(**given)
    expected = theirs.get_config()
    found = json.loads(json.dumps(model.get_config()))
    for name in ("stackwise_width_coefficients", "stackwise_depth_coefficients"):
        assert found[name] == expected[name]
    assert "width_coefficient" not in found
    assert model.count_params() == theirs.count_params()


@torch.no_grad()
def test_what_keras_hub_does_not_save(tmp_path: Path) -> None:
    """Is saved here, and KerasHub reads it."""
    model = small("v1", "cba", "fused", stackwise_nores_option=[False, True, True])
    model.save_to_preset(tmp_path)
    images = torch.rand(1, 33, 40, 3)
    theirs = keras_hub.models.Backbone.from_preset(str(tmp_path))
    assert theirs.get_layer("block3b_").nores
    expected = oracle.keras_outputs(theirs, images.numpy())
    oracle.assert_close(model(images), expected)
    oracle.assert_close(Backbone.from_preset(tmp_path)(images), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stackwise_strides": [1]}, r"equally long: .*stackwise_strides=\[1\]"),
        ({"stackwise_width_coefficients": None}, "stackwise_width_coefficients=None must be"),
        ({"stackwise_force_input_filters": [0]}, "must have a value for each of 2 stacks"),
        ({"stackwise_nores_option": [True]}, "must have a value for each of 2 stacks"),
        ({"stackwise_block_types": ["v1", "v3"]}, r"types\[1\]='v3' must be one of v1, unfused"),
        ({"stackwise_kernel_sizes": [3, 0]}, r"stackwise_kernel_sizes=\[3, 0\] must be at least 1"),
        ({"stackwise_kernel_sizes": [3, 4]}, r"kernel_sizes\[1\]=4 must be odd in blocks that add"),
        ({"stackwise_input_filters": [8, 12]}, r"filters\[1\] stand for 12 .* a block gets 8"),
        ({"stackwise_expansion_ratios": [1, 1.3]}, r"ratios\[1\]=1.3 must lead from 8 channels"),
        ({"stackwise_force_input_filters": [0, 12]}, r"stand for 12 channels where a block gets 8"),
        ({"depth_divisor": 0}, "depth_divisor=0 must be at least 1"),
        ({"min_depth": None}, "min_depth=None needs use_depth_divisor_as_min_depth=True"),
        ({"min_depth": 0, "num_features": 1}, "num_features=1 times 1.0 leaves no channels"),
        ({"stem_conv_padding": "full"}, "stem_conv_padding='full' must be one of valid, same"),
        ({"data_format": "channels_first"}, "must be 'channels_last': transpose"),
        (
            {"dropout": 1.0, "stackwise_depth_coefficients": [3.0, 3.0]},
            "dropout must lead to rates from 0 to below 1",
        ),
        ({"activation": "klingon"}, "Unknown activation 'klingon'"),
        ({"input_shape": (3, 64, 64)}, "does not go with data_format"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    given = config("v1", "fused", stackwise_strides=[1, 1], stackwise_output_filters=[8, 12])
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        EfficientNetBackbone(**{**given, **changes})


def test_images_that_are_too_small() -> None:
    model = small("v1", include_stem_padding=False)
    assert model(torch.rand(1, 3, 3, 3)).shape == (1, 1, 1, 12)
    with pytest.raises(ValueError, match="at least 3, not 2 × 9; enlarge them"):
        model(torch.rand(1, 2, 9, 3))


def test_no_name_in_timm(tmp_path: Path) -> None:
    """The strides of EdgeTPU and v2 are padded otherwise in KerasHub's presets."""
    with torch.device("meta"):
        model = EfficientNetBackbone(**v1(1.0, 1.0, stem_conv_padding="same"))
    with pytest.raises(ValueError, match="stem_conv_padding is 'same', not 'valid'"):
        model.export_to_timm(tmp_path)
