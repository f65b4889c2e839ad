"""Sequences on their way, and the step from one token to the next."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import nullcontext

import torch

from ..backbones._model import Model
from ..backbones.layers.cache import Cache
from .inference import many_compilations
from .prompts import Prompts, text_inputs

# Which rows are the result, and what each one's tokens are worth together if it was a search.
Chosen = tuple[torch.Tensor, torch.Tensor | None]
Steps = Generator[torch.Tensor, None, Chosen]


class Rows:
    """Tokens behind prompts: `copies` rows for each prompt, one after the other.

    Attributes:
        room: how many tokens each row may get, `[rows]`.
        count: how many have been added.
        tokens: these, `[rows, most]`; what stands behind a row's end means nothing.
        scores: their log-probabilities, `[rows, most]`, if asked for.
        finished: rows with a stop token or without room, `[rows]`.
    """

    def __init__(
        self, room: torch.Tensor, copies: int, stop_token_ids: torch.Tensor, pad_token_id: int
    ) -> None:
        self.room, self.copies = room, copies
        self.stops, self.pad_token_id = stop_token_ids, pad_token_id
        self.count, self.most = 0, int(room.max())
        self.tokens = room.new_zeros((len(room), self.most))
        self.scores: torch.Tensor | None = None
        self.finished = room <= 0

    @property
    def running(self) -> bool:
        if self.count >= self.most:
            return False
        # Without stop tokens nothing needs to wait for the device.
        return not len(self.stops) or not bool(self.finished.all())

    def append(self, tokens: torch.Tensor, still: torch.Tensor | None = None) -> torch.Tensor:
        """Add a token to each row but those that are `still`, by default the finished ones.

        Returns:
            The tokens, of still rows `pad_token_id`.
        """
        still = self.finished if still is None else still
        tokens = tokens.masked_fill(still, 0)  # the model may not know `pad_token_id`
        self.tokens[:, self.count] = tokens
        self.added(tokens)
        self.count += 1
        self.finished = self.finished | (self.count >= self.room)
        if len(self.stops):
            self.finished |= torch.isin(tokens, self.stops)
        return tokens.masked_fill(still, self.pad_token_id)

    def added(self, tokens: torch.Tensor) -> None:
        """Called with what each row gets, `[rows]`."""

    def ends(self) -> torch.Tensor:
        """How many tokens each row has got, its first stop token included, `[rows]`."""
        stops = torch.isin(self.tokens[:, : self.count], self.stops).int()
        behind = (stops.cumsum(1) - stops) > 0
        return torch.minimum((~behind).sum(1), self.room.clamp(min=0))


class Decoding(Rows):
    """Rows that grow by a token at a time.

    Attributes:
        logits: of the next token, `[rows, vocabulary]`.
        states: hidden states of the last token, `[rows, dim]`.
        prompt_states: those of the prompts, `[batch, longest, dim]`, if asked for.
        gives_logits: whether what the model gives are logits already, and no hidden states.
        lengths: tokens of each row's prompt, `[rows]`.
        is_compiled: whether the step is, for each length of input by itself.
    """

    def __init__(
        self,
        backbone: Model,
        prompts: Prompts,
        room: torch.Tensor,
        copies: int,
        cache: Cache,
        *,
        stop_token_ids: torch.Tensor,
        pad_token_id: int = 0,
        repetition_penalty: float = 1.0,
        keep_scores: bool = False,
        keep_states: bool = False,
        compile: bool = False,
    ) -> None:
        batch, device = len(room), room.device
        rows = torch.arange(batch, device=device).repeat_interleave(copies)
        super().__init__(room[rows], copies, stop_token_ids, pad_token_id)
        self.backbone = backbone
        self.cache = cache
        self.repetition_penalty = repetition_penalty
        self.step = _compiled_step(cache.visible.device.type) if compile else _step
        self.is_compiled = compile
        self._compiled_lengths: set[int] = set()
        if copies == 1:
            first = cache
        else:
            first = backbone.make_cache(
                batch, cache.max_length, device=device, windows=cache.windows
            )
        self.input, mask = text_inputs(backbone.input_specs)
        text = {self.input: prompts.token_ids, mask: prompts.padding_mask}
        outputs = backbone({**prompts.others, **text}, cache=first)
        hidden = _hidden(outputs)
        if hidden is None:
            raise NotImplementedError(
                f"{type(backbone).__name__} gives {', '.join(outputs)}: generate needs hidden "
                "states alone, or decoder_sequence_output."
            )
        before = hidden.shape[1] - prompts.token_ids.shape[1]  # positions of images
        hidden = hidden[:, before:]
        last = hidden[torch.arange(batch, device=device), prompts.lengths - 1]
        logits = backbone.logits(last)

        if first is not cache:
            cache.take(rows, first)
        self.prompt_states = hidden if keep_states else None
        self.gives_logits = logits is last
        self.lengths = prompts.lengths[rows]
        self.shift = None if prompts.shift is None else prompts.shift[rows]
        # One position for all rows, where they are equally long, makes a simpler step.
        self.index = self.lengths[:1] if prompts.padding_mask is None else self.lengths
        self.index = self.index + before
        if keep_scores:
            self.scores = torch.zeros(self.tokens.shape, device=device)
        self.seen: torch.Tensor | None = None
        if repetition_penalty != 1:
            self.seen = torch.zeros((batch, logits.shape[-1]), dtype=torch.bool, device=device)
            # A shorter row has its first token once more where others go on.
            ids = prompts.token_ids
            if prompts.padding_mask is not None:
                ids = torch.where(prompts.padding_mask, ids, ids[:, :1])
            self.seen = self.seen.scatter(1, ids, True)[rows]
        self.arrive(last[rows], logits[rows])

    def arrive(self, states: torch.Tensor, logits: torch.Tensor) -> None:
        """Go on from states `[rows, dim]` of the last tokens and logits of the next ones."""
        self.states = states
        if self.scores is not None:
            self.log_probs = logits.float().log_softmax(-1)
        self.logits = self.penalized(logits)

    def penalized(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits, less of tokens that a row has already."""
        if self.seen is None:
            return logits
        penalty = self.repetition_penalty
        less = torch.where(logits > 0, logits / penalty, logits * penalty)
        return torch.where(self.seen, less, logits)

    def added(self, tokens: torch.Tensor) -> None:
        if self.scores is not None:
            self.scores[:, self.count] = self.log_probs.gather(1, tokens[:, None])[:, 0]
        if self.seen is not None:
            self.seen.scatter_(1, tokens[:, None], True)

    def advance(self) -> None:
        """Run the model on the last tokens."""
        last = self.count - 1
        states, logits = self.run(self.tokens[:, last, None], last)
        self.arrive(states[:, 0], logits[:, 0])

    def run(self, tokens: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """States `[rows, length, dim]` of tokens `[rows, length]`, and logits behind each.

        Args:
            first: how many tokens stand before these, behind the prompt.
        """
        length = tokens.shape[1]
        # Rows that ended write over their own end.
        place = (self.index + first).clamp(max=self.cache.max_length - length)
        is_new = self.is_compiled and length not in self._compiled_lengths
        self._compiled_lengths.add(length)
        with many_compilations() if is_new else nullcontext():
            return self.step(self.backbone, self.cache, self.input, tokens, place, self.shift)

    def least_room(self) -> int:
        """How many tokens each row that has not ended may still get."""
        left = (self.room - self.count).masked_fill(self.finished, self.most - self.count)
        return int(left.min())

    def reorder(self, rows: torch.Tensor) -> None:
        """Go on with these rows, each with its memory; they stay within their prompts."""
        self.cache.take(rows, encoded=False)
        self.tokens, self.finished = self.tokens[rows], self.finished[rows]
        self.logits, self.states = self.logits[rows], self.states[rows]
        if self.scores is not None:
            self.scores, self.log_probs = self.scores[rows], self.log_probs[rows]
        if self.seen is not None:
            self.seen = self.seen[rows]


def sample(decoding: Decoding, sampler: Callable[[torch.Tensor], torch.Tensor]) -> Steps:
    """Each row takes the token that the sampler chooses."""
    while decoding.running:
        yield decoding.append(sampler(decoding.logits))
        if decoding.running:
            decoding.advance()
    return torch.arange(len(decoding.tokens), device=decoding.tokens.device), None


def _hidden(outputs: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor | None:
    """A decoder's hidden states among what a model gives."""
    return outputs if isinstance(outputs, torch.Tensor) else outputs.get("decoder_sequence_output")


def _step(
    backbone: Model,
    cache: Cache,
    name: str,
    tokens: torch.Tensor,
    index: torch.Tensor,
    shift: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """States `[batch, length, dim]` of tokens `[batch, length]` from `index` on, and logits.

    Args:
        name: of the input which takes the tokens.
        shift: see `Prompts`.
    """
    inputs = {name: tokens}
    if shift is not None:
        positions = (index + shift)[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        inputs["space_positions"] = positions[:, None].expand(-1, 3, -1)
    hidden = _hidden(backbone(inputs, cache=cache, cache_update_index=index))
    assert hidden is not None
    return hidden, backbone.logits(hidden)


@functools.cache
def _compiled_step(device_type: str) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    mode = "reduce-overhead" if device_type == "cuda" else None
    return torch.compile(_step, fullgraph=True, dynamic=False, mode=mode)
