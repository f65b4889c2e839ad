"""Tables of families in timm."""
