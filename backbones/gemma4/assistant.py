"""What drafts tokens for Gemma 4."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from .._drafter import Drafter
from .._model import Model
from ..layers.cache import Cache
from ..layers.core import Dense
from ..layers.gemma import scale_embeddings
from .backbone import Gemma4Backbone
from .decoder import Gemma4Decoder
from .text import KeyValue


class Gemma4AssistantCausalLM(Drafter):
    """A few layers that look at the keys and values of a larger Gemma 4, to be the
    `assistant_model` of `generate`.

    Each draft is made of the last token, as the larger model embeds it, and of the state of the
    position before; all drafts have the position of the first.

    Args:
        backbone: all of whose layers have another model's keys and values.
        backbone_hidden_size: width of the larger model's states.
        num_centroids: groups of the vocabulary, equally large; they divide it.
        centroid_intermediate_top_k: how many groups the next token is looked for in.
        use_ordered_embeddings: whether there are groups; else all tokens are compared.
        num_speculative_tokens: how many tokens are drafted at a time.

    Raises:
        ValueError: the backbone has keys and values of its own, or the groups do not divide the
            vocabulary.
    """

    backbone_class = Gemma4Backbone
    architecture = "Gemma4AssistantForCausalLM"
    settings = (
        "backbone_hidden_size",
        "num_centroids",
        "centroid_intermediate_top_k",
        "use_ordered_embeddings",
    )
    weights: ClassVar = {
        "pre_projection.weight": ("pre_projection/vars/0", "pre_projection.weight"),
        "post_projection.weight": ("post_projection/vars/0", "post_projection.weight"),
        "centroids.weight": ("centroids/vars/0", "masked_embedding.centroids.weight"),
        "token_ordering": ("vars/0", "masked_embedding.token_ordering"),
    }

    backbone: Gemma4Backbone
    token_ordering: torch.Tensor

    def __init__(
        self,
        backbone: Gemma4Backbone,
        backbone_hidden_size: int,
        num_centroids: int,
        centroid_intermediate_top_k: int,
        use_ordered_embeddings: bool,
        num_speculative_tokens: int = 5,
    ) -> None:
        super().__init__()
        if len(backbone.sources) != len(backbone.is_global) or not backbone.sources:
            raise ValueError(
                "The backbone of an assistant has no keys and values of its own: "
                f"num_kv_shared_layers={backbone.num_kv_shared_layers} must be "
                f"num_layers={backbone.num_layers}."
            )
        vocabulary_size, width = backbone.token_embedding.weight.shape
        self.backbone = backbone
        self.backbone_hidden_size = backbone_hidden_size
        self.num_centroids = num_centroids
        self.centroid_intermediate_top_k = centroid_intermediate_top_k
        self.use_ordered_embeddings = use_ordered_embeddings
        self.num_speculative_tokens = num_speculative_tokens
        self.pre_projection = self._dense(2 * backbone_hidden_size, width)
        self.post_projection = self._dense(width, backbone_hidden_size)
        if use_ordered_embeddings:
            if not 0 < centroid_intermediate_top_k <= num_centroids or (
                vocabulary_size % num_centroids
            ):
                raise ValueError(
                    f"num_centroids={num_centroids} must divide vocabulary_size={vocabulary_size} "
                    f"and be at least centroid_intermediate_top_k={centroid_intermediate_top_k}."
                )
            self.centroids = self._dense(width, num_centroids)
            self.register_buffer("token_ordering", torch.arange(vocabulary_size))

    def _dense(self, inputs: int, outputs: int) -> Dense:
        policy = self.backbone.dtype_policy
        dense = Dense(inputs, outputs, use_bias=False)
        dense.compute_dtype = policy.compute_dtype
        return dense.to(policy.variable_dtype)

    def check(self, target: Model) -> None:
        if not isinstance(target, Gemma4Decoder):
            raise ValueError(f"An assistant of Gemma 4 does not draft for {type(target).__name__}.")
        if target.token_embedding.embedding_dim != self.backbone_hidden_size:
            raise ValueError(
                f"This assistant is for a Gemma 4 with states of {self.backbone_hidden_size}, not "
                f"{target.token_embedding.embedding_dim}."
            )
        kinds = {kind for i, kind in enumerate(target.is_global) if i not in target.sources}
        if not kinds.issuperset(self.backbone.is_global):
            raise ValueError("The model has no local or no global layers for the assistant's.")

    def draft(
        self,
        target: Model,
        cache: Cache,
        tokens: torch.Tensor,
        states: torch.Tensor,
        positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert isinstance(target, Gemma4Decoder)
        keys = torch.arange(cache.max_length, device=tokens.device)
        distance = positions[:, None] - keys
        seen = (distance > 0) & cache.visible
        near = (
            seen if self.backbone.window is None else seen & (distance <= self.backbone.window + 1)
        )
        own = [kind for i, kind in enumerate(target.is_global) if i not in target.sources]
        last = {kind: cache.layers[i] for i, kind in enumerate(own)}
        logits, states = self(
            scale_embeddings(target.token_embedding(tokens)),
            states,
            {kind: (layer.keys, layer.values) for kind, layer in last.items()},
            {True: seen[:, None, None], False: near[:, None, None]},
            positions[:, None],
        )
        return logits[:, -1], states

    def forward(
        self,
        embeddings: torch.Tensor,
        states: torch.Tensor,
        key_values: dict[bool, KeyValue],
        masks: dict[bool, torch.Tensor],
        positions: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits `[rows, 1, vocabulary]`, and states `[rows, 1, backbone_hidden_size]`.

        Args:
            embeddings: of the last tokens, `[rows, 1, backbone_hidden_size]`, as `states`.
            key_values: of the last local layer (`False`) and of the last global one (`True`) that
                has its own, `[rows, heads, keys, head_dim]`.
            masks: which keys each sees, `[rows, 1, 1, keys]`.
            positions: `[rows or 1, 1]`.
        """
        x = self.pre_projection(torch.cat((embeddings, states), dim=-1))
        tables = [rotary.tables(positions, x.dtype) for rotary in self.backbone.rotary]
        shared = {kind: (k.to(x.dtype), v.to(x.dtype)) for kind, (k, v) in key_values.items()}
        for layer, kind in zip(self.backbone.transformer_layers, self.backbone.is_global):
            x, _ = layer(x, masks[kind], tables[kind], None, shared[kind], None)
        x = self.backbone.final_normalization(x)
        return self._logits(x), self.post_projection(x)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        if not self.use_ordered_embeddings:
            logits: torch.Tensor = self.backbone.token_embedding(x, reverse=True)
            return logits
        groups = self.centroids(x).topk(self.centroid_intermediate_top_k).indices
        tokens = self.token_ordering.view(self.num_centroids, -1)[groups].flatten(-2)
        weights = nn.functional.embedding(tokens, self.backbone.token_embedding.weight).to(x.dtype)
        found = (weights @ x[..., None])[..., 0]
        # Tokens of other groups are less likely than all of these.
        logits = (found.min() - 1).expand(*x.shape[:-1], self.token_ordering.shape[0])
        return logits.scatter(-1, tokens, found)
