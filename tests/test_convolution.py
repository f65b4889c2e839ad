"""The layers of convolutional models, each against Keras's alone."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import keras_hub_torch
from keras_hub_torch.backbones.layers.convolution import (
    AveragePoolSame,
    BatchNormalization,
    Conv2D,
    Conv2DTranspose,
    ConvNorm,
    DepthwiseConv2D,
    SamePadding,
    SeparableConv2D,
    channels_back,
    channels_first,
    max_pool_same,
    pad_same,
    resize,
)
from keras_hub_torch.backbones.layers.layout import keras_children
from keras_hub_torch.presets.keras.tree import variables_of

from . import oracle

SIZES = [(9, 12), (8, 7)]


def image(height: int, width: int, channels: int = 6, batch: int = 2) -> torch.Tensor:
    """In the memory order of `channels_last`."""
    return torch.randn(batch, height, width, channels).permute(0, 3, 1, 2)


def keras_output(layer: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return layer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def fill(layer: Any, ours: Any) -> None:
    """Give both the same random weights; Keras's kernel goes there and back."""
    for weight in layer.weights:
        weight.assign(np.random.default_rng(1).standard_normal(weight.shape))
    kernel = layer.weights[0].value.detach()
    with torch.no_grad():
        ours.weight.copy_(ours.from_kernel(kernel))
        if ours.bias is not None:
            ours.bias.copy_(layer.weights[1].value)
    assert torch.equal(ours.to_kernel(ours.weight), kernel)


def close(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    assert mine.shape == theirs.shape
    oracle.assert_close(mine, oracle.named(theirs))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # it copies, and may
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_convolutions(padding: str, kernel_size: int, strides: int, dilation: int) -> None:
    if strides > 1 and dilation > 1:
        dilated: dict[str, int] = {}  # Keras takes either
        dilation = 1
    else:
        dilated = {"dilation_rate": dilation}
    ahead = padding == "same" and strides > 1
    pad = SamePadding(kernel_size, strides, dilation) if ahead else nn.Identity()
    own = 0 if ahead else padding
    for height, width in [(15, 16), (14, 13)]:
        x = image(height, width)
        for groups in (1, 3):
            layer = keras.layers.Conv2D(
                9, kernel_size, strides, padding=padding, groups=groups, **dilated
            )
            layer.build((None, None, None, 6))
            ours = Conv2D(6, 9, kernel_size, strides, own, dilation, groups)
            fill(layer, ours)
            close(ours(pad(x)), keras_output(layer, x))
        layer = keras.layers.DepthwiseConv2D(
            kernel_size, strides, padding=padding, depth_multiplier=2, **dilated
        )
        layer.build((None, None, None, 6))
        depthwise = DepthwiseConv2D(6, kernel_size, strides, own, dilation, depth_multiplier=2)
        fill(layer, depthwise)
        close(depthwise(pad(x)), keras_output(layer, x))


def test_strided_same_is_padded_ahead() -> None:
    with pytest.raises(ValueError, match=r"padded ahead, by SamePadding\(3, 2\)"):
        Conv2D(3, 8, 3, 2, "same")
    with pytest.raises(ValueError, match=r"padded ahead, by SamePadding\(5, 3\)"):
        DepthwiseConv2D(8, 5, 3, "same")
    assert Conv2D(3, 8, 1, 2, "same").padding == (0, 0)
    # What is symmetric at stride 1 is the convolution's own, by numbers.
    assert Conv2D(3, 8, 3, 1, "same", dilation=2).padding == (2, 2)
    x = image(8, 8)
    assert pad_same(x, 2, 2) is x


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("use_bias", [False, True])
def test_separable_convolution(use_bias: bool, strides: int) -> None:
    layer = keras.layers.SeparableConv2D(
        9, 3, strides, "same", depth_multiplier=2, use_bias=use_bias
    )
    x = image(9, 12)
    keras_output(layer, x)
    padding = "same" if strides == 1 else 0
    ours = SeparableConv2D(6, 9, 3, strides, padding, depth_multiplier=2, use_bias=use_bias)
    variables = variables_of(ours)
    assert [variable.shape for variable in variables] == [w.shape for w in layer.weights]
    assert not keras_children(ours)
    for variable, weight in zip(variables, layer.weights):
        weight.assign(np.random.default_rng(1).standard_normal(weight.shape))
        kernel = weight.value.detach()
        with torch.no_grad():
            variable.tensor.copy_(variable.from_keras(kernel))
        assert torch.equal(variable.to_keras(variable.tensor), kernel)
    padded = x if strides == 1 else SamePadding(3, 2)(x)
    close(ours(padded), keras_output(layer, x))


@pytest.mark.parametrize("size", [2, 4])
def test_transposed_convolution(size: int) -> None:
    x = image(5, 4)
    layer = keras.layers.Conv2DTranspose(8, size, size)
    layer.build((None, None, None, 6))
    ours = Conv2DTranspose(6, 8, size, size)
    fill(layer, ours)
    close(ours(x), keras_output(layer, x))
    wide = keras.layers.Conv2DTranspose(8, 3, 2)
    wide.build((None, None, None, 6))
    ours = Conv2DTranspose(6, 8, 3, 2)
    fill(wide, ours)
    close(ours(x), keras_output(wide, x))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Conv2D(6, 8, 3, 2, 1, groups=2),
        lambda: Conv2D(6, 8, 4, 1, "same", dilation=2),
        lambda: DepthwiseConv2D(6, 3, 1, "same"),
    ],
)
def test_a_convolution_computes_what_its_base_class_does(make: Callable[[], nn.Conv2d]) -> None:
    conv = make()
    assert isinstance(conv, nn.Conv2d)
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )
    plain.load_state_dict(conv.state_dict())
    x = image(9, 11)
    assert torch.equal(conv(x), plain(x))


@pytest.mark.parametrize("strides", [1, 2, 3])
@pytest.mark.parametrize("pool_size", [2, 3, 4])
def test_pooling(pool_size: int, strides: int) -> None:
    for height, width in SIZES:
        x = image(height, width) - 3  # zeros would be the maximum
        layer = keras.layers.MaxPooling2D(pool_size, strides, padding="same")
        assert torch.equal(max_pool_same(x, pool_size, strides), keras_output(layer, x))
        if pool_size == 2 and strides > 1:
            layer = keras.layers.AveragePooling2D(2, strides, padding="same")
            close(AveragePoolSame(strides)(x), keras_output(layer, x))
            compiled = torch.compile(AveragePoolSame(strides), backend="eager")
            close(compiled(x), keras_output(layer, x))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_resizing(interpolation: str) -> None:
    for height, width in SIZES:
        x = image(height, width)
        layer = keras.layers.UpSampling2D((2, 3), interpolation=interpolation)
        close(resize(x, (2 * height, 3 * width), interpolation), keras_output(layer, x))
        layer = keras.layers.Resizing(5, 17, interpolation)
        close(resize(x, (5, 17), interpolation), keras_output(layer, x))


def test_resizing_with_corners_on_each_other() -> None:
    x = image(3, 4)
    large = resize(x, (5, 7), align_corners=True)
    close(large[:, :, ::2, ::2], x)
    close(large[:, :, 1, 0], (x[:, :, 0, 0] + x[:, :, 1, 0]) / 2)


def norms(epsilon: float = 1e-3, momentum: float = 0.99) -> tuple[Any, BatchNormalization]:
    theirs = keras.layers.BatchNormalization(epsilon=epsilon, momentum=momentum)
    theirs.build((None, None, None, 6))
    oracle.randomise(theirs, np.random.default_rng(2))
    ours = BatchNormalization(6, epsilon, momentum)
    with torch.no_grad():
        for tensor, weight in zip(ours.state_dict().values(), theirs.weights):
            tensor.copy_(weight.value)
    return theirs, ours


def test_batch_norm_trains_as_in_keras() -> None:
    theirs, ours = norms(epsilon=1e-5, momentum=0.9)
    assert ours.training
    for _ in range(3):
        x, outer = image(4, 5) * 3 + 1, image(4, 5)
        gradients = []
        for function in (
            lambda x: theirs(x.permute(0, 2, 3, 1), training=True).permute(0, 3, 1, 2),
            ours,
        ):
            leaf = x.detach().clone().requires_grad_()
            y = function(leaf)
            (y * outer).sum().backward()
            gradients.append((y.detach(), leaf.grad))
        for reference, mine in zip(*gradients):
            close(mine, reference)
        close(ours.weight.grad, theirs.gamma.value.grad)
        close(ours.bias.grad, theirs.beta.value.grad)
        for tensor, weight in zip(ours.state_dict().values(), theirs.weights):
            close(tensor, weight.value)
        for tensors in (ours.parameters(), (w.value for w in theirs.trainable_weights)):
            for tensor in tensors:
                tensor.data -= 0.1 * tensor.grad
                tensor.grad = None
    ours.eval()
    x = image(4, 5)
    close(ours(x), keras_output(theirs, x))


def test_frozen_batch_norm_keeps_to_its_statistics() -> None:
    theirs, ours = norms()
    theirs.trainable = False
    ours.requires_grad_(False)
    x = image(4, 5)
    before = copy.deepcopy(ours.state_dict())
    close(ours(x), theirs(x.permute(0, 2, 3, 1), training=True).permute(0, 3, 1, 2))
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_batch_norm_in_other_dtypes(dtype: torch.dtype) -> None:
    ours = norms(momentum=0.5)[1].to(dtype)
    x = (image(16, 16) * 0.1 + 10).to(dtype)
    exact = x.double()
    mean, var = exact.mean((0, 2, 3)), exact.var((0, 2, 3), correction=0)
    expected = F.batch_norm(exact, mean, var, ours.weight.double(), ours.bias.double(), eps=1e-3)
    moving = (ours.running_var.double() + var) / 2
    y = ours(x)
    assert y.dtype == dtype
    rounding = max(torch.finfo(dtype).eps, 1e-7)
    torch.testing.assert_close(y.double(), expected, rtol=rounding, atol=10 * rounding)
    # Of near numbers: in the dtype itself it would be far off.
    torch.testing.assert_close(ours.running_var.double(), moving, rtol=rounding, atol=0)


def test_batch_norm_in_mixed_precision() -> None:
    _, ours = norms()
    ours.compute_dtype = torch.bfloat16
    x = image(8, 8)
    y = ours(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert ours.weight.grad is not None
    assert ours.weight.grad.dtype == torch.float32


def test_batch_norm_holds_four_tensors() -> None:
    _, ours = norms()
    names = ["weight", "bias", "running_mean", "running_var"]
    assert list(ours.state_dict()) == names
    assert dict(ours.named_buffers()).keys() == {"running_mean", "running_var"}
    file = io.BytesIO()
    torch.save(dict(ours.state_dict()), file)  # without torch's notes on versions
    file.seek(0)
    again = BatchNormalization(6)
    again.load_state_dict(torch.load(file))
    x = image(4, 4)
    assert torch.equal(again.eval()(x), ours.eval()(x))
    assert list(copy.deepcopy(ours).state_dict()) == names
    with torch.device("meta"):
        assert list(BatchNormalization(6).state_dict()) == names


def test_tools_know_batch_norm() -> None:
    _, norm = norms()
    conv = Conv2D(3, 6, 3, 1, "same")
    block = ConvNorm(conv, norm, nn.ReLU()).eval()
    x = image(7, 8, 3)
    with torch.no_grad():
        expected = block(x)
        fused = torch.nn.utils.fuse_conv_bn_eval(conv, norm)
        torch.testing.assert_close(F.relu(fused(x)), expected)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(block))
    assert isinstance(converted.bn, nn.SyncBatchNorm)
    torch.testing.assert_close(converted(x), expected)
    assert converted.bn.eps == norm.eps
    assert converted.bn.momentum == norm.momentum
    assert converted.bn.num_batches_tracked.item() == 0


def test_conv_norm() -> None:
    pad = SamePadding(3, 2)
    block = ConvNorm(
        DepthwiseConv2D(6, 3, 2, use_bias=False), norms()[1], nn.ReLU(), pad, ("dw", "dw_bn")
    )
    x = image(8, 8)
    assert torch.equal(block(x), F.relu(block.bn(block.conv(pad_same(x, 3, 2)))))
    holder = nn.Module()
    holder.block2b = block
    children = [child for child in keras_children(holder) if child.module.state_dict()]
    assert [child.name for child in children] == ["dw", "dw_bn"]
    assert [child.attribute for child in children] == ["dw", "dw_bn"]
    assert [child.class_name for child in children] == ["DepthwiseConv2D", "BatchNormalization"]
    assert len(ConvNorm(Conv2D(6, 6, 1))) == 1


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_memory_stays_channels_last(data_format: str) -> None:
    """From the images on, so that nothing is rearranged between layers."""
    shape = (None, None, 3) if data_format == "channels_last" else (3, None, None)
    model = keras_hub_torch.models.ResNetBackbone(
        [8, 8, 64],
        [3, 3, 3],
        [64, 16],
        [2, 2],
        [1, 2],
        "bottleneck_block_vd",
        image_shape=shape,
        data_format=data_format,
    )
    orders: list[bool] = []

    def look(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        for x in (*inputs, output):
            orders.append(x.is_contiguous(memory_format=torch.channels_last))

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d)):
            module.register_forward_hook(look)
    images = torch.rand(2, 33, 46, 3)
    x = images if data_format == "channels_last" else images.permute(0, 3, 1, 2).contiguous()
    y = model(x)
    assert len(orders) > 60
    assert all(orders)
    if data_format == "channels_last":
        assert y.is_contiguous()
        assert channels_first(images, data_format).data_ptr() == images.data_ptr()
        assert channels_back(channels_first(images, data_format), data_format).equal(images)
    y.sum().backward()
    model.eval()(x)
    assert all(orders)


def test_inductor_takes_any_size(request: pytest.FixtureRequest) -> None:
    """One graph for all sizes of images; with gradients torch 2.13 needs the option."""
    if not request.config.getoption("--all-cases"):
        pytest.skip("half a minute")
    model = keras_hub_torch.models.ResNetBackbone(
        [64], [7], [64], [1], [2], "basic_block_vd"
    ).eval()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(
        model, fullgraph=True, dynamic=True, options={"force_layout_optimization": True}
    )
    for grad in (False, True):
        for batch, height, width in ((2, 97, 100), (3, 120, 131), (4, 160, 128)):
            images = torch.rand(batch, height, width, 3)
            with torch.set_grad_enabled(grad):
                mine, expected = compiled(images), model(images)
            torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
            if grad:
                mine.sum().backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]
