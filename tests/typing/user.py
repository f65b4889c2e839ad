"""What users write, for type checkers: `tests/test_wheel.py` checks it and never runs it.

Each `type: ignore` stands at a mistake that must be found.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from typing_extensions import assert_type

import keras_hub_torch as keras_hub
from keras_hub_torch import generate, models, samplers, upload_preset
from keras_hub_torch.models import (
    Backbone,
    BertBackbone,
    FeaturePyramidBackbone,
    Gemma3Backbone,
    Gemma3VisionEncoder,
    Llama3Backbone,
    LlamaBackbone,
    ResNetBackbone,
)

bert = BertBackbone(
    vocabulary_size=30522, num_layers=2, num_heads=2, hidden_dim=128, intermediate_dim=512
)
assert_type(bert, BertBackbone)
assert_type(bert.hidden_dim, int)
assert_type(bert.dropout, float)
assert_type(bert.dtype, torch.dtype)
bert.hidden_dimension + 1  # type: ignore[operator]

BertBackbone(30522, 2, 2, 128, 512, trainable=False, dtype="bfloat16")
BertBackbone(30522, 2, 2, 128, 512, hidden_size=128)  # type: ignore[call-arg]
BertBackbone(30522, 2, 2, 128, intermediate_dim="512")  # type: ignore[arg-type]
BertBackbone(30522, 2, 2, 128)  # type: ignore[call-arg]

assert_type(BertBackbone.from_preset("bert_tiny_en_uncased"), BertBackbone)
assert_type(Backbone.from_preset("bert_tiny_en_uncased"), Backbone)
assert_type(BertBackbone.from_config(bert.get_config()), BertBackbone)
assert_type(BertBackbone.presets, dict[str, dict[str, Any]])
assert_type(bert.eval(), BertBackbone)


Pair: TypeAlias = tuple[torch.Tensor, torch.Tensor]


def hidden(backbone: Backbone, images: torch.Tensor, both: bool) -> None:
    found = backbone.forward_intermediates
    assert_type(found(images, (1, -1), norm=True, maps=both), list[torch.Tensor])
    assert_type(found(images, prefix_tokens=True), list[Pair])
    assert_type(found(images, intermediates_only=False), tuple[Any, list[torch.Tensor]])
    assert_type(found(images, prefix_tokens=True, intermediates_only=False), tuple[Any, list[Pair]])
    first, last = found(images, 2, prefix_tokens=both)
    print(first, last)
    found(images, 2, True)  # type: ignore[call-overload]


assert_type(keras_hub.models.BertBackbone.from_preset("bert_tiny_en_uncased"), BertBackbone)
print(models.NopeBackbone)  # type: ignore[attr-defined]
print(keras_hub.model)  # type: ignore[attr-defined]


def width(llama: LlamaBackbone) -> int:
    return llama.hidden_dim


llama3 = Llama3Backbone.from_preset("llama3_8b_en")
width(llama3)
width(bert)  # type: ignore[arg-type]
assert_type(llama3.rope_frequency_adjustment_factor, float | None)


def tower(gemma: Gemma3Backbone) -> Gemma3VisionEncoder | None:
    if gemma.vision_encoder is not None:
        assert_type(gemma.vision_encoder.patch_size, int)
    return gemma.vision_encoder


def widths(resnet: ResNetBackbone) -> Sequence[int]:
    pyramid: FeaturePyramidBackbone = resnet
    assert_type(pyramid.pyramid_outputs["P3"](torch.zeros(1, 64, 64, 3)), torch.Tensor)
    return resnet.stackwise_num_filters


class Classifier(nn.Module):
    def __init__(self, backbone: BertBackbone, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.hidden_dim, classes)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.backbone(inputs)["pooled_output"])
        return logits


gpt2 = keras_hub.models.GPT2Backbone.from_preset("gpt2_base_en", device="cuda")
assert_type(generate(gpt2, [[1, 2]], 8, samplers.TopPSampler(0.9)), dict[str, torch.Tensor])
upload_preset("kaggle://me/bert/keras/mine", "bert")
