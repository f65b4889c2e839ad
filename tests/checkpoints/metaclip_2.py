from __future__ import annotations

from dataclasses import replace

from ..cases.clip import texts
from ..cases.metaclip_2 import ended
from . import Checkpoint
from .clip import BOTH, CONFIG, GRAY, TEXT
from .clip import TEXT_CONFIG as CLIP_TEXT
from .clip import VISION as CLIP_VISION
from .vit import images

TEXT_CONFIG = {**CLIP_TEXT, "eos_token_id": 2}
# The norm of the pooled output is MetaCLIP2Backbone's.
VISION = replace(
    CLIP_VISION,
    outputs={"output": ("last_hidden_state", None)},
    pooled=(),
    unmatched=("post_layernorm.weight", "post_layernorm.bias"),
)
CHECKPOINTS = [
    Checkpoint(
        "metaclip2",
        "MetaClip2Model",
        "MetaCLIP2Backbone",
        {**CONFIG, "text_config": TEXT_CONFIG},
        BOTH,
        ended((3, 8, 8, 3), 5, 9),
    ),
    Checkpoint(
        "metaclip2-text",
        "MetaClip2TextModel",
        "MetaCLIP2TextEncoder",
        {**TEXT_CONFIG, "hidden_act": "gelu"},
        TEXT,
        texts(3, 7),
        in_keras_hub=False,
    ),
    Checkpoint(
        "metaclip2-vision",
        "MetaClip2VisionModel",
        "MetaCLIP2VisionEncoder",
        GRAY,
        VISION,
        images(2, 11, 11, 1),
        in_keras_hub=False,
    ),
]
INEXPRESSIBLE = {
    "metaclip2-vision-index": "intermediate_output_index is 1",
    "metaclip2-text-index": "intermediate_output_index is 1",
}
REFUSED = [("metaclip2", {"text_config": CLIP_TEXT}, "eos_token_id is 22; only 2")]
