"""The noise of a rectified flow, step by step (arXiv:2403.03206)."""

from __future__ import annotations

import numpy as np
import torch

from ..layers.layer import Layer


class FlowMatchEulerDiscreteScheduler(Layer):
    """How much of the latents is noise at each step, from all (1) to none (0); all in float32.

    Args:
        num_train_timesteps: how many timesteps the model was trained with.
        shift: how much longer the steps dwell on much noise; 1 for even steps.
    """

    def __init__(self, num_train_timesteps: int = 1000, shift: float = 3.0) -> None:
        super().__init__()
        self.num_train_timesteps = num_train_timesteps
        self.shift = shift
        # Rounded as tensors would be: an angle of a thousand turns on the last bit of a timestep.
        ends = np.array((num_train_timesteps, 1), np.float32) / np.float32(num_train_timesteps)
        if shift != 1:
            ends = np.float32(shift) * ends / (1 + np.float32(shift - 1) * ends)
        first, last = ends * np.float32(num_train_timesteps)
        self.first, self.span = float(first), float(last - first)

    def forward(
        self, step: int | torch.Tensor, num_steps: int | torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The share of noise before a step of `num_steps`, counted from 0, and its timestep.

        Behind the last step there is no noise. Both are of `step`'s shape.
        """
        step = torch.as_tensor(step)
        num_steps = torch.as_tensor(num_steps, device=step.device)
        passed = step.float() / (num_steps - 1).clamp(min=1).float()
        sigma = (self.first + passed * self.span) / self.num_train_timesteps
        if self.shift != 1:
            sigma = self.shift * sigma / (1 + (self.shift - 1) * sigma)
        sigma = torch.where(step < num_steps, sigma, 0)
        return sigma, sigma * self.num_train_timesteps

    def add_noise(
        self,
        latents: torch.Tensor,
        noises: torch.Tensor,
        step: int | torch.Tensor,
        num_steps: int | torch.Tensor,
    ) -> torch.Tensor:
        """Latents as they are before a step."""
        sigma = self(step, num_steps)[0].to(latents.device)
        return sigma * noises + (1 - sigma) * latents
