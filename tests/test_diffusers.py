"""Models of diffusers: outputs are equal, and what is read and written again is the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from keras_hub_torch.generation import generate_images
from keras_hub_torch.models import (
    Backbone,
    CLIPTextEncoder,
    CLIPTokenizer,
    FluxBackbone,
    MMDiT,
    T5Encoder,
    T5Tokenizer,
    VAEBackbone,
)

from . import oracle, vocabularies
from .test_cli import run, succeed

SD3: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 5,
    "out_channels": 5,
    "num_layers": 3,
    "attention_head_dim": 4,
    "num_attention_heads": 2,
    "joint_attention_dim": 7,
    "caption_projection_dim": 8,
    "pooled_projection_dim": 9,
    "pos_embed_max_size": 5,
}
FLUX: dict[str, Any] = {
    "in_channels": 6,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 7,
    "pooled_projection_dim": 9,
    "axes_dims_rope": (2, 2, 4),
}
VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [32, 64],
    "layers_per_block": 2,
    "latent_channels": 3,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 0.7,
    "shift_factor": 0.2,
}
MODELS: dict[str, tuple[type[Any], dict[str, Any], type[Any]]] = {
    "sd3": (diffusers.SD3Transformer2DModel, SD3, MMDiT),
    "sd3.5": (
        diffusers.SD3Transformer2DModel,
        {**SD3, "qk_norm": "rms_norm", "dual_attention_layers": (0, 2)},
        MMDiT,
    ),
    "flux": (diffusers.FluxTransformer2DModel, FLUX, FluxBackbone),
    "flux-guided": (
        diffusers.FluxTransformer2DModel,
        {**FLUX, "guidance_embeds": True, "out_channels": 4, "num_layers": 1},
        FluxBackbone,
    ),
    "vae": (diffusers.AutoencoderKL, VAE, VAEBackbone),
    "vae-plain": (
        diffusers.AutoencoderKL,
        {
            **VAE,
            "down_block_types": ["DownEncoderBlock2D"],
            "up_block_types": ["UpDecoderBlock2D"],
            "block_out_channels": [32],
            "layers_per_block": 1,
            "shift_factor": None,
        },
        VAEBackbone,
    ),
}

CLIP_ENDS = ("<|startoftext|>", "<|endoftext|>")


def randomised(model: nn.Module) -> Any:
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in (*model.named_parameters(), *model.named_buffers()):
            if not parameter.is_floating_point():
                continue
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.normal_(1.0 if is_norm else 0.0, 0.2)
    return model.eval()


def outputs_of(model: Any, ours: Any) -> tuple[Any, Any]:
    """Theirs, and ours."""
    if isinstance(ours, VAEBackbone):
        images, latents = torch.rand(2, 3, 8, 12), torch.randn(2, 3, 4, 6)
        mean = ours.encoder(images).chunk(2, dim=1)[0]
        decoded = ours.decode(latents.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        theirs = model.encode(images).latent_dist.mode(), model.decode(latents).sample
        return dict(zip("ab", theirs)), {"a": mean, "b": decoded}
    text, pooled, time = torch.randn(2, 4, 7), torch.randn(2, 9), torch.tensor([300.0, 900.0])
    if isinstance(ours, MMDiT):
        latents = torch.randn(2, 5, 6, 10)
        theirs = model(latents, text, pooled, time).sample.permute(0, 2, 3, 1)
        return theirs, ours(
            latent=latents.permute(0, 2, 3, 1),
            context=text,
            pooled_projection=pooled,
            timestep=time[:, None],
        )
    for block in model.transformer_blocks:  # KerasHub computes with the exact form there
        block.ff.net[0].approximate = block.ff_context.net[0].approximate = "none"
    image = torch.randn(2, 6, 6)
    places = torch.randint(9, (6, 3)).float(), torch.zeros(4, 3)
    theirs = model(
        image,
        text,
        pooled,
        time / 1000,
        img_ids=places[0],
        txt_ids=places[1],
        guidance=time / 500 if ours.guidance_embed else None,
    ).sample
    return theirs, ours(
        image=image,
        image_ids=places[0].expand(2, -1, -1),
        text=text,
        text_ids=places[1].expand(2, -1, -1),
        y=pooled,
        timesteps=time / 1000,
        guidance=time / 500,
    )


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_both_ways(name: str, tmp_path: Path) -> None:
    cls, config, backbone = MODELS[name]
    model = randomised(cls(**config))
    model.save_pretrained(tmp_path / "theirs")
    ours = Backbone.from_preset(tmp_path / "theirs")
    assert type(ours) is backbone
    theirs, mine = outputs_of(model, ours)
    oracle.assert_close(mine, oracle.named(theirs))
    ours.export_to_diffusers(tmp_path / "ours")
    again = cls.from_pretrained(tmp_path / "ours")
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert Backbone.from_preset(tmp_path / "ours").get_config() == ours.get_config()
    found = load_file(tmp_path / "ours" / "diffusion_pytorch_model.safetensors")
    assert found.keys() == model.state_dict().keys()


@torch.no_grad()
def test_norms_with_weights_go_into_what_modulates_them(tmp_path: Path) -> None:
    """Flux has norms with weights in KerasHub, but not in diffusers."""
    cls, config, _ = MODELS["flux-guided"]
    randomised(cls(**config)).save_pretrained(tmp_path / "theirs")
    ours = randomised(Backbone.from_preset(tmp_path / "theirs"))
    ours.export_to_diffusers(tmp_path / "ours")
    theirs, mine = outputs_of(cls.from_pretrained(tmp_path / "ours"), ours)
    oracle.assert_close(mine, oracle.named(theirs), 5e-5)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vae", {"use_quant_conv": True}, "use_quant_conv is True"),
        ("vae", {"latents_mean": [0.0]}, "latents_mean"),
        ("vae", {"up_block_types": ["AttnUpDecoderBlock2D"] * 2}, "only UpDecoderBlock2Ds"),
        ("sd3", {"caption_projection_dim": 9}, "caption_projection_dim is 9, not 8"),
        ("sd3", {"out_channels": 3}, "out_channels is 3"),
        ("sd3", {"new": 1}, "new: not known here"),
        ("flux", {"patch_size": 2}, "patch_size is 2"),
        ("flux", {"_class_name": "UNet2DModel"}, "'UNet2DModel', which cannot be read"),
    ],
)
def test_refused(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    cls, config, _ = MODELS[name]
    cls(**config).save_config(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        Backbone.from_preset(tmp_path, load_weights=False)


def test_not_written(tmp_path: Path) -> None:
    refused: list[tuple[Any, str]] = [
        (MMDiT(2, 8, 1, 2, 4, latent_shape=(4, 8, 3)), "not square"),
        (MMDiT(2, 8, 1, 2, 4, mlp_ratio=2.0), "mlp_ratio is 2.0"),
        (VAEBackbone([32], [1], [32], [1]), "one more in the decoder"),
        (VAEBackbone([32, 64], [1, 1], [32, 64], [2, 2]), "in reverse"),
    ]
    for model, message in refused:
        with pytest.raises(ValueError, match=message):
            model.export_to_diffusers(tmp_path)
    assert not list(tmp_path.iterdir())


def text_model(dim: int, activation: str, words: int = 23) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=words,
        hidden_size=dim,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=14,
        max_position_embeddings=9,
        projection_dim=dim,
        hidden_act=activation,
        eos_token_id=words - 1,
    )
    return randomised(transformers.CLIPTextModelWithProjection(config))


def pipeline(third: bool, words: int = 23, pieces: int = 19) -> Any:
    parts: dict[str, Any] = dict.fromkeys(
        ("tokenizer", "tokenizer_2", "tokenizer_3", "text_encoder_3")
    )
    if third:
        config = transformers.T5Config(
            vocab_size=pieces,
            d_model=20,
            d_kv=5,
            d_ff=11,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
        parts["text_encoder_3"] = randomised(transformers.T5EncoderModel(config))
    transformer = {
        **SD3,
        "sample_size": 4,
        "in_channels": 3,
        "out_channels": 3,
        "joint_attention_dim": 20 if third else 4096,
        "pooled_projection_dim": 14,
        "qk_norm": "rms_norm" if third else None,
        "dual_attention_layers": (1,) if third else (),
    }
    autoencoder = {
        **VAE,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [32] * 4,
        "layers_per_block": 1,
    }
    return diffusers.StableDiffusion3Pipeline(
        transformer=randomised(diffusers.SD3Transformer2DModel(**transformer)),
        vae=randomised(diffusers.AutoencoderKL(**autoencoder)),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=2.5),
        text_encoder=text_model(6, "quick_gelu", words),
        text_encoder_2=text_model(8, "gelu", words),
        **parts,
    )


def embedded(pipe: Any, ids: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the pipeline makes of token ids."""
    outputs = [
        encoder(token_ids, output_hidden_states=True)
        for encoder, token_ids in (
            (pipe.text_encoder, ids["clip_l"]),
            (pipe.text_encoder_2, ids["clip_g"]),
        )
    ]
    states = torch.cat([one.hidden_states[-2] for one in outputs], dim=-1)
    width = pipe.transformer.config.joint_attention_dim
    states = nn.functional.pad(states, (0, width - states.shape[-1]))
    further = torch.zeros(len(states), 9, width)
    if pipe.text_encoder_3 is not None:
        further = pipe.text_encoder_3(ids["t5"])[0]
    return torch.cat((states, further), 1), torch.cat([one.text_embeds for one in outputs], -1)


def some_ids(third: bool) -> dict[str, torch.Tensor]:
    ends = torch.full((2, 1), 22)
    towers = ("clip_l", "clip_g")
    ids = {tower: torch.cat((torch.randint(22, (2, 5)), ends), 1) for tower in towers}
    return {**ids, "t5": torch.randint(19, (2, 4))} if third else ids


@torch.no_grad()
@pytest.mark.parametrize("third", [False, True])
def test_pipelines(third: bool, tmp_path: Path) -> None:
    """Equal step by step; and what is read and written again has the same tensors."""
    pipe = pipeline(third)
    pipe.save_pretrained(tmp_path / "theirs")
    ours: Any = Backbone.from_preset(tmp_path / "theirs")
    ids, negative = some_ids(third), some_ids(third)
    text, pooled = embedded(pipe, ids)
    negative_text, negative_pooled = embedded(pipe, negative)
    embeddings = ours.encode_text_step(ids, negative)
    # The norm behind CLIP's blocks has another epsilon in KerasHub.
    for mine, theirs in zip(embeddings, (text, negative_text, pooled, negative_pooled)):
        oracle.assert_close(mine, oracle.named(theirs), 1e-4)
    latents, steps = torch.randn(2, 3, 4, 4), []

    def note(pipe: Any, step: int, timestep: Any, found: Any) -> Any:
        steps.append(found["latents"])
        return found

    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        prompt_embeds=text,
        negative_prompt_embeds=negative_text,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=negative_pooled,
        latents=latents,
        num_inference_steps=3,
        guidance_scale=2.0,
        output_type="pt",
        callback_on_step_end=note,
    ).images
    x = latents.permute(0, 2, 3, 1)
    for i, theirs in enumerate(steps):
        x = ours.denoise_step(x, embeddings, i, 3, 2.0)
        oracle.assert_close(x, oracle.named(theirs.permute(0, 2, 3, 1)), 2e-4)
    decoded = (ours.decode_step(x) / 2 + 0.5).clamp(0, 1)
    oracle.assert_close(decoded, oracle.named(images.permute(0, 2, 3, 1)))

    ours.export_to_diffusers(tmp_path / "ours")
    again = Backbone.from_preset(tmp_path / "ours")
    assert again.get_config() == ours.get_config()
    parts = ["transformer", "vae", "text_encoder", "text_encoder_2"]
    for part in parts + ["text_encoder_3"] * third:
        theirs = getattr(pipe, part)
        loaded = type(theirs).from_pretrained(tmp_path / "ours" / part).state_dict()
        for key, value in theirs.state_dict().items():
            assert torch.equal(loaded[key], value), key
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(
        tmp_path / "ours" / "scheduler"
    )
    assert scheduler.config.shift == 2.5
    # It asks for what a pipeline does without.
    absent = ["tokenizer", "tokenizer_2", "tokenizer_3"] + ["text_encoder_3"] * (not third)
    whole = diffusers.StableDiffusion3Pipeline.from_pretrained(
        tmp_path / "ours", **dict.fromkeys(absent)
    )
    assert (whole.text_encoder_3 is not None) is third
    assert torch.equal(whole.vae.decoder.conv_in.weight, pipe.vae.decoder.conv_in.weight)


@torch.no_grad()
def test_parts_of_a_pipeline(tmp_path: Path) -> None:
    """Each one alone, by its folder, or by its class where there is one of that."""
    pipe = pipeline(True)
    pipe.save_pretrained(tmp_path)
    whole = Backbone.from_preset(tmp_path)
    parts = {
        "transformer": ("diffuser", MMDiT),
        "vae": ("vae", VAEBackbone),
        "text_encoder": ("clip_l", CLIPTextEncoder),
        "text_encoder_2": ("clip_g", CLIPTextEncoder),
        "text_encoder_3": ("t5", T5Encoder),
    }
    for folder, (part, cls) in parts.items():
        places = [tmp_path / folder] + [tmp_path] * (cls is not CLIPTextEncoder)
        for place in places:
            found = cls.from_preset(place)
            assert type(found) is cls
            state = getattr(whole, part).state_dict()
            assert found.state_dict().keys() == state.keys()
            assert all(torch.equal(one, state[key]) for key, one in found.state_dict().items())
    with pytest.raises(ValueError, match=r"several .*: give the folder of one of text_encoder, "):
        CLIPTextEncoder.from_preset(tmp_path)
    with pytest.raises(ValueError, match="of class StableDiffusion3Backbone, which is not a Flux"):
        FluxBackbone.from_preset(tmp_path)

    encoder: Any = T5Encoder.from_preset(tmp_path)
    ids, mask = torch.randint(19, (2, 5)), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    theirs = pipe.text_encoder_3(ids, mask)[0]
    mine = encoder({"token_ids": ids, "padding_mask": mask})
    oracle.assert_close(mine[mask > 0], oracle.named(theirs[mask > 0]))
    encoder.export_to_transformers(tmp_path / "t5", carry=False)
    again = transformers.T5EncoderModel.from_pretrained(tmp_path / "t5")
    for key, value in pipe.text_encoder_3.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def test_the_transformer_of_another_pipeline(tmp_path: Path) -> None:
    """Flux's pipeline has no class of its own."""
    cls, config, _ = MODELS["flux"]
    parts: dict[str, Any] = dict.fromkeys(("tokenizer", "tokenizer_2", "text_encoder_2"))
    diffusers.FluxPipeline(
        transformer=randomised(cls(**config)),
        vae=randomised(diffusers.AutoencoderKL(**VAE)),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
        text_encoder=text_model(6, "quick_gelu").text_model,
        **parts,
    ).save_pretrained(tmp_path)
    for found in (Backbone, FluxBackbone, VAEBackbone):
        model = found.from_preset(tmp_path)
        assert type(model) is (FluxBackbone if found is Backbone else found)
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "Unknown"}')
    with pytest.raises(ValueError, match="'FluxPipeline', which cannot be read"):
        Backbone.from_preset(tmp_path)


def test_accounting(tmp_path: Path) -> None:
    """Every tensor of every folder is used once; one error names all that does not fit."""
    pipeline(False).save_pretrained(tmp_path)
    assert Backbone.from_preset(tmp_path, dtype="auto", device="meta").dtype == torch.float32
    file = tmp_path / "text_encoder_2" / "model.safetensors"
    tensors = load_file(file)
    del tensors["text_projection.weight"]
    save_file({**tensors, "text_model.new": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="2 problems") as caught:
        Backbone.from_preset(tmp_path)
    assert "missing: text_encoder_2.text_projection.weight" in str(caught.value)
    assert "text_model.new" in str(caught.value)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"use_karras_sigmas": true}')
    with pytest.raises(ValueError, match="use_karras_sigmas is True"):
        Backbone.from_preset(tmp_path)


@torch.no_grad()
def test_tokenizers_go_along(tmp_path: Path) -> None:
    """What is written runs as it is, from strings; and what is read from it is written again."""
    vocabulary, merges = vocabularies.byte_pairs(*CLIP_ENDS, end_of_word="</w>")
    cut = {
        "clip_l": CLIPTokenizer(
            vocabulary, merges, pad_with_end_token=True, config_file="clip_l_tokenizer.json"
        ),
        "clip_g": CLIPTokenizer(vocabulary, merges, config_file="clip_g_tokenizer.json"),
        "t5": T5Tokenizer(
            vocabularies.sentence_pieces("nmt_nfkc", pad_id=0, eos_id=1, unk_id=2, bos_id=-1),
            config_file="t5_tokenizer.json",
        ),
    }
    pipe = pipeline(True, cut["clip_l"].vocabulary_size(), cut["t5"].vocabulary_size())
    pipe.save_pretrained(tmp_path / "pipeline")
    preset = tmp_path / "preset"
    Backbone.from_preset(tmp_path / "pipeline").save_to_preset(preset)
    for tokenizer in cut.values():
        tokenizer.save_to_preset(preset)
    ours: Any = Backbone.from_preset(preset)
    carried = ours.export_to_diffusers(tmp_path / "out")
    assert {name.partition("/")[0] for name in carried} == {
        "tokenizer",
        "tokenizer_2",
        "tokenizer_3",
    }
    whole = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "out")
    whole.set_progress_bar_config(disable=True)
    text, latents = "A small prompt, twice", torch.randn(1, 3, 4, 4)
    images = whole(
        text,
        latents=latents,
        num_inference_steps=2,
        guidance_scale=1.0,
        max_sequence_length=6,
        output_type="pt",
    ).images
    ids = {}
    for tower, length in (("clip_l", 9), ("clip_g", 9), ("t5", 6)):
        tokenizer = cut[tower]
        begin = [] if tower == "t5" else [tokenizer.start_token_id]
        row = [*begin, *tokenizer(text)[: length - len(begin) - 1], tokenizer.end_token_id]
        row += [tokenizer.pad_token_id] * (length - len(row))
        ids[tower] = torch.tensor([row])
    mine = generate_images(
        ours, ids, num_steps=2, guidance_scale=None, noises=latents.permute(0, 2, 3, 1)
    )
    oracle.assert_close(mine / 2 + 0.5, oracle.named(images.permute(0, 2, 3, 1)))

    again = Backbone.from_preset(tmp_path / "out")
    assert set(again.export_to_diffusers(tmp_path / "again")) >= set(carried)
    for name in (*carried, "model_index.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert not again.export_to_diffusers(tmp_path / "bare", carry=False)
    succeed("convert", tmp_path / "out", tmp_path / "keras", "--format", "keras")
    succeed("convert", tmp_path / "keras", tmp_path / "back", "--format", "diffusers")
    for name in carried:
        if not name.endswith("special_tokens_map.json"):
            assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    said = run("convert", tmp_path / "out", tmp_path / "x", "--format", "keras", "--alone").stderr
    assert said == "Not carried over: tokenizer/, tokenizer_2/, tokenizer_3/\n"
