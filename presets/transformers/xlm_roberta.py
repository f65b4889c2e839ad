"""XLM-RoBERTa."""

from __future__ import annotations

from ...backbones.xlm_roberta import XLMRobertaBackbone
from .roberta import roberta

TABLES = (roberta("xlm-roberta", XLMRobertaBackbone, "XLMRobertaModel"),)
