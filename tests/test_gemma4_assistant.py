"""What drafts for Gemma 4, beside KerasHub's and transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
import pytest
import torch
import transformers

from keras_hub_torch import generate, samplers
from keras_hub_torch.cli._loading import load_assistant
from keras_hub_torch.models import Gemma4AssistantCausalLM, Gemma4Backbone, GPT2Backbone
from keras_hub_torch.presets.drafters import find_drafter
from keras_hub_torch.presets.sources import open_preset

from . import oracle
from .checkpoints.gemma4 import TEXT

KINDS = ["sliding_attention", "sliding_attention", "full_attention"]
SMALL = {
    "vocabulary_size": 24,
    "image_size": None,
    "num_layers": 3,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 12,
    "intermediate_dim": 14,
    "head_dim": 6,
    "layer_types": KINDS,
    "use_sliding_window_attention": True,
    "sliding_window_size": 5,
    "num_kv_shared_layers": 3,
}
WIDTH = 16


@pytest.fixture(autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


def keras_assistant(ordered: bool) -> Any:
    backbone = keras_hub.models.Gemma4Backbone(**SMALL)
    assistant = keras_hub.models.Gemma4AssistantCausalLM(
        backbone, WIDTH, 6, 2, ordered, num_speculative_tokens=3
    )
    rng = np.random.default_rng(0)
    for variable in assistant.weights:
        variable.assign(rng.normal(0.5, 0.5, variable.shape).astype("float32"))
    if ordered:
        assistant.token_ordering.assign(rng.permutation(24).astype("float32"))
    return assistant


@pytest.mark.parametrize("ordered", [True, False])
def test_as_kerashubs(ordered: bool, tmp_path: Path) -> None:
    theirs = keras_assistant(ordered)
    theirs.save_to_preset(tmp_path)
    mine = Gemma4AssistantCausalLM.from_preset(tmp_path)
    assert mine.num_speculative_tokens == 3
    assert find_drafter(open_preset(tmp_path)) is Gemma4AssistantCausalLM
    embeddings, states = torch.randn(2, 2, 1, WIDTH).unbind()
    memory = torch.randn(2, 4, 2, 9, 2, 6)  # of four layers, the last two of which are looked at
    expected = theirs.call_with_cache(embeddings, states, memory, 7)
    keys = torch.arange(9)
    # KerasHub's sees the last token's place, whatever stands there.
    masks = {True: keys <= 7, False: (keys <= 7) & (7 - keys < 5)}
    found = mine(
        embeddings,
        states,
        {kind: tuple(memory[:, 2 + kind].transpose(2, 3).unbind(1)) for kind in (False, True)},
        {kind: mask.expand(2, 1, 1, -1) for kind, mask in masks.items()},
        torch.tensor([[7]]),
    )
    oracle.assert_close(found[0], oracle.named(keras.ops.convert_to_numpy(expected[0])))
    oracle.assert_close(found[1], oracle.named(keras.ops.convert_to_numpy(expected[1])))
    # The backbone saves the rest along.
    mine.backbone.save_to_preset(tmp_path / "again")
    again = Gemma4AssistantCausalLM.from_preset(tmp_path / "again", dtype="bfloat16")
    for name, tensor in mine.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.to(again.state_dict()[name].dtype))
    assert again.pre_projection.weight.dtype == torch.bfloat16


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A model and its assistant of transformers, and both here."""
    known = transformers.Gemma4TextConfig.kv_sharing_modes

    def modes(config: Any) -> Any:
        own = config.num_hidden_layers - config.num_kv_shared_layers
        return known.fget(config) if own else ["reuse"] * config.num_hidden_layers

    # transformers 5.23 takes its own assistants for mistakes.
    monkeypatch.setattr(transformers.Gemma4TextConfig, "kv_sharing_modes", property(modes))
    text = {
        **TEXT,
        "vocab_size": 40,
        "vocab_size_per_layer_input": 40,
        "hidden_size_per_layer_input": 3,
        "num_hidden_layers": 6,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
    }
    target = transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**text)).eval()
    text |= {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
    text |= {"num_hidden_layers": 4, "num_kv_shared_layers": 4}
    config = transformers.Gemma4AssistantConfig(
        text_config={**text, "layer_types": [KINDS[0], *KINDS], "hidden_size": 12},
        backbone_hidden_size=WIDTH,
        use_ordered_embeddings=True,
        num_centroids=8,
        centroid_intermediate_top_k=2,
    )
    assistant = transformers.Gemma4AssistantForCausalLM(config).eval()
    for model in (target, assistant):
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    assistant.masked_embedding.token_ordering.copy_(torch.randperm(40))
    assistant.generation_config.num_assistant_tokens = 4
    target.save_pretrained(tmp_path / "target")
    assistant.save_pretrained(tmp_path / "assistant")
    mine = Gemma4Backbone.from_preset(tmp_path / "target")
    return target, assistant, mine, Gemma4AssistantCausalLM.from_preset(tmp_path / "assistant")


def test_as_transformers(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first drafts; later ones transformers lets see what has been refused."""
    target, assistant, mine, drafter = pair
    expected: list[torch.Tensor] = []
    found: list[torch.Tensor] = []
    forward = assistant.forward

    def noted(**kwargs: Any) -> Any:
        outputs = forward(**kwargs)
        expected.append(outputs.logits)
        return outputs

    monkeypatch.setattr(assistant, "forward", noted)
    drafter.register_forward_hook(lambda module, args, outputs: found.append(outputs[0]))
    ids = torch.tensor([[3, 5, 7, 2, 8, 1, 9, 11, 13, 4, 6]])
    text = target.generate(ids, max_new_tokens=6, do_sample=False, assistant_model=assistant)
    assert torch.equal(
        generate(mine, ids, max_new_tokens=6, assistant_model=drafter)["token_ids"], text
    )
    for ours, theirs in zip(found[:4], expected):
        oracle.assert_close(ours, oracle.named(theirs))


def test_generate(pair: Any, tmp_path: Path) -> None:
    _, _, mine, drafter = pair
    assert type(load_assistant(tmp_path / "assistant", None, mine)) is Gemma4AssistantCausalLM
    assert type(load_assistant(tmp_path / "target", None, mine)) is Gemma4Backbone
    prompts = [[3, 5, 7, 2, 8], [1, 9]]
    expected = generate(mine, prompts, 15)
    found = generate(mine, prompts, 15, assistant_model=drafter)
    assert torch.equal(found["token_ids"], expected["token_ids"])
    drawn = samplers.TopKSampler(5, seed=1)
    found = generate(
        mine, prompts, 12, drawn, num_return_sequences=2, assistant_model=drafter, compile=False
    )
    assert found["token_ids"].shape == (4, 12)
    half, small = mine.bfloat16(), drafter.bfloat16()
    assert generate(half, prompts, 9, assistant_model=small)["token_ids"].shape == (2, 9)


def test_what_is_refused(tmp_path: Path) -> None:
    assistant = keras_assistant(True)
    assistant.save_to_preset(tmp_path)
    drafter = Gemma4AssistantCausalLM.from_preset(tmp_path)
    own = Gemma4Backbone(**{**SMALL, "num_kv_shared_layers": 0})
    with pytest.raises(ValueError, match="states of 16, not 12"):
        generate(own, [1, 2], 9, assistant_model=drafter)
    gpt2 = GPT2Backbone(24, 1, 1, 4, 8, max_sequence_length=16).eval()
    with pytest.raises(ValueError, match="does not draft for GPT2Backbone"):
        generate(gpt2, [1, 2], 9, assistant_model=drafter)
    with pytest.raises(ValueError, match="num_kv_shared_layers=0 must be num_layers=3"):
        Gemma4AssistantCausalLM(own, WIDTH, 6, 2, True)
    with pytest.raises(ValueError, match="num_centroids=7 must divide vocabulary_size=24"):
        Gemma4AssistantCausalLM(drafter.backbone, WIDTH, 7, 2, True)
    task = json.loads((tmp_path / "task.json").read_text())
    task["config"]["num_centroids"] = 8
    (tmp_path / "task.json").write_text(json.dumps(task))
    with pytest.raises(ValueError, match=r"centroids/vars/0 must be of shape \(12, 8\)"):
        Gemma4AssistantCausalLM.from_preset(tmp_path)
    (tmp_path / "task.json").write_text(json.dumps({**task, "class_name": "Gemma4CausalLM"}))
    with pytest.raises(ValueError, match="is no Gemma4AssistantCausalLM"):
        Gemma4AssistantCausalLM.from_preset(tmp_path)
    assistant.token_ordering.assign(np.full(24, 24.0, "float32"))
    assistant.save_to_preset(tmp_path / "wrong")
    with pytest.raises(ValueError, match="vars/0 must have numbers from 0 to 23"):
        Gemma4AssistantCausalLM.from_preset(tmp_path / "wrong")
