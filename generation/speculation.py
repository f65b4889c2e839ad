"""Tokens that a smaller model drafts (arXiv:2211.17192)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch.nn import functional as F

from ..backbones._drafter import Drafter
from ..backbones._model import Model
from ..backbones.layers.cache import Cache, KeyValueShape
from .decoding import Decoding, Steps
from .prompts import Prompts, text_inputs
from .samplers import (
    Choice,
    EntropyBoundSampler,
    RandomSampler,
    Sampler,
    Search,
    SpeculativeSampler,
)


class Assistant:
    """What drafts tokens behind those of a target."""

    def draft(
        self, target: Decoding, number: int, sampler: Choice
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What may stand behind the target's tokens.

        Args:
            sampler: draws it, if it is a random one; else it is what is likeliest.

        Returns:
            Tokens `[rows, number]`, and the probabilities with which each was drawn, if it was.
        """
        tokens = self._pending(target)
        drafts = tokens.new_zeros((len(tokens), number))
        drawn = []
        for i in range(number):
            logits = target.penalized(self._next(target, tokens))
            if isinstance(sampler, RandomSampler):
                drawn.append(sampler.probabilities(logits))
                drafts[:, i] = sampler.draw(drawn[i])
            else:
                drafts[:, i] = logits.argmax(-1)
            tokens = drafts[:, i : i + 1]
        return drafts, drawn

    def forget(self, count: int) -> None:
        """Of what it has seen, only this many tokens have become the target's."""

    def _pending(self, target: Decoding) -> torch.Tensor:
        """The target's tokens that it has not seen, `[rows, length]`."""
        raise NotImplementedError

    def _next(self, target: Decoding, tokens: torch.Tensor) -> torch.Tensor:
        """Logits behind the tokens, of the target's vocabulary."""
        raise NotImplementedError


class DecoderAssistant(Assistant):
    """A smaller model.

    Args:
        prompts: those of the target.
        longest: how many tokens a row may have in the end.
    """

    def __init__(
        self, model: Model, prompts: Prompts, target: Decoding, longest: int, compile: bool
    ) -> None:
        others = {k: v for k, v in prompts.others.items() if k in model.input_specs}
        size = longest + model.positions_before_text(others)
        self._decoding = Decoding(
            model,
            replace(prompts, others=others),
            target.room[:: target.copies],
            target.copies,
            model.make_cache(len(target.room), size, windows=False),
            stop_token_ids=target.stops,
            compile=compile,
        )
        self._known = 0  # how many of the tokens behind the prompt it has seen

    def forget(self, count: int) -> None:
        self._known = min(self._known, count)

    def _pending(self, target: Decoding) -> torch.Tensor:
        return target.tokens[:, self._known : target.count]

    def _next(self, target: Decoding, tokens: torch.Tensor) -> torch.Tensor:
        mine, theirs = self._decoding.logits.shape[-1], target.logits.shape[-1]
        # Sizes of a family pad the vocabulary differently.
        _, logits = self._decoding.run(tokens.clamp(max=mine - 1), self._known)
        self._known += tokens.shape[1]
        return F.pad(logits[:, -1], (0, theirs - mine), value=-torch.inf)


class StateAssistant(Assistant):
    """A model that goes on from the target's states, keys and values."""

    def __init__(self, model: Drafter) -> None:
        self._model = model

    def _pending(self, target: Decoding) -> torch.Tensor:
        self._states = target.states[:, None]
        return target.tokens[:, target.count - 1 : target.count]

    def _next(self, target: Decoding, tokens: torch.Tensor) -> torch.Tensor:
        logits, self._states = self._model.draft(
            target.backbone, target.cache, tokens, self._states, target.index + target.count - 1
        )
        return logits


def assisting(
    model: Model | Drafter, prompts: Prompts, target: Decoding, longest: int, compile: bool
) -> Assistant:
    """What drafts with the model."""
    if isinstance(model, Drafter):
        return StateAssistant(model)
    return DecoderAssistant(model, prompts, target, longest, compile)


def speculate(decoding: Decoding, assistant: Assistant, sampler: Choice, most: int) -> Steps:
    """Each row takes the tokens that the sampler chooses, several of them in one look.

    All rows go on by equally many, up to the first draft that one of them refuses.

    Args:
        most: how many tokens are drafted at a time.
    """
    yield decoding.append(sampler(decoding.logits))
    while decoding.running:
        # Behind the drafts comes a token without one, and no row may leave its cache.
        number = min(most, decoding.least_room() - 1)
        if number < most and decoding.is_compiled:
            number = 0  # rather than compile one more length
        first = decoding.count - 1
        drafts, drawn = assistant.draft(decoding, number, sampler)
        tokens = torch.cat((decoding.tokens[:, first : first + 1], drafts), dim=1)
        states, logits = decoding.run(tokens, first)
        for i in range(number):
            decoding.arrive(states[:, i], logits[:, i])
            chosen, taken = _choose(sampler, decoding.logits, drafts[:, i], drawn[i : i + 1])
            taken = taken | decoding.finished
            yield decoding.append(chosen)
            if not bool(taken.all()) or not decoding.running:
                break
        else:
            decoding.arrive(states[:, number], logits[:, number])
            yield decoding.append(sampler(decoding.logits))
        assistant.forget(decoding.count - 1)
    return torch.arange(len(decoding.tokens), device=decoding.tokens.device), None


def _choose(
    sampler: Choice, logits: torch.Tensor, draft: torch.Tensor, drawn: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next token of each row, and whether it is the draft."""
    if not isinstance(sampler, RandomSampler):
        chosen = sampler(logits)
        return chosen, chosen == draft
    wanted, given = sampler.probabilities(logits), drawn[0]
    place = draft[:, None]
    chance = torch.rand(place.shape, device=draft.device, generator=sampler.generator(draft.device))
    taken = (chance * given.gather(1, place) < wanted.gather(1, place))[:, 0]
    left = (wanted - given).clamp(min=0)
    left = torch.where(left.sum(1, keepdim=True) > 0, left, wanted)
    return torch.where(taken, draft, sampler.draw(left)), taken


def drafting(
    sampler: Sampler, assistant: Model | Drafter | None
) -> tuple[Choice | Search | EntropyBoundSampler, int]:
    """How tokens are chosen, and how many are drafted.

    Raises:
        ValueError: an assistant for a search, or none for a `SpeculativeSampler`.
    """
    if isinstance(sampler, SpeculativeSampler):
        if assistant is None:
            raise ValueError("A SpeculativeSampler needs an assistant_model.")
        return sampler.base_sampler, sampler.num_speculative_tokens
    if isinstance(sampler, Search) and assistant is not None:
        raise ValueError(f"assistant_model is not for a {type(sampler).__name__}.")
    usual = SpeculativeSampler().num_speculative_tokens
    return sampler, getattr(assistant, "num_speculative_tokens", usual)


def check_assistant(backbone: Model, assistant: Model | Drafter, cache: Cache) -> None:
    """Refuse models that cannot draft for each other.

    Raises:
        NotImplementedError: one remembers more than keys and values, which cannot be undone.
        ValueError: they take other inputs or are on other devices, or drafts would be written over
            what the cache still needs.
    """
    if isinstance(assistant, Drafter):
        assistant.check(backbone)
    for model in (backbone, assistant):
        if isinstance(model, Model) and not all(
            isinstance(shape, KeyValueShape) for shape in model.cache_shapes
        ):
            raise NotImplementedError(
                f"{type(model).__name__} keeps a state of all tokens, from which a refused draft "
                "cannot be taken back."
            )
    if isinstance(assistant, Model) and (
        text_inputs(backbone.input_specs) != text_inputs(assistant.input_specs)
    ):
        raise ValueError(
            f"assistant_model is {type(assistant).__name__}, which does not go on with what "
            f"{type(backbone).__name__} does."
        )
    if backbone.device != assistant.device:
        raise ValueError(
            f"assistant_model is on {assistant.device}, and the model on {backbone.device}."
        )
    if any(layer.window is not None for layer in cache.layers):
        raise ValueError(
            "With an assistant_model the cache must come from make_cache(…, windows=False)."
        )
