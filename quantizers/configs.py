"""What a model's weights are to become, by the names of Keras."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from ..backbones.layers.dtypes import MODES, Quantization
from ..backbones.layers.integers import INT4, AbsMaxQuantizer

Structure = Mapping[str, Sequence[nn.Module]]


class QuantizationConfig:
    """How weights, and inputs of matrix products, become integers.

    Args:
        weight_quantizer: of weights; that of the mode by default.
        activation_quantizer: of inputs; none leaves them as they are.
    """

    mode: str = ""

    def __init__(
        self,
        weight_quantizer: AbsMaxQuantizer | None = None,
        activation_quantizer: AbsMaxQuantizer | None = None,
    ) -> None:
        self.weight_quantizer = weight_quantizer
        self.activation_quantizer = activation_quantizer

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.mode)


def _given(quantizer: AbsMaxQuantizer | str | None) -> AbsMaxQuantizer | None:
    if quantizer is not None and not isinstance(quantizer, AbsMaxQuantizer):
        raise ValueError(f"A quantizer must be an AbsMaxQuantizer or None, not {quantizer!r}.")
    return quantizer


class Int8QuantizationConfig(QuantizationConfig):
    """Eight bits, a scale for each output.

    Args:
        weight_quantizer: of weights.
        activation_quantizer: of inputs, by default an `AbsMaxQuantizer`; `None` leaves them as they
            are. Presets do not say it: from a preset inputs are quantized by the default.
    """

    mode = "int8"

    def __init__(
        self,
        weight_quantizer: AbsMaxQuantizer | None = None,
        activation_quantizer: AbsMaxQuantizer | str | None = "default",
    ) -> None:
        if activation_quantizer == "default":
            activation_quantizer = AbsMaxQuantizer()
        super().__init__(_given(weight_quantizer), _given(activation_quantizer))
        if self.weight_quantizer is not None and self.weight_quantizer.output_dtype != "int8":
            raise ValueError("The weight_quantizer's output_dtype must be int8.")


class Int4QuantizationConfig(QuantizationConfig):
    """Four bits; a scale and a zero point for each group of inputs.

    Args:
        weight_quantizer: of weights, without groups.
        activation_quantizer: of inputs, without groups; none by default.
        block_size: inputs in a group; `None` or -1 for a scale of each output and no zero points.
    """

    mode = "int4"

    def __init__(
        self,
        weight_quantizer: AbsMaxQuantizer | None = None,
        activation_quantizer: AbsMaxQuantizer | str | None = "default",
        block_size: int | None = 128,
    ) -> None:
        if activation_quantizer == "default":
            activation_quantizer = None
        super().__init__(_given(weight_quantizer), _given(activation_quantizer))
        if block_size is not None and block_size != -1 and block_size <= 0:
            raise ValueError(f"block_size must be positive, -1 or None, not {block_size}.")
        self.block_size = block_size
        given = (self.weight_quantizer, self.activation_quantizer)
        if block_size not in (None, -1) and given != (None, None):
            raise ValueError("Quantizers of one's own go with block_size=None alone.")
        if self.weight_quantizer is not None and (
            self.weight_quantizer.value_range != INT4
            or self.weight_quantizer.output_dtype != "int8"
        ):
            raise ValueError(f"The weight_quantizer's value_range must be {INT4}, in int8.")

    @property
    def quantization(self) -> Quantization:
        return Quantization("int4", 4, self.block_size or -1)


class Float8QuantizationConfig(QuantizationConfig):
    """Training in float8."""

    mode = "float8"

    def __init__(self) -> None:
        super().__init__()


class CalibratedConfig(QuantizationConfig):
    """What is calibrated on data has in common.

    Attributes:
        tokens: the data, strings or token ids.
    """

    bits: tuple[int, ...] = (4,)

    def __init__(
        self,
        dataset: Iterable[Any],
        tokenizer: Any,
        weight_bits: int,
        num_samples: int,
        sequence_length: int,
        group_size: int,
        quantization_layer_structure: Structure | None,
    ) -> None:
        super().__init__()
        if weight_bits not in self.bits:
            raise ValueError(f"weight_bits must be one of {self.bits}, not {weight_bits}.")
        for name, value in (("num_samples", num_samples), ("sequence_length", sequence_length)):
            if value <= 0:
                raise ValueError(f"{name} must be positive, not {value}.")
        if group_size < -1 or group_size == 0:
            raise ValueError(f"group_size must be positive or -1, not {group_size}.")
        self.dataset = dataset
        self.tokenizer = tokenizer
        self.weight_bits = weight_bits
        self.num_samples = num_samples
        self.sequence_length = sequence_length
        self.group_size = group_size
        self.quantization_layer_structure = quantization_layer_structure

    @property
    def quantization(self) -> Quantization:
        return Quantization(self.mode, self.weight_bits, self.group_size)


class GPTQConfig(CalibratedConfig):
    """GPTQ (Frantar et al., 2022, arXiv:2210.17323), calibrated block by block.

    Args:
        dataset: texts, or token ids.
        tokenizer: of texts.
        weight_bits: 2, 3, 4 or 8.
        num_samples: how many pieces of the data are used.
        per_channel: whether each output has scales of its own.
        sequence_length: of a piece, in tokens.
        hessian_damping: what is added to the Hessian's diagonal, in parts of its mean.
        group_size: inputs that share a scale; -1 for all.
        symmetric: whether the zero point is the middle.
        activation_order: whether the inputs that matter most come first.
        quantization_layer_structure: `pre_block_layers`, called one after the other on token ids,
            and `sequential_blocks`; by default the model's blocks as it calls them.
    """

    mode = "gptq"
    bits = (2, 3, 4, 8)

    def __init__(
        self,
        dataset: Iterable[Any],
        tokenizer: Any,
        *,
        weight_bits: int = 4,
        num_samples: int = 128,
        per_channel: bool = True,
        sequence_length: int = 512,
        hessian_damping: float = 0.01,
        group_size: int = 128,
        symmetric: bool = False,
        activation_order: bool = False,
        quantization_layer_structure: Structure | None = None,
    ) -> None:
        super().__init__(
            dataset,
            tokenizer,
            weight_bits,
            num_samples,
            sequence_length,
            group_size,
            quantization_layer_structure,
        )
        if not 0 <= hessian_damping <= 1:
            raise ValueError(f"hessian_damping must be between 0 and 1, not {hessian_damping}.")
        self.per_channel = per_channel
        self.hessian_damping = hessian_damping
        self.symmetric = symmetric
        self.activation_order = activation_order


class AWQConfig(CalibratedConfig):
    """AWQ (Lin et al., 2023, arXiv:2306.00978): weights of large inputs are rounded less.

    Args:
        dataset, tokenizer, num_samples, sequence_length, group_size, quantization_layer_structure:
            as of `GPTQConfig`.
        weight_bits: 4.
        num_grid_points: how many exponents are tried for the inputs' scales.
    """

    mode = "awq"

    def __init__(
        self,
        dataset: Iterable[Any],
        tokenizer: Any,
        *,
        weight_bits: int = 4,
        num_samples: int = 128,
        sequence_length: int = 512,
        group_size: int = 128,
        num_grid_points: int = 20,
        quantization_layer_structure: Structure | None = None,
    ) -> None:
        super().__init__(
            dataset,
            tokenizer,
            weight_bits,
            num_samples,
            sequence_length,
            group_size,
            quantization_layer_structure,
        )
        if num_grid_points <= 0:
            raise ValueError(f"num_grid_points must be positive, not {num_grid_points}.")
        self.num_grid_points = num_grid_points


DEFAULTS = {
    "int8": Int8QuantizationConfig,
    "int4": Int4QuantizationConfig,
    "float8": Float8QuantizationConfig,
}


def resolved(mode: str | None, config: QuantizationConfig | str | None) -> QuantizationConfig:
    """The configuration that is meant.

    Raises:
        ValueError: none is, or a mode and another mode's configuration.
    """
    if isinstance(config, str):
        mode, config = config, None
    if mode is not None and mode not in MODES:
        raise ValueError(f"The mode must be one of {', '.join(MODES)}, not {mode!r}.")
    if config is None:
        if mode is None:
            raise ValueError(f"Give a mode, one of {', '.join(MODES)}, or a config.")
        if mode not in DEFAULTS:
            name = "GPTQConfig" if mode == "gptq" else "AWQConfig"
            raise ValueError(f"{mode} needs data: give config=quantizers.{name}(dataset, …).")
        return DEFAULTS[mode]()
    if not isinstance(config, QuantizationConfig) or not config.mode:
        raise ValueError(
            "config must be one of keras_hub_torch.quantizers' configurations, not "
            f"{type(config).__name__}."
        )
    if mode not in (None, config.mode):
        raise ValueError(f"The mode is {mode!r}, but that of config is {config.mode!r}.")
    return config
