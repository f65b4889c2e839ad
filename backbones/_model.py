"""The contract that every model keeps, from its configuration to its weights; nothing here knows
of files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload

import torch
from torch import nn

from ._configuration import Configurable, snake_case
from ._inputs import as_tensors, check_keys, check_tensors, inputs_of
from ._intermediates import intermediates
from ._quantization import quantize_layers
from .layers.cache import Cache
from .layers.dtypes import DTypeLike, DTypePolicy, DTypePolicyMap, Quantization
from .layers.layout import GRAPH, Layout, Stack, keras_children
from .layers.quantized import Quantized

ModelType = TypeVar("ModelType", bound="Model")


class Model(nn.Module, Configurable):
    """A model whose typed constructor is its configuration.

    Every argument is also an attribute; `get_config` gives them back.

    Args:
        dtype: of the weights and the computation; float32 by default.
        trainable: whether the weights require gradients.
        name: as in Keras; the class's name in snake case by default.
    """

    # Inputs that exist only with a tower, by the argument that is `None`, or 0 layers, without it.
    tower_inputs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    # Whether a list of inputs may be given, too, because KerasHub declares them so.
    listed: ClassVar[bool] = False
    # Parts that have weights only if a file has some for them; they have a `build`.
    deferred: ClassVar[Sequence[str]] = ()
    # The order of what blocks of images give, where that is a map.
    maps_format: ClassVar[str] = "channels_first"
    # What each layer of a decoder keeps of the tokens it has seen: objects with an `allocate`.
    cache_shapes: Sequence[Any] = ()
    configured_class: type[Model]
    # What opens the preset that it was loaded from.
    preset: Any = None
    # Why the weights are not to be used, if loading others has failed half-way.
    broken: str | None = None

    def __init__(
        self, dtype: DTypeLike = None, trainable: bool = True, name: str | None = None
    ) -> None:
        super().__init__()
        self._policy = DTypePolicy.get(dtype)
        self._trainable = trainable
        self.name = name or snake_case(type(self).__name__)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "forward" in cls.__dict__:
            cls.input_specs = inputs_of(cls.forward, cls.input_specs)

    def finish(self) -> None:
        """What is done when a constructor has run."""
        absent = [
            name
            for tower, names in self.tower_inputs.items()
            if getattr(self, tower) in (None, 0)
            for name in names
        ]
        # Of the instance, too: torch 2.6 exports no dictionaries of classes.
        self.input_specs = {k: spec for k, spec in self.input_specs.items() if k not in absent}
        found: Mapping[str, str] = {}
        if isinstance(self._policy, DTypePolicyMap):
            found = quantize_layers(self, self._policy.modes)
            missing = self._policy.modes.keys() - found
            if missing:
                raise ValueError(
                    f"The dtype policy is for other layers: {', '.join(sorted(missing))}."
                )
        _apply_policy(self, self._policy)
        if found:
            self._share_policy(found)
        if not self._trainable:
            self.requires_grad_(False)

    def _share_policy(self, found: Mapping[str, str]) -> None:
        """Give models within this one what of its policy is for their layers.

        Args:
            found: the layers' names in the policy → paths of the modules.
        """
        assert isinstance(self._policy, DTypePolicyMap)
        for path, part in self.named_modules():
            if part is not self and isinstance(part, Model):
                names = [name for name, inner in found.items() if inner.startswith(f"{path}.")]
                outer = re.compile(f"(.*/)?{re.escape(part.keras_name)}/")
                own = {name: outer.sub("", name, count=1) for name in names}
                if own and not isinstance(part, Component):
                    part._policy = self._policy.part(own)
                else:
                    part._policy = DTypePolicy(part._policy.name)

    def quantized_as(self, layers: Mapping[str, tuple[str, Quantization]]) -> None:
        """Note in the policies that some layers have been quantized.

        Args:
            layers: Keras's path → that of the module, and how.
        """
        rest = DTypePolicy(self._policy.name)
        self._policy = DTypePolicyMap.of({name: how for name, (_, how) in layers.items()}, rest)
        self._share_policy({name: path for name, (path, _) in layers.items()})

    @property
    def layout(self) -> Layout:
        """How Keras lays out this model; a family may override it by a constant."""
        return GRAPH

    @property
    def keras_name(self) -> str:
        return self.name

    # Calling

    def __call__(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Run the model on a mapping of inputs, on keyword arguments, or on one tensor.

        NumPy arrays are accepted, and what a preprocessor gives: labels and weights behind the
        inputs are ignored.

        Raises:
            ValueError: missing or unknown inputs, wrong ranks or sizes.
            TypeError: not tensors, ids that are no integers, images that are, or an input given
                twice.
            RuntimeError: reading weights into the model has failed half-way.
        """
        return super().__call__(**self._given(inputs, args, kwargs))

    def _given(
        self, inputs: Any, args: Sequence[Any], kwargs: Mapping[str, Any], partly: bool = False
    ) -> dict[str, Any]:
        """The inputs of a call by their names, checked; `partly` as in `check_keys`."""
        if self.broken is not None:
            raise RuntimeError(self.broken)
        known = self.input_specs
        if isinstance(inputs, tuple) and inputs and isinstance(inputs[0], Mapping):
            inputs = inputs[0]
        if isinstance(inputs, Mapping):
            given, surplus = dict(inputs), args
        else:
            positional = () if inputs is None and not args else (inputs, *args)
            if self.listed and isinstance(inputs, (list, tuple)):
                positional = (*inputs, *args)
            given = dict(zip(known, positional))
            surplus = positional[len(given) :]
        if surplus or any(name in given for name in kwargs):
            raise TypeError(
                f"{type(self).__name__} takes the inputs {', '.join(known)}, each once."
            )
        given = {**given, **kwargs}
        for tower, names in self.tower_inputs.items():
            for name in names:
                if name not in known and given.get(name) is not None:
                    raise ValueError(
                        f"{name} needs {tower}, which this {self.class_name} does not have."
                    )
        given = check_keys(given, known, type(self).__name__, partly)
        if torch.compiler.is_compiling():
            check_tensors(given, known)
            return given
        return self.tensors(given)

    def tensors(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs as checked tensors on the model's device."""
        tensors = as_tensors(given, self.input_specs, self.device)
        check_tensors(tensors, self.input_specs)
        for name, most in self.longest(tensors).items():
            length = 0 if tensors.get(name) is None else tensors[name].shape[1]
            if length > most:
                raise ValueError(
                    f"{name} has length {length}, but the position table has room for {most}."
                )
        return tensors

    def longest(self, given: Mapping[str, Any]) -> dict[str, int]:
        """Inputs that a part behind others takes → how long they may be, to be said before these
        compute anything.
        """
        return {}

    @overload
    def forward_intermediates(
        self,
        inputs: Any,
        indices: int | Sequence[int] | None = ...,
        *,
        norm: bool = ...,
        maps: bool = ...,
        prefix_tokens: Literal[False] = ...,
        intermediates_only: Literal[True] = ...,
    ) -> list[torch.Tensor]: ...
    @overload
    def forward_intermediates(
        self,
        inputs: Any,
        indices: int | Sequence[int] | None = ...,
        *,
        norm: bool = ...,
        maps: bool = ...,
        prefix_tokens: Literal[True],
        intermediates_only: Literal[True] = ...,
    ) -> list[tuple[torch.Tensor, torch.Tensor]]: ...
    @overload
    def forward_intermediates(
        self,
        inputs: Any,
        indices: int | Sequence[int] | None = ...,
        *,
        norm: bool = ...,
        maps: bool = ...,
        prefix_tokens: Literal[False] = ...,
        intermediates_only: Literal[False],
    ) -> tuple[Any, list[torch.Tensor]]: ...
    @overload
    def forward_intermediates(
        self,
        inputs: Any,
        indices: int | Sequence[int] | None = ...,
        *,
        norm: bool = ...,
        maps: bool = ...,
        prefix_tokens: Literal[True],
        intermediates_only: Literal[False],
    ) -> tuple[Any, list[tuple[torch.Tensor, torch.Tensor]]]: ...
    @overload
    def forward_intermediates(
        self,
        inputs: Any,
        indices: int | Sequence[int] | None = ...,
        *,
        norm: bool = ...,
        maps: bool = ...,
        prefix_tokens: bool = ...,
        intermediates_only: bool = ...,
    ) -> Any: ...

    def forward_intermediates(
        self,
        inputs: Any,
        indices: int | Sequence[int] | None = None,
        *,
        norm: bool = False,
        maps: bool = False,
        prefix_tokens: bool = False,
        intermediates_only: bool = True,
    ) -> Any:
        """What some of the blocks give, without running those behind them.

            second, last = backbone.forward_intermediates(inputs, (1, -1), norm=True)

        Blocks are counted from 0 in the order in which `forward` calls them: those of a decoder
        after the encoder's, those of every stage after those of the one before; of CSPNet and
        HGNetV2 a stage is a block. A part that is a model, such as `vision_encoder`, has this
        method for its own blocks, and they are not counted here.

        It is no call of the module: a model that FSDP2 has sharded wants
        `register_fsdp_forward_method(backbone, "forward_intermediates")`, and in DDP it is called
        by a module that DDP wraps. `torch.compile(backbone.forward_intermediates)` compiles it.

        Args:
            inputs: a mapping, or one tensor, as of a call; those that are used behind the blocks
                alone may be left out, a decoder's say.
            indices: which blocks, `(2, 5)` or `(-1,)`; a number for the last so many; all by
                default. Tensors are returned in this order.
            norm: whether what stands behind the blocks and is a norm is applied to each of them.
                Post-norm models have none; where stages differ in width it is a stage's own.
            maps: whether patches are put side by side, `[batch, rows, columns, dim]`, or
                `[batch, dim, rows, columns]` by `data_format="channels_first"`, without what is
                before them. Of several images in a row `batch` counts all images; of videos there
                are `frames` behind `batch`, also of blocks that see patches through time. Blocks
                that give maps give them in this order in any case.
            prefix_tokens: whether each tensor comes as a pair: patches (of videos `[batch, frames,
                patches, dim]`), and what is before them (class token and registers).
            intermediates_only: otherwise all blocks are run, and the result is a pair: what the
                call returns, and the list.

        Returns:
            A list of tensors, of pairs with `prefix_tokens`.

        Raises:
            ValueError: no such blocks; maps or prefix tokens of blocks that see something else
                than images.
            TypeError: `indices` that are no integers.
            NotImplementedError: the model has no blocks in a row.
        """
        return intermediates(
            self, Model, inputs, indices, norm, maps, prefix_tokens, intermediates_only
        )

    # Generation

    def make_cache(
        self,
        batch_size: int,
        max_length: int,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        windows: bool = True,
    ) -> Cache:
        """Memory for the keys and values of `max_length` positions.

        With `cache=…, cache_update_index=i` the model takes its tokens for those from position i
        on (a number, a tensor, or one for each row in `[batch]`), and they see what earlier calls
        left in the cache. A tensor rather than a number saves compiled code from recompiling.

        Args:
            dtype: of keys and values; by default what the model computes in.
            device: by default the model's.
            windows: whether layers with a sliding window keep no more than that. Tokens can be
                taken back, and others written in their place, only where all are kept.

        Raises:
            NotImplementedError: the model is no decoder, or has no cache here.
            ValueError: the model has fewer positions.
        """
        if not self.cache_shapes:
            raise NotImplementedError(f"{type(self).__name__} has no cache.")
        dtype = dtype or self.dtype_policy.compute_dtype
        where = self.device if device is None else torch.device(device)
        return Cache(self.cache_shapes, batch_size, max_length, dtype, where, windows)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Of the next token, `[..., vocabulary]`, from a decoder's hidden states `[..., dim]`."""
        return self.token_embedding(hidden, reverse=True)

    def positions_before_text(self, inputs: Mapping[str, Any]) -> int:
        """How many positions of a cache inputs such as images take before the text's tokens."""
        return 0

    # Layers and weights

    if TYPE_CHECKING:
        token_embedding: Any
    else:

        @property
        def token_embedding(self) -> nn.Module | None:
            """The embedding of token ids; with `reverse=True` it maps hidden states to logits.

            Where its weights are not tied, those of the logits have no part in `forward`: wrap a
            backbone alone in `DistributedDataParallel` with `find_unused_parameters=True`, or
            together with what computes the logits.
            """
            return self._modules.get("token_embedding")

    def default_lora_layer_names(self) -> list[str]:
        """Names of the layers that `enable_lora` adapts if it is not told others."""
        return ["query_dense", "value_dense", "query", "value"]

    @property
    def dtype_policy(self) -> DTypePolicy:
        """The policy given, or after `.to(dtype)` the dtype of the weights."""
        actual = self.dtype
        if actual == self._policy.variable_dtype:
            return self._policy
        if isinstance(self._policy, DTypePolicyMap):
            return self._policy.of_dtype(DTypePolicy.get(actual))
        return DTypePolicy.get(actual)

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return next((p.dtype for p in self.parameters() if p.is_floating_point()), torch.float32)

    @property
    def trainable(self) -> bool:
        """Whether any weight requires gradients."""
        parameters = [p for p in self.parameters() if p.is_floating_point()]
        if not parameters:
            return self._trainable
        return any(parameter.requires_grad for parameter in parameters)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for module in self.modules():
            if isinstance(module, Model):
                module._trainable = bool(value)
        self.requires_grad_(bool(value))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if not self.trainable:  # its parts are frozen by it, and say what they are by themselves
            for name, part in self.arguments.items():
                if isinstance(part, Model) and "trainable" in config[name]["config"]:
                    config[name]["config"]["trainable"] = part._trainable
        return config

    def requires_grad_(self: ModelType, requires_grad: bool = True) -> ModelType:
        for parameter in self.parameters():
            if parameter.is_floating_point():  # integers that FSDP holds are parameters, too
                parameter.requires_grad_(requires_grad)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are; of an offloaded model where it computes."""
        device = next((tensor.device for tensor in self.weights()), torch.device("cpu"))
        if device.type == "meta":
            for module in self.modules():
                hook = getattr(module, "_hf_hook", None)
                for one in getattr(hook, "hooks", (hook,)):
                    where = getattr(one, "execution_device", None)
                    if where is not None:
                        return torch.device(where)
        return device

    @property
    def block_classes(self) -> tuple[type[nn.Module], ...]:
        """Classes of the repeated blocks, for sharding and checkpointing policies."""
        blocks = (block for stack in self._stacks() for block in stack.children())
        return tuple(dict.fromkeys(type(block) for block in blocks))

    def gradient_checkpointing(self, enabled: bool = True) -> None:
        """Keep only the inputs of blocks for the backward pass, which computes the rest anew.

        Gradients stay the same, memory grows with one block; in `eval()` mode too.

        Raises:
            NotImplementedError: the model has no repeated blocks.
        """
        stacks = self._stacks()
        if not stacks:
            raise NotImplementedError(f"{self.class_name} has no repeated blocks.")
        for stack in stacks:
            stack.checkpointed = enabled

    def _stacks(self) -> list[Stack]:
        """The stacks of blocks, without those within a block."""
        found: list[Stack] = []
        waiting: list[nn.Module] = [self]
        while waiting:
            module = waiting.pop(0)
            blocks = list(module.children()) if isinstance(module, Stack) else []
            if blocks and not isinstance(blocks[0], Stack):
                found.append(module)  # type: ignore[arg-type]
            else:
                waiting += module.children()
        return found

    def refuse_shared(self, verb: str) -> None:
        """Raises ValueError: several processes share the model, none of which has whole weights."""
        if any(hasattr(tensor, "full_tensor") for tensor in self.weights()):
            raise ValueError(
                f"{verb} needs whole weights, and this {self.class_name} is shared by several "
                "processes: call it before that, save the model, and load it with device_mesh."
            )

    @torch.no_grad()
    def resize_token_embeddings(self, vocabulary_size: int) -> None:
        """Give the vocabulary another size: rows at the end go, or new ones are drawn.

        New rows are drawn as transformers does it, from the normal distribution of the old ones'
        mean and a billionth of their covariance. Configuration and tied tables follow.

        Raises:
            NotImplementedError: the model has no vocabulary.
            ValueError: not a positive size, an embedding with an adapter, or a model that several
                processes share.
        """
        self.refuse_shared("resize_token_embeddings")
        names = (name for name in self.argument_names if re.match("(text_)?vocab", name))
        argument = next(names, None)
        if argument is None:
            raise NotImplementedError(f"{self.class_name} has no vocabulary.")
        if isinstance(vocabulary_size, bool) or not isinstance(vocabulary_size, int):
            raise ValueError(f"vocabulary_size must be an integer, not {vocabulary_size!r}.")
        if vocabulary_size < 1:
            raise ValueError(f"vocabulary_size must be positive, not {vocabulary_size}.")
        with torch.device("meta"):
            resized = self.configured_class.from_config(
                {**self.get_config(), argument: vocabulary_size}
            )
        owners = dict(self.named_modules())
        for path, blank in resized.named_modules():
            owner = owners[path]
            for name, new in (*blank._parameters.items(), *blank._buffers.items()):
                old = getattr(owner, name, None)
                if new is None or old is None or old.shape == new.shape:
                    continue
                if hasattr(owner, "lora_kernel_a"):
                    raise ValueError(f"{path} has an adapter; merge or delete it first.")
                axis = next(i for i in range(old.ndim) if old.shape[i] != new.shape[i])
                if isinstance(owner, Quantized) and new.shape[axis] > old.shape[axis]:
                    raise ValueError(f"{path} is quantized; give it more rows before.")
                _replace(owner, name, _resized(old, axis, new.shape[axis]))
                plain = {k: v for k, v in blank.__dict__.items() if isinstance(v, (int, tuple))}
                owner.__dict__.update({k: v for k, v in plain.items() if k != "training"})
        setattr(self, argument, vocabulary_size)

    def count_params(self) -> int:
        """Number of weights, statistics included."""
        return sum(tensor.numel() for tensor in self.weights())

    def get_layer(self, name: str | None = None, index: int | None = None) -> nn.Module:
        """A layer by its Keras name, or by its place among the layers that hold weights.

        Raises:
            ValueError: no such layer, or not exactly one of `name` and `index`.
        """
        layers = {child.name: child.module for child in keras_children(self)}
        if (name is None) == (index is None):
            raise ValueError("Give either a name or an index.")
        if name in layers:
            return layers[name]
        weighted = [layer for layer in layers.values() if layer.state_dict(keep_vars=True)]
        if index is not None and -len(weighted) <= index < len(weighted):
            return weighted[index]
        wanted = f"index {index}" if name is None else repr(name)
        raise ValueError(f"No layer {wanted} among {', '.join(layers)}.")

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module."""
        self.build_parts(state_dict)
        found = super().load_state_dict(state_dict, strict, assign)
        if not found.missing_keys:
            self.mend()
        return found

    def build_parts(self, names: Iterable[str]) -> None:
        """Give weights to those `deferred` parts that weights of these names are for."""
        found = {part for name in names for part in re.split(r"[./]", name)[:-1]}
        for part in found.intersection(self.deferred):
            with torch.device(self.device):
                getattr(self, part).build()

    def mend(self) -> None:
        """All weights have been read: the model may be used again."""
        for module in self.modules():
            vars(module).pop("broken", None)

    def weights(self) -> Iterator[torch.Tensor]:
        """Parameters, and the buffers that files hold."""
        yield from self.parameters()
        for module in self.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if name not in module._non_persistent_buffers_set:
                    yield buffer


class Component(Model):
    """A part with a configuration of its own, a tower say, that is no backbone in KerasHub."""


def _resized(old: torch.Tensor, axis: int, size: int) -> torch.Tensor:
    """With fewer rows along an axis, or more, drawn around the mean of the old ones."""
    rows = old.detach().movedim(axis, 0)
    if size <= len(rows):
        kept = rows[:size].clone()
    else:
        table = rows.reshape(len(rows), -1).float()
        mean, centered = table.mean(0), table - table.mean(0)
        # A weighted sum of the centered rows has their covariance, without the matrix.
        weights = torch.randn(size - len(rows), len(rows), device=table.device)
        drawn = mean + weights @ centered * (1e-9 / len(rows)) ** 0.5
        kept = torch.cat((rows, drawn.to(rows.dtype).view(-1, *rows.shape[1:])))
    return kept.movedim(0, axis).contiguous()


def _replace(owner: nn.Module, name: str, value: torch.Tensor) -> None:
    old = getattr(owner, name)
    if isinstance(old, nn.Parameter):
        owner._parameters[name] = nn.Parameter(value, old.requires_grad)
    else:
        owner._buffers[name] = value


def _apply_policy(module: nn.Module, policy: DTypePolicy) -> None:
    """Give every part the dtype asked for, but those that fix their own (`fixed_dtype`)."""
    policy = DTypePolicy.get(getattr(module, "fixed_dtype", None) or policy)
    if isinstance(module, Model):
        module._policy = policy
    if hasattr(module, "compute_dtype"):
        mixed = policy.compute_dtype != policy.variable_dtype
        dtype = policy.compute_dtype if mixed else None
        module.compute_dtype = dtype  # type: ignore[assignment]
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is None or not tensor.is_floating_point():
                continue
            if name in getattr(module, "float32", ()):
                continue
            if tensor.dtype != policy.variable_dtype:
                tensors[name] = _cast(tensor, policy.variable_dtype)  # type: ignore[assignment]
    for child in module.children():
        _apply_policy(child, policy)


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(tensor.detach().to(dtype), tensor.requires_grad)
    return tensor.to(dtype)
