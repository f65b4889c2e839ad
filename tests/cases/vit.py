from __future__ import annotations

from typing import Any

from ..oracle import Case


def images(*shape: int) -> Any:
    return lambda rng: rng.uniform(0, 1, shape).astype("float32")


def config(*image_shape: int, **others: Any) -> dict[str, Any]:
    return {
        "image_shape": image_shape,
        "patch_size": 4,
        "num_layers": 2,
        "num_heads": 3,
        "hidden_dim": 12,
        "mlp_dim": 20,
        **others,
    }


def preset(side: int, patch: int, layers: int, heads: int, dim: int) -> dict[str, Any]:
    return {
        "image_shape": (side, side, 3),
        "patch_size": (patch, patch),
        "num_layers": layers,
        "num_heads": heads,
        "hidden_dim": dim,
        "mlp_dim": 4 * dim,
    }


SIZES = {"base": (12, 12, 768), "large": (24, 16, 1024), "huge": (32, 16, 1280)}
PRESETS = {
    name: preset(int(side), int(patch[5:]), *SIZES[size])
    for name in (
        "vit_base_patch16_224_imagenet",
        "vit_base_patch16_384_imagenet",
        "vit_large_patch16_224_imagenet",
        "vit_large_patch16_384_imagenet",
        "vit_base_patch32_384_imagenet",
        "vit_large_patch32_384_imagenet",
        "vit_base_patch16_224_imagenet21k",
        "vit_base_patch32_224_imagenet21k",
        "vit_huge_patch14_224_imagenet21k",
        "vit_large_patch16_224_imagenet21k",
        "vit_large_patch32_224_imagenet21k",
    )
    for _, size, patch, side, _ in (name.split("_"),)
}
CASES = [
    Case("vit", "ViTBackbone", config(8, 12, 3), images(2, 8, 12, 3)),
    Case(
        "vit-without",
        "ViTBackbone",
        config(
            10,
            6,
            1,
            patch_size=(5, 2),
            num_heads=5,
            attention_dropout=0.1,
            dropout_rate=0.2,
            layer_norm_epsilon=1e-3,
            use_mha_bias=False,
            use_mlp_bias=False,
            use_class_token=False,
            use_patch_bias=False,
        ),
        images(1, 10, 6, 1),
    ),
    Case(
        "vit-channels-first",
        "ViTBackbone",
        config(5, 12, 8, data_format="channels_first", num_layers=1, attention_dropout=0.3),
        images(3, 5, 12, 8),
    ),
]
