"""Stable Diffusion 3's transformer and autoencoder beside diffusers': a denoising step of a medium
one with fewer layers, and decoding an image.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pairs
import torch

TRANSFORMER = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
AUTOENCODER = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
NAMES = ("denoising step", "decoding")


def build(name: str, layers: int, dtype: torch.dtype) -> tuple[Any, Any]:
    """Ours and theirs, with the same weights."""
    import diffusers

    from keras_hub_torch.models import Backbone

    if name == "decoding":
        theirs = diffusers.AutoencoderKL(**AUTOENCODER)
    else:
        theirs = diffusers.SD3Transformer2DModel(**TRANSFORMER, num_layers=layers)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = Backbone.from_preset(Path(folder), dtype=str(dtype).removeprefix("torch."))
    return ours, theirs.to(dtype).eval()


def calls(name: str, ours: Any, theirs: Any, side: int) -> tuple[Callable[[Any], Any], ...]:
    """Of latents `[batch, height, width, channels]`."""
    dtype = ours.dtype
    if name == "decoding":
        return ours.decode, lambda x: theirs.decode(x.permute(0, 3, 1, 2)).sample
    text, pooled = torch.randn(2, 154, 4096, dtype=dtype), torch.randn(2, 2048, dtype=dtype)
    times = torch.full((2,), 500.0)

    def mine(x: torch.Tensor) -> torch.Tensor:
        return ours(latent=x, context=text, pooled_projection=pooled, timestep=times[:, None])

    return mine, lambda x: theirs(x.permute(0, 3, 1, 2), text, pooled, times).sample


def latents(name: str, side: int, dtype: torch.dtype) -> torch.Tensor:
    """Of an image, and twice for guidance."""
    return torch.randn(1 if name == "decoding" else 2, side // 8, side // 8, 16, dtype=dtype)


def peak(name: str, who: str, options: argparse.Namespace) -> float:
    """MiB above the model, in a process of its own."""
    command = [sys.executable, sys.argv[0], "--peak", who, "--only", name]
    command += ["--side", str(options.side), "--layers", str(options.layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=NAMES)
    parser.add_argument("--side", type=int, default=512, help="of the image in pixels")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    parser.add_argument("--peak", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    for name in NAMES:
        if options.only not in (None, name):
            continue
        torch.manual_seed(0)
        both = calls(name, *build(name, options.layers, dtype), options.side)
        x = latents(name, options.side, dtype)
        if options.peak:
            before = pairs.resident()
            pairs.forward(both[options.peak == "theirs"], x)
            print(pairs.resident() - before)
            return
        pairs.report(f"{name}, diffusers", pairs.forward, *both, x, options.rounds)
        if not options.eager:
            compiled = tuple(torch.compile(call) for call in both)
            what = f"{name}, compiled, diffusers compiled"
            pairs.report(what, pairs.forward, *compiled, x, options.rounds)
        mine, theirs = (peak(name, who, options) for who in ("ours", "theirs"))
        print(f"{name}, peak: {mine:.0f} MiB, diffusers {theirs:.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
