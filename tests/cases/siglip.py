from __future__ import annotations

from typing import Any

from ..oracle import Case
from .clip import both, texts, tower, vision
from .clip import text as clip_text
from .vit import images

LENGTH = 9  # KerasHub takes but the longest texts


def text(dim: int = 12, **others: Any) -> dict[str, Any]:
    return clip_text(dim, **{"max_sequence_length": LENGTH, **others})


def config(seen: dict[str, Any], read: dict[str, Any]) -> dict[str, Any]:
    return {
        "vision_encoder": tower("siglip", "SigLIPVisionEncoder", "vision", **seen),
        "text_encoder": tower("siglip", "SigLIPTextEncoder", "text", **read),
    }


# Width, blocks, heads and inner width.
SIZES = {
    "base": (768, 12, 12, 3072),
    "large": (1024, 24, 16, 4096),
    "so400m": (1152, 27, 16, 4304),
    "giant": (1536, 40, 16, 6144),
}


def preset(size: str, patch: int, side: int, vocabulary: int, longest: int = 64) -> dict[str, Any]:
    seen, read = (
        dict(zip(("hidden_dim", "num_layers", "num_heads", "intermediate_dim"), SIZES[one]))
        for one in (size, "so400m" if size == "giant" else size)
    )
    return config(
        {**seen, "patch_size": patch, "image_shape": [side, side, 3]},
        {
            **read,
            "vocabulary_size": vocabulary,
            "embedding_dim": read["hidden_dim"],
            "max_sequence_length": longest,
            "projection_dim": seen["hidden_dim"],
        },
    )


PRESETS = {
    **{
        f"siglip_{size}_patch{patch}_{side}": preset(size, patch, side, 32000, longest)
        for size, patch, side, longest in (
            ("base", 16, 224, 64),
            ("base", 16, 256, 64),
            ("base", 16, 384, 64),
            ("base", 16, 512, 64),
            ("large", 16, 256, 64),
            ("large", 16, 384, 64),
            ("so400m", 14, 224, 16),
            ("so400m", 14, 384, 64),
        )
    },
    "siglip_so400m_patch16_256_i18n": preset("so400m", 16, 256, 250000),
    "siglip_base_patch16_256_multilingual": preset("base", 16, 256, 250000),
    **{
        f"siglip2_{size}_patch{patch}_{side}": preset(size.partition("_")[0], patch, side, 256000)
        for size, patch, side in (
            ("base", 16, 224),
            ("base", 16, 256),
            ("base", 32, 256),
            ("base", 16, 384),
            ("large", 16, 256),
            ("large", 16, 384),
            ("large", 16, 512),
            ("giant_opt", 16, 256),
            ("giant_opt", 16, 384),
            ("so400m", 14, 224),
            ("so400m", 14, 384),
            ("so400m", 16, 256),
            ("so400m", 16, 384),
            ("so400m", 16, 512),
        )
    },
    "medsiglip_900m_448": preset("so400m", 14, 448, 32000),
}
# One has the number of another preset, one leaves out the numbers of positions.
MISCOUNTED = {
    "siglip2_base_patch16_384": 376_856_194 - 375_480_450,
    "siglip2_so400m_patch16_512": -(32 * 32 + 64),
}
EXACT = {"intermediate_activation": "gelu", "layer_norm_epsilon": 1e-3}
CASES = [
    Case(
        "siglip",
        "SigLIPBackbone",
        config(vision((8, 8, 3)), text(num_layers=1)),
        both((4, 8, 8, 3), 6, LENGTH),
    ),
    Case(
        "siglip-named",
        "SigLIPBackbone",
        config(
            vision((11, 11, 1), num_layers=1, name="sight", **EXACT),
            text(15, num_heads=3, projection_dim=12, name="reading", **EXACT),
        ),
        both((1, 11, 11, 1), 3, 1),
    ),
    Case(
        "siglip-vision", "SigLIPVisionEncoder", vision((8, 8, 3), num_layers=1), images(2, 8, 8, 3)
    ),
    Case(
        "siglip-vision-channels-first",
        "SigLIPVisionEncoder",
        vision((5, 9, 9), data_format="channels_first", name="sight", **EXACT),
        images(1, 5, 9, 9),
    ),
    Case("siglip-text", "SigLIPTextEncoder", text(num_layers=1), texts(3, LENGTH)),
    Case(
        "siglip-text-projected",
        "SigLIPTextEncoder",
        text(10, num_heads=5, projection_dim=7, name="reading", **EXACT),
        texts(2, LENGTH),
    ),
]
