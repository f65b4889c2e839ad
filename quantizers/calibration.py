"""Rounding weights so that what layers make of data changes least: GPTQ and AWQ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..backbones._model import Model
from ..backbones.layers.core import Dense
from ..backbones.layers.integers import dequantize_groups, pack_int4
from ..backbones.layers.quantized import PackedDense
from .configs import AWQConfig, CalibratedConfig, GPTQConfig

# Inputs whose errors are passed on at once.
BLOCK = 128
# A first input with what else a block takes.
Call = tuple[tuple[Any, ...], dict[str, Any]]


class _Stop(Exception):
    """Ends a forward pass where enough has been seen."""


class Calibration:
    """What the inputs of one layer say about its weights.

    Attributes:
        layer: to be filled.
        matrix: the weights `[columns, rows]` that Keras quantizes.
    """

    def __init__(self, dense: Dense, layer: PackedDense) -> None:
        self.layer = layer
        kernel = dense.to_kernel(dense.weight).detach().float()
        self.matrix = kernel.reshape(layer.rows, layer.columns).T

    def see(self, x: torch.Tensor) -> None:
        """Inputs `[rows of data, rows]`."""
        raise NotImplementedError

    def weights(self) -> dict[str, torch.Tensor]:
        """What the layer holds."""
        raise NotImplementedError

    def packed(self, integers: torch.Tensor) -> torch.Tensor:
        integers = integers.to(torch.uint8)
        return pack_int4(integers, 0) if self.layer.quantization.bits == 4 else integers


class GPTQ(Calibration):
    """Each input's weights are rounded in turn, and the error is made up for by those after it."""

    def __init__(self, dense: Dense, layer: PackedDense, config: GPTQConfig) -> None:
        super().__init__(dense, layer)
        self.config = config
        self.hessian = self.matrix.new_zeros(layer.rows, layer.rows)
        self.seen = 0

    def see(self, x: torch.Tensor) -> None:
        gram = x.T @ x
        total = self.seen + len(x)
        self.hessian = self.hessian * (self.seen / total) + (2.0 / total) * ((gram + gram.T) / 2.0)
        self.seen = total

    def weights(self) -> dict[str, torch.Tensor]:
        config, matrix = self.config, self.matrix
        rows = self.layer.rows
        hessian, diagonal = self.hessian, self.hessian.diagonal()
        diagonal = torch.where(diagonal == 0.0, 1.0, diagonal)
        damped = diagonal + config.hessian_damping * diagonal.mean()
        hessian = hessian - hessian.diagonal().diag() + damped.diag()
        inverse = torch.linalg.inv(hessian)
        order = None
        if config.activation_order:
            later = torch.arange(rows, device=matrix.device).float() / rows * 1e-12
            order = torch.argsort(-(damped + later), stable=True)
            matrix, inverse = matrix[:, order], inverse[order][:, order]
        integers, scale, zero = self._rounded(matrix.clone(), inverse)
        size = rows if config.group_size == -1 else config.group_size
        index = torch.arange(rows, device=matrix.device) / size
        if order is not None:
            back = torch.argsort(order)
            integers, index = integers[:, back], index[back]
        return {
            "weight": self.packed(integers),
            "kernel_scale": scale,
            "kernel_zero": zero,
            "g_idx": index,
        }

    def _rounded(
        self, matrix: torch.Tensor, inverse: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config, rows = self.config, self.layer.rows
        size = rows if config.group_size == -1 else config.group_size
        integers, scales, zeros = torch.empty_like(matrix), [], []
        for begin in range(0, rows, BLOCK):
            end = min(begin + BLOCK, rows)
            block, errors = matrix[:, begin:end].clone(), torch.zeros_like(matrix[:, begin:end])
            for i in range(end - begin):
                if (begin + i) % size == 0:
                    # Of a group's weights as they are before this block changes them.
                    group = matrix[:, begin + i : begin + i + size]
                    scale, zero = parameters(
                        group, config.weight_bits, config.symmetric, config.per_channel
                    )
                    scales.append(scale)
                    zeros.append(zero)
                column, most = block[:, i : i + 1], 2**config.weight_bits - 1
                rounded = round_to(column, scale, zero, most)
                integers[:, begin + i] = rounded[:, 0]
                error = (column - scale * (rounded - zero.to(scale.dtype))) / inverse[
                    begin + i, begin + i
                ]
                errors[:, i] = error[:, 0]
                block[:, i + 1 :] -= error @ inverse[begin + i, begin + i + 1 : end][None]
            matrix[:, end:] -= errors @ inverse[begin:end, end:]
        return integers, torch.cat(scales, 1), torch.cat(zeros, 1)


class AWQ(Calibration):
    """Weights of inputs with large values are rounded finer: they are scaled up before."""

    def __init__(self, dense: Dense, layer: PackedDense, config: AWQConfig) -> None:
        super().__init__(dense, layer)
        self.config = config
        self.largest = self.matrix.new_zeros(layer.rows)

    def see(self, x: torch.Tensor) -> None:
        self.largest = torch.maximum(self.largest, x.abs().amax(0))

    def weights(self) -> dict[str, torch.Tensor]:
        largest = torch.where(self.largest < 1e-8, 1.0, self.largest)
        least, best = math.inf, torch.ones_like(largest)
        for point in range(self.config.num_grid_points + 1):
            ratio = point / self.config.num_grid_points
            scales = (largest**ratio if ratio else torch.ones_like(largest)).clamp_min(1e-4)
            scales = scales / (scales.max() * scales.min()).sqrt().clamp_min(1e-8)
            integers, scale, zero, index = self._rounded(self.matrix * scales)
            again = dequantize_groups(integers, scale, zero, index) / scales
            loss = ((self.matrix - again).square() * largest.square()).mean().item()
            if point == 0 or loss < least:
                least, best = loss, scales
        integers, scale, zero, index = self._rounded(self.matrix * best)
        return {
            "weight": self.packed(integers),
            "kernel_scale": scale,
            "kernel_zero": zero,
            "awq_scales": best,
            "g_idx": index,
        }

    def _rounded(self, matrix: torch.Tensor) -> tuple[torch.Tensor, ...]:
        size = self.layer.quantization.group_size
        rows = torch.arange(self.layer.rows, device=matrix.device)
        index = torch.zeros_like(rows) if size == -1 else rows // size
        scale, zero = parameters(matrix, 4, size=size)
        integers = round_to(matrix, scale[:, index], zero[:, index], 15)
        return integers, scale, zero, index.float()


def parameters(
    x: torch.Tensor,
    bits: int,
    symmetric: bool = False,
    per_channel: bool = True,
    size: int = -1,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and zero point, `[columns, groups]`, of weights `[columns, rows]`.

    Args:
        per_channel: otherwise there is but one of each, repeated.
        size: of a group.
    """
    columns = len(x)
    if not per_channel:
        x = x.reshape(1, -1)
    elif size != -1 and size < x.shape[1]:
        x = F.pad(x, (0, -x.shape[1] % size)).unflatten(1, (-1, size))
    smallest, largest = x.amin(-1), x.amax(-1)
    if symmetric:
        largest = torch.maximum(smallest.abs(), largest)
        smallest = torch.where(smallest < 0, -largest, smallest)
    same = smallest == largest
    smallest, largest = smallest - same.to(x.dtype), largest + same.to(x.dtype)
    scale = (largest - smallest) / (2**bits - 1)
    scale = torch.where(scale <= 0, 1e-8, scale)
    zero = torch.full_like(scale, 2 ** (bits - 1)) if symmetric else (-smallest / scale).round()
    if scale.ndim == 1:
        scale, zero = scale[:, None].expand(columns, 1), zero[:, None].expand(columns, 1)
    return scale, zero.to(torch.uint8)


def round_to(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, most: int) -> torch.Tensor:
    safe = torch.where(scale == 0, 1e-8, scale)
    return (x / safe + zero.to(scale.dtype)).round().clamp(0, most)


CALIBRATIONS: Mapping[str, Any] = {"gptq": GPTQ, "awq": AWQ}


def calibrate(
    model: Model,
    config: CalibratedConfig,
    layers: Mapping[str, Dense],
    convert: Callable[[str], PackedDense],
) -> list[str]:
    """Quantize the layers that are in the model's blocks, one block after the other, each on what
    the quantized ones before it give.

    Args:
        layers: those that may be quantized, by path.
        convert: puts an empty quantized layer in the place of one.

    Returns:
        The paths of those that were.

    Raises:
        NotImplementedError: the model's blocks are not in a row.
    """
    tokens = samples(config, next(model.weights()).device)
    paths = {id(module): path for path, module in model.named_modules()}
    training = model.training
    model.eval()
    try:
        blocks, calls = _calls(model, config, tokens)
        done: list[str] = []
        for i, (block, rest) in enumerate(blocks):
            prefix = f"{paths[id(block)]}."
            inner = {path: one for path, one in layers.items() if path.startswith(prefix)}
            made = {
                path: CALIBRATIONS[config.mode](one, convert(path), config)
                for path, one in inner.items()
            }
            with _watched({inner[path]: one for path, one in made.items()}):
                for x in calls:
                    block(x, *rest[0], **rest[1])
            for path, calibration in made.items():
                for name, value in calibration.weights().items():
                    getattr(calibration.layer, name).copy_(value)
                calibration.layer.loaded()
                owner, _, leaf = path.rpartition(".")
                setattr(model.get_submodule(owner), leaf, calibration.layer)
            done += made
            if i < len(blocks) - 1:
                calls = [_first(block(x, *rest[0], **rest[1])) for x in calls]
    finally:
        model.train(training)
    return done


def _first(output: Any) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@contextmanager
def _watched(seen: Mapping[nn.Module, Calibration]) -> Iterator[None]:
    def hook(calibration: Calibration) -> Callable[[nn.Module, Any], None]:
        def see(module: nn.Module, args: Any) -> None:
            calibration.see(args[0].reshape(-1, calibration.layer.rows).float())

        return see

    with ExitStack() as stack:
        for layer, calibration in seen.items():
            stack.callback(layer.register_forward_pre_hook(hook(calibration)).remove)
        yield


def _calls(
    model: Model, config: CalibratedConfig, tokens: torch.Tensor
) -> tuple[list[tuple[nn.Module, Call]], list[torch.Tensor]]:
    """The blocks with what they take besides the first input, and that of the first block."""
    structure = config.quantization_layer_structure
    if structure is not None:
        inputs: list[Any] = list(tokens)
        for layer in structure.get("pre_block_layers", ()):
            inputs = [layer(x) for x in inputs]
        return [(block, ((), {})) for block in structure["sequential_blocks"]], inputs
    stacks = model._stacks()
    required = [name for name, spec in model.input_specs.items() if spec.required]
    if len(stacks) != 1 or stacks[0].repeats != 1 or required != ["token_ids"]:
        raise NotImplementedError(
            f"The blocks of a {model.class_name} are not all there is on the way from token_ids to "
            "its output; give quantization_layer_structure, with `pre_block_layers` and "
            "`sequential_blocks`."
        )
    blocks = list(stacks[0].children())
    found: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    chained = True
    before: list[Any] = []

    def enter(module: nn.Module, args: Any, kwargs: Any) -> None:
        nonlocal chained
        chained &= not before or _first(before[-1]) is args[0]
        found.append((args, kwargs))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        before.append(output)

    with ExitStack() as stack:
        for block in blocks:
            pre = block.register_forward_pre_hook(enter, with_kwargs=True)
            stack.callback(pre.remove)
            stack.callback(block.register_forward_hook(leave).remove)
        model({"token_ids": tokens[0]})
    if not chained or len(found) != len(blocks):
        raise NotImplementedError(
            f"A block of a {model.class_name} takes more than what the one before it gives."
        )
    rests = [(block, (args[1:], kwargs)) for block, (args, kwargs) in zip(blocks, found)]
    inputs = []

    def stop(module: nn.Module, args: Any) -> None:
        inputs.append(args[0])
        raise _Stop

    hook = blocks[0].register_forward_pre_hook(stop)
    try:
        for one in tokens:
            with suppress(_Stop):
                model({"token_ids": one})
    finally:
        hook.remove()
    return rests, inputs


def samples(config: CalibratedConfig, device: torch.device) -> torch.Tensor:
    """Pieces of the data `[num_samples, 1, sequence_length]`, at the places that Keras takes.

    Raises:
        TypeError: a dataset that is none.
        ValueError: an empty one, or texts without a tokenizer.
    """
    if isinstance(config.dataset, (str, bytes)) or not hasattr(config.dataset, "__iter__"):
        raise TypeError(
            f"dataset must hold texts or token ids, not be a {type(config.dataset).__name__}."
        )
    data = list(config.dataset)
    if not data:
        raise ValueError("The dataset is empty.")
    if isinstance(data[0], str):
        if config.tokenizer is None:
            raise ValueError("A dataset of texts needs a tokenizer.")
        tokenize = getattr(config.tokenizer, "tokenize", config.tokenizer)
        data = [tokenize(text) for text in data]
    tokens = np.concatenate([np.asarray(piece).reshape(-1) for piece in data]).astype(np.int64)
    length, count = config.sequence_length, config.num_samples
    if not len(tokens):
        raise ValueError("The dataset has no tokens.")
    tokens = np.tile(tokens, max(1, math.ceil(count * length / len(tokens))))
    places = len(tokens) - length + 1
    # Python's hash of a string is another one in each process.
    begin = abs(hash(("gptq-calib", 42))) % places
    starts = (begin + np.arange(count) * max(1, places // count)) % places
    windows = np.lib.stride_tricks.sliding_window_view(tokens, length)[starts]
    return torch.from_numpy(windows.copy())[:, None].to(device)
