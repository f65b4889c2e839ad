"""RoBERTa (Liu et al., 2019, arXiv:1907.11692)."""

from __future__ import annotations

from ._token_encoder import TokenEncoder


class RobertaBackbone(TokenEncoder):
    """Encoder with absolute positions, counted from 0.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.
    """

    embeddings_name = "embeddings"
    epsilon = 1e-5
