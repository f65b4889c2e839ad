"""Projections, embeddings and norms.

Each computes in `compute_dtype` where a mixed policy has set one, else in the dtype of its
weights, and casts its input to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .division import Vocabulary
from .dtypes import in_compute_dtype
from .initializers import Initializer, glorot_uniform, uniform, zeros
from .layer import Layer
from .layout import Layout


class Projection(Layer):
    """What holds the weights of a Keras kernel, of `Dense` or `EinsumDense`.

    Attributes:
        kernel_shape: shape of the Keras kernel.
        kernel_inputs: the axes of the Keras kernel that are summed over.
        bias_shape: shape of the Keras bias.
        batch_axes: how many axes before the outputs the Keras equation names.
    """

    compute_dtype: torch.dtype | None = None
    in_features: int
    out_features: int
    weight: torch.Tensor
    bias: torch.Tensor | None
    kernel_shape: tuple[int, ...]
    kernel_inputs: tuple[int, ...]
    bias_shape: tuple[int, ...]
    batch_axes: int

    @property
    def kernel(self) -> torch.Tensor:
        """The weight in Keras's shape, a view where the strides allow it."""
        return self.to_kernel(self.weight)

    def to_kernel(self, weight: torch.Tensor) -> torch.Tensor:
        """`[out, in]` → Keras kernel."""
        order = self._axes()
        shape = [self.kernel_shape[axis] for axis in order]
        return weight.reshape(shape).permute([order.index(axis) for axis in range(len(order))])

    def from_kernel(self, kernel: torch.Tensor) -> torch.Tensor:
        """Keras kernel → `[out, in]`, a view where the strides allow it."""
        return kernel.permute(self._axes()).reshape(self.out_features, self.in_features)

    def cast_bias(self, bias: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """As it is added to outputs."""
        return bias.to(dtype)

    def divided(self, axis: int, count: int) -> dict[str, int]:
        """Which axis of each tensor is divided where processes share the outputs (0) or inputs (1).

        Args:
            count: how many parts there are, each one a run of features.

        Raises:
            ValueError: there cannot be so many.
        """
        return {"weight": 1} if axis else {"weight": 0, "bias": 0}

    def _axes(self) -> list[int]:
        """The kernel's axes, outputs before inputs."""
        axes = range(len(self.kernel_shape))
        return [axis for axis in axes if axis not in self.kernel_inputs] + list(self.kernel_inputs)


class Dense(Projection, nn.Linear):
    """`x · kernel + bias`."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        in_features: int,
        out_features: int,
        use_bias: bool = True,
        kernel_initializer: Initializer = glorot_uniform,
        bias_initializer: Initializer = zeros,
    ) -> None:
        # nn.Linear draws the weights within its constructor, so the initializers come first.
        self.kernel_initializer = kernel_initializer
        self.bias_initializer = bias_initializer
        super().__init__(in_features, out_features, bias=use_bias)
        self.kernel_shape = (in_features, out_features)
        self.kernel_inputs = (0,)
        self.bias_shape = (out_features,)
        self.batch_axes = 0

    def reset_parameters(self) -> None:
        self.kernel_initializer(self.weight, self.in_features, self.out_features)
        if self.bias is not None:
            self.bias_initializer(self.bias, self.out_features, self.out_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.weight.dtype
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(in_compute_dtype(x, dtype), self.weight.to(dtype), bias)


class EinsumDense(Dense):
    """A projection given by an einsum, `btd,dnh->btnh`, computed as a matrix product.

    Several input axes arrive, and several output axes return, flattened into the last one.

    Args:
        input_shape: sizes of the summed axes in the order of the equation's input.
        output_shape: sizes of the new axes in the order of its output.
    """

    def __init__(
        self,
        equation: str,
        input_shape: int | Sequence[int],
        output_shape: int | Sequence[int],
        use_bias: bool = False,
        kernel_initializer: Initializer = glorot_uniform,
        bias_initializer: Initializer = zeros,
    ) -> None:
        input_shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
        output_shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape)
        super().__init__(
            math.prod(input_shape),
            math.prod(output_shape),
            use_bias,
            kernel_initializer,
            bias_initializer,
        )
        inputs, kernel, outputs = equation.replace("->", ",").split(",")
        sizes = dict(zip(reversed(inputs), reversed(input_shape)))
        sizes |= dict(zip(reversed(outputs), reversed(output_shape)))
        self.kernel_shape = tuple(sizes[axis] for axis in kernel)
        self.kernel_inputs = tuple(i for i, axis in enumerate(kernel) if axis not in outputs)
        self.bias_shape = output_shape
        self.batch_axes = len(outputs) - len(output_shape)


class Embedding(Layer, nn.Embedding):
    """Token, segment or position ids → vectors."""

    compute_dtype: torch.dtype | None = None

    def __init__(
        self, input_dim: int, output_dim: int, embeddings_initializer: Initializer = uniform
    ) -> None:
        self.embeddings_initializer = embeddings_initializer
        super().__init__(input_dim, output_dim)

    def reset_parameters(self) -> None:
        self.embeddings_initializer(self.weight, self.num_embeddings, self.embedding_dim)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids).to(self.compute_dtype or self.weight.dtype)


class ReversibleEmbedding(Embedding):
    """An embedding that also maps hidden states `[..., dim]` to logits `[..., vocabulary]`."""

    division = Vocabulary(weights={"weight": 0, "reverse_embeddings": 1})

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        tie_weights: bool = True,
        embeddings_initializer: Initializer = uniform,
        logit_soft_cap: float | None = None,
    ) -> None:
        super().__init__(input_dim, output_dim, embeddings_initializer)
        self.tie_weights = tie_weights
        self.logit_soft_cap = logit_soft_cap
        if not tie_weights:
            self.reverse_embeddings = nn.Parameter(torch.empty(output_dim, input_dim))
            self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "reverse_embeddings"):
            initializer, (dim, size) = self.embeddings_initializer, self.reverse_embeddings.shape
            initializer(self.reverse_embeddings, dim, size)

    def forward(self, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        if not reverse:
            return super().forward(inputs)
        logits = self.logits(inputs)
        if self.logit_soft_cap is not None:
            logits = torch.tanh(logits / self.logit_soft_cap) * self.logit_soft_cap
        return logits

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Before the soft cap."""
        kernel = self.weight.T if self.tie_weights else self.reverse_embeddings
        dtype = self.compute_dtype or self.weight.dtype
        return x.to(dtype) @ kernel.to(dtype)


class PositionEmbedding(Layer):
    """A learned vector for each position."""

    weight: torch.Tensor
    compute_dtype: torch.dtype | None = None

    def __init__(
        self, sequence_length: int, feature_dim: int, initializer: Initializer = glorot_uniform
    ) -> None:
        super().__init__()
        self.sequence_length = sequence_length
        self.weight = nn.Parameter(torch.empty(sequence_length, feature_dim))
        initializer(self.weight, sequence_length, feature_dim)

    def forward(
        self, x: torch.Tensor, start_index: int = 0, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The vectors `[length, dim]` for `x` `[batch, length, dim]`, or of given `positions`
        `[rows, length]` those, `[rows, length, dim]`.

        Raises:
            ValueError: `x` is longer than the table.
        """
        end = start_index + x.shape[-2]
        if end > self.sequence_length:
            raise ValueError(
                f"The input is {end} positions long, but the position table has "
                f"{self.sequence_length}."
            )
        return self.rows(slice(start_index, end) if positions is None else positions)

    def rows(self, index: slice | torch.Tensor) -> torch.Tensor:
        return self.weight[index].to(self.compute_dtype or self.weight.dtype)


class TokenAndPositionEmbedding(Layer):
    """The sum of a token's and a position's vector."""

    def __init__(
        self,
        vocabulary_size: int,
        sequence_length: int,
        embedding_dim: int,
        embeddings_initializer: Initializer = uniform,
    ) -> None:
        super().__init__()
        self.token_embedding = ReversibleEmbedding(
            vocabulary_size, embedding_dim, embeddings_initializer=embeddings_initializer
        )
        self.position_embedding = PositionEmbedding(
            sequence_length, embedding_dim, embeddings_initializer
        )

    def forward(
        self, token_ids: torch.Tensor, positions: torch.Tensor | None = None
    ) -> torch.Tensor:
        x = self.token_embedding(token_ids)
        return x + self.position_embedding(x, positions=positions)


class LayerNormalization(Layer, nn.LayerNorm):
    """Layer norm; its statistics are in float32."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, dim: int, epsilon: float = 1e-3, center: bool = True) -> None:
        super().__init__(dim, eps=epsilon, bias=center)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dtype = self.compute_dtype or self.weight.dtype
        if x.dtype == self.weight.dtype == dtype:  # the kernels accumulate in float32 themselves
            return super().forward(x)
        weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(dtype)


class RMSNormalization(Layer):
    """`x / rms(x) · weight`, computed in float32."""

    compute_dtype: torch.dtype | None = None

    def __init__(self, dim: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.epsilon)
        return normed.to(self.compute_dtype or self.weight.dtype)


class UnitRMSNormalization(Layer):
    """`x / rms(x) · (1 + weight)`, computed in float32 (Gemma)."""

    compute_dtype: torch.dtype | None = None
    layout = Layout(class_name="RMSNormalization")

    def __init__(self, dim: int, epsilon: float = 1e-6) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normed = F.rms_norm(x.float(), self.weight.shape, 1 + self.weight.float(), self.epsilon)
        return normed.to(self.compute_dtype or self.weight.dtype)


class Dropout(Layer, nn.Dropout):
    """Drops values in training mode."""
