from typing import Any

from .preprocessing.tokenizers.base import Tokenizer as Tokenizer

def __getattr__(name: str) -> Any: ...
