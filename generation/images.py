"""Images from a diffusion model, step by step."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

from ..backbones._model import Model
from ..backbones.layers.vision import check_images
from ..preprocessing.prompts import texts_of
from ..preprocessing.text_to_image import TextToImagePreprocessor
from .inference import many_compilations, without_training
from .tiles import decode_in_tiles, encode_in_tiles

PARTS = ("encode_text_step", "encode_image_step", "add_noise_step", "denoise_step", "decode_step")
TEXT_PARTS = ("clip_l", "clip_l_projection", "clip_g", "clip_g_projection", "t5")


def generate_images(
    backbone: Model,
    token_ids: Mapping[str, Any] | str | Sequence[str],
    negative_token_ids: Mapping[str, Any] | None = None,
    *,
    negative: str | Sequence[str] = "",
    preprocessor: Any = None,
    num_steps: int = 28,
    guidance_scale: float | None = 7.0,
    images: Any = None,
    strength: float = 0.8,
    noises: Any = None,
    seed: int | None = None,
    progress: bool = False,
    offload: bool = False,
    device: str | torch.device | None = None,
    tile: int | None = None,
    compile: bool = False,
) -> torch.Tensor:
    """Images of what texts say, with a model such as `StableDiffusion3Backbone`.

    Nothing is dropped in whatever mode the model is, and no mode is changed.

    Args:
        token_ids: a text or a list of them; or ids by the names of the text encoders, `clip_l`,
            `clip_g` and with a T5 `t5`, `[batch, length]` each.
        negative_token_ids: what the images are led away from, of the same shapes; those of an
            empty text, say.
        negative: of texts, what their images are led away from, one text or as many.
        preprocessor: makes ids of texts; by default that of the backbone's preset.
        num_steps: how many steps there are from noise to images.
        guidance_scale: how far they are led away; `None` for not at all, without negative ids.
        images: to begin with, `[batch, height, width, channels]` from -1 to 1, whose heights and
            widths are multiples of the model's `image_step`; none for noise.
        strength: how much of `images` becomes noise, 0 to 1: the share of steps that are made.
        noises: to begin with, of the latents' shape; by default they are drawn.
        seed: of what is drawn; the same one gives the same images on any device.
        progress: whether to show a bar of the steps.
        offload: whether the parts wait in the CPU's memory, where the model is, and are on
            `device` in their turn only: text encoders, transformer, autoencoder.
        device: where to compute with `offload`; by default on the accelerator, a GPU.
        tile: side of the tiles in which the autoencoder encodes and decodes, in pixels; it takes
            less memory then, and gives the same up to rounding. By default it takes whole images.
        compile: whether to compile a step, and the decoding of whole images. The first images of a
            model then take long; with and without guidance, and sizes that change, once more.

    Returns:
        Images `[batch, height, width, channels]` from -1 to 1.

    Raises:
        NotImplementedError: a model without these steps.
        ValueError: a guidance scale without negative ids, no steps, a strength beyond 0 and 1,
            token ids that are not the model's, images of other sizes, noises of another shape, or
            `compile` while in training.
    """
    _check(backbone, num_steps, strength, tile, compile)
    if not isinstance(token_ids, Mapping) and not hasattr(token_ids, "__array__"):
        texts = texts_of(token_ids)
        against = [negative] * len(texts) if isinstance(negative, str) else texts_of(negative)
        if len(against) != len(texts):
            raise ValueError(f"There are {len(texts)} texts, but {len(against)} of negative.")
        preprocessor = preprocessor or _preprocessor(backbone)
        token_ids = _of_model(backbone, preprocessor.generate_preprocess(texts))
        if negative_token_ids is None:
            negative_token_ids = _of_model(backbone, preprocessor.generate_preprocess(against))
    elif negative:
        raise TypeError("negative goes with texts; of token ids there are negative_token_ids.")
    if guidance_scale is None:
        negative_token_ids = None
    elif negative_token_ids is None:
        raise ValueError(
            f"guidance_scale={guidance_scale} needs negative_token_ids, those of an empty "
            "text say; None does without."
        )
    where = _chosen(device) if offload else backbone.device
    if images is not None:
        images = torch.as_tensor(images, device=where)
        model: Any = backbone
        channels, step = model.vae.input_channels, model.image_step
        check_images(images, "channels_last", channels, multiple_of=step)
    steps = _steps(
        backbone,
        _tensors(token_ids, where),
        None if negative_token_ids is None else _tensors(negative_token_ids, where),
        num_steps,
        guidance_scale,
        images,
        strength,
        None if noises is None else torch.as_tensor(noises, device=where),
        seed,
        offload,
        where,
        tile,
        compile,
    )
    running = without_training([backbone], steps)
    first = 0 if images is None else int(num_steps * (1 - strength))
    with tqdm(total=num_steps - first, disable=not progress, unit="step") as bar:
        while True:
            try:
                next(running)
            except StopIteration as end:
                return end.value
            bar.update()


def _check(
    backbone: Model, num_steps: int, strength: float, tile: int | None, compile: bool
) -> None:
    """Raises what `generate_images` does of these arguments."""
    missing = [part for part in PARTS if not hasattr(backbone, part)]
    if missing:
        raise NotImplementedError(
            f"{type(backbone).__name__} makes no images: it has no {', '.join(missing)}."
        )
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r} must be a number of at least 1.")
    if not 0 <= strength <= 1:
        raise ValueError(f"strength={strength} must be from 0 to 1.")
    if compile and any(module.training for module in backbone.modules()):
        raise ValueError("compile=True needs the model in evaluation mode: call eval() first.")
    if tile is not None and (isinstance(tile, bool) or not isinstance(tile, int) or tile < 1):
        raise ValueError(f"tile={tile!r} must be a number of at least 1.")


def _chosen(device: str | torch.device | None) -> torch.device:
    """Where to compute. Raises a ValueError where that is not said and there is no accelerator."""
    found = torch.accelerator.current_accelerator() if device is None else torch.device(device)
    if found is None:
        raise ValueError("offload=True finds no accelerator here: say by device= where to compute.")
    return found


def _steps(
    backbone: Any,
    token_ids: dict[str, torch.Tensor],
    negative_token_ids: dict[str, torch.Tensor] | None,
    num_steps: int,
    guidance_scale: float | None,
    images: torch.Tensor | None,
    strength: float,
    noises: torch.Tensor | None,
    seed: int | None,
    offload: bool,
    device: torch.device,
    tile: int | None,
    compile: bool,
) -> Generator[None, None, torch.Tensor]:
    """It yields behind every step, and returns the images."""
    turn = functools.partial(_turn, device if offload else None)
    with turn(*(getattr(backbone, name) for name in TEXT_PARTS)):
        embeddings = backbone.encode_text_step(token_ids, negative_token_ids)
    batch = len(embeddings[0])
    first, encoded = 0, None
    shape: tuple[int, ...] = (batch, *backbone.latent_shape[1:])
    generator = torch.Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    store = backbone.device if offload else device
    if images is not None:
        with turn(backbone.vae):
            encoded = _encoded(backbone, images, tile, store, generator)
        first, shape = int(num_steps * (1 - strength)), tuple(encoded.shape)
    if noises is None:
        noises = torch.randn(shape, generator=generator).to(device)
    if tuple(noises.shape) != shape or len(noises) != batch:
        raise ValueError(
            f"Of {batch} texts, noises and images must be of shape {(batch, *shape[1:])}, "
            f"not {tuple(noises.shape)}."
        )
    # Tensors, so that one compilation serves all steps.
    count = torch.tensor(num_steps, device=device)
    guidance = None if guidance_scale is None else torch.as_tensor(guidance_scale, device=device)
    step: Callable[..., torch.Tensor] = _compiled(_step) if compile else _step
    decode: Callable[..., torch.Tensor] = _compiled(_decode) if compile else _decode
    latents = noises.float()
    if encoded is not None:
        start = torch.tensor(first, device=device)
        latents = backbone.add_noise_step(encoded, latents, start, count)
    with turn(backbone.diffuser):
        for i in range(first, num_steps):
            number = torch.tensor(i, device=device)
            latents = step(backbone, latents, embeddings, number, count, guidance)
            yield
    with turn(backbone.vae):
        if tile is None:
            decoded = decode(backbone, latents)
        else:
            scaled = latents / backbone.vae.scale + backbone.vae.shift
            decoded = decode_in_tiles(backbone.vae.decoder, scaled.permute(0, 3, 1, 2), tile, store)
            decoded = decoded.permute(0, 2, 3, 1)
    return decoded.float().clamp(-1, 1)


def _encoded(
    backbone: Any,
    images: torch.Tensor,
    tile: int | None,
    store: torch.device,
    generator: torch.Generator,
) -> torch.Tensor:
    """Latents of images."""
    if tile is None:
        latents: torch.Tensor = backbone.encode_image_step(images, generator)
        return latents
    vae = backbone.vae
    moments = encode_in_tiles(vae.encoder, images.permute(0, 3, 1, 2), tile, store)
    return (vae.sample(moments, generator) - vae.shift) * vae.scale


def _step(backbone: Any, *args: Any) -> torch.Tensor:
    latents: torch.Tensor = backbone.denoise_step(*args)
    return latents


def _decode(backbone: Any, latents: torch.Tensor) -> torch.Tensor:
    images: torch.Tensor = backbone.decode_step(latents)
    return images


@functools.cache
def _compiled(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    return many_compilations()(torch.compile(function, fullgraph=True))


def _preprocessor(backbone: Model) -> TextToImagePreprocessor:
    if backbone.preset is None:
        raise TypeError(
            f"This {backbone.class_name} comes from no preset that has tokenizers: give token ids, "
            "or preprocessor=."
        )
    return TextToImagePreprocessor.from_preset(backbone.preset)


def _of_model(backbone: Any, token_ids: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Without those for encoders that a model leaves out."""
    return {name: ids for name, ids in token_ids.items() if getattr(backbone, name, None)}


def _tensors(token_ids: Any, device: torch.device) -> dict[str, torch.Tensor]:
    if not isinstance(token_ids, Mapping):
        raise TypeError(
            "Token ids are given by the names of the text encoders, clip_l and so on, not as "
            f"{type(token_ids).__name__}."
        )
    return {name: torch.as_tensor(ids, device=device) for name, ids in token_ids.items()}


@contextlib.contextmanager
def _turn(device: torch.device | None, *parts: nn.Module | None) -> Iterator[None]:
    """Parts on a device, and afterwards where they were: nothing is copied back."""
    if device is None:
        yield
        return
    tensors = [
        tensor
        for part in parts
        if part is not None
        for tensor in (*part.parameters(), *part.buffers())
    ]
    waiting = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device)
        yield
    finally:
        for tensor, data in zip(tensors, waiting):
            tensor.data = data
