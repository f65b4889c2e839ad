"""The backbones' own verbs: presets, adapters, export.

The one module below `presets` and `lora` that calls them, when a verb is called and not before.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from . import _registry
from ._inputs import check_keys
from ._model import Model
from .layers.convolution import channels_back, check_data_format
from .layers.fusion import fold_norms
from .layers.layout import keras_children
from .layers.pyramid import Level, PyramidOutputs
from .layers.tiled import tile_layers

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy

BackboneType = TypeVar("BackboneType", bound="Backbone")
ValueType = TypeVar("ValueType")


class classproperty(Generic[ValueType]):
    """A read-only property of a class."""

    def __init__(self, get: Callable[[Any], ValueType]) -> None:
        self.get = get

    def __get__(self, instance: object, owner: type) -> ValueType:
        return self.get(owner)


class Backbone(Model):
    """A pretrained model without a task head.

    Attributes:
        fused: whether `fuse` has made it.
        blank_side: of images that any model of the class takes, if it takes several sizes.
    """

    fused: bool = False
    blank_side: int = 256

    # Presets

    @classproperty
    def presets(cls: Any) -> dict[str, dict[str, Any]]:
        """Built-in presets of this class and its subclasses, by id."""
        from ..presets.builtin import presets_of

        if cls is Backbone:
            return presets_of()
        return presets_of({other.__name__ for other in _registry.public_classes(cls).values()})

    @classmethod
    def from_preset(
        cls: type[BackboneType],
        preset: str | os.PathLike[str],
        load_weights: bool = True,
        *,
        device: str | torch.device | None = None,
        mmap: bool | None = None,
        ignore: Sequence[str] | bool = (),
        dequantize: bool = False,
        device_mesh: DeviceMesh | None = None,
        plan: str | Mapping[str, Any] | None = None,
        mp_policy: MixedPrecisionPolicy | None = None,
        checkpoint_activations: bool = False,
        **kwargs: Any,
    ) -> BackboneType:
        """Build the model of a preset, in `eval()` mode.

        On `Backbone` itself the subclass is taken from the preset. Of a pipeline of diffusers, and
        of a file with several models, a class other than the whole's reads its part.

        Args:
            preset: a built-in id, `kaggle://org/model/keras/variant[/version]`, `hf://org/model`,
                `modelscope://org/model`, or a folder, in the format of
                Keras, transformers, timm or diffusers; or a file of Stable Diffusion 3 or FLUX.1
                (`sd3_medium_incl_clips.safetensors`, `flux1-dev.safetensors`).
            load_weights: whether to read the weights; otherwise they are drawn at random, over a
                `device_mesh` those that one process would draw with the seed of the first.
            device: where the weights go.
            mmap: whether weights that need no conversion stay in the file, mapped into memory and
                read when first used; by default safetensors are and `.weights.h5` are not. Then
                the file must not change: rewritten in place it changes the model, and shortened
                it ends the process. Training does not write to it. Matrices mapped from
                `.weights.h5` are transposed views; all others are contiguous.
            ignore: patterns of weights in the files that are no part of the model and are left
                out (`["v_head.*"]`), or True for all such; they are named in a warning.
            dequantize: whether the quantized weights of a transformers checkpoint (GPTQ, AWQ,
                bitsandbytes, fp8, compressed-tensors) are read as floats, in the dtype asked
                for; otherwise they are refused, but for gpt-oss in MXFP4.
            device_mesh: the processes that share the model; each of them calls this, and reads only
                the bytes that it holds. Parameters are DTensors. If one process fails, all do.
            plan: how they share it. With `"fsdp"` every process has its own inputs, and the weights
                of a block are gathered while it computes (FSDP2; over two dimensions of the mesh
                they are replicated over the first). With `"tensor"` all of them have the same
                inputs, and layers are divided: attention by heads, feed-forward networks, experts
                and the vocabulary; over a dimension called `"tensor"` of a mesh that has two, and
                FSDP2 over the other one.
            mp_policy: of FSDP2; without `param_dtype` where weights are quantized.
            checkpoint_activations: calls `gradient_checkpointing`.
            kwargs: constructor arguments that replace those of the preset, `dtype` and
                `trainable` among them. As in Keras the dtype is float32 if not given, whatever
                the file holds; `"auto"` takes the file's.

        Raises:
            ValueError: unknown or broken preset, a class other than this one, weights that do not
                fit the model.
            TypeError: unknown arguments.
            OSError: files that are missing or cannot be fetched; or another process of the
                `device_mesh` has failed.
        """
        from ..presets.loading import load_backbone

        if device_mesh is None:
            if plan is not None or mp_policy is not None or checkpoint_activations:
                raise ValueError(
                    "plan, mp_policy and checkpoint_activations are for models that several "
                    "processes share: device_mesh is missing."
                )
            return load_backbone(
                cls, preset, load_weights, device, mmap, ignore, dequantize, kwargs
            )
        from ..distributed import load_shared

        sharing = (device_mesh, plan, mp_policy, checkpoint_activations)
        return load_shared(
            cls, preset, load_weights, device, mmap, ignore, dequantize, kwargs, *sharing
        )

    def save_to_preset(
        self,
        preset_dir: str | os.PathLike[str],
        max_shard_size: float | None = 10,
        *,
        format: str = "keras",
        state_dict: Mapping[str, torch.Tensor] | None = None,
        carry: bool = True,
    ) -> list[str]:
        """Save configuration and weights to a folder that KerasHub and `from_preset` load.

        A save is one step: whoever loads meanwhile, and whatever is killed, the folder holds the
        old preset or the new one. Files in it that are no part of a preset stay as they are.

        Adapters are merged into what is written. Wrappers of modules that only wrap (activation
        checkpointing, compiled blocks, DDP, FSDP, offloading, parametrizations) are looked
        through. Of a sharded model every process calls this, and the first one writes: it gets the
        weights one by one, whole, and no other process holds more than its parts. If one process
        fails, all do.

        Args:
            max_shard_size: in GiB; larger models are split into several files.
            format: of the weights, `keras` (`.weights.h5`) or `safetensors` (which only
                `from_preset` here reads).
            state_dict: the weights, if they have been gathered elsewhere.
            carry: whether what else the preset has that this model comes from goes along:
                tokenizer, preprocessor, converters, and the head of a task; of a checkpoint of
                transformers or timm tokenizer and converters become KerasHub's.

        Returns:
            Names of the files that went along.

        Raises:
            ValueError: the weights are not those of the configuration; nothing is written.
            RuntimeError: `load_weights` has failed half-way.
            OSError: the folder cannot be written; what was in it is whole. Or another process of
                a sharded model has failed, or is gone.
        """
        from ..preprocessing.carrying import into_preset
        from ..presets.saving import save_backbone

        self._refuse_fused()
        beside = into_preset if carry else None
        return save_backbone(self, preset_dir, max_shard_size, format, state_dict, beside)

    def export_to_transformers(
        self,
        path: str | os.PathLike[str],
        *,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        carry: bool = True,
    ) -> list[str]:
        """Save a folder that transformers loads; wrappers and `state_dict` as in `save_to_preset`.

        Args:
            carry: whether tokenizer and converters of the preset that this model comes from go
                along, for `AutoTokenizer` and `AutoProcessor`, with what a decoder's text ends with
                (`generation_config.json`).

        Returns:
            Names of the files that went along.

        Raises:
            NotImplementedError: transformers has no such family, or it is not supported here.
            ValueError: transformers has no model of this configuration, or the weights are not
                those of the configuration.
        """
        from ..preprocessing.carrying import into_checkpoint
        from ..presets.checkpoints import TRANSFORMERS
        from ..presets.saving import export_checkpoint

        self._refuse_fused()
        beside = into_checkpoint if carry else None
        return export_checkpoint(self, path, TRANSFORMERS, state_dict, beside)

    def export_to_timm(self, path: str | os.PathLike[str], *, carry: bool = True) -> None:
        """Save a folder that `timm.create_model("local-dir:…")` loads, without a classifier.

        Args:
            carry: whether timm is told how the pixels are made, if the preset that this model comes
                from has an image converter.

        Raises:
            NotImplementedError: timm has no such family, or it is not supported here.
            ValueError: timm has no architecture of this configuration.
        """
        from ..preprocessing.carrying import into_timm
        from ..presets.checkpoints import TIMM
        from ..presets.saving import export_checkpoint

        self._refuse_fused()
        export_checkpoint(self, path, TIMM, beside=into_timm if carry else None)

    def export_to_diffusers(self, path: str | os.PathLike[str], *, carry: bool = True) -> list[str]:
        """Save a folder that diffusers loads: of a model of several parts a whole pipeline.

        Args:
            carry: whether the tokenizers of the preset that this model comes from go along.

        Returns:
            Names of the files that went along. Without them, and without a third encoder of text, a
            pipeline is loaded with `tokenizer=None, …, text_encoder_3=None`.

        Raises:
            NotImplementedError: diffusers has no such family, or it is not supported here.
            ValueError: diffusers has no model of this configuration.
        """
        from ..preprocessing.carrying import into_pipeline
        from ..presets.checkpoints import DIFFUSERS
        from ..presets.saving import export_checkpoint

        self._refuse_fused()
        beside = into_pipeline if carry else None
        return export_checkpoint(self, path, DIFFUSERS, beside=beside)

    def load_weights(
        self, filepath: str | os.PathLike[str], *, ignore: Sequence[str] | bool = ()
    ) -> None:
        """Read `.weights.h5`, `.weights.json` (shards), `.safetensors` or `.keras` into this model.

        In files of a whole task the backbone is found; a warning names the rest. A model into which
        reading has failed half-way, because a disk did say, neither runs nor is saved until all
        weights have been read. Of a sharded model every process calls this, and reads its parts.

        Args:
            ignore: as in `from_preset`.

        Raises:
            ValueError: the file's weights are not exactly this model's.
            OSError: the file cannot be read; or another process of a sharded model has failed.
        """
        from ..presets.filling import load_weights

        self._refuse_fused()
        load_weights(self, filepath, ignore)

    def save_weights(
        self,
        filepath: str | os.PathLike[str],
        max_shard_size: float | None = None,
        *,
        state_dict: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Write `.weights.h5`, `.weights.json` with shards of `max_shard_size` GiB, or
        `.safetensors`; wrappers, `state_dict` and errors as in `save_to_preset`.
        """
        from ..presets.saving import save_weights

        self._refuse_fused()
        save_weights(self, filepath, max_shard_size, state_dict)

    def summary(self) -> None:
        """Print the layers with their shapes and numbers of weights."""
        from ..presets.summary import print_summary

        print_summary(self)

    # Inference

    def fuse(self: BackboneType) -> BackboneType:
        """A copy for inference, in `eval()` mode, without what only training and files need.

        - Batch norms are folded into convolutions, of models of images: a norm that the model feeds
          with one convolution's output, which nothing else reads. The others stay.
        - Weights of up to four bits, in a model that computes in bfloat16, are arranged for
          torch's own kernels: on CPUs with AVX2 and CUDA devices from Ampere on, of layers in
          which each 32 inputs share a scale. The copy stays on its kind of device.

        The copy computes the same, cannot be trained further to the same end, and has no files:
        save the model that it was made of.

        Raises:
            NotImplementedError: the model takes other inputs than images, and has no such weights.
            ValueError: several processes share it.
        """
        self.refuse_shared("fuse")
        model = copy.deepcopy(self).eval().requires_grad_(False)
        model.fused = True
        tiled = tile_layers(model)
        if [spec.kind for spec in self.input_specs.values()] == ["images"]:
            self._fold_norms(model)
        elif not tiled:
            raise NotImplementedError(
                f"There is nothing to fuse: this {self.class_name} takes other inputs than images, "
                "and has no weights of four bits that a kernel takes."
            )
        return model

    def _fold_norms(self, model: Backbone) -> None:
        blank = copy.deepcopy(self).eval().to("meta")
        images = blank._blank_images()
        runs = [lambda: blank(images)]
        if isinstance(blank, FeaturePyramidBackbone):
            runs.append(lambda: blank.pyramid_outputs(images))
        fold_norms(model, blank, runs)

    def _blank_images(self) -> torch.Tensor:
        """One, of a size that the model takes, on the meta device."""
        shape = getattr(self, "image_shape", (None, None, None))
        first = getattr(self, "data_format", None) == "channels_first"
        channels = shape[0 if first else -1] or 3
        height, width = (side or self.blank_side for side in (shape[1:] if first else shape[:-1]))
        sizes = (channels, height, width) if first else (height, width, channels)
        return torch.empty(1, *sizes, dtype=self.dtype, device="meta")

    def _refuse_fused(self) -> None:
        if self.fused:
            raise ValueError(
                f"This {self.class_name} was made by fuse(), for inference alone: save, load and "
                "export the model that it was made of."
            )

    # Quantization

    def quantize(
        self,
        mode: str | None = None,
        config: Any = None,
        filters: str | Sequence[str] | Callable[[Any], bool] | None = None,
    ) -> dict[str, str]:
        """Give the layers weights of few bits, as Keras's `model.quantize` does.

        - `int8`: projections and embeddings; a scale for each output, inputs are quantized, too.
        - `int4`: the same in four bits, with a scale for each 128 inputs; of weights alone.
        - `float8`: projections compute in float8, in training as well; they still are trained.
        - `gptq`, `awq`: projections in the model's blocks, calibrated on the data of `config`.

        Layers of other kinds, convolutions, norms and experts say, stay as they are. Presets and
        weight files have the quantized weights, and KerasHub reads them; they do not say whether
        inputs are quantized, so that a model from a preset does what is the mode's default.

        Args:
            mode: not needed where `config` is given.
            config: of `keras_hub_torch.quantizers`, e.g. `Int4QuantizationConfig(block_size=64)`.
            filters: patterns that names of Keras layers are searched for, one or a list, or a
                function of an object with `name`, `path` and `module`; others stay as they are.

        Returns:
            The layers that were quantized, by their paths in Keras → the mode.

        Raises:
            ValueError: no such mode; layers that are quantized or have adapters; or a model that
                several processes share.
            NotImplementedError: data to be calibrated on does not reach the blocks one by one.
        """
        from ..quantizers import quantize

        self._refuse_fused()
        return quantize(self, mode, config, filters)

    # LoRA

    def enable_lora(
        self,
        rank: int | None = None,
        target_layer_names: list[str] | None = None,
        lora_alpha: float | None = None,
        *,
        format: str = "keras",
    ) -> None:
        """Freeze the weights and add trainable adapters to some layers.

        Before `fully_shard` or after it: in a model that is sharded already, by `from_preset` too
        and with any plan, the adapters are whole in every process, equal, and trained by all.

        After `merge_lora` the merged adapters become part of the frozen weights, and new ones are
        added: a second stage. Without arguments it undoes `disable_lora`.

        Args:
            rank: inner dimension of the adapters.
            target_layer_names: names of the layers, `default_lora_layer_names()` by default.
            lora_alpha: the adapters' output is scaled by `lora_alpha / rank`; `rank` by default.
            format: of the factors of a kernel with heads. `keras` has one first factor for each
                head; `peft` has one for all, and is saved for PEFT at this very rank.

        Raises:
            ValueError: no layer has such a name, a rank or an alpha that is none, or LoRA is
                enabled already.
            TypeError: a string for the list of names.
        """
        from ..lora import enable_lora

        enable_lora(self, rank, target_layer_names, lora_alpha, format)

    def disable_lora(self) -> AbstractContextManager[Any]:
        """Switch the adapters off: the model computes what it did before `enable_lora`.

        They stay off until `enable_lora()`, or within a `with` block:

            with backbone.disable_lora():
                reference = backbone(inputs)

        Meanwhile weights are saved without the adapters, and a warning says so;
        `save_lora_weights` saves the adapters as ever.

        Raises:
            ValueError: LoRA is not enabled, or merged into the weights.
        """
        from ..lora import disable_lora

        return disable_lora(self)

    def delete_lora(self) -> None:
        """Remove the adapters, and let those weights train again that did before `enable_lora`.

        Adapters that are merged stay in the weights; others leave nothing behind, but for whole
        weights that `load_lora_weights` has read with them.

        Raises:
            ValueError: LoRA is not enabled.
        """
        from ..lora import delete_lora

        delete_lora(self)

    def save_lora_weights(
        self,
        filepath: str | os.PathLike[str],
        *,
        format: str = "keras",
        order: str = "jax",
        base_model: str | os.PathLike[str] | None = None,
    ) -> None:
        """Write the adapters, whether they are merged, disabled or neither.

        What a file adds to the weights is exactly what the adapters add. For that the rank may
        have to be another: a Keras adapter of rank r on a kernel with heads is one of rank
        heads · r for PEFT; one from PEFT needs heads · r, or head_dim if that is less, in
        `.lora.h5`. Within its own format every adapter keeps its rank.

        Args:
            filepath: a `.lora.h5` file, or for PEFT a folder.
            format: `keras` or `peft`.
            order: how `.lora.h5` counts layers: as KerasHub does on `jax` (and TensorFlow) or on
                `torch`; they differ for some encoder-decoders.
            base_model: the transformers checkpoint that PEFT is to load the adapter onto, a
                folder or a name on the Hugging Face Hub; by default the one that this backbone
                was loaded from, if it was one.

        Raises:
            ValueError: LoRA is not enabled, an unknown format or order, a wrong file name, or
                layers that PEFT's format has no place for.
            NotImplementedError: transformers has no such family.
            OSError: it cannot be written.
        """
        from ..lora import save_lora_weights

        save_lora_weights(self, filepath, format, order, base_model)

    def load_lora_weights(
        self, filepath: str | os.PathLike[str], *, ignore: Iterable[str] = ()
    ) -> None:
        """Read adapters, a `.lora.h5` file or a PEFT folder, enabling LoRA where it is not.

        Where it is, ranks and layers must be the same, and `lora_alpha` stays as it was enabled
        with. An adapter that PEFT has trained has one first factor for all heads: layers enabled
        in Keras's format take on its form, with new parameters, so make the optimizer afterwards.
        Whole weights in a PEFT folder (`modules_to_save`) replace the backbone's.

        Args:
            ignore: patterns of weights in a PEFT folder that are left out, `["classifier.*"]`.

        Raises:
            ValueError: the file is broken, was made for other layers, shapes or another rank, or
                with options that cannot be honoured.
            FileNotFoundError: no such file, or no adapter in the folder.
            NotImplementedError: PEFT's format, for a family that transformers does not have.
        """
        from ..lora import load_lora_weights

        load_lora_weights(self, filepath, ignore)

    def merge_lora(self) -> None:
        """Add the adapters into the weights, as the fastest form for inference.

        A merged model cannot train its adapters: `backward()` says so. Its state dict is the
        same as before, the weights without the adapters and the factors; a preset or a weight
        file has the merged weights, as for adapters that are not merged.

        Raises:
            ValueError: LoRA is not enabled, or is disabled.
            NotImplementedError: quantized weights.
        """
        from ..lora import merge_lora

        merge_lora(self)

    def unmerge_lora(self) -> None:
        """Take merged adapters out of the weights again, up to rounding in the weights' dtype.

        Raises:
            ValueError: LoRA is not enabled.
        """
        from ..lora import unmerge_lora

        unmerge_lora(self)


class FeaturePyramidBackbone(Backbone):
    """A backbone of images that gives feature maps of several resolutions.

    Attributes:
        levels: the maps, the largest first.
    """

    levels: list[Level]

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """The map of each level, `[batch, channels, height, width]`."""
        raise NotImplementedError

    def forward_pyramid(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Each level's map by name, with the channels where the images have them."""
        data_format = check_data_format(getattr(self, "data_format", None))
        maps = zip(self.levels, self.features(images))
        return {level.name: channels_back(x, data_format) for level, x in maps}

    def layers_of(self, levels: Iterable[str]) -> frozenset[str]:
        """Names of the Keras layers that some levels depend on."""
        arguments = {**self.get_config(), "trainable": True}
        with torch.device("meta"), torch.inference_mode(False), torch.enable_grad():
            blank: Any = self.configured_class.from_config(arguments)
            maps = blank.forward_pyramid(blank._blank_images())
            torch.stack([maps[level].sum() for level in levels]).sum().backward()
        return frozenset(
            child.name
            for child in keras_children(blank)
            if any(weight.grad is not None for weight in child.module.parameters())
        )

    @property
    def pyramid_outputs(self) -> PyramidOutputs:
        def compute(images: Any) -> dict[str, torch.Tensor]:
            known = self.input_specs
            given = images if isinstance(images, Mapping) else {next(iter(known)): images}
            given = self.tensors(check_keys(given, known, type(self).__name__))
            return self.forward_pyramid(*given.values())

        return PyramidOutputs(self.levels, compute)
