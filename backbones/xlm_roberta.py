"""XLM-RoBERTa (Conneau et al., 2019, arXiv:1911.02116)."""

from __future__ import annotations

from .roberta import RobertaBackbone


class XLMRobertaBackbone(RobertaBackbone):
    """RoBERTa with another vocabulary."""
