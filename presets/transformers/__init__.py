"""Tables of families in transformers."""
