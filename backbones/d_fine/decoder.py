"""D-FINE's decoder: boxes whose edges are distributions, refined from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch.nn import functional as F

from ..layers.boxes import inverse_sigmoid, widened
from ..layers.core import Dense, LayerNormalization
from ..layers.initializers import Initializer, glorot_uniform, zeros
from ..layers.layer import Layer
from ..layers.layout import Parts, Stack
from .attention import (
    NORMAL,
    DFineMultiheadAttention,
    DFineMultiscaleDeformableAttention,
    Sampler,
)

# Of an edge's distribution, and how many of its probabilities tell its quality.
BINS, TOP = 33, 4


class DFineMLP(Layer):
    """Linear maps with ReLUs between them.

    Args:
        last_initializer: of the last one's kernel and bias, if it has another.
    """

    block_name = "mlp_dense_layer_{}"

    def __init__(
        self,
        inputs: int,
        hidden_dim: int,
        outputs: int,
        num_layers: int,
        kernel_initializer: Initializer = NORMAL,
        last_initializer: Initializer | None = None,
    ) -> None:
        super().__init__()
        widths = [inputs, *[hidden_dim] * (num_layers - 1), outputs]
        kernels = [kernel_initializer] * (num_layers - 1) + [last_initializer or kernel_initializer]
        self.dense_layers = Parts(
            self.block_name,
            (
                Dense(first, second, kernel_initializer=kernel)
                for (first, second), kernel in zip(pairwise(widths), kernels)
            ),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *hidden, last = self.dense_layers
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


class DFineMLPPredictionHead(DFineMLP):
    block_name = "linear_{}"


class DFineGate(Layer):
    """A weighted sum of two, normalised."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        self.norm = LayerNormalization(hidden_dim, 1e-5)
        self.gate = Dense(2 * hidden_dim, 2 * hidden_dim, kernel_initializer=zeros)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        first, second = self.gate(torch.cat((x, y), dim=-1)).sigmoid().chunk(2, dim=-1)
        return self.norm(first * x + second * y)


class DFineLQE(Layer):
    """Scores of classes, and what the shape of the edges' distributions adds to them."""

    def __init__(self, hidden_dim: int, num_layers: int) -> None:
        super().__init__()
        self.reg_conf = DFineMLP(4 * (TOP + 1), hidden_dim, 1, num_layers, glorot_uniform, zeros)

    def forward(self, scores: torch.Tensor, corners: torch.Tensor) -> torch.Tensor:
        top = widened(corners).unflatten(-1, (4, BINS)).softmax(-1).topk(TOP).values
        shape = torch.cat((top, top.mean(-1, keepdim=True)), dim=-1).flatten(-2)
        return scores + self.reg_conf(shape.to(corners.dtype))


class DFineDecoderLayer(Layer):
    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        ffn_dim: int,
        points: Sequence[int],
        grids: Sequence[tuple[int, int]],
        sample: Sampler,
    ) -> None:
        super().__init__()
        self.self_attn = DFineMultiheadAttention(hidden_dim, num_heads)
        self.self_attn_layer_norm = LayerNormalization(hidden_dim, 1e-5)
        self.encoder_attn = DFineMultiscaleDeformableAttention(
            hidden_dim, num_heads, points, grids, sample
        )
        self.fc1 = Dense(hidden_dim, ffn_dim, kernel_initializer=NORMAL)
        self.fc2 = Dense(ffn_dim, hidden_dim, kernel_initializer=NORMAL)
        self.final_layer_norm = LayerNormalization(hidden_dim, 1e-5)
        self.gateway = DFineGate(hidden_dim)

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        boxes: torch.Tensor,
        memory: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, and the weights of the attention to each other and to the image."""
        y, weights = self.self_attn(x, positions, bias)
        x = self.self_attn_layer_norm(x + y)
        y, cross_weights = self.encoder_attn(x + positions, memory, boxes)
        x = self.gateway(x, y)
        x = x + self.fc2(F.relu(self.fc1(x)))
        limit = torch.finfo(x.dtype).max - 1000  # float16 may overflow
        return self.final_layer_norm(x.clamp(-limit, limit)), weights, cross_weights


class DFineDecoder(Layer):
    """Queries and their boxes → better ones, from every layer.

    Args:
        num_labels: of the classes to be told apart.
    """

    reg_scale: torch.Tensor
    upsampling_factor: torch.Tensor

    def __init__(
        self,
        num_layers: int,
        hidden_dim: int,
        num_heads: int,
        ffn_dim: int,
        points: Sequence[int],
        grids: Sequence[tuple[int, int]],
        sample: Sampler,
        lqe_hidden_dim: int,
        num_lqe_layers: int,
        num_labels: int,
        score_initializer: Initializer,
    ) -> None:
        super().__init__()
        layers = range(num_layers)
        self.decoder_layers = Stack(
            "decoder_layer_{}",
            (
                DFineDecoderLayer(hidden_dim, num_heads, ffn_dim, points, grids, sample)
                for _ in layers
            ),
        )
        self.query_pos_head = DFineMLPPredictionHead(4, 2 * hidden_dim, hidden_dim, 2)
        self.class_embed = Parts(
            "class_embed_{}",
            (Dense(hidden_dim, num_labels, bias_initializer=score_initializer) for _ in layers),
        )
        self.bbox_embed = Parts(
            "bbox_embed_{}",
            (
                DFineMLPPredictionHead(hidden_dim, hidden_dim, 4 * BINS, 3, NORMAL, zeros)
                for _ in layers
            ),
        )
        self.pre_bbox_head = DFineMLP(hidden_dim, hidden_dim, 4, 3)
        self.lqe_layers = Parts(
            "lqe_layer_{}", (DFineLQE(lqe_hidden_dim, num_lqe_layers) for _ in layers)
        )
        self.register_buffer("reg_scale", torch.tensor([4.0]))
        self.register_buffer("upsampling_factor", torch.tensor([0.5]))

    def forward(
        self,
        x: torch.Tensor,
        references: torch.Tensor,
        memory: torch.Tensor,
        bias: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor | tuple[torch.Tensor, ...]]:
        """Queries `[batch, queries, dim]`, the logits of their boxes `[batch, queries, 4]`, and
        all maps' pixels `[batch, pixels, dim]`.

        Args:
            bias: added to the scores of queries for each other.
        """
        boxes = references.sigmoid()
        values = self.values()
        states: list[torch.Tensor] = []
        logits, refined, corners, initial = [], [], [], []
        edges, before = x.new_zeros(1), x.new_zeros(1)
        for i, layer in enumerate(self.decoder_layers):
            positions = self.query_pos_head(boxes.to(x.dtype)).clamp(-10, 10)
            x, weights, cross_weights = layer(x, positions, boxes, memory, bias)
            states.append(x)
            scores = self.class_embed[i](x)
            edges = self.bbox_embed[i](x + before) + edges
            if i == 0:
                guess = (widened(self.pre_bbox_head(x)) + inverse_sigmoid(boxes)).sigmoid()
                anchors = guess.detach()
                logits.append(scores)
                refined.append(guess)
                corners.append(edges)
                initial.append(anchors)
            found = self.moved(anchors, edges, values)
            logits.append(self.lqe_layers[i](scores, edges))
            refined.append(found)
            corners.append(edges)
            initial.append(anchors)
            boxes, before = found.detach(), x.detach()
        return {
            "last_hidden_state": x,
            "intermediate_hidden_states": torch.stack(states, dim=1),
            "intermediate_logits": torch.stack(logits, dim=1),
            "intermediate_reference_points": torch.stack(refined, dim=1).to(x.dtype),
            "intermediate_predicted_corners": torch.stack(corners, dim=1),
            "initial_reference_points": torch.stack(initial, dim=1).to(x.dtype),
            # As in KerasHub, whose graph has one name for all of them, the last layer's.
            "decoder_hidden_states": (x,) * (len(states) + 1),
            "decoder_attentions": (weights,) * len(states),
            "cross_attentions": (cross_weights,) * len(states),
        }

    def values(self) -> torch.Tensor:
        """How far each bin moves an edge: the nearer to none, the finer."""
        scale, factor = widened(self.reg_scale).abs(), widened(self.upsampling_factor).abs()
        bound = factor * scale
        step = (bound + 1) ** (2 / (BINS - 3))
        out = step ** torch.arange(1, BINS // 2, device=step.device) - 1
        return torch.cat((-2 * bound, -out.flip(0), torch.zeros_like(bound), out, 2 * bound))

    def moved(self, boxes: torch.Tensor, edges: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Boxes whose edges have moved by the mean of their distributions."""
        distance = widened(edges).unflatten(-1, (4, BINS)).softmax(-1) @ values
        scale = widened(self.reg_scale).abs()
        centres, sizes = boxes.chunk(2, dim=-1)
        before, after = ((0.5 * scale + distance) / scale).chunk(2, dim=-1)
        top, bottom = centres - before * sizes, centres + after * sizes
        return torch.cat(((top + bottom) / 2, bottom - top), dim=-1)
