"""The table and the tree of a backbone's layers."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import keras_hub_torch
from keras_hub_torch.backbones._configuration import snake_case
from keras_hub_torch.backbones.layers.core import Dense
from keras_hub_torch.backbones.layers.layout import Layout, Stack
from keras_hub_torch.presets.summary import LayerInfo, layer_tree, summary_table, totals

from .conftest import Reference

BERT: dict[str, Any] = {
    "vocabulary_size": 30522,
    "num_layers": 12,
    "num_heads": 12,
    "hidden_dim": 768,
    "intermediate_dim": 3072,
}


def model(name: str = "BertBackbone", **config: Any) -> Any:
    with torch.device("meta"):
        return getattr(keras_hub_torch.models, name)(**config)


def lines(backbone: Any, width: int = 120) -> list[str]:
    """The rows of the table, with single spaces."""
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_table(backbone, console))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    return [" ".join(line.split()) for line in text.splitlines()]


def test_bert() -> None:
    assert lines(model(**BERT)) == [
        "BertBackbone 'bert_backbone'",
        "Layer Class Weights Parameters",
        lines(model(**BERT))[2],
        "token_embedding ReversibleEmbedding 30522×768 23,440,896",
        "position_embedding PositionEmbedding 512×768 393,216",
        "segment_embedding Embedding 2×768 1,536",
        "embeddings_layer_norm LayerNormalization 2 · 768 1,536",
        "transformer_layer_0…11 TransformerEncoder 12 × 7,087,872",
        "self_attention_layer MultiHeadAttention 2,362,368",
        "query EinsumDense 768×12×64 + 12×64 590,592",
        "key EinsumDense 768×12×64 + 12×64 590,592",
        "value EinsumDense 768×12×64 + 12×64 590,592",
        "attention_output EinsumDense 12×64×768 + 768 590,592",
        "self_attention_layer_norm LayerNormalization 2 · 768 1,536",
        "feedforward_layer_norm LayerNormalization 2 · 768 1,536",
        "feedforward_intermediate_dense Dense 768×3072 + 3072 2,362,368",
        "feedforward_output_dense Dense 3072×768 + 768 2,360,064",
        "pooled_dense Dense 768×768 + 768 590,592",
    ]


def test_narrow_terminals_break_no_name_or_number() -> None:
    text = "\n".join(lines(model(**BERT), 80))
    assert "Class and weights" in text
    for whole in ("feedforward_intermediate_dense", "ReversibleEmbedding", "12 × 7,087,872"):
        assert whole in text
    assert "12 × 7,087,872" in "\n".join(lines(model(**BERT), 60))


def test_depth_is_shown_by_indentation() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(summary_table(model(**BERT), console))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(
        r"^transformer_layer_0…11 .*\n  self_attention_layer .*\n    query ", text, re.M
    )


def test_first_block_differs() -> None:
    t5 = model("T5Backbone", **{**BERT, "hidden_dim": 96})
    names = [line.split()[0] for line in lines(t5)]
    stacks = [name for name in names if name.startswith("transformer_")]
    assert stacks == [
        "transformer_encoder_layer_0",
        "transformer_encoder_layer_1…11",
        "transformer_decoder_layer_0",
        "transformer_decoder_layer_1…11",
    ]


def test_blocks_that_are_no_keras_layers() -> None:
    resnet = model(
        "ResNetBackbone",
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=[1, 4],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    table = lines(resnet)
    assert "conv1_conv Conv2D 7×7×3×64 9,408" in table
    assert "stack1_block0_0_conv Conv2D 1×1×64×128 8,192" in table
    assert "stack1_block1…3 BasicBlock 3 × 295,936" in table
    assert "stack1_block*_1_conv Conv2D 3×3×128×128 147,456" in table


class Pair(nn.Module):
    layout = Layout(group="{group}_{child}")

    def __init__(self, size: int, bias: bool) -> None:
        super().__init__()
        self.first = Dense(size, size, use_bias=bias)
        self.last = Dense(size, 2 * size, use_bias=bias)


class Pairs(keras_hub_torch.models.Backbone):  # type: ignore[misc]
    def __init__(self, sizes: list[int], biases: list[bool], **options: Any) -> None:
        super().__init__(None, **options)
        self.scale = nn.Parameter(torch.zeros(()))
        self.blocks = Stack("pair_{}_of_all", [Pair(*pair) for pair in zip(sizes, biases)])


def test_alternating_blocks() -> None:
    kinds = [i % 3 == 2 for i in range(8)]
    assert lines(Pairs([4] * 8, kinds))[3:] == [
        "(itself) Pairs 1 1",
        "pair_0…1, 3…4, 6…7_of_all Pair 6 × 48",
        "pair_*_of_all_first Dense 4×4 16",
        "pair_*_of_all_last Dense 4×8 32",
        "pair_2, 5_of_all Pair 2 × 60",
        "pair_*_of_all_first Dense 4×4 + 4 20",
        "pair_*_of_all_last Dense 4×8 + 8 40",
    ]


def test_blocks_of_many_sizes_share_rows() -> None:
    assert lines(Pairs(list(range(1, 8)), [True] * 7))[4:] == [
        "pair_0…6_of_all Pair 7 × 6…168",
        "pair_*_of_all_first Dense 1…7×1…7 + 1…7 2…56",
        "pair_*_of_all_last Dense 1…7×2…14 + 2…14 4…112",
    ]


def test_adapters_are_shown() -> None:
    backbone = keras_hub_torch.models.BertBackbone(
        **{**BERT, "vocabulary_size": 10, "hidden_dim": 24, "num_layers": 2}
    )
    count = backbone.count_params()
    backbone.enable_lora(3)
    added = 2 * 2 * (24 * 12 * 3 + 3 * 2)
    assert totals(backbone) == {
        "parameters": count + added,
        "trainable_parameters": added,
        "bytes": 4 * (count + added),
        "dtype": "float32",
    }
    assert layer_tree(backbone).parameters == count + added
    assert "query EinsumDense 24×12×2 + 12×2 + 24×12×3 + 3×2 1,470" in lines(backbone)


def test_summary_prints_table_and_totals(capsys: pytest.CaptureFixture[str]) -> None:
    backbone = model(**BERT, dtype="mixed_bfloat16", trainable=False)
    backbone.summary()
    table, _, last = capsys.readouterr().out.rstrip().rpartition("\n")
    assert "transformer_layer_0…11" in table
    assert last == "109,482,240 parameters, 0 trainable; 437.9 MB in mixed_bfloat16"


def test_every_family(first: Reference) -> None:
    """The tree has Keras's shapes, names and counts."""
    backbone = first.load()
    tree = layer_tree(backbone)
    assert tree.parameters == first.model.count_params() == backbone.count_params()
    assert max(map(len, map(str, lines(backbone, 80)))) <= 80

    def leaves(info: LayerInfo) -> list[tuple[int, ...]]:
        return [
            *info.weights.values(),
            *(shape for inner in info.layers for shape in leaves(inner)),
        ]

    theirs = [tuple(w.shape) for w in first.model.weights if "seed" not in w.path]
    assert sorted(leaves(tree)) == sorted(theirs)

    def names(info: LayerInfo) -> set[str]:
        return {info.name}.union(*map(names, info.layers))

    for layer in first.model.layers:
        automatic = re.sub(r"_\d+$", "", layer.name) == snake_case(type(layer).__name__)
        part = type(layer).__name__ == "Functional"  # of a model that is taken apart
        assert automatic or part or not layer.weights or layer.name in names(tree)
