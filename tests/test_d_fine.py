"""D-FINE: what other images and labels do, and checkpoints of transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
import transformers
from keras_hub.src.models.d_fine.d_fine_layers import DFineContrastiveDenoisingGroupGenerator
from keras_hub.src.models.d_fine.d_fine_utils import multi_scale_deformable_attention_v2
from safetensors.torch import load_file

from keras_hub_torch.backbones.d_fine.attention import SAMPLERS, DFineMultiscaleDeformableAttention
from keras_hub_torch.backbones.d_fine.denoising import Denoising
from keras_hub_torch.models import Backbone, DFineBackbone, HGNetV2Backbone

from . import oracle
from .cases.d_fine import LABELS, config, small
from .cases.retinanet import encoder
from .checkpoints import make_model

# Layers


@pytest.mark.parametrize("method", ["default", "discrete"])
def test_deformable_attention(method: str) -> None:
    """Within maps and beside them, with gradients; compiled, too."""
    torch.manual_seed(0)
    grids, points = [(5, 4), (2, 3)], [2, 3]
    layer = DFineMultiscaleDeformableAttention(6, 2, points, grids, SAMPLERS[method])
    torch.nn.init.normal_(layer.sampling_offsets.weight)
    torch.nn.init.normal_(layer.attention_weights.weight)
    x, memory = torch.randn(2, 7, 6), torch.randn(2, 26, 6, requires_grad=True)
    boxes = torch.rand(2, 7, 4)
    outer = torch.randn(2, 7, 6)
    found = []

    def theirs(x: torch.Tensor, memory: torch.Tensor, boxes: torch.Tensor) -> Any:
        offsets = layer.sampling_offsets(x).unflatten(-1, (2, 5, 2))
        weights = layer.attention_weights(x).unflatten(-1, (2, 5)).softmax(-1)
        scale = layer.num_points_scale[:, None] * 0.5
        places = boxes[:, :, None, None, :2] + offsets * scale * boxes[:, :, None, None, 2:]
        value = memory.unflatten(-1, (2, 3))
        sizes = [height * width for height, width in grids]
        seen = multi_scale_deformable_attention_v2(
            value, None, places, weights, points, sizes, grids, 2, 7, method
        )
        return seen, weights

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for call in (theirs, layer, compiled):
        layer.zero_grad()
        memory.grad = None
        seen, weights = call(x, memory, boxes)
        (seen * outer).sum().backward()
        gradients = [p.grad for p in layer.parameters() if p.grad is not None]
        found.append([seen, weights, memory.grad, *gradients])
    for mine in found[1:]:
        for a, b in zip(mine, found[0], strict=True):
            oracle.assert_close(a, oracle.named(b))


# Images


def test_channels_first(tmp_path: Path) -> None:
    """KerasHub has it only where Keras is told so for all layers."""
    first = {"data_format": "channels_first", "image_shape": [3, None, None]}
    case = oracle.Case(
        "d-fine-first",
        "DFineBackbone",
        config(backbone=small(5, 6, **first), anchor_image_size=[30, 23], **first),
        lambda rng: rng.uniform(0, 1, (2, 3, 30, 25)).astype("float32"),
    )
    keras.config.set_image_data_format("channels_first")
    try:
        theirs = oracle.keras_model(case)
        images = case.make_inputs()
        expected = oracle.keras_outputs(theirs, images)
    finally:
        keras.config.set_image_data_format("channels_last")
    theirs.save_to_preset(str(tmp_path))
    model = Backbone.from_preset(tmp_path)
    with torch.no_grad():
        oracle.assert_close(model(images), expected)


def test_a_network_of_another_data_format_is_turned() -> None:
    network = HGNetV2Backbone(**small(5, 6)["config"])
    model = DFineBackbone(
        **config(backbone=network, data_format="channels_first", image_shape=[3, None, None])
    ).eval()
    assert model.backbone.data_format == "channels_first"
    images = torch.rand(1, 32, 32, 3)
    found = model.backbone(images.permute(0, 3, 1, 2))["stage2"]
    assert torch.equal(found.permute(0, 2, 3, 1), network.eval()(images)["stage2"])


def test_export_over_sizes() -> None:
    """Images of any size that is not too small, as KerasHub computes them."""
    model = DFineBackbone(**config(num_denoising=0)).eval()
    free = torch.export.Dim.AUTO
    steps = {1: 16 * torch.export.Dim("rows", min=2), 2: 16 * torch.export.Dim("columns", min=2)}
    images = torch.rand(2, 32, 48, 3)
    program = torch.export.export(
        model, (), {"pixel_values": images}, dynamic_shapes={"pixel_values": {0: free, **steps}}
    ).module()
    with torch.no_grad():
        for size in [(2, 32, 48), (3, 64, 32)]:
            images = torch.rand(*size, 3)
            oracle.assert_close(program(pixel_values=images), oracle.named(model(images)))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ((24, 32), ["twice as large", "24 × 32 (3 × 4 and 2 × 2)", "divisible by 16"]),
        ((16, 16), ["anchor_image_size, 32 × 32, not 16 × 16"]),
        ((48, 48), ["num_queries=50", "48 × 48 have 45"]),
    ],
)
def test_refused_sizes(size: tuple[int, int], words: list[str]) -> None:
    with torch.device("meta"):
        model = DFineBackbone(**config(num_queries=50))
        with pytest.raises(ValueError, match="Images must") as raised:
            model(torch.zeros(1, *size, 3))
    for word in words:
        assert word in str(raised.value)


# Labels


def labels(**change: Any) -> list[dict[str, Any]]:
    return [LABELS[0], {**LABELS[2], **change}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [{"labels": [1]}]}, "labels[0] must have 'boxes' and 'labels', not labels"),
        ({"labels": labels(labels=[1, 2])}, "labels[1] has 1 boxes, but 2 labels"),
        ({"labels": labels(boxes=[[0.5, 0.5, 1.1, 0.2]])}, "labels[1] has the box [0.5, 0.5, 1.1"),
        ({"labels": labels(boxes=[[0.5, 0.5, 0.1]])}, "labels[1] has the box [0.5, 0.5, 0.1]"),
        ({"labels": labels(labels=[5])}, "labels[1] has the class 5, num_labels=5"),
        ({"labels": [LABELS[1]]}, "must have a box"),
        ({"labels": LABELS, "num_denoising": 10**9}, "too many"),
        ({"backbone": encoder()}, "backbone must be an HGNetV2Backbone, not a ResNetBackbone"),
        ({"image_shape": [None, None, 1]}, "backbone has image_shape"),
        ({"out_features": ["stage2", "stage1"]}, "the finest first: stem, stage1, stage2"),
        ({"decoder_method": "guess"}, "decoder_method='guess'"),
        ({"encoder_in_channels": [5]}, "must be equally long"),
        ({"feat_strides": [8]}, "feat_strides=[8] must have one number"),
        ({"decoder_n_points": [1, 2, 3]}, "decoder_n_points=[1, 2, 3]"),
        ({"num_feature_levels": 1}, "num_feature_levels=1 must be at least 2"),
        ({"hidden_dim": 10}, "hidden_dim=10 must be divisible by decoder_attention_heads=4"),
        (
            {"encoder_hidden_dim": 6, "hidden_dim": 12},
            "encoder_hidden_dim=6 must be divisible by 4",
        ),
        ({"encoder_hidden_dim": 12}, "encoder_hidden_dim=12 must be hidden_dim=8"),
        ({"encode_proj_layers": [2]}, "encode_proj_layers=[2]"),
        ({"encode_proj_layers": []}, "encode_proj_layers=[]"),
        ({"eval_idx": 2}, "eval_idx=2"),
        ({"anchor_image_size": [32, 8]}, "anchor_image_size=[32, 8]"),
    ],
)
def test_refused_arguments(change: dict[str, Any], message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=re.escape(message)):
        DFineBackbone(**config(**change))


def test_more_images_than_labels() -> None:
    model = DFineBackbone(**config(labels=LABELS)).eval()
    images = torch.rand(2, 32, 32, 3)
    assert model(images)["dn_positive_idx"].shape == (2, 6)
    with pytest.raises(ValueError, match="labels for 3 images; a batch must not have 4"):
        model(torch.cat((images, images)))


def test_seeds() -> None:
    """What is drawn is drawn once, and from the seed; arrays and tensors are lists."""
    given = [{"boxes": np.array(one["boxes"]), "labels": np.array(one["labels"])} for one in LABELS]
    first, second, other = (
        DFineBackbone(**config(labels=given, seed=seed)).eval() for seed in (1, 1, 2)
    )
    assert json.loads(json.dumps(first.get_config()))["labels"] == LABELS
    assert first.denoising is not None
    assert torch.equal(first.denoising.boxes, second.denoising.boxes)
    assert torch.equal(first.denoising.classes, second.denoising.classes)
    assert not torch.equal(first.denoising.boxes, other.denoising.boxes)
    images = torch.rand(1, 32, 32, 3)
    oracle.assert_close(first(images), oracle.named(first(images)), 0.0)


def test_what_is_drawn() -> None:
    """Classes and boxes have KerasHub's distributions: Kolmogorov–Smirnov, one in ten million."""
    arguments = {
        "num_labels": 5,
        "num_denoising": 400,
        "label_noise_ratio": 0.8,
        "box_noise_scale": 0.7,
    }
    torch.manual_seed(0)
    mine = Denoising(LABELS, 3, seed=None, **arguments)
    theirs = DFineContrastiveDenoisingGroupGenerator(seed=1, **arguments)
    given = [
        {"boxes": np.array(one["boxes"]).reshape(-1, 4), "labels": one["labels"]} for one in LABELS
    ]
    classes, boxes, _, known = theirs.call(given, num_queries=3)
    assert torch.equal(mine.positive, known["dn_positive_idx"])
    assert mine.num_groups == known["dn_num_group"]
    # [images, groups, positive or negative, object, …]
    shape = (3, mine.num_groups, 2, 2)
    for one, other in (
        (mine.classes.view(*shape, 1), classes.view(*shape, 1)),
        (mine.boxes.view(*shape, 4), boxes.view(*shape, 4)),
    ):
        a, b = (np.sort(x.numpy().astype("float64"), axis=1) for x in (one, other))
        n = a.shape[1]
        for index in np.ndindex(3, 2, 2, a.shape[-1]):
            image, *rest = index
            x, y = a[(image, slice(None), *rest)], b[(image, slice(None), *rest)]
            both = np.concatenate([x, y])
            far = np.searchsorted(x, both, "right") - np.searchsorted(y, both, "right")
            assert np.abs(far).max() / n <= np.sqrt(-np.log(1e-7 / 2) / n), index


# transformers

HF: dict[str, Any] = {
    "backbone_config": {
        "model_type": "hgnet_v2",
        "depths": [1, 1],
        "embedding_size": 4,
        "hidden_sizes": [5, 6],
        "stem_channels": [3, 6, 4],
        "stage_in_channels": [4, 5],
        "stage_mid_channels": [3, 3],
        "stage_out_channels": [5, 6],
        "stage_num_blocks": [1, 1],
        "stage_downsample": [True, True],
        "stage_downsample_strides": [2, 2],
        "stage_light_block": [False, True],
        "stage_kernel_size": [3, 3],
        "stage_numb_of_layers": [1, 1],
        "out_features": ["stage1", "stage2"],
    },
    "encoder_hidden_dim": 8,
    "encoder_in_channels": [5, 6],
    "feat_strides": [8, 16],
    "encoder_ffn_dim": 6,
    "encoder_attention_heads": 2,
    "encode_proj_layers": [1],
    "d_model": 12,
    "num_queries": 3,
    "decoder_in_channels": [8, 8],
    "decoder_ffn_dim": 10,
    "num_feature_levels": 2,
    "decoder_n_points": [2, 3],
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "num_denoising": 4,
    "hidden_expansion": 0.8,
    "depth_mult": 0.4,
    "lqe_hidden_dim": 6,
    "num_labels": 5,
}


def statistics(model: torch.nn.Module) -> None:
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("mean", "var")):
                buffer.uniform_(0.5, 1.5)


def checkpoint(folder: Path, **changes: Any) -> Path:
    model = make_model("DFineForObjectDetection", {**HF, **changes}, change=statistics)
    with torch.no_grad():
        model.model.decoder.reg_scale.fill_(6.0)
        model.model.decoder.up.fill_(0.4)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def assert_transformers_agrees(model: Any, folder: Path) -> None:
    theirs = transformers.DFineForObjectDetection.from_pretrained(
        folder, attn_implementation="eager"
    ).eval()
    images = torch.rand(2, 32, 32, 3)
    found = theirs(images.permute(0, 3, 1, 2), output_attentions=True)
    outputs = model(images)
    names = ("last_hidden_state", "init_reference_points", "enc_topk_logits", "enc_topk_bboxes")
    expected = {
        **{name: found[name] for name in (*names, "enc_outputs_class")},
        "logits": found.logits,
        "boxes": found.pred_boxes,
        "attention": found.decoder_attentions[-1],
        "encoder_attention": found.encoder_attentions[-1],
    }
    mine = {name: outputs[name] for name in (*names, "enc_outputs_class")}
    mine |= {
        "logits": outputs["intermediate_logits"][:, -1],
        "boxes": outputs["intermediate_reference_points"][:, -1],
        "attention": outputs["decoder_attentions"][-1],
        "encoder_attention": outputs["encoder_attentions"][-1],
    }
    oracle.assert_close(mine, oracle.named(expected))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "d_model": 8,
            "decoder_n_points": 2,
            "decoder_method": "discrete",
            "num_denoising": 0,
            "lqe_layers": 1,
            "eval_idx": 1,
        },
    ],
)
def test_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    size = {"anchor_image_size": [32, 32]}
    folder = checkpoint(tmp_path / "theirs", **changes)
    model: Any = Backbone.from_preset(folder, **size)
    assert_transformers_agrees(model, folder)
    model.export_to_transformers(tmp_path / "ours")
    before, after = (load_file(f / "model.safetensors") for f in (folder, tmp_path / "ours"))
    assert after.keys() == {name for name in before if not name.endswith("num_batches_tracked")}
    assert all(torch.equal(after[name], before[name]) for name in after)
    assert_transformers_agrees(model, tmp_path / "ours")
    assert Backbone.from_preset(tmp_path / "ours").get_config() == model.get_config()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_activation_function": "relu"}, "encoder_activation_function is 'relu'"),
        ({"normalize_before": True}, "normalize_before is True"),
        ({"eval_size": [640, 640]}, r"eval_size is \[640, 640\]"),
        ({"eval_idx": 0}, "eval_idx is 0; only -1, the last layer"),
        ({"num_feature_levels": 3}, "coarser maps are padded in another way"),
        ({"encode_proj_layers": [1, 1]}, "has one twice"),
        ({"decoder_in_channels": [8, 7]}, "does not end with encoder_hidden_dim 8"),
        ({"max_num_bins": 16}, "max_num_bins is 16"),
        ({"anchor_image_size": 640}, "anchor_image_size is 640"),
        ({"backbone_config": {"model_type": "resnet"}}, "model_type is 'resnet'"),
        ({"use_timm_backbone": True}, "use_timm_backbone is True"),
    ],
)
def test_refused_checkpoints(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "d_fine", **HF, **changes}))
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(tmp_path, load_weights=False)


def test_checkpoints_without_heads_are_refused(tmp_path: Path) -> None:
    make_model("DFineModel", HF).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"\(16 problems\):\s+missing: model\.decoder\.class_embed\.0"
    ):
        Backbone.from_preset(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": LABELS}, "labels is"),
        ({"anchor_image_size": [36, 32]}, r"anchor_image_size \[36, 32\] is not divisible"),
        (
            {"num_feature_levels": 3, "feat_strides": [8, 16, 32], "hidden_dim": 12}
            | {"decoder_n_points": 1},
            "coarser maps are padded in another way",
        ),
    ],
)
def test_models_that_transformers_does_not_have(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        model = DFineBackbone(**config(**change))
    with pytest.raises(ValueError, match=message):
        model.export_to_transformers(tmp_path / "new")
