"""OpenCLIP's checkpoints: what is read is what transformers has of the same model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from keras_hub_torch.models import Backbone, CLIPBackbone, CLIPTextEncoder, CLIPVisionEncoder
from keras_hub_torch.presets.verifying import verify_preset

Tensors = dict[str, torch.Tensor]
# transformers' names → OpenCLIP's.
NAMES = {
    r"vision_model\.embeddings\.class_embedding": "visual.class_embedding",
    r"vision_model\.embeddings\.patch_embedding": "visual.conv1",
    r"vision_model\.embeddings\.position_embedding\.weight": "visual.positional_embedding",
    r"vision_model\.pre_layrnorm": "visual.ln_pre",
    r"vision_model\.post_layernorm": "visual.ln_post",
    r"vision_model\.encoder\.layers": "visual.transformer.resblocks",
    r"text_model\.embeddings\.token_embedding": "token_embedding",
    r"text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"text_model\.final_layer_norm": "ln_final",
    r"text_model\.encoder\.layers": "transformer.resblocks",
    r"self_attn\.out_proj": "attn.out_proj",
    r"layer_norm(?=\d)": "ln_",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
}
CONFIG: dict[str, Any] = {
    "embed_dim": 7,
    "vision_cfg": {
        **{"image_size": 11, "patch_size": 4, "layers": 2, "width": 12, "head_width": 4},
        "mlp_ratio": 1.7,
    },
    "text_cfg": {"context_length": 9, "vocab_size": 23, "width": 10, "heads": 2, "layers": 1},
}


def model(activation: str) -> CLIPBackbone:
    """Of CONFIG, at random."""
    built = CLIPBackbone(
        CLIPVisionEncoder(4, 12, 2, 3, 20, activation, image_shape=(11, 11, 3)),
        CLIPTextEncoder(23, 10, 10, 1, 2, 40, activation, max_sequence_length=9),
        7,
    )
    with torch.no_grad():
        for weight in built.parameters():
            if weight.is_floating_point():
                weight.normal_()
    return built


def renamed(theirs: Tensors) -> Tensors:
    """A state dict of transformers as OpenCLIP's."""
    tensors = {}
    for name, tensor in theirs.items():
        for old, new in NAMES.items():
            name = re.sub(old, new, name)
        tensors[name] = tensor
    for name in [name for name in tensors if ".q_proj." in name]:
        parts = [tensors.pop(name.replace(".q_", f".{one}_")) for one in "qkv"]
        fused = name.replace("self_attn.q_proj.", "attn.in_proj_")
        tensors[fused] = torch.cat(parts)
    tensors["visual.proj"] = tensors.pop("visual_projection.weight").mT.contiguous()
    tensors["text_projection"] = tensors.pop("text_projection.weight").mT.contiguous()
    return tensors


def write(folder: Path, tensors: Tensors | None, **changes: Any) -> Path:
    config = {"model_cfg": {**CONFIG, **changes}, "preprocess_cfg": {"mean": [0.5] * 3}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if tensors is not None:
        save_file(tensors, folder / "open_clip_model.safetensors")
    return folder


@pytest.mark.parametrize("custom", [False, True])
def test_reading(custom: bool, tmp_path: Path) -> None:
    like = model("quick_gelu" if custom else "gelu")
    like.export_to_transformers(tmp_path / "theirs", carry=False)
    tensors = renamed(load_file(tmp_path / "theirs" / "model.safetensors"))
    if custom:  # as timm's repositories have it: a configuration of the image's tower beside it
        tensors = {
            name if name.startswith(("visual.", "logit_scale")) else f"text.{name}": tensor
            for name, tensor in tensors.items()
        }
        (tmp_path / "config.json").write_text('{"architecture": "vit_base_patch16_clip_224"}')
        write(tmp_path, None, quick_gelu=True, custom_text=True)
        torch.save(tensors, tmp_path / "open_clip_pytorch_model.bin")
    else:
        write(tmp_path, tensors)
    ours = Backbone.from_preset(tmp_path)
    assert ours.get_config() == like.get_config()
    mine, wanted = ours.state_dict(), like.state_dict()
    assert mine.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(mine[name], tensor), name
    assert verify_preset(tmp_path).files.total() == len(tensors)


def test_accounting(tmp_path: Path) -> None:
    like = model("gelu")
    like.export_to_transformers(tmp_path / "theirs", carry=False)
    tensors = renamed(load_file(tmp_path / "theirs" / "model.safetensors"))
    del tensors["ln_final.bias"]
    write(tmp_path, {**tensors, "visual.new": torch.zeros(1)})
    with pytest.raises(ValueError, match="2 problems") as caught:
        CLIPBackbone.from_preset(tmp_path)
    assert "missing: ln_final.bias" in str(caught.value)
    assert "visual.new" in str(caught.value)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("", {"init_logit_bias": -10}, "a bias of the logits, as SigLIP"),
        ("", {"multimodal_cfg": {"layers": 2}}, "as CoCa"),
        ("", {"genlip_cfg": {"layers": 2}}, "genlip_cfg.layers: not known"),
        ("vision_cfg", {"timm_model_name": "vitamin_base_224"}, "'vitamin_base_224': a network"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, "a ResNet"),
        ("vision_cfg", {"no_ln_pre": True, "pool_type": "avg"}, "no norm before the blocks"),
        ("text_cfg", {"hf_model_name": "roberta-base"}, "'roberta-base': a network"),
        ("text_cfg", {"pool_type": "eos", "eos_id": 2}, "'eos' with eos_id=2"),
        ("text_cfg", {"no_causal_mask": True}, "tokens that see what follows"),
    ],
)
def test_refused(part: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """By name, before weights are looked for."""
    changed = {part: {**CONFIG[part], **changes}} if part else changes
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(write(tmp_path, None, **changed))


def test_no_configuration(tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no model_cfg"):
        Backbone.from_preset(tmp_path)
