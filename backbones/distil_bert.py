"""DistilBERT (Sanh et al., 2019, arXiv:1910.01108)."""

from __future__ import annotations

from ._token_encoder import TokenEncoder


class DistilBertBackbone(TokenEncoder):
    """BERT's encoder without segments and pooled output.

    `token_ids` and `padding_mask` `[batch, length]` → `[batch, length, hidden_dim]`.

    Args:
        vocabulary_size: number of token ids.
        num_layers: number of blocks.
        num_heads: number of attention heads. Each has `hidden_dim // num_heads` dimensions.
        hidden_dim: width of the hidden states.
        intermediate_dim: width inside the feed-forward networks.
        dropout: rate on the embeddings, the attention weights and the output of each sublayer.
        max_sequence_length: rows of the position table: the longest input.
        dtype, trainable, name: as in `Model`.
    """

    embeddings_name = "token_and_position_embedding"
    epsilon = 1e-12
