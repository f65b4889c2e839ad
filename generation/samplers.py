"""How the next token is chosen, with KerasHub's names and defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

Sampler: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
"""Logits `[batch, vocabulary]` → token ids `[batch]`."""


class GreedySampler:
    """The likeliest token."""

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.argmax(-1)


class RandomSampler:
    """Draws from the whole distribution.

    Args:
        temperature: divides the logits; below 1 likely tokens become likelier.
        seed: of the draws; by default PyTorch's own generator is used.

    Raises:
        ValueError: the temperature is not above 0.
    """

    def __init__(self, temperature: float = 1.0, seed: int | None = None) -> None:
        if temperature <= 0:
            raise ValueError(f"The temperature must be above 0, not {temperature}.")
        self.temperature = temperature
        self.seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        logits = self.filter(logits.float() / self.temperature)
        generator = None
        if self.seed is not None:
            generator = self._generators.get(logits.device)
            if generator is None:
                generator = torch.Generator(logits.device).manual_seed(self.seed)
                self._generators[logits.device] = generator
        return torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]

    def filter(self, logits: torch.Tensor) -> torch.Tensor:
        """Give -inf to the tokens that are not to be drawn."""
        return logits


class TopKSampler(RandomSampler):
    """Draws from the `k` likeliest tokens."""

    def __init__(self, k: int = 5, temperature: float = 1.0, seed: int | None = None) -> None:
        super().__init__(temperature, seed)
        if k < 1:
            raise ValueError(f"k must be at least 1, not {k}.")
        self.k = k

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
        temperature: float = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(temperature, seed)
        if not 0 <= p <= 1:
            raise ValueError(f"p must be between 0 and 1, not {p}.")
        self.p = p
        self.k = k

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


SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "greedy": GreedySampler,
    "random": RandomSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
}


def get(sampler: str | Sampler) -> Sampler:
    """A sampler by name, with its defaults.

    Raises:
        ValueError: no such name.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise ValueError(f"Unknown sampler {sampler!r}. Known: {', '.join(SAMPLERS)}.")
        return SAMPLERS[sampler]()
    return sampler
