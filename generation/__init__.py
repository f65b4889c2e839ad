"""Text from a decoder, token by token; images from a diffusion model; vectors of texts."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, overload

import torch

from ..backbones._block_diffusion import BlockDiffusion
from ..backbones._drafter import Drafter
from ..backbones._model import Model
from ..backbones.layers.cache import Cache
from ..preprocessing.prompts import TextPrompts, is_text, text_preprocessor, text_prompts
from . import samplers
from .block_diffusion import blocks
from .decoding import Decoding, Rows, sample
from .embedding import embed
from .images import generate_images
from .inference import without_training
from .prompts import Prompts, read_prompts
from .speculation import assisting, check_assistant, drafting, speculate

__all__ = ["embed", "generate", "generate_images", "samplers", "stream"]


@overload
def generate(backbone: Model, token_ids: str, *args: Any, **kwargs: Any) -> str: ...


@overload
def generate(backbone: Model, token_ids: list[str], *args: Any, **kwargs: Any) -> list[str]: ...


@overload
def generate(
    backbone: Model, token_ids: Any, *args: Any, **kwargs: Any
) -> dict[str, torch.Tensor]: ...


def generate(
    backbone: Model,
    token_ids: Any,
    max_length: int | None = None,
    sampler: str | samplers.Sampler = "greedy",
    *,
    max_new_tokens: int | None = None,
    padding_mask: Any = None,
    stop_token_ids: int | Sequence[int] | str | None = "auto",
    pad_token_id: int | None = None,
    num_return_sequences: int = 1,
    repetition_penalty: float | None = None,
    return_scores: bool = False,
    streamer: Callable[[torch.Tensor], Any] | None = None,
    cache: Cache | None = None,
    compile: bool = False,
    assistant_model: Model | Drafter | None = None,
    preprocessor: Any = None,
    strip_prompt: bool = False,
    chat_options: Mapping[str, Any] | None = None,
) -> Any:
    """Continue prompts with the tokens a decoder finds likely.

    Logits are those of its token embedding, soft cap included. Each row goes on behind its last
    token. Padding, wherever it is, is left out of what the model sees, so that each prompt is
    continued as if it stood alone. Nothing is dropped in whatever mode the model is, and no mode is
    changed: a model that trains, or that several threads share, may be used as it is.

    Args:
        token_ids: prompts, `[batch, length]` or rows of different lengths, or KerasHub's mapping
            of `token_ids`, `padding_mask` and what the model takes besides, such as `images`. Of
            an encoder-decoder they are `decoder_token_ids`, what the text begins with, beside the
            encoder's inputs. Or text: a string or a list of them, of an encoder-decoder the
            encoder's, or a mapping of `encoder_text` and `decoder_text`. Or text with images or
            sound, what the preprocessor's `generate_preprocess` takes: `{"prompts": …, "images":
            …}` of Gemma 3, `{"audio": …}` of Whisper. Or a conversation, a list of messages
            `{"role": "user", "content": …}`, or a list of them: the tokenizer's chat template makes
            prompts of them. The content may have images, `[{"type": "image", "image": …}, {"type":
            "text", "text": …}]`, of models whose preprocessor takes some.
        max_length: of prompt and continuation together, padding before the prompt's end included;
            of text the preprocessor's `sequence_length`, or as many positions as the model has, if
            neither is given.
        sampler: `greedy`, `random`, `top_k`, `top_p`, `min_p`, `beam`, `contrastive` or
            `speculative`, an object of `samplers`, or a function from logits `[batch, vocabulary]`
            to ids `[batch]`. "auto" is as the tokenizer's checkpoint of transformers wants it
            (`generation_config.json`), and `greedy` where there is none or it says nothing. Models
            that denoise blocks, DiffusionGemma, have an `EntropyBoundSampler` in any case.
        max_new_tokens: of each row's continuation; either this or `max_length`.
        padding_mask: `[batch, length]`, nonzero for real tokens.
        stop_token_ids: a row ends with the first of these that it produces; "auto" stands for the
            tokenizer's end of text and end of turn, where there is a tokenizer.
        pad_token_id: what stands behind a row's end, and where the mask has padding; 0, or the
            tokenizer's, by default.
        num_return_sequences: continuations of each prompt, drawn independently, or the likeliest
            beams; the rows of a prompt follow each other.
        repetition_penalty: the logits of tokens that a row has already, prompt included, are
            divided by it if above 0, multiplied if below (arXiv:1909.05858); 1 changes nothing.
            By default 1, or with the sampler "auto" what the checkpoint says.
        return_scores: whether to return log-probabilities of the new tokens.
        streamer: called with each step's tokens `[batch · num_return_sequences]`, of rows that
            have ended `pad_token_id`. For a loop over the steps see `stream`.
        cache: memory to be used again, of `backbone.make_cache(rows, length)`, with `num_beams`
            rows for each prompt (`k`, `num_return_sequences`) and room for prompt and continuation.
        compile: whether to compile the step from one token to the next; the first call for a model
            then takes long. Give a `cache` too, or CUDA graphs are recorded anew in each call.
        assistant_model: a smaller decoder with the same tokens, which drafts some of them for this
            one to look at together; what comes back is what would come without it. How many, a
            `SpeculativeSampler` says. Of a Gemma 4 also a `Gemma4AssistantCausalLM`.
        preprocessor: makes ids of text, a preprocessor or a tokenizer; by default that of the
            preset that the backbone comes from.
        strip_prompt: whether text that is returned begins behind the prompt.
        chat_options: of conversations, for the tokenizer's `apply_chat_template`: `tools`,
            `continue_final_message`, and what else the template asks for.

    Returns:
        Of text text, without special tokens: a string of a string, else a list; of a conversation
        the answer. Of ids a mapping:
        `token_ids` and `padding_mask`, `[batch · num_return_sequences, length]`, where `length` is
        `max_length`, or that of the prompts and `max_new_tokens`. With `return_scores` also
        `scores` of this shape: natural logarithms of the probabilities that the model gives to new
        tokens, before temperature, filters and penalty; 0 elsewhere. With a `BeamSampler` also
        `log_probs` of whole beams.

    Raises:
        NotImplementedError: a model is no decoder, gives no hidden states for contrastive search,
            or cannot take drafts back.
        TypeError: ids that are no integers, text without a tokenizer, or a sampler or cache that is
            something else.
        ValueError: an empty prompt, ids that the model does not know, a prompt longer than
            `max_length`, both lengths or none, a cache of another size, an unknown sampler, more
            sequences than the sampler has, a streamer for beams, `compile` while in training, an
            assistant for a search, or none for a `SpeculativeSampler`.
    """
    text = _read_text(backbone, token_ids, preprocessor, chat_options)
    if text is not None:
        if return_scores:
            raise ValueError("return_scores is for prompts of ids, not of text.")
        if max_length is None and max_new_tokens is None:
            max_length = _usual_length(backbone, text)
        token_ids, preprocessor = text.inputs, text.tokenizer
    elif strip_prompt:
        raise ValueError("strip_prompt is for prompts of text, not of ids.")
    stop_token_ids, pad_token_id = _marks(preprocessor, stop_token_ids, pad_token_id)
    sampler, repetition_penalty = _choice(preprocessor, sampler, repetition_penalty)
    steps = _start(
        backbone,
        token_ids,
        max_length,
        sampler,
        max_new_tokens=max_new_tokens,
        padding_mask=padding_mask,
        stop_token_ids=stop_token_ids,
        pad_token_id=pad_token_id,
        num_return_sequences=num_return_sequences,
        repetition_penalty=repetition_penalty,
        return_scores=return_scores,
        streaming=streamer is not None,
        cache=cache,
        compile=compile,
        assistant_model=assistant_model,
    )
    while True:
        try:
            tokens = next(steps)
        except StopIteration as end:
            return end.value if text is None else text.decoded(end.value, strip_prompt)
        if streamer is not None:
            streamer(tokens)


@overload
def stream(backbone: Model, token_ids: str, *args: Any, **kwargs: Any) -> Iterator[str]: ...


@overload
def stream(
    backbone: Model, token_ids: list[str], *args: Any, **kwargs: Any
) -> Iterator[list[str]]: ...


@overload
def stream(
    backbone: Model, token_ids: Any, *args: Any, **kwargs: Any
) -> Iterator[torch.Tensor]: ...


def stream(
    backbone: Model,
    token_ids: Any,
    max_length: int | None = None,
    sampler: str | samplers.Sampler = "greedy",
    *,
    max_new_tokens: int | None = None,
    padding_mask: Any = None,
    stop_token_ids: int | Sequence[int] | str | None = "auto",
    pad_token_id: int | None = None,
    num_return_sequences: int = 1,
    repetition_penalty: float | None = None,
    cache: Cache | None = None,
    compile: bool = False,
    assistant_model: Model | Drafter | None = None,
    preprocessor: Any = None,
    chat_options: Mapping[str, Any] | None = None,
) -> Iterator[Any]:
    """Each step's tokens `[batch · num_return_sequences]` as `generate` finds them, of rows that
    have ended `pad_token_id`; of prompts that are text what they add to each text.

    The model runs when the next ones are asked for; leaving the loop ends it. Arguments and errors
    are those of `generate`.
    """
    text = _read_text(backbone, token_ids, preprocessor, chat_options)
    if text is not None:
        if max_length is None and max_new_tokens is None:
            max_length = _usual_length(backbone, text)
        token_ids, preprocessor = text.inputs, text.tokenizer
    stop_token_ids, pad_token_id = _marks(preprocessor, stop_token_ids, pad_token_id)
    sampler, repetition_penalty = _choice(preprocessor, sampler, repetition_penalty)
    steps = _start(
        backbone,
        token_ids,
        max_length,
        sampler,
        max_new_tokens=max_new_tokens,
        padding_mask=padding_mask,
        stop_token_ids=stop_token_ids,
        pad_token_id=pad_token_id,
        num_return_sequences=num_return_sequences,
        repetition_penalty=repetition_penalty,
        return_scores=False,
        streaming=True,
        cache=cache,
        compile=compile,
        assistant_model=assistant_model,
    )
    if text is None:
        return steps
    stops = [] if stop_token_ids is None else torch.as_tensor(stop_token_ids).flatten().tolist()
    return text.spoken(steps, stops, max_length)


def _read_text(
    backbone: Model, prompts: Any, preprocessor: Any, chat_options: Mapping[str, Any] | None
) -> TextPrompts | None:
    """Prompts that are text or conversations, as ids."""
    if not is_text(prompts):
        if chat_options is not None:
            raise ValueError("chat_options are for conversations, not for ids.")
        return None
    _check_model(backbone, False)
    return text_prompts(prompts, text_preprocessor(backbone, preprocessor), chat_options)


def _usual_length(backbone: Model, text: TextPrompts) -> int:
    """How long texts become, if nothing is said: as the preprocessor has it, if the model can."""
    known = (getattr(shape, "positions", None) for shape in backbone.cache_shapes)
    return min([text.sequence_length, *(positions for positions in known if positions)])


def _marks(
    preprocessor: Any, stop_token_ids: Any, pad_token_id: int | None
) -> tuple[int | Sequence[int] | None, int]:
    """Ids that end a row, and that stand behind its end; a tokenizer's where there is one."""
    tokenizer = getattr(preprocessor, "tokenizer", preprocessor)
    if isinstance(stop_token_ids, str):
        if stop_token_ids != "auto":
            raise ValueError(f"stop_token_ids must be ids or 'auto', not {stop_token_ids!r}.")
        stop_token_ids = None if tokenizer is None else tokenizer.stop_token_ids
    if pad_token_id is None:
        pad_token_id = 0 if tokenizer is None else tokenizer.pad_token_id
    return stop_token_ids, pad_token_id


def _choice(
    preprocessor: Any, sampler: str | samplers.Sampler, repetition_penalty: float | None
) -> tuple[str | samplers.Sampler, float]:
    """How tokens are chosen; as the tokenizer's checkpoint wants it, if nothing else is said."""
    said: Mapping[str, Any] = {}
    if isinstance(sampler, str) and sampler == "auto":
        tokenizer = getattr(preprocessor, "tokenizer", preprocessor)
        said = dict(getattr(tokenizer, "sampling", {}))
        penalty = said.pop("repetition_penalty", 1.0)
        draws = said.pop("do_sample", False)
        sampler = samplers.CheckpointSampler(**said) if draws else "greedy"
        repetition_penalty = penalty if repetition_penalty is None else repetition_penalty
    return sampler, 1.0 if repetition_penalty is None else repetition_penalty


def _start(
    backbone: Model,
    token_ids: Any,
    max_length: int | None,
    sampler: str | samplers.Sampler,
    *,
    max_new_tokens: int | None,
    padding_mask: Any,
    stop_token_ids: int | Sequence[int] | None,
    pad_token_id: int,
    num_return_sequences: int,
    repetition_penalty: float,
    return_scores: bool,
    streaming: bool,
    cache: Cache | None,
    compile: bool,
    assistant_model: Model | Drafter | None,
) -> Generator[torch.Tensor, None, dict[str, torch.Tensor]]:
    """Compare the arguments with each other and the model; nothing runs before the first step."""
    _check_model(backbone, compile)
    chosen, most = drafting(samplers.get(sampler), assistant_model)
    copies = _copies(chosen, num_return_sequences, streaming)
    if not repetition_penalty > 0:
        raise ValueError(f"repetition_penalty must be above 0, not {repetition_penalty}.")
    device = backbone.device
    vocabulary_size: int = backbone.vocabulary_size  # type: ignore[assignment]
    prompts = read_prompts(token_ids, padding_mask, vocabulary_size, device, backbone.input_specs)
    width, room = _room(prompts, max_length, max_new_tokens)
    stops = torch.as_tensor([] if stop_token_ids is None else stop_token_ids, device=device)
    if stops.is_floating_point() and stops.numel():
        raise TypeError(f"stop_token_ids must be integers, not {stop_token_ids}.")
    if isinstance(chosen, samplers.EntropyBoundSampler) or isinstance(backbone, BlockDiffusion):
        if repetition_penalty != 1 or return_scores or assistant_model is not None:
            raise ValueError(
                "Blocks are denoised without repetition_penalty, return_scores and assistant_model."
            )
        growing = Rows(room.repeat_interleave(copies), copies, stops.flatten(), pad_token_id)
        going = blocks(backbone, prompts, growing, cache, chosen, compile)

        def denoised() -> Generator[torch.Tensor, None, dict[str, torch.Tensor]]:
            yield from going
            every = torch.arange(len(growing.room), device=device)
            return _result(prompts, growing, every, width)

        return without_training([backbone], denoised())
    rows, longest = len(room) * copies, int((prompts.lengths + room).max())
    size = longest + backbone.positions_before_text(prompts.others)
    if cache is None:
        cache = backbone.make_cache(rows, size, windows=assistant_model is None)
    _check_cache(cache, backbone, rows, size)
    if assistant_model is not None:
        if not isinstance(assistant_model, Drafter):
            _check_model(assistant_model, compile)
        check_assistant(backbone, assistant_model, cache)

    def steps() -> Generator[torch.Tensor, None, dict[str, torch.Tensor]]:
        decoding = Decoding(
            backbone,
            prompts,
            room,
            copies,
            cache,
            stop_token_ids=stops.flatten(),
            pad_token_id=pad_token_id,
            repetition_penalty=repetition_penalty,
            keep_scores=return_scores,
            keep_states=isinstance(chosen, samplers.ContrastiveSampler),
            compile=compile,
        )
        if not isinstance(chosen, samplers.Search):
            growing = sample(decoding, chosen)
            if assistant_model is not None:
                assistant = assisting(assistant_model, prompts, decoding, longest, compile)
                growing = speculate(decoding, assistant, chosen, most)
            rows, _ = yield from growing
            return _result(prompts, decoding, rows, width)
        everything = isinstance(chosen, samplers.BeamSampler) and chosen.return_all_beams
        best = chosen.copies if everything else num_return_sequences
        rows, log_probs = yield from chosen.search(decoding, best)
        found = _result(prompts, decoding, rows, width)
        if log_probs is not None:
            found["log_probs"] = log_probs
        if everything:
            found = {name: value.unflatten(0, (-1, best)) for name, value in found.items()}
        return found

    models = [backbone] if assistant_model is None else [backbone, assistant_model]
    return without_training(models, steps())


def _check_model(backbone: Any, compile: bool) -> None:
    name = type(backbone).__name__
    if not hasattr(backbone, "make_cache"):
        raise TypeError(f"generate needs a backbone, not {name}; of a wrapped one give the inside.")
    if not backbone.cache_shapes and not isinstance(backbone, BlockDiffusion):
        raise NotImplementedError(
            f"Only decoders generate, and {name} is an encoder, or has another model's keys and "
            "values. Take a decoder, such as GPT2Backbone or LlamaBackbone."
        )
    if not hasattr(backbone, "vocabulary_size"):
        raise NotImplementedError(
            f"{name} has no logits: what makes them of its hidden states is no part of it."
        )
    if compile and any(module.training for module in backbone.modules()):
        raise ValueError("compile=True needs the model in evaluation mode: call eval() first.")


def _copies(sampler: samplers.Sampler, num_return_sequences: int, streaming: bool) -> int:
    """How many rows are followed for each prompt."""
    most = None
    if isinstance(sampler, samplers.BeamSampler):
        most = sampler.num_beams
        if streaming:
            raise ValueError("Beams are known at their end only: nothing can be streamed.")
    elif isinstance(sampler, (samplers.GreedySampler, samplers.ContrastiveSampler)):
        most = 1
    _check_count("num_return_sequences", num_return_sequences, 1)
    if most is not None and num_return_sequences > most:
        raise ValueError(
            f"num_return_sequences is {num_return_sequences}, but this {type(sampler).__name__} "
            f"finds {most} for each prompt."
        )
    return sampler.copies if isinstance(sampler, samplers.Search) else num_return_sequences


def _room(
    prompts: Prompts, max_length: int | None, max_new_tokens: int | None
) -> tuple[int, torch.Tensor]:
    """Length of the result, and how many tokens each row may get."""
    longest = int(prompts.ends.max())
    if (max_length is None) == (max_new_tokens is None):
        raise ValueError("Give either max_length or max_new_tokens.")
    if max_new_tokens is not None:
        _check_count("max_new_tokens", max_new_tokens, 0)
        return longest + max_new_tokens, torch.full_like(prompts.ends, max_new_tokens)
    _check_count("max_length", max_length, 1)
    assert max_length is not None
    if longest > max_length:
        raise ValueError(f"Prompts must have 1 to max_length={max_length} tokens, not {longest}.")
    return max_length, max_length - prompts.ends


def _check_count(name: str, value: Any, least: int) -> None:
    if not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def _check_cache(cache: Any, backbone: Model, rows: int, length: int) -> None:
    if not isinstance(cache, Cache):
        raise TypeError(f"cache must come from make_cache, not be {type(cache).__name__}.")
    if cache.batch_size != rows or cache.max_length < length:
        raise ValueError(
            f"The cache is for {cache.batch_size} rows of {cache.max_length} tokens; "
            f"this needs {rows} of {length}."
        )
    if len(cache.layers) != len(backbone.cache_shapes):
        raise ValueError("The cache is another model's.")


def _result(
    prompts: Prompts, decoding: Rows, rows: torch.Tensor, width: int
) -> dict[str, torch.Tensor]:
    """The prompts as they were given, and behind each one's end what was found in these rows."""
    source = rows // decoding.copies
    given, given_mask = prompts.given[source, :width], prompts.given_mask[source, :width]
    ids = given.new_full((len(rows), width), decoding.pad_token_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, : given.shape[1]] = given_mask
    ids[mask] = given[given_mask]
    counts = decoding.ends()[rows]
    row, count = (torch.arange(decoding.most, device=rows.device) < counts[:, None]).nonzero(
        as_tuple=True
    )
    place = prompts.ends[source][row] + count
    ids[row, place] = decoding.tokens[rows][row, count]
    mask[row, place] = True
    found = {"token_ids": ids, "padding_mask": mask}
    if decoding.scores is not None:
        scores = torch.zeros(ids.shape, device=ids.device)
        scores[row, place] = decoding.scores[rows][row, count]
        found["scores"] = scores
    return found
