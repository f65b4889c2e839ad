from __future__ import annotations

from .roberta import CONFIG, checkpoints

CHECKPOINTS = checkpoints("xlm-roberta", "XLMRoberta", "XLMRobertaBackbone")
INEXPRESSIBLE = {"xlm-roberta-odd": "hidden_dim 10 is not divisible by num_heads 3"}
HEADS = [("XLMRobertaForTokenClassification", CONFIG)]
