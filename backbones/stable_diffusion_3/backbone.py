"""Stable Diffusion 3 (arXiv:2403.03206): its parts, and the steps from text to an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from torch.nn import functional as F

from .._backbone import Backbone
from .._inputs import Input
from ..layers.core import Dense
from ..layers.dtypes import DTypeLike
from ..layers.initializers import identity
from ..layers.layer import Layer
from ..layers.layout import GRAPH, Layout, flattened
from ..layers.vision import image_channels
from .mmdit import Latents, MMDiT
from .scheduler import FlowMatchEulerDiscreteScheduler
from .t5_encoder import T5Encoder

# Of the models that the sizes here are for; KerasHub does not ask the VAE.
VAE_FACTOR = 8
# Of T5 XXL, which the transformer was trained beside.
T5_DIM = 4096

ScaledImages = Annotated[torch.Tensor, Input("images", ("batch", "height", "width", "channels"))]
CLIPTokenIds = Annotated[torch.Tensor, Input("ids", ("batch", "clip_length"))]
T5TokenIds = Annotated[torch.Tensor, Input("ids", ("batch", "t5_length"))]
Counts = Annotated[torch.Tensor, Input("ids", ("batch",))]
Scalars = Annotated[torch.Tensor, Input("values", ("batch",))]
# Of the text and of the negative one: `[batch, length, width]` twice, `[batch, width]` twice.
Embeddings = tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor | None]


class CLIPProjection(Layer):
    """What the token of the highest id, the one that ends a text, has become, projected."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = Dense(dim, dim, use_bias=False, kernel_initializer=identity)

    def forward(self, x: torch.Tensor, token_ids: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(x.shape[0], device=x.device)
        return self.dense(x[rows, token_ids.argmax(-1)])


class StableDiffusion3Backbone(Backbone):
    """Latent diffusion by a rectified flow, with two or three encoders of text.

    `images` `[batch, height, width, channels]`, `latents` `[batch, height / 8, width / 8,
    latent_channels]`, `clip_l_token_ids` and `clip_g_token_ids` `[batch, clip_length]` with
    `clip_l_negative_token_ids` and `clip_g_negative_token_ids`, `num_steps` and `guidance_scale`
    `[batch]`, of which the first counts, and with a T5 `t5_token_ids` and `t5_negative_token_ids`
    `[batch, t5_length]` → `latents` of the images, and `images`: what the given latents are after
    the first of `num_steps` steps. `generation.generate_images` makes all steps.

    Args:
        mmdit_patch_size: side of a patch of latents.
        mmdit_hidden_dim: width of the transformer's hidden states.
        mmdit_num_layers: number of its blocks.
        mmdit_num_heads: number of its attention heads.
        mmdit_position_size: side of its square of positions, in patches.
        mmdit_qk_norm: `rms_norm` to normalize queries and keys (3.5), or `None` (3).
        mmdit_dual_attention_indices: blocks whose image attends to itself as well (3.5 medium), or
            `None`.
        vae: the autoencoder, a `VAEBackbone`.
        clip_l, clip_g: encoders of text, `CLIPTextEncoder`s with an `intermediate_output_index`.
        t5: a third one, whose tokens stand behind CLIP's; it drops nothing in training either.
        latent_channels: of the autoencoder.
        output_channels: of the images; without effect, as in KerasHub.
        num_train_timesteps: how many timesteps the transformer was trained with.
        shift: how much longer the steps dwell on much noise.
        image_shape: height, width and channels of the images to be made. Others are taken, too.
        data_format: `channels_last`, as which `None` is read. As in KerasHub there is no other.
        dtype, trainable, name: as in `Model`. (In KerasHub encoders saved without a dtype are
            float16.)

    Raises:
        ValueError: a height or width that 8 and then the patches do not divide; parts that do not
            go together; token ids of different lengths, or for a part that is not there.
        NotImplementedError: another data format.
    """

    unsaved: ClassVar = {"data_format": (None, "channels_last")}
    tower_inputs: ClassVar = {"t5": ("t5_token_ids", "t5_negative_token_ids")}
    image_shape: Sequence[int]
    mmdit_patch_size: int
    vae: Any
    clip_l: Any
    clip_g: Any

    def __init__(
        self,
        mmdit_patch_size: int,
        mmdit_hidden_dim: int,
        mmdit_num_layers: int,
        mmdit_num_heads: int,
        mmdit_position_size: int,
        mmdit_qk_norm: str | None,
        mmdit_dual_attention_indices: Sequence[int] | None,
        vae: Backbone,
        clip_l: Backbone,
        clip_g: Backbone,
        t5: T5Encoder | None = None,
        latent_channels: int = 16,
        output_channels: int = 3,
        num_train_timesteps: int = 1000,
        shift: float = 3.0,
        image_shape: Sequence[int] = (1024, 1024, 3),
        data_format: str | None = None,
        dtype: DTypeLike = None,
        trainable: bool = True,
        name: str | None = None,
    ) -> None:
        super().__init__(dtype, trainable, name)
        if data_format not in (None, "channels_last"):
            raise NotImplementedError(f"data_format={data_format!r} must be 'channels_last'.")
        channels = image_channels(image_shape, "channels_last")
        height, width = image_shape[:2]
        step = VAE_FACTOR * mmdit_patch_size
        if height % step or width % step:
            raise ValueError(
                f"image_shape={tuple(image_shape)} must have a height and a width divisible by "
                f"{step}, {VAE_FACTOR} pixels for each of the {mmdit_patch_size} of a patch."
            )
        check_vae(vae, latent_channels, channels)
        for tower, encoder in (("clip_l", clip_l), ("clip_g", clip_g)):
            if getattr(encoder, "intermediate_output_index", None) is None:
                raise ValueError(
                    f"{tower} must be a CLIPTextEncoder with an intermediate_output_index."
                )
        self.clip_l = clip_l
        self.clip_l_projection = CLIPProjection(self.clip_l.hidden_dim)
        self.clip_g = clip_g
        self.clip_g_projection = CLIPProjection(self.clip_g.hidden_dim)
        self.clip_dim: int = self.clip_l.hidden_dim + self.clip_g.hidden_dim
        self.context_dim = T5_DIM if t5 is None else t5.hidden_dim
        self.t5 = t5
        self.diffuser = MMDiT(
            mmdit_patch_size,
            mmdit_hidden_dim,
            mmdit_num_layers,
            mmdit_num_heads,
            mmdit_position_size,
            latent_shape=(height // VAE_FACTOR, width // VAE_FACTOR, latent_channels),
            context_shape=(None, self.context_dim),
            pooled_projection_shape=(self.clip_dim,),
            qk_norm=mmdit_qk_norm,
            dual_attention_indices=mmdit_dual_attention_indices,
            name="diffuser",
        )
        self.vae = vae
        self.scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps, shift)
        self.num_steps: int | None = None
        self.train(self.training)

    @property
    def layout(self) -> Layout:
        towers = ("clip_l", "clip_g", "clip_l_projection", "clip_g_projection", "t5", "diffuser")
        found = [getattr(self, tower) for tower in towers]
        names = [getattr(part, "name", tower) for tower, part in zip(towers, found) if part]
        return replace(
            GRAPH,
            inside={"vae": flattened},
            order=(*names, "encoder", "decoder"),
            assigned=(
                *("clip_l", "clip_l_projection", "clip_g", "clip_g_projection"),
                *("t5", "diffuser", "vae"),
            ),
        )

    def train(self, mode: bool = True) -> StableDiffusion3Backbone:
        super().train(mode)
        if self.t5 is not None:
            self.t5.eval()
        return self

    @property
    def latent_shape(self) -> tuple[int | None, ...]:
        """Of the latents of images to be made, with the batch."""
        return (None, *self.diffuser.latent_shape)

    @property
    def image_step(self) -> int:
        """What heights and widths of images must be multiples of."""
        factor: int = 2 ** (len(self.vae.encoder_num_filters) - 1)
        return factor * self.mmdit_patch_size

    # The parts

    def encode_text_step(
        self,
        token_ids: Mapping[str, torch.Tensor],
        negative_token_ids: Mapping[str, torch.Tensor] | None = None,
    ) -> Embeddings:
        """What the transformer reads of a text and of the negative one.

        Args:
            token_ids: by `clip_l` and `clip_g` `[batch, clip_length]`, with a T5 also by `t5`
                `[batch, t5_length]`.
            negative_token_ids: of the same shapes; without them their embeddings are `None`.

        Returns:
            Embeddings `[batch, length, width]` of both, pooled ones `[batch, width]` of both.

        Raises:
            ValueError: ids that are missing, of different shapes, or for a T5 that is not there.
        """
        towers = ("clip_l", "clip_g") if self.t5 is None else ("clip_l", "clip_g", "t5")
        if negative_token_ids is None:
            check_texts(towers, token_ids)
            embeddings, pooled = self.embed(token_ids)
            return embeddings, None, pooled, None
        check_texts(towers, token_ids, negative_token_ids)
        both = {tower: torch.cat((token_ids[tower], negative_token_ids[tower])) for tower in towers}
        embeddings, pooled = self.embed(both)
        positive, negative = embeddings.chunk(2)
        positive_pooled, negative_pooled = pooled.chunk(2)
        return positive, negative, positive_pooled, negative_pooled

    def embed(self, token_ids: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Of one text: embeddings, and pooled ones."""
        pooled, states = [], []
        for tower in ("clip_l", "clip_g"):
            outputs = getattr(self, tower)(token_ids[tower])
            project = getattr(self, f"{tower}_projection")
            pooled.append(project(outputs["sequence_output"], token_ids[tower]))
            states.append(outputs["intermediate_output"])
        x = F.pad(torch.cat(states, dim=-1), (0, self.context_dim - self.clip_dim))
        if self.t5 is None:  # zeros stand for what T5 would say
            x = F.pad(x, (0, 0, 0, self.clip_l.max_sequence_length))
        else:
            x = torch.cat((x, self.t5(token_ids["t5"])), dim=1)
        return x, torch.cat(pooled, dim=-1)

    def encode_image_step(
        self, images: torch.Tensor, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Images `[batch, height, width, channels]` from -1 to 1 → their latents.

        Args:
            generator: draws them, if the autoencoder does; by default PyTorch's own.
        """
        return (self.vae.encode(images, generator) - self.vae.shift) * self.vae.scale

    def configure_scheduler(self, num_steps: int) -> None:
        """How many steps there are, where a step is not told."""
        self.num_steps = num_steps

    def place(
        self, step: int | torch.Tensor, num_steps: int | torch.Tensor | None
    ) -> tuple[int | torch.Tensor, int | torch.Tensor]:
        """A step and how many there are.

        Raises:
            ValueError: there is no such step, or nobody has said how many there are.
        """
        num_steps = self.num_steps if num_steps is None else num_steps
        if num_steps is None:
            raise ValueError("num_steps must be given, or told to configure_scheduler.")
        # Of tensors nobody can know without waiting for their device.
        if isinstance(num_steps, int) and num_steps < 1:
            raise ValueError(f"num_steps={num_steps} must be at least 1.")
        if isinstance(step, int) and isinstance(num_steps, int) and not 0 <= step < num_steps:
            raise ValueError(f"step={step} must be 0 to {num_steps - 1}.")
        return step, num_steps

    def add_noise_step(
        self,
        latents: torch.Tensor,
        noises: torch.Tensor,
        step: int | torch.Tensor,
        num_steps: int | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latents with as much noise as they have before a step, float32."""
        return self.scheduler.add_noise(latents.float(), noises, *self.place(step, num_steps))

    def denoise_step(
        self,
        latents: torch.Tensor,
        embeddings: Embeddings,
        step: int | torch.Tensor,
        num_steps: int | torch.Tensor | None = None,
        guidance_scale: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Latents after a step, float32; one compilation serves all steps that are tensors.

        Args:
            step: counted from 0, less than `num_steps`.
            num_steps: how many there are; by default as `configure_scheduler` was told.
            guidance_scale: how far the flow is led away from that of the negative text
                (arXiv:2207.12598); `None` for the text's own.

        Raises:
            ValueError: a guidance scale without negative embeddings, no such step, or latents
                that patches do not fill.
        """
        step, num_steps = (
            torch.as_tensor(one, device=latents.device) for one in self.place(step, num_steps)
        )
        sigma, timestep = self.scheduler(step, num_steps)
        next_sigma, _ = self.scheduler(step + 1, num_steps)
        velocity = self.velocity(latents, embeddings, timestep, guidance_scale)
        return latents.float() + (next_sigma - sigma) * velocity.float()

    def velocity(
        self,
        latents: torch.Tensor,
        embeddings: Embeddings,
        timestep: torch.Tensor,
        guidance_scale: float | torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Where the latents flow to from a timestep."""
        patch = self.mmdit_patch_size
        if latents.shape[1] % patch or latents.shape[2] % patch:
            raise ValueError(
                f"Latents must have a height and a width divisible by {patch}, the patches' side, "
                f"not {latents.shape[1]} × {latents.shape[2]}."
            )
        context, negative_context, pooled, negative_pooled = embeddings
        if guidance_scale is not None:
            if negative_context is None or negative_pooled is None:
                raise ValueError("A guidance_scale needs negative token ids.")
            latents = torch.cat((latents, latents))
            context = torch.cat((context, negative_context))
            pooled = torch.cat((pooled, negative_pooled))
        velocity = self.diffuser(
            latent=latents,
            context=context,
            pooled_projection=pooled,
            timestep=timestep.expand(latents.shape[0], 1),
        )
        if guidance_scale is None:
            return velocity
        positive, negative = velocity.chunk(2)
        return negative + guidance_scale * (positive - negative)

    def decode_step(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents → images from -1 to 1, `[batch, height, width, channels]`."""
        return self.vae.decode(latents / self.vae.scale + self.vae.shift)

    def forward(
        self,
        images: ScaledImages,
        latents: Latents,
        clip_l_token_ids: CLIPTokenIds,
        clip_l_negative_token_ids: CLIPTokenIds,
        clip_g_token_ids: CLIPTokenIds,
        clip_g_negative_token_ids: CLIPTokenIds,
        num_steps: Counts,
        guidance_scale: Scalars,
        t5_token_ids: T5TokenIds | None = None,
        t5_negative_token_ids: T5TokenIds | None = None,
    ) -> dict[str, torch.Tensor]:
        encoded = self.encode_image_step(images)
        token_ids = {"clip_l": clip_l_token_ids, "clip_g": clip_g_token_ids}
        negative = {"clip_l": clip_l_negative_token_ids, "clip_g": clip_g_negative_token_ids}
        if t5_token_ids is not None and t5_negative_token_ids is not None:
            token_ids["t5"], negative["t5"] = t5_token_ids, t5_negative_token_ids
        embeddings = self.encode_text_step(token_ids, negative)
        # Of an empty batch there is no first one.
        count, scale = (F.pad(one, (0, 1), value=1)[0] for one in (num_steps, guidance_scale))
        latents = self.denoise_step(latents, embeddings, 0, count, scale)
        return {"latents": encoded, "images": self.decode_step(latents)}


def check_texts(towers: Sequence[str], *texts: Mapping[str, torch.Tensor]) -> None:
    """Refuse token ids for other towers than these, or of shapes that do not go together.

    Raises:
        ValueError: it names the towers, or the shapes.
    """
    for text in texts:
        if set(text) != set(towers):
            raise ValueError(
                f"This model takes token ids for {', '.join(towers)}, not for {', '.join(text)}."
            )
    for group in (towers[:2], towers[2:]):
        shapes = [tuple(text[tower].shape) for text in texts for tower in group]
        if any(shape != shapes[0] for shape in shapes):
            raise ValueError(
                f"Token ids for {' and '.join(group)}, negative ones included, must be of one "
                f"shape, not {', '.join(map(str, shapes))}: pad them."
            )


def check_vae(vae: Any, latent_channels: int, channels: int) -> None:
    """Refuse what is no autoencoder of such images and latents."""
    if not hasattr(vae, "sample_channels"):
        raise ValueError(f"vae must be a VAEBackbone, not {type(vae).__name__}.")
    if vae.data_format != "channels_last":
        raise ValueError("vae must have data_format='channels_last'.")
    if vae.sample_channels != 2 * latent_channels:
        raise ValueError(
            f"latent_channels={latent_channels} must be half of the vae's sample_channels="
            f"{vae.sample_channels}."
        )
    if vae.input_channels != channels:
        raise ValueError(
            f"image_shape has {channels} channels and must have the vae's {vae.input_channels}."
        )
