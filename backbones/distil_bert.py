"""DistilBERT (Sanh et al., 2019, arXiv:1910.01108)."""

from __future__ import annotations

from ._token_encoder import TokenEncoder


class DistilBertBackbone(TokenEncoder):
    """BERT's encoder without segments and pooled output.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.
    """

    embeddings_name = "token_and_position_embedding"
    epsilon = 1e-12
