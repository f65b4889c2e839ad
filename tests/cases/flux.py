from __future__ import annotations

from typing import Any

import numpy as np

from ..oracle import Case


def config(image: int, text: int, axes: int = 3, **others: Any) -> dict[str, Any]:
    """For images and texts of these lengths."""
    return {
        "input_channels": 6,
        "hidden_size": 16,
        "mlp_ratio": 2.5,
        "num_heads": 2,
        "depth": 1,
        "depth_single_blocks": 1,
        "axes_dim": [2, 2, 4],
        "theta": 10000,
        "use_bias": True,
        "guidance_embed": True,
        "image_shape": [image, 6],
        "text_shape": [text, 7],
        "image_ids_shape": [image, axes],
        "text_ids_shape": [text, axes],
        "y_shape": [9],
        **others,
    }


def inputs(batch: int, config: dict[str, Any]) -> Any:
    def make(rng: np.random.Generator) -> dict[str, np.ndarray]:
        found = {
            name: rng.standard_normal((batch, *config[f"{name}_shape"]))
            for name in ("image", "text", "y")
        }
        found |= {
            name: rng.integers(0, 9, (batch, *config[f"{name}_shape"]))
            for name in ("image_ids", "text_ids")
        }
        found |= {name: rng.random(batch) for name in ("timesteps", "guidance")}
        return {name: value.astype("float32") for name, value in found.items()}

    return make


SMALL = config(8, 5)
OTHERS = config(
    1,
    4,
    2,
    input_channels=5,
    image_shape=[1, 3],
    y_shape=[2],
    hidden_size=18,
    num_heads=3,
    axes_dim=[0, 6],
    theta=100,
    mlp_ratio=1,
    depth=2,
    depth_single_blocks=3,
    use_bias=False,
    guidance_embed=False,
    name="flow",
)
NO_PAIRS = config(2, 2, axes_dim=[2, 2, 4, 6], depth=0, depth_single_blocks=2)
CASES = [
    Case("flux", "FluxBackbone", SMALL, inputs(4, SMALL)),
    Case("flux-others", "FluxBackbone", OTHERS, inputs(2, OTHERS)),
    Case("flux-single", "FluxBackbone", NO_PAIRS, inputs(1, NO_PAIRS)),
]
