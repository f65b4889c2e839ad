"""How the next token is chosen, with KerasHub's names, arguments and defaults."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from .decoding import Decoding, Steps

__all__ = [
    "BeamSampler",
    "CheckpointSampler",
    "ContrastiveSampler",
    "EntropyBoundSampler",
    "GreedySampler",
    "MinPSampler",
    "RandomSampler",
    "SpeculativeSampler",
    "TopKSampler",
    "TopPSampler",
    "get",
]

Choice: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Logits `[batch, vocabulary]` → token ids `[batch]`."""


class GreedySampler:
    """The likeliest token; no `temperature` changes which one that is."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = _above_zero("temperature", temperature)

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1)


class RandomSampler:
    """Draws from the whole distribution.

    Args:
        seed: of the draws; by default PyTorch's own generator is used.
        temperature: divides the logits; below 1 likely tokens become likelier.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(self, seed: int | None = None, temperature: float = 1.0) -> None:
        self.temperature = _above_zero("temperature", temperature)
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return self.draw(self.probabilities(logits))

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """With which tokens are drawn, in float32."""
        return self.filter(logits.float() / self.temperature).softmax(-1)

    def draw(self, weights: torch.Tensor) -> torch.Tensor:
        """Ids `[batch]` by weights `[batch, vocabulary]`, whose sum may be any above 0."""
        generator = self.generator(weights.device)
        return torch.multinomial(weights, 1, generator=generator)[:, 0]

    def generator(self, device: torch.device) -> torch.Generator | None:
        """The one with the seed; `None` is PyTorch's own."""
        if self.seed is None:
            return None
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self._generators[device]

    def filter(self, logits: torch.Tensor) -> torch.Tensor:
        """Give -inf to the tokens that are not to be drawn."""
        return logits


class TopKSampler(RandomSampler):
    """Draws from the `k` likeliest tokens."""

    def __init__(self, k: int = 5, seed: int | None = None, temperature: float = 1.0) -> None:
        super().__init__(seed, temperature)
        self.k = _count("k", k)

    def filter(self, logits: torch.Tensor) -> torch.Tensor:
        values, tokens = logits.topk(min(self.k, logits.shape[-1]))
        return torch.full_like(logits, -torch.inf).scatter(-1, tokens, values)


class TopPSampler(RandomSampler):
    """Draws from the fewest tokens whose probabilities reach `p` together (nucleus sampling,
    arXiv:1904.09751), out of the `k` likeliest if given.
    """

    def __init__(
        self,
        p: float = 0.1,
        k: int | None = None,
        seed: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(seed, temperature)
        self.p = _share("p", p)
        self.k = None if k is None else _count("k", k)

    def filter(self, logits: torch.Tensor) -> torch.Tensor:
        # As in KerasHub the probabilities are those among all tokens, with `k` too.
        values, tokens = logits.sort(-1, descending=True)
        before = values.softmax(-1).cumsum(-1).roll(1, -1)
        before[..., 0] = 0  # the likeliest token always stays
        dropped = before > self.p
        if self.k is not None:
            dropped[..., self.k :] = True
        values = values.masked_fill(dropped, -torch.inf)
        return torch.empty_like(logits).scatter(-1, tokens, values)


class MinPSampler(RandomSampler):
    """Draws from the tokens at least `min_p` times as likely as the likeliest one
    (arXiv:2407.01082). Not in KerasHub.
    """

    def __init__(
        self, min_p: float = 0.05, seed: int | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__(seed, temperature)
        self.min_p = _share("min_p", min_p)

    def filter(self, logits: torch.Tensor) -> torch.Tensor:
        probabilities = logits.softmax(-1)
        least = self.min_p * probabilities.amax(-1, keepdim=True)
        return logits.masked_fill(probabilities < least, -torch.inf)


class CheckpointSampler(RandomSampler):
    """Draws as transformers does with these settings, `CheckpointSampler(**settings)` of a
    `generation_config.json`: from the `top_k` likeliest tokens, of these from the fewest whose
    probabilities reach `top_p` together, and of these from those at least `min_p` times as likely
    as the likeliest. Not in KerasHub.
    """

    def __init__(
        self,
        top_k: int = 50,
        top_p: float = 1.0,
        min_p: float = 0.0,
        seed: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(seed, temperature)
        filters = (
            TopKSampler(top_k) if top_k else None,  # 0 for all
            TopPSampler(top_p) if top_p < 1 else None,
            MinPSampler(min_p) if min_p else None,
        )
        self.filters = [one for one in filters if one is not None]

    def filter(self, logits: torch.Tensor) -> torch.Tensor:
        for one in self.filters:
            logits = one.filter(logits)
        return logits


class BeamSampler:
    """Beam search: of all continuations of the beams the likeliest `num_beams` become the next.

    As in KerasHub a beam goes on behind its stop token, and with it its probability, until all
    beams of its prompt have one.

    Args:
        num_beams: how many are followed for each prompt.
        return_all_beams: whether `generate` returns all of them, the likeliest first:
            `[batch, num_beams, length]`, with `log_probs` `[batch, num_beams]`.
        temperature: divides the logits.

    Raises:
        ValueError: `num_beams` is below 1, or the temperature not above 0.
    """

    def __init__(
        self, num_beams: int = 5, return_all_beams: bool = False, temperature: float = 1.0
    ) -> None:
        self.num_beams = self.copies = _count("num_beams", num_beams)
        self.return_all_beams = return_all_beams
        self.temperature = _above_zero("temperature", temperature)

    def search(self, decoding: Decoding, best: int) -> Steps:
        """Run the search; nothing is known before its end, so that it yields nothing.

        Returns:
            The `best` beams of each prompt and their log-probabilities, the likeliest first.
        """
        beams, device = self.num_beams, decoding.tokens.device
        own = torch.arange(len(decoding.tokens), device=device).view(-1, beams)
        # At first all beams are the same one, and only one of them counts.
        total = torch.full(own.shape, -1e9, device=device)
        total[:, 0] = 0
        while decoding.running:
            done = decoding.finished.view(-1, beams).all(1, keepdim=True)
            log_probs = (decoding.logits.float() / self.temperature).log_softmax(-1)
            vocabulary = log_probs.shape[-1]
            found = (log_probs.view(len(own), beams, -1) + total[..., None]).flatten(1)
            likeliest, index = found.topk(beams)
            total = torch.where(done, total, likeliest)
            parents = torch.where(done, own, own[:, :1] + index // vocabulary)
            decoding.reorder(parents.flatten())
            decoding.append((index % vocabulary).flatten(), still=done.expand(-1, beams).flatten())
            if decoding.running:
                decoding.advance()
        total, order = total.sort(dim=1, descending=True, stable=True)
        return own.gather(1, order)[:, :best].flatten(), total[:, :best].flatten()
        yield  # a generator, as all searches


class ContrastiveSampler:
    """Contrastive search (arXiv:2202.06417): of the `k` likeliest tokens the one that is likely
    and whose hidden state resembles none of those before.

    Each candidate is run through the model, so that a token costs as much as `k`.

    Args:
        k: number of candidates.
        alpha: what the likeness weighs, from 0 (greedy) to 1.
        temperature: divides the logits.

    Raises:
        ValueError: `k` is below 1, `alpha` is not between 0 and 1, or the temperature not above 0.
    """

    def __init__(self, k: int = 5, alpha: float = 0.6, temperature: float = 1.0) -> None:
        self.k = self.copies = _count("k", k)
        self.alpha = _share("alpha", alpha)
        self.temperature = _above_zero("temperature", temperature)

    def search(self, decoding: Decoding, best: int) -> Steps:
        """Run the search; the `k` rows of a prompt are its candidates and then all the chosen one.

        Raises:
            NotImplementedError: the model gives logits in place of hidden states.
            ValueError: `k` is larger than the vocabulary.
        """
        assert decoding.prompt_states is not None
        if decoding.gives_logits:
            raise NotImplementedError(
                "ContrastiveSampler compares hidden states, and "
                f"{type(decoding.backbone).__name__} gives logits."
            )
        if self.k > decoding.logits.shape[-1]:
            raise ValueError(f"k={self.k}, but the vocabulary has {decoding.logits.shape[-1]}.")
        k, device = self.k, decoding.tokens.device
        firsts = torch.arange(0, len(decoding.tokens), k, device=device)
        batch = torch.arange(len(firsts), device=device)
        # Directions of the hidden states so far, zeros where there is none yet.
        lengths = decoding.lengths[firsts]
        prompt = F.normalize(decoding.prompt_states.float(), dim=-1)
        before = F.pad(prompt, (0, 0, 0, decoding.most))
        positions = torch.arange(before.shape[1], device=device)
        while decoding.running:
            finished = decoding.finished[firsts]
            probabilities = (decoding.logits[firsts].float() / self.temperature).softmax(-1)
            likely, candidates = probabilities.topk(k)
            decoding.append(candidates.flatten())
            decoding.advance()
            states = F.normalize(decoding.states.float().view(len(batch), k, -1), dim=-1)
            likeness = states @ before.mT
            known = positions < (lengths + decoding.count - 1)[:, None]
            likeness = likeness.masked_fill(~known[:, None], -1).amax(-1)
            score = (1 - self.alpha) * likely - self.alpha * likeness
            chosen = score.argmax(1)
            decoding.reorder((firsts + chosen).repeat_interleave(k))
            place = (lengths + decoding.count - 1).clamp(max=before.shape[1] - 1)
            before[batch, place] = states[batch, chosen]
            tokens = decoding.tokens[firsts, decoding.count - 1]
            yield tokens.masked_fill(finished, decoding.pad_token_id)
        return firsts, None


class SpeculativeSampler:
    """An assistant drafts tokens one by one, and the model looks at all of them at once, which
    changes nothing but the speed (arXiv:2211.17192): the tokens, or with a random `base_sampler`
    their distribution, are those that `base_sampler` alone would give.

    KerasHub's distribution is another one, since its drafts are not drawn, and since all rows of a
    batch are taken to be refused where one is.

    Args:
        num_speculative_tokens: how many tokens are drafted at a time.
        base_sampler: how tokens are chosen; `None` for the likeliest.

    Raises:
        TypeError: `base_sampler` is a search.
        ValueError: no token is drafted.
    """

    def __init__(
        self, num_speculative_tokens: int = 5, base_sampler: str | Choice | None = None
    ) -> None:
        self.num_speculative_tokens = _count("num_speculative_tokens", num_speculative_tokens)
        chosen = get("greedy" if base_sampler is None else base_sampler)
        others = (BeamSampler, ContrastiveSampler, SpeculativeSampler, EntropyBoundSampler)
        if isinstance(chosen, others):
            raise TypeError(f"base_sampler must choose single tokens, not be {base_sampler}.")
        self.base_sampler: Choice = chosen


class EntropyBoundSampler:
    """Of models that denoise blocks: each step keeps the tokens that are sure, as many as their
    entropies allow together, and draws the others anew; those of the last step are the likeliest.

    Args:
        entropy_bound: in nats; a token is kept if those that are surer have no more together.
        confidence_threshold: in nats; a block is done when its entropies are below this on average
            and it is stable.
        stability_threshold: for how many steps more its likeliest tokens must be the same for that.
        seed: of the draws; by default PyTorch's own generator is used.
        canvas_length: tokens of a block.
        max_denoising_steps: of each block, at the most.
        t_min, t_max: what divides the logits, falling from the second in the first step to the
            first behind the last one.

    Raises:
        ValueError: a length or a number of steps below 1, or a bound, threshold or temperature
            that is not what it can be.
    """

    def __init__(
        self,
        entropy_bound: float = 0.1,
        confidence_threshold: float = 0.005,
        stability_threshold: int = 1,
        seed: int | None = None,
        canvas_length: int = 256,
        max_denoising_steps: int = 48,
        t_min: float = 0.4,
        t_max: float = 0.8,
    ) -> None:
        for name, bound in (
            ("entropy_bound", entropy_bound),
            ("confidence_threshold", confidence_threshold),
        ):
            if not bound >= 0:
                raise ValueError(f"{name} must be at least 0, not {bound}.")
        self.entropy_bound = entropy_bound
        self.confidence_threshold = confidence_threshold
        self.stability_threshold = _count("stability_threshold", stability_threshold, 0)
        self.canvas_length = _count("canvas_length", canvas_length)
        self.max_denoising_steps = _count("max_denoising_steps", max_denoising_steps)
        self.t_min = _above_zero("t_min", t_min)
        self.t_max = _above_zero("t_max", t_max)
        self._draws = RandomSampler(seed)

    def denoise(
        self,
        step: Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor],
        canvas: torch.Tensor,
        vocabulary_size: int,
    ) -> torch.Tensor:
        """The likeliest tokens `[rows, length]` of each row's last step.

        Args:
            step: from a block and the scaled logits of the step before to logits.
            canvas: whose shape and device the block has.
        """
        generator = self._draws.generator(canvas.device)

        def noise() -> torch.Tensor:
            return torch.randint(
                vocabulary_size, canvas.shape, generator=generator, device=canvas.device
            )

        canvas, found, before = noise(), canvas, None
        done = torch.zeros_like(canvas[:, 0], dtype=torch.bool)
        same_for = torch.zeros_like(canvas[:, 0])
        for i in range(self.max_denoising_steps):
            temperature = self.t_max - (self.t_max - self.t_min) * i / self.max_denoising_steps
            logits = step(canvas, before).float() / temperature
            chances = logits.softmax(-1)
            entropies = torch.special.entr(chances).sum(-1)
            drawn = self._draws.draw(chances.flatten(0, 1)).view_as(canvas)
            drawn = torch.where(self._sure(entropies), drawn, noise())
            likeliest = logits.argmax(-1)
            if before is not None:  # rows that are done stay
                same = (likeliest == found).all(-1)
                same_for = torch.where(same, same_for + 1, 0)
                logits = torch.where(done[:, None, None], before, logits)
            canvas = torch.where(done[:, None], canvas, drawn)
            found = torch.where(done[:, None], found, likeliest)
            is_stable = same_for >= self.stability_threshold if i else done.new_zeros(())
            done = done | (is_stable & (entropies.mean(-1) < self.confidence_threshold))
            before = logits
            if bool(done.all()):
                break
        return found

    def _sure(self, entropies: torch.Tensor) -> torch.Tensor:
        """Which tokens are kept, `[rows, length]`."""
        ordered, order = entropies.sort(-1)
        kept = ordered.cumsum(-1) - ordered <= self.entropy_bound
        return torch.empty_like(kept).scatter(-1, order, kept)


Search: TypeAlias = BeamSampler | ContrastiveSampler
Sampler: TypeAlias = Choice | Search | SpeculativeSampler | EntropyBoundSampler

SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "beam": BeamSampler,
    "contrastive": ContrastiveSampler,
    "entropy_bound": EntropyBoundSampler,
    "greedy": GreedySampler,
    "min_p": MinPSampler,
    "random": RandomSampler,
    "speculative": SpeculativeSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
}


def get(sampler: str | Sampler) -> Sampler:
    """A sampler by name, with its defaults.

    Raises:
        ValueError: no such name.
        TypeError: no sampler, or a class of them.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise ValueError(f"Unknown sampler {sampler!r}. Known: {', '.join(SAMPLERS)}.")
        return SAMPLERS[sampler]()
    if inspect.isclass(sampler):
        raise TypeError(f"sampler must be an object, {sampler.__name__}(), not the class itself.")
    known = Search | SpeculativeSampler | EntropyBoundSampler
    if not isinstance(sampler, known) and not callable(sampler):
        raise TypeError(
            f"sampler must be a name or a function of logits, not {type(sampler).__name__}."
        )
    return sampler


def _above_zero(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise ValueError(f"{name} must be above 0, not {value}.")
    return value


def _count(name: str, value: int, least: int = 1) -> int:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, not {value}.")
    return value


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, not {value}.")
    return value
