"""What diffusion models do besides one forward pass: their parts, and all steps to an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras_hub.src.models.stable_diffusion_3.flow_match_euler_discrete_scheduler as keras_flow
import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from keras_hub_torch.backbones.stable_diffusion_3.scheduler import FlowMatchEulerDiscreteScheduler
from keras_hub_torch.generation import generate_images, images
from keras_hub_torch.generation.tiles import decode_in_tiles, encode_in_tiles
from keras_hub_torch.models import (
    BertBackbone,
    FluxBackbone,
    MMDiT,
    StableDiffusion3Backbone,
    VAEBackbone,
)

from . import oracle
from .cases.flux import SMALL as FLUX
from .cases.flux import inputs as flux_inputs
from .cases.stable_diffusion_3 import PLAIN, config, everything, flows, t5, vae
from .cases.vae import config as vae_config
from .conftest import Reference, reference_of

STEPS = 4


def texts(reference: Reference, negative: bool) -> dict[str, torch.Tensor]:
    ending = "_negative_token_ids" if negative else "_token_ids"
    return {
        tower: reference.tensors[tower + ending]
        for tower in ("clip_l", "clip_g", "t5")
        if tower + ending in reference.inputs
    }


@pytest.fixture(params=["sd3", "sd3-t5"])
def sd3(request: pytest.FixtureRequest, preset_folder: Path) -> Reference:
    return reference_of(request.param, preset_folder)


@torch.no_grad()
def test_parts(sd3: Reference) -> None:
    """Each one equals KerasHub's, and so do all steps together, with guidance and without."""
    ours, theirs = sd3.load(), sd3.model
    theirs.configure_scheduler(STEPS)
    ours.configure_scheduler(STEPS)
    both = texts(sd3, False), texts(sd3, True)
    embeddings = theirs.encode_text_step(*both)
    oracle.assert_close(
        {"embeddings": ours.encode_text_step(*both)},
        oracle.named({"embeddings": embeddings}),
    )
    images, latents = sd3.tensors["images"], sd3.tensors["latents"]
    encoded = theirs.encode_image_step(images)
    oracle.assert_close(ours.encode_image_step(images), oracle.named(encoded))
    step, steps = torch.tensor(2), torch.tensor(STEPS)
    noisy = theirs.add_noise_step(encoded, encoded.flip(0), step, steps)
    oracle.assert_close(ours.add_noise_step(encoded, encoded.flip(0), 2), oracle.named(noisy))
    for scale in (None, 3.5):
        x = y = latents
        for i in range(STEPS):
            x = theirs.denoise_step(x, embeddings, i, STEPS, scale)
            y = ours.denoise_step(y, embeddings, i, STEPS, scale)
            oracle.assert_close(y, oracle.named(x), 2e-5 * (i + 1))
        decoded = theirs.decode_step(x)
        oracle.assert_close(ours.decode_step(x), oracle.named(decoded))
        oracle.assert_close(
            generate_images(
                ours,
                *(both if scale else both[:1]),
                num_steps=STEPS,
                guidance_scale=scale,
                noises=latents,
            ),
            oracle.named(decoded.clamp(-1, 1)),
            2e-4,
        )


@pytest.mark.parametrize(("timesteps", "shift"), [(1000, 3.0), (700, 1.0), (11, 0.3)])
def test_schedule(timesteps: int, shift: float) -> None:
    """KerasHub's to the last bit, on which the embeddings of timesteps depend."""
    ours = FlowMatchEulerDiscreteScheduler(timesteps, shift)
    for count in (2, 3, 28, 50):
        theirs = keras_flow.FlowMatchEulerDiscreteScheduler(timesteps, shift, dtype="float32")
        theirs.set_sigmas(count)
        sigma, timestep = ours(torch.arange(count + 1), count)
        assert torch.equal(sigma, theirs.sigmas)
        assert torch.equal(timestep, theirs.sigmas * timesteps)
    # A single step, of which KerasHub makes NaN, begins with noise alone.
    sigma, _ = ours(torch.arange(2), 1)
    assert sigma.tolist() == [1.0, 0.0]


@pytest.fixture
def small() -> Any:
    torch.manual_seed(0)
    return StableDiffusion3Backbone(**config(mmdit_position_size=16)).eval()


def prompts(batch: int = 2, length: int = 5) -> dict[str, torch.Tensor]:
    return {name: torch.randint(23, (batch, length)) for name in ("clip_l", "clip_g")}


def test_images_from_images(small: Any) -> None:
    """Noise is added as to a step in the middle, and the steps before it are left out."""
    text, negative, images = prompts(), prompts(), torch.rand(2, 16, 32, 3)
    noises = torch.randn(2, 16, 32, 4)
    given = {"num_steps": 5, "guidance_scale": 2.0, "images": images, "noises": noises}
    found = generate_images(small, text, negative, strength=0.5, **given)
    with torch.no_grad():
        embeddings = small.encode_text_step(text, negative)
        x = small.add_noise_step(small.encode_image_step(images), noises, 2, 5)
        for i in (2, 3, 4):
            x = small.denoise_step(x, embeddings, i, 5, 2.0)
        expected = small.decode_step(x).clamp(-1, 1)
        oracle.assert_close(found, oracle.named(expected))
        untouched = generate_images(small, text, negative, strength=0, **given)
        again = small.decode_step(small.encode_image_step(images))
    oracle.assert_close(untouched, oracle.named(again.clamp(-1, 1)))
    assert not torch.equal(found, untouched)
    tiled = generate_images(small, text, negative, strength=0.5, tile=5, **given)
    oracle.assert_close(tiled, oracle.named(found))


def test_a_seed_draws_latents_of_images(small: Any) -> None:
    small.vae.sampler_method = "sample"
    given = {"num_steps": 2, "guidance_scale": None, "images": torch.rand(2, 16, 32, 3)}
    text = prompts()
    first = generate_images(small, text, seed=3, **given)
    assert torch.equal(generate_images(small, text, seed=3, **given), first)
    assert not torch.equal(generate_images(small, text, seed=4, **given), first)
    tiled = generate_images(small, text, seed=3, tile=5, **given)
    oracle.assert_close(tiled, oracle.named(first))


def test_reproducible(small: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """By the seed; whatever the tiles, the mode, and where the parts wait."""
    text, given = prompts(), {"num_steps": 2, "guidance_scale": None}
    first = generate_images(small, text, seed=3, **given)
    assert first.shape == (2, 2, 4, 3)
    assert "step" not in capsys.readouterr().err
    assert torch.equal(generate_images(small, text, seed=3, progress=True, **given), first)
    assert "2/2" in capsys.readouterr().err
    assert not torch.equal(generate_images(small, text, seed=4, **given), first)
    assert not torch.equal(generate_images(small, text, **given), first)
    places = [parameter.data_ptr() for parameter in small.parameters()]
    away = generate_images(small, text, seed=3, offload=True, device="cpu", **given)
    assert torch.equal(away, first)
    assert [parameter.data_ptr() for parameter in small.parameters()] == places
    tiled = generate_images(small, text, seed=3, tile=3, **given)
    oracle.assert_close(tiled, oracle.named(first))
    small.train()
    assert torch.equal(generate_images(small, text, seed=3, **given), first)
    assert small.training


@torch.no_grad()
@pytest.mark.parametrize("tile", [5, 16, 1000])
def test_tiles(tile: int) -> None:
    """The whole image, up to rounding: there are no seams."""
    model = VAEBackbone(
        **vae_config(decoder_num_filters=[64, 32, 32], decoder_num_blocks=[1, 2, 1])
    )
    for name, parameter in model.named_parameters():
        parameter.normal_(1 if name.endswith("norm.weight") else 0, 0.1)
    halves = (
        (model.decoder, decode_in_tiles, torch.randn(2, 16, 7, 9)),
        (model.encoder, encode_in_tiles, torch.rand(2, 3, 27, 38)),
    )
    for half, in_tiles, x in halves:
        whole = half(x)
        assert whole.std() > 0.01
        tiled = in_tiles(half, x, tile, torch.device("cpu"))
        oracle.assert_close(tiled, oracle.named(whole), 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_norms_are_float32(dtype: torch.dtype) -> None:
    """Where squares overflow, and sums of many numbers lose what they have in common."""
    norm = VAEBackbone(**vae_config(), dtype=dtype).encoder.output_norm
    x = (1000 + 50 * torch.randn(2, norm.num_channels, 9, 9)).to(dtype)
    expected = torch.nn.functional.group_norm(x.double(), norm.num_groups, eps=norm.eps)
    found = norm(x)
    assert found.dtype == dtype
    oracle.assert_close(found.double(), oracle.named(expected), 4 * torch.finfo(dtype).eps)


def test_compiled(
    small: Any, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """One graph of a step and one of decoding for all prompts, scales and numbers of steps; with
    `--all-cases` by inductor.
    """
    backend = "inductor" if request.config.getoption("--all-cases") else "eager"

    def compile_with(function: Any, **options: Any) -> Any:
        return compiled(function, backend=backend, **options)

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", compile_with)
    images._compiled.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    for count, scale, graphs in ((2, 2.0, 2), (3, 4.0, 2), (2, None, 3), (3, None, 3)):
        given = {"num_steps": count, "guidance_scale": scale, "seed": count}
        text, negative = prompts(), prompts()
        found = generate_images(small, text, negative, compile=True, **given)
        assert counters["stats"]["unique_graphs"] == graphs
        expected = generate_images(small, text, negative, **given)
        oracle.assert_close(found, oracle.named(expected))
    images._compiled.cache_clear()
    with pytest.raises(ValueError, match="evaluation mode"):
        generate_images(small.train(), text, negative, compile=True)


@torch.no_grad()
@pytest.mark.parametrize("name", ["flux", "mmdit"])
def test_one_graph_for_all_sizes(name: str) -> None:
    """Of text and of images, which KerasHub fixes."""
    torch._dynamo.reset()
    counters.clear()
    model: Any = (FluxBackbone(**FLUX) if name == "flux" else MMDiT(**PLAIN)).eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for i in range(3):
        if name == "flux":
            places = {"image_ids_shape": [12 - i, 3], "text_ids_shape": [4 + i, 3]}
            sizes = {"image_shape": [12 - i, 6], "text_shape": [4 + i, 7], **places}
            make = flux_inputs(5 + i, {**FLUX, **sizes})
        else:
            make = flows(2 + i, 8, 4 + 2 * (i % 2), 5, 11 + i, 7, 9)
        inputs = oracle.tensors(make(np.random.default_rng(i)))
        oracle.assert_close(compiled(inputs), oracle.named(model(inputs)))
    assert counters["stats"]["unique_graphs"] == 1


@torch.no_grad()
def test_guidance_may_be_left_out_where_it_is_unused() -> None:
    model: Any = FluxBackbone(**{**FLUX, "guidance_embed": False}).eval()
    inputs = oracle.tensors(flux_inputs(2, FLUX)(np.random.default_rng(0)))
    expected = model(inputs)
    del inputs["guidance"]
    assert torch.equal(model(inputs), expected)
    with pytest.raises(ValueError, match="needs guidance"):
        FluxBackbone(**FLUX)(inputs)


@torch.no_grad()
def test_empty_batch(small: Any) -> None:
    inputs = oracle.tensors(everything(1, config(), 3)(np.random.default_rng(0)))
    inputs = {name: value[:0] for name, value in inputs.items()}
    assert small(inputs)["images"].shape == (0, 2, 4, 3)
    text = {"clip_l": inputs["clip_l_token_ids"], "clip_g": inputs["clip_g_token_ids"]}
    assert generate_images(small, text, text, num_steps=1).shape == (0, 2, 4, 3)


def test_offload_finds_a_device(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    with pytest.raises(ValueError, match="finds no accelerator"):
        generate_images(small, prompts(), guidance_scale=None, offload=True)


def test_t5_drops_nothing() -> None:
    model = StableDiffusion3Backbone(**config(t5=t5(dropout=0.5))).train()
    assert model.training
    assert model.diffuser.training
    assert not any(module.training for module in model.t5.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": [24, 32, 3]}, "divisible by 16"),
        ({"latent_channels": 3}, "half of the vae's"),
        ({"image_shape": [16, 32, 1]}, "must have the vae's 3"),
        ({"vae": vae(4, input_channels=1)}, "must have the vae's 1"),
        ({"mmdit_num_heads": 3}, "not divisible"),
        ({"mmdit_qk_norm": "layer_norm"}, "must be one of None, rms_norm"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StableDiffusion3Backbone(**config(**changes))


def test_refused_parts() -> None:
    no_states = config()
    del no_states["clip_g"]["config"]["intermediate_output_index"]
    with pytest.raises(ValueError, match=r"clip_g must be .* intermediate_output_index"):
        StableDiffusion3Backbone(**no_states)
    with pytest.raises(NotImplementedError, match="channels_last"):
        StableDiffusion3Backbone(**config(data_format="channels_first"))
    for changes, message in (
        ({"axes_dim": [2, 2, 2]}, "do not fit"),
        ({"axes_dim": [3, 3, 2]}, "even"),
        ({"num_heads": 3}, "not divisible"),
    ):
        with pytest.raises(ValueError, match=message):
            FluxBackbone(**{**FLUX, **changes})(flux_inputs(2, FLUX)(np.random.default_rng(0)))


def test_refused_inputs(small: Any) -> None:
    text, negative = prompts(), prompts()
    embeddings = small.encode_text_step(text)
    latents, images = torch.randn(2, 2, 4, 4), torch.rand(2, 4, 6, 3)
    refused: list[tuple[Any, str]] = [
        (lambda: small.encode_text_step(text, prompts(length=4)), "of one shape"),
        (lambda: small.encode_text_step({**text, "t5": text["clip_l"]}), "takes token ids for"),
        (lambda: small.encode_text_step({"clip_l": text["clip_l"]}), "takes token ids for"),
        (lambda: small.denoise_step(latents, embeddings, 0, 2, 3.0), "needs negative token ids"),
        (lambda: small.denoise_step(latents, embeddings, 2, 2), "step=2 must be 0 to 1"),
        (lambda: small.denoise_step(latents, embeddings, 0, 0), "num_steps=0 must be at least 1"),
        (lambda: small.denoise_step(latents, embeddings, 0), "must be given"),
        (lambda: small.denoise_step(latents[:, :1], embeddings, 0, 2), "divisible by 2"),
        (lambda: small.denoise_step(latents[..., :3], embeddings, 0, 2), "channels"),
        (lambda: generate_images(small, text), "needs negative_token_ids"),
        (lambda: generate_images(small, text, negative, num_steps=0), "num_steps=0"),
        (lambda: generate_images(small, text, negative, strength=1.5), "strength=1.5"),
        (lambda: generate_images(small, text, prompts(1)), "of one shape"),
        (lambda: generate_images(small, text, negative, images=images[:, 1:]), "divisible by 2"),
        (lambda: generate_images(small, text, negative, images=images[..., :1]), "channels"),
        (lambda: generate_images(small, text, negative, images=images[:1]), "must be of shape"),
        (lambda: generate_images(small, text, negative, tile=0), "tile=0"),
        (lambda: generate_images(small, text, negative, tile=1.5), "tile=1.5"),  # type: ignore[arg-type]
        (lambda: generate_images(small, text, negative, noises=latents[:1]), "must be of shape"),
    ]
    for call, message in refused:
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(NotImplementedError, match="BertBackbone makes no images"):
        generate_images(BertBackbone(5, 1, 1, 2, 2), text)
    with pytest.raises(TypeError, match="by the names of the text encoders"):
        generate_images(small, text["clip_l"], negative)  # type: ignore[arg-type]
    inputs = {name: torch.ones(2, 5, dtype=torch.int32) for name in ("t5_token_ids",)}
    with pytest.raises(ValueError, match="t5_token_ids needs t5"):
        small(inputs)
    with pytest.raises(ValueError, match="positions for 4 × 4 patches"):
        MMDiT(**PLAIN)(flows(1, 10, 8, 5, 3, 7, 9)(np.random.default_rng(0)))
    with pytest.raises(ValueError, match="context must be 7 wide"):
        MMDiT(**PLAIN)(flows(1, 6, 8, 5, 3, 6, 9)(np.random.default_rng(0)))
    given = oracle.tensors(flux_inputs(2, FLUX)(np.random.default_rng(0)))
    for name in ("image", "text", "y"):
        with pytest.raises(ValueError, match=f"^{name} must be .* wide, not"):
            FluxBackbone(**FLUX)({**given, name: torch.cat([given[name]] * 2, dim=-1)})
