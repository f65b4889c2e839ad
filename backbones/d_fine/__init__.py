"""D-FINE, a detector of objects."""

from .backbone import DFineBackbone

__all__ = ["DFineBackbone"]
