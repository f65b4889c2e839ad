"""What the README says is what there is, and what it shows runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from keras_hub_torch import cli, layers, tokenizers
from keras_hub_torch.backbones._backbone import Backbone
from keras_hub_torch.backbones._registry import public_classes
from keras_hub_torch.models import (
    BertBackbone,
    GPT2Backbone,
    ResNetBackbone,
    StableDiffusion3Backbone,
    ViTBackbone,
)
from keras_hub_torch.presets import sources, uploading
from keras_hub_torch.presets.builtin import presets_of
from keras_hub_torch.presets.checkpoints import TIMM, TRANSFORMERS
from keras_hub_torch.presets.checkpoints.dialect import Dialect, all_tables

README = Path(__file__).parents[1] / "README.md"


def families() -> dict[str, tuple[str, str, str]]:
    """Class → number of presets, model types and timm's networks, as the README's table should have
    them.
    """
    classes = public_classes(Backbone)
    names: dict[type, list[str]] = {}
    for name, cls in classes.items():
        names.setdefault(cls, []).append(name)
    return {
        " = ".join(sorted(found, key=lambda name: name != cls.__name__)): (
            str(len(presets_of([cls.__name__]))),
            ", ".join(sorted(known_kinds(TRANSFORMERS, cls))) or "–",
            networks(known_kinds(TIMM, cls)),
        )
        for cls, found in names.items()
        if cls.__name__ not in ("Backbone", "FeaturePyramidBackbone")
    }


def known_kinds(dialect: Dialect, cls: type) -> list[str]:
    """The models whose checkpoints this class reads."""
    return [
        kind.partition("+")[0]
        for table in all_tables(dialect)
        if table.backbone is cls
        for kind in table.kinds
    ]


def networks(names: list[str]) -> str:
    """By what they begin with, and how many there are."""
    begin = sorted({re.sub(r"_.*|\d+[a-z]?$", "", name) for name in names})
    return f"{', '.join(begin)} ({len(names)})" if names else "–"


def test_the_table_of_families() -> None:
    rows = re.findall(
        r"^\| `(.+?)` \| (\d+) \| (.+?) \| (.+?) \|$", README.read_text(), re.MULTILINE
    )
    assert {name: tuple(others) for name, *others in rows} == families()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def stand_ins(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small models take the place of those on the hubs; the working folder is empty."""
    from .vocabularies import byte_pairs  # not where this file prints the table

    folder = tmp_path_factory.mktemp("hub")
    # As wide as the head in the README expects, and with the ids of its prompts.
    BertBackbone(99, 1, 2, 768, 16, max_sequence_length=64).save_to_preset(folder / "bert")
    GPT2Backbone(4000, 1, 2, 12, 16, max_sequence_length=64).save_to_preset(folder / "gpt2")
    ResNetBackbone(
        [64], [7], [64, 128, 256, 512], [2, 2, 2, 2], [1, 2, 2, 2], "basic_block"
    ).save_to_preset(folder / "resnet")
    ViTBackbone((16, 16, 3), 8, 6, 2, 8, 12).save_to_preset(folder / "vit")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "sentence"]
    tokenizers.BertTokenizer(words, lowercase=True).save_to_preset(folder / "bert")
    tokenizers.GPT2Tokenizer(*byte_pairs("<|endoftext|>")).save_to_preset(folder / "gpt2")
    layers.ResNetImageConverter((32, 32), antialias=True).save_to_preset(folder / "resnet")

    def source(handle: str, rest: str) -> sources.PresetSource:
        family = next((one for one in ("gpt2", "resnet", "vit") if one in rest), "bert")
        return sources._Folder(handle, folder / family)

    for scheme in ("kaggle", "hf", "modelscope"):
        monkeypatch.setitem(sources._HUBS, scheme, source)  # type: ignore[arg-type]
    monkeypatch.chdir(tmp_path)


@contextmanager
def one_process() -> Iterator[None]:
    """A group of this process alone, as torchrun would make it."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def test_python(stand_ins: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks, one after the other, given but a user's data."""
    from .cases import stable_diffusion_3

    uploaded = []

    def upload(uri: str, preset: str) -> None:
        uploaded.append((uri, sorted(path.name for path in Path(preset).iterdir())))

    monkeypatch.setattr(uploading, "upload_preset", upload)
    adapted = GPT2Backbone.from_preset("gpt2_base_en")
    adapted.enable_lora(2)
    for name, parameter in adapted.named_parameters():
        if name.endswith("lora_kernel_b"):
            torch.nn.init.normal_(parameter)
    adapted.save_lora_weights("adapter", format="peft")
    tokens = {
        "token_ids": torch.arange(1, 11).expand(2, 10),
        "segment_ids": torch.zeros(2, 10, dtype=torch.int64),
        "padding_mask": torch.ones(2, 10),
    }
    variables: dict[str, Any] = {
        "token_ids": tokens["token_ids"],
        "segment_ids": tokens["segment_ids"],
        "mask": tokens["padding_mask"],
        "batch": tokens,
        "loader": [{**tokens, "labels": torch.tensor([0, 1])}] * 2,
        "batch_size": 2,
        "max_length": 12,
        "prompt": tokens["token_ids"],
        "token": torch.ones(2, 1, dtype=torch.int64),
        "images": torch.rand(2, 16, 16, 3),
        "photos": [np.zeros((20, 30, 3), "uint8"), np.zeros((40, 30, 3), "uint8")],
        "sd3": StableDiffusion3Backbone.from_config(stable_diffusion_3.config()).eval(),
        "prompt_ids": {"clip_l": tokens["token_ids"][:, :5], "clip_g": tokens["token_ids"][:, :5]},
        "device": "cpu",
        "nodes": 1,
        "gpus": 1,
        "empty_ids": {"clip_l": torch.ones(2, 5).long(), "clip_g": torch.ones(2, 5).long()},
    }
    shown = blocks("python")
    assert len(shown) >= 7
    with one_process():
        for block in shown:
            exec(compile(block, str(README), "exec"), variables)
    assert variables["found"]["token_ids"].shape == (2, 64)
    assert variables["loss"].isfinite()
    names = ["assets", "config.json", "metadata.json", "model.safetensors", "tokenizer.json"]
    assert uploaded == [("hf://me/my_preset", names)]


def test_commands(stand_ins: None) -> None:
    """One after the other, with a preset and an adapter in the working folder."""
    model = BertBackbone.from_preset("bert_base_en_uncased")
    model.save_to_preset("my_preset")
    model.enable_lora(2)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_kernel_b"):
            torch.nn.init.normal_(parameter)
    model.save_lora_weights("my.lora.h5")
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines]
    commands = [rest for program, *rest in filter(None, commands) if program == "keras-hub-torch"]
    group: Any = typer.main.get_command(cli.app)
    assert {command[0] for command in commands} == set(group.commands)
    for command in commands:
        result = CliRunner().invoke(cli.app, command)
        assert result.exit_code == 0, (command, result.output)


if __name__ == "__main__":
    for name, others in sorted(families().items()):
        print(f"| `{name}` | {' | '.join(others)} |")
