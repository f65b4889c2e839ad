"""A family that timm might have, as somebody would add it: in new files only."""
