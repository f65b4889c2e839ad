"""What models are called with: all that is meant well, and clear errors for the rest."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import keras_hub_torch

from . import oracle
from .conftest import reference_of

models = keras_hub_torch.models

SMALL = {
    "vocabulary_size": 37,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 20,
    "max_sequence_length": 17,
}


@pytest.fixture(scope="module")
def bert() -> Any:
    torch.manual_seed(0)
    return models.BertBackbone(**SMALL).eval()


def resnet(**options: Any) -> Any:
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64],
        stackwise_num_blocks=[1],
        stackwise_num_strides=[1],
        block_type="basic_block",
        **options,
    ).eval()


@pytest.fixture(scope="module")
def images_model() -> Any:
    torch.manual_seed(0)
    return resnet()


IDS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def pooled(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        value: torch.Tensor = model(*args, **kwargs)["pooled_output"]
    return value


def test_ways_to_say_the_same(bert: Any) -> None:
    expected = pooled(bert, {"token_ids": IDS, "padding_mask": MASK})
    numpy = {"token_ids": IDS.numpy(), "padding_mask": MASK.numpy()}
    read_only = IDS.numpy().copy()
    read_only.flags.writeable = False
    calls = [
        pooled(bert, IDS, None, MASK),
        pooled(bert, IDS, padding_mask=MASK),
        pooled(bert, token_ids=IDS, padding_mask=MASK, segment_ids=None),
        pooled(bert, {"token_ids": IDS}, padding_mask=MASK),
        pooled(bert, UserDict(numpy)),
        pooled(bert, {**numpy, "segment_ids": np.zeros((2, 5), "int8")}),
        pooled(bert, {**numpy, "segment_ids": IDS * 0, "labels": "anything", 3: None}),
        pooled(bert, IDS.numpy()[:, ::-1][:, ::-1], None, MASK.numpy()[::-1][::-1]),
        pooled(bert, np.asfortranarray(IDS.numpy()), None, MASK),
        pooled(bert, IDS.numpy().astype(">i4"), None, MASK),
        pooled(bert, read_only, None, MASK),
        pooled(bert, IDS.T.contiguous().T, None, MASK),
    ]
    for call in calls:
        assert torch.equal(call, expected)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "kind", ["int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64"]
)
def test_kinds_of_ids(bert: Any, kind: str) -> None:
    expected = pooled(bert, IDS, None, MASK)
    dtype = getattr(torch, kind)
    assert torch.equal(pooled(bert, IDS.to(dtype), None, MASK.to(dtype)), expected)
    assert torch.equal(pooled(bert, IDS.numpy().astype(kind), None, MASK), expected)


@pytest.mark.parametrize(
    "mask",
    [MASK.bool(), MASK.float(), MASK.half(), MASK * 7, -MASK, MASK.bool().numpy(), MASK.double()],
)
def test_kinds_of_masks(bert: Any, mask: Any) -> None:
    """What is not zero is true."""
    assert torch.equal(pooled(bert, IDS, None, mask), pooled(bert, IDS, None, MASK))


@pytest.mark.parametrize(
    "kind", [torch.float32, torch.bfloat16, torch.float64, torch.bool, torch.complex64]
)
def test_ids_that_are_no_integers(bert: Any, kind: torch.dtype) -> None:
    with pytest.raises(TypeError, match=f"^token_ids must hold integers, not {kind}"):
        bert(IDS.to(kind))
    with pytest.raises(TypeError, match=f"^segment_ids must hold integers, not {kind}"):
        bert(IDS, segment_ids=IDS.to(kind))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1, 2]], "token_ids must be a tensor or a NumPy array, not list"),
        ("hello", "token_ids must be a tensor or a NumPy array, not str"),
        (3, "token_ids must be a tensor or a NumPy array, not int"),
        (np.array([["a"]]), "token_ids must hold numbers, not <U1"),
        (np.array([[None]]), "token_ids must hold numbers, not object"),
        (np.array([["2020"]], "datetime64"), "token_ids must hold numbers"),
        (np.array([[0.5]]), "token_ids must hold integers, not torch.float64"),
    ],
)
def test_other_objects(bert: Any, value: Any, message: str) -> None:
    for inputs in (value, {"token_ids": value}):
        with pytest.raises(TypeError, match=message):
            bert(inputs)


def test_complex_masks(bert: Any) -> None:
    with pytest.raises(TypeError, match="padding_mask must hold real numbers, not"):
        bert(IDS, padding_mask=MASK.to(torch.complex64))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "missing: token_ids"),
        ({"padding_mask": MASK}, "missing: token_ids"),
        ({"token_ids": None}, "missing: token_ids"),
        ({"token_id": IDS}, r"missing: token_ids; unknown: token_id \('token_id' must be"),
        ({"token_ids": IDS, "padding_masks": MASK}, "'padding_masks' must be 'padding_mask'"),
        ({"token_ids": IDS, "attention_mask": MASK}, "'attention_mask' must be 'padding_mask'"),
        ({"token_ids": IDS, "token_type_ids": IDS}, "'token_type_ids' must be 'segment_ids'"),
        ({"input_ids": IDS, "attention_mask": MASK}, "'input_ids' must be 'token_ids'; 'att"),
    ],
)
def test_missing_and_unknown_inputs(bert: Any, inputs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        bert(inputs)
    assert "BertBackbone takes the inputs token_ids, segment_ids, padding_mask" in str(caught.value)
    if all(isinstance(key, str) for key in inputs):
        with pytest.raises(ValueError, match=message):
            bert(**inputs)


def test_other_keys_are_passed_over(bert: Any) -> None:
    whole = {"token_ids": IDS, "padding_mask": MASK, "segment_ids": torch.zeros_like(IDS)}
    for inputs, others in (
        ({"token_ids": IDS}, {"labels": MASK}),
        ({"token_ids": IDS}, {3: MASK}),
        (whole, {"attention_mask": MASK, "token_type_ids": IDS}),
    ):
        expected = bert(inputs)["pooled_output"]
        assert torch.equal(bert({**inputs, **others})["pooled_output"], expected)


def test_additive_masks_are_refused(bert: Any) -> None:
    for hidden in (-torch.inf, torch.finfo(torch.float32).min):
        mask = torch.zeros(IDS.shape).masked_fill(MASK == 0, hidden)
        mask[0, -1] = hidden
        with pytest.raises(ValueError, match="padding_mask is nonzero for what is real"):
            bert(token_ids=IDS, padding_mask=mask)


def test_inputs_given_twice(bert: Any) -> None:
    for args, kwargs in (
        ((IDS, IDS, MASK, MASK), {}),
        ((IDS,), {"token_ids": IDS}),
        (({"token_ids": IDS},), {"token_ids": IDS}),
        (({"token_ids": IDS}, MASK), {}),
    ):
        with pytest.raises(TypeError, match="token_ids, segment_ids, padding_mask, each once"):
            bert(*args, **kwargs)


def test_ranks(bert: Any, images_model: Any) -> None:
    for shape in ((), (5,), (2, 5, 1)):
        with pytest.raises(ValueError, match=r"token_ids must have 2 axes \(batch, length\), not"):
            bert(torch.zeros(shape, dtype=torch.long))
    with pytest.raises(ValueError, match=r"not shape \(2, 1, 5, 5\)"):
        bert(IDS, padding_mask=torch.ones(2, 1, 5, 5))
    for images in (torch.zeros(32, 32, 3), torch.zeros(1, 1, 32, 32, 3)):
        with pytest.raises(ValueError, match=r"images must have 4 axes \(batch, height"):
            images_model(images)
        with pytest.raises(ValueError, match=r"images must have 4 axes \(batch, height"):
            images_model.pyramid_outputs(images)


def test_sizes_that_do_not_go_together(bert: Any) -> None:
    with pytest.raises(ValueError, match="padding_mask has length 3, but token_ids has length 5"):
        bert(IDS, padding_mask=MASK[:, :3])
    with pytest.raises(ValueError, match="segment_ids has batch 1, but token_ids has batch 2"):
        bert(IDS, segment_ids=MASK[:1])


def test_too_long(bert: Any) -> None:
    bert(torch.zeros(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"18.*17"):
        bert(torch.zeros(1, 18, dtype=torch.long))


def test_ids_out_of_range(bert: Any) -> None:
    for ids in (IDS + 37, IDS - 37):
        with pytest.raises(IndexError, match="out of range"):
            bert(ids)


def test_empty_batches(bert: Any, images_model: Any) -> None:
    outputs = bert({"token_ids": IDS[:0], "padding_mask": MASK[:0]})
    assert outputs["sequence_output"].shape == (0, 5, 12)
    assert outputs["pooled_output"].shape == (0, 12)
    assert images_model(torch.zeros(0, 32, 32, 3)).shape == (0, 8, 8, 64)


def test_no_tokens(bert: Any) -> None:
    with pytest.raises(IndexError, match="size 0"):
        bert(IDS[:, :0])


def test_other_shapes_call_by_call(bert: Any) -> None:
    ids = torch.arange(34).reshape(2, 17)
    whole = pooled(bert, ids)
    for rows in (slice(0, 1), slice(1, 2)):
        torch.testing.assert_close(pooled(bert, ids[rows]), whole[rows])
    mask = (torch.arange(17) < 6).expand(2, 17)
    torch.testing.assert_close(pooled(bert, ids, None, mask), pooled(bert, ids[:, :6]))


def test_images(images_model: Any) -> None:
    images = torch.rand(2, 40, 36, 3)
    with torch.no_grad():
        expected = images_model(images)
        calls = [
            images_model(images.numpy()),
            images_model({"images": images}),
            images_model(images=images.numpy()[:, ::-1][:, ::-1]),
            images_model(images.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)),
            images_model.pyramid_outputs(images)["P2"],
            images_model.pyramid_outputs["P2"](images.numpy()),
        ]
        for call in calls:
            torch.testing.assert_close(call, expected)
        torch.testing.assert_close(images_model(images.double()), expected)
    for whole in ((images * 255).to(torch.uint8), images.long(), images > 0.5):
        with pytest.raises(TypeError, match=r"not torch\.\w+: pixels are scaled as the weights"):
            images_model(whole)
        with pytest.raises(TypeError, match="images must hold floating-point numbers, not"):
            images_model.pyramid_outputs(whole.numpy())
    with pytest.raises(TypeError, match="images must hold real numbers"):
        images_model(images.to(torch.complex64))
    with pytest.raises(KeyError, match="P9"):
        images_model.pyramid_outputs["P9"]
    assert list(images_model.pyramid_outputs) == ["P2"]


def test_gradients_of_images(images_model: Any) -> None:
    images = torch.rand(1, 32, 32, 3, requires_grad=True)
    images_model(images).sum().backward()
    assert images.grad is not None
    assert images.grad.shape == images.shape
    assert images.grad.abs().sum() > 0


def test_channels_first(images_model: Any) -> None:
    model = resnet(data_format="channels_first", image_shape=(3, None, None))
    model.load_state_dict(images_model.state_dict())
    images = torch.rand(2, 40, 36, 3)
    with torch.no_grad():
        expected = images_model(images).permute(0, 3, 1, 2)
        torch.testing.assert_close(model(images.permute(0, 3, 1, 2)), expected)
        torch.testing.assert_close(
            model.pyramid_outputs(images.permute(0, 3, 1, 2))["P2"], expected
        )


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_modes(bert: Any, mode: Any) -> None:
    with mode():
        output = bert(IDS)["pooled_output"]
    assert torch.equal(output, pooled(bert, IDS))
    assert output.requires_grad == (mode is torch.enable_grad)
    assert output.is_inference() == (mode is torch.inference_mode)


def test_autocast(bert: Any) -> None:
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = bert(IDS)["pooled_output"]
    torch.testing.assert_close(output.float(), pooled(bert, IDS), atol=0.05, rtol=0.05)


class Widened(TorchDispatchMode):
    """Counts what was widened from half precision only to be narrowed again."""

    def __init__(self) -> None:
        super().__init__()
        self.wide: list[torch.Tensor] = []
        self.again = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        if function is torch.ops.aten._to_copy.default:
            before, after = args[0].dtype, out.dtype
            if (before, after) == (torch.bfloat16, torch.float32):
                self.wide.append(out)
            elif (before, after) == (torch.float32, torch.bfloat16):
                self.again += any(args[0] is one for one in self.wide)
        return out


@torch.no_grad()
def test_autocast_widens_nothing_in_vain(bert: Any) -> None:
    resnet = models.ResNetBackbone([64], [3], [64, 8], [1, 1], [1, 2], "bottleneck_block")
    for model, inputs in ((bert, IDS), (resnet, torch.rand(1, 32, 32, 3))):
        with torch.autocast("cpu", torch.bfloat16), Widened() as widened:
            model(inputs)
        assert widened.again == 0


def test_hooks_see_the_inputs(bert: Any) -> None:
    seen: list[Any] = []
    handle = bert.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(sorted(kwargs)), with_kwargs=True
    )
    bert(IDS, None, MASK)
    handle.remove()
    assert seen == [["padding_mask", "segment_ids", "token_ids"]]


def test_encoder_and_decoder_have_lengths_of_their_own() -> None:
    model = models.T5Backbone(
        vocabulary_size=37, num_layers=1, num_heads=2, hidden_dim=12, intermediate_dim=20
    )
    outputs = model({"encoder_token_ids": IDS, "decoder_token_ids": IDS[:, :3]})
    assert outputs["decoder_sequence_output"].shape == (2, 3, 12)
    with pytest.raises(ValueError, match="decoder_token_ids has batch 1, but encoder_token_ids"):
        model({"encoder_token_ids": IDS, "decoder_token_ids": IDS[:1]})
    with pytest.raises(ValueError, match="encoder_padding_mask has encoder_length 3, but encoder_"):
        model(
            {
                "encoder_token_ids": IDS,
                "decoder_token_ids": IDS[:, :3],
                "encoder_padding_mask": MASK[:, :3],
            }
        )
    with pytest.raises(ValueError, match="missing: decoder_token_ids"):
        model(IDS)


# Against KerasHub


def test_no_gradient_is_lost_in_hidden_rows(preset_folder: Path) -> None:
    bert = reference_of("bert", preset_folder)
    model = bert.load()
    assert isinstance(bert.inputs, dict)
    inputs = {**bert.inputs, "padding_mask": np.zeros_like(bert.inputs["padding_mask"])}
    model(inputs)["sequence_output"].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_training_statistics(preset_folder: Path) -> None:
    """Moving statistics of a batch norm after a training step, as in Keras."""
    resnet = reference_of("resnet-basic", preset_folder)
    theirs = oracle.keras_model(resnet.case)
    theirs(resnet.inputs, training=True)
    model = resnet.load().train()
    model(resnet.inputs)
    name = "conv1_bn"
    mine, keras_layer = model.get_layer(name), theirs.get_layer(name)
    for ours, reference in (
        (mine.running_mean, keras_layer.moving_mean),
        (mine.running_var, keras_layer.moving_variance),
    ):
        expected = reference.value.detach().numpy()
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5, rtol=1e-5)
    frozen = resnet.load(trainable=False).train()
    before = frozen.get_layer(name).running_mean.clone()
    frozen(resnet.inputs)
    assert torch.equal(frozen.get_layer(name).running_mean, before)
