"""Files of a whole diffusion model: what is read is what diffusers' converters make of them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers.loaders.single_file_utils as converters
import pytest
import torch
from safetensors.torch import load_file, save_file

from keras_hub_torch.models import (
    Backbone,
    CLIPTextEncoder,
    FluxBackbone,
    MMDiT,
    StableDiffusion3Backbone,
    T5Encoder,
    VAEBackbone,
)
from keras_hub_torch.presets.checkpoints import SINGLE_FILE
from keras_hub_torch.presets.checkpoints.arguments import arguments_of
from keras_hub_torch.presets.checkpoints.bindings import bind
from keras_hub_torch.presets.checkpoints.dialect import find_table

TRANSFORMER, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "text_encoders."
CHANNELS = {
    "encoder_num_filters": [32, 64, 64, 32],
    "encoder_num_blocks": [2] * 4,
    "decoder_num_filters": [32, 64, 64, 32],
    "decoder_num_blocks": [3] * 4,
}
FLUX = {
    "input_channels": 6,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "use_bias": True,
    "image_shape": [4096, 7],
    "text_shape": [512, 5],
    "image_ids_shape": [4096, 3],
    "text_ids_shape": [512, 3],
    "y_shape": [9],
}


def text_encoder(dim: int, activation: str) -> CLIPTextEncoder:
    return CLIPTextEncoder(23, dim, dim, 3, dim // 64, 14, activation, -2, 9)


def stable_diffusion_3(third: bool, **changes: Any) -> StableDiffusion3Backbone:
    arguments: dict[str, Any] = {
        "mmdit_patch_size": 2,
        "mmdit_hidden_dim": 128,
        "mmdit_num_layers": 3,
        "mmdit_num_heads": 2,
        "mmdit_position_size": 5,
        "mmdit_qk_norm": None,
        "mmdit_dual_attention_indices": None,
        "vae": VAEBackbone(**CHANNELS, sample_channels=6, name="vae"),
        "clip_l": text_encoder(64, "quick_gelu"),
        "clip_g": text_encoder(128, "gelu"),
        "t5": T5Encoder(19, 2, 3, 20, 11, 4, activation="gelu_approximate") if third else None,
        "latent_channels": 3,
    }
    return StableDiffusion3Backbone(**{**arguments, **changes})


def original(model: Any, kind: str, **prefixes: str) -> dict[str, torch.Tensor]:
    """A file's tensors for a model like this one, at random."""
    table = find_table(SINGLE_FILE, kind, "")
    with torch.device("meta"):
        bindings = bind(table, arguments_of(model), model.state_dict())
    tensors = {
        name: torch.randn(tensor.shape)
        for binding in bindings
        for name, tensor in binding.expected().items()
    }
    for old, new in prefixes.items():
        tensors = {
            new + name.removeprefix(f"{old}.") if name.startswith(f"{old}.") else name: tensor
            for name, tensor in tensors.items()
        }
    return tensors


def exported(model: Any, folder: Path) -> dict[str, torch.Tensor]:
    """What diffusers has of a model."""
    model.export_to_diffusers(folder)
    return load_file(folder / "diffusion_pytorch_model.safetensors")


def assert_equal(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert torch.equal(mine[name], tensor), name


def converted_flux(tensors: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """diffusers knows one width only."""
    convert = converters.convert_flux_transformer_checkpoint_to_diffusers
    source = inspect.getsource(convert).replace("inner_dim = 3072", f"inner_dim = {width}")
    names = vars(converters).copy()
    exec(source, names)
    left = dict(tensors)
    converted: dict[str, torch.Tensor] = names[convert.__name__](left)
    assert not left
    return converted


@pytest.mark.parametrize(("prefix", "guided"), [("", False), (TRANSFORMER, True)])
def test_flux(prefix: str, guided: bool, tmp_path: Path) -> None:
    config = {**FLUX, "guidance_embed": guided}
    tensors = original(FluxBackbone(**config), "flux", transformer=prefix)
    file = tmp_path / "flux1-dev.safetensors"
    save_file(tensors, file)
    ours = Backbone.from_preset(file)
    assert isinstance(ours, FluxBackbone)
    found = ours.get_config()
    assert {name: found[name] for name in config} == config
    assert_equal(exported(ours, tmp_path / "ours"), converted_flux(tensors, 256))


@pytest.mark.parametrize("newer", [False, True])
def test_transformer(newer: bool, tmp_path: Path) -> None:
    """Without encoders of text a file holds two models, and the first is the transformer."""
    norms = {"mmdit_qk_norm": "rms_norm", "mmdit_dual_attention_indices": [0, 1]}
    like = stable_diffusion_3(False, **(norms if newer else {}))
    tensors = original(like, "stable_diffusion_3", transformer=TRANSFORMER, vae=VAE)
    tensors = {name: one for name, one in tensors.items() if not name.startswith(TEXT)}
    save_file(tensors, tmp_path / "sd3_medium.safetensors")
    ours = Backbone.from_preset(tmp_path)
    assert isinstance(ours, MMDiT)
    assert list(ours.dual_attention_indices) == list(like.diffuser.dual_attention_indices)
    own = {name: one for name, one in tensors.items() if name.startswith(TRANSFORMER)}
    theirs = converters.convert_sd3_transformer_checkpoint_to_diffusers(dict(own))
    assert_equal(exported(ours, tmp_path / "ours"), theirs)
    with pytest.raises(ValueError, match="of class MMDiT, which is not a StableDiffusion3"):
        StableDiffusion3Backbone.from_preset(tmp_path)


def test_autoencoders(tmp_path: Path) -> None:
    like = VAEBackbone(**CHANNELS, sample_channels=6)
    tensors = original(like, "vae", vae="")
    save_file(tensors, tmp_path / "ae.safetensors")
    ours: Any = Backbone.from_preset(tmp_path / "ae.safetensors")
    assert (ours.scale, ours.shift) == (0.3611, 0.1159)
    names = {"down_block_types": [0] * 4, "up_block_types": [0] * 4}
    theirs = converters.convert_ldm_vae_checkpoint({VAE + k: v for k, v in tensors.items()}, names)
    assert_equal(exported(ours, tmp_path / "ours"), theirs)


@pytest.mark.parametrize("third", [False, True])
def test_with_texts(third: bool, tmp_path: Path) -> None:
    like = stable_diffusion_3(third)
    kind = "stable_diffusion_3" + "+t5" * third
    tensors = original(like, kind, transformer=TRANSFORMER, vae=VAE)
    for tower in ("clip_l", "clip_g"):
        tensors[f"{TEXT}{tower}.logit_scale"] = torch.tensor(1.0)
    if third:
        for name in tensors:
            if name.startswith(f"{TEXT}t5xxl."):
                tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    file = tmp_path / "sd3_medium_incl_clips.safetensors"
    save_file(tensors, file)
    ours: Any = Backbone.from_preset(file)
    mine, wanted = ours.get_config(), like.get_config()
    assert mine.keys() == wanted.keys()
    for name in mine:
        if isinstance(mine[name], dict):
            inner, other = mine[name]["config"], wanted[name]["config"]
            assert {**inner, "name": "", "dtype": ""} == {**other, "name": "", "dtype": ""}
    ours.export_to_diffusers(tmp_path / "ours")
    towers = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
    for folder, tower in towers.items():
        found = load_file(tmp_path / "ours" / folder / "model.safetensors")
        theirs = converters.convert_ldm_clip_checkpoint(tensors, f"{TEXT}{tower}.transformer.")
        if tower == "clip_l":
            theirs["text_projection.weight"] = torch.eye(64)
        assert_equal(found, theirs)
    if third:
        found = load_file(tmp_path / "ours" / "text_encoder_3" / "model.safetensors")
        theirs = converters.convert_sd3_t5_checkpoint_to_diffusers(tensors)
        assert_equal(found, {name: one.float() for name, one in theirs.items()})
    for cls, part in ((MMDiT, "diffuser"), (VAEBackbone, "vae")):
        alone = cls.from_preset(file, dtype="auto")
        assert_equal(alone.state_dict(), getattr(ours, part).state_dict())
    if third:  # the only one of its class
        alone = T5Encoder.from_preset(file)
        assert_equal(alone.state_dict(), ours.t5.state_dict())
    # Newer files have this one, too.
    tensors[f"{TEXT}clip_l.transformer.text_projection.weight"] = torch.randn(64, 64)
    save_file(tensors, file)
    projection = Backbone.from_preset(file).state_dict()["clip_l_projection.dense.weight"]
    assert not torch.equal(projection, torch.eye(64))


@pytest.mark.parametrize(("width", "activation"), [(768, "quick_gelu"), (1024, "gelu")])
def test_clip_alone(width: int, activation: str, tmp_path: Path) -> None:
    """`clip_l.safetensors`, as transformers names its tensors; the width says which it is."""
    like = CLIPTextEncoder(5, width, width, 1, width // 64, 3, activation, None, 4)
    like.export_to_transformers(tmp_path / "theirs", carry=False)
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    tensors = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in tensors.items()}
    tensors["text_projection.weight"] = torch.zeros(1)
    tensors["text_model.embeddings.position_ids"] = torch.arange(4)[None]
    save_file(tensors, tmp_path / "clip_l.safetensors")
    ours = Backbone.from_preset(tmp_path / "clip_l.safetensors")
    assert ours.get_config() == like.get_config()
    assert_equal(ours.state_dict(), like.state_dict())


def test_unknown_clip_alone(tmp_path: Path) -> None:
    like = CLIPTextEncoder(5, 64, 64, 1, 1, 3, "relu", None, 4)
    save_file(original(like, "clip"), tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="a CLIP of width 64, whose activation nothing tells"):
        Backbone.from_preset(tmp_path / "mine.safetensors")


@pytest.mark.parametrize("copy", [False, True])
def test_t5_alone(copy: bool, tmp_path: Path) -> None:
    """`t5xxl_fp16.safetensors`, as transformers names its tensors."""
    like = T5Encoder(19, 2, 3, 20, 11, 4, activation="gelu_approximate")
    like.export_to_transformers(tmp_path / "theirs", carry=False)
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    if copy:
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
    save_file(tensors, tmp_path / "t5xxl_fp16.safetensors")
    ours = T5Encoder.from_preset(tmp_path / "t5xxl_fp16.safetensors")
    assert ours.get_config() == like.get_config()
    assert_equal(ours.state_dict(), like.state_dict())
    with pytest.raises(ValueError, match="of class T5Encoder, which is not a VAEBackbone"):
        VAEBackbone.from_preset(tmp_path / "t5xxl_fp16.safetensors")


def test_accounting(tmp_path: Path) -> None:
    file = tmp_path / "flux1-dev.safetensors"
    tensors = original(FluxBackbone(**FLUX), "flux", transformer="")
    del tensors["img_in.bias"]
    save_file({**tensors, "double_blocks.0.new": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="2 problems") as caught:
        Backbone.from_preset(file)
    assert "missing: transformer.img_in.bias" in str(caught.value)
    assert "double_blocks.0.new" in str(caught.value)
    save_file({**tensors, "double_blocks.0": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="has both"):
        Backbone.from_preset(file)
    save_file({"x": torch.zeros(1)}, file)
    for preset in (file, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"config\.json"):
            Backbone.from_preset(preset)
