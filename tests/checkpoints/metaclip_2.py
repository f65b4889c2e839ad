from __future__ import annotations

from dataclasses import replace

import transformers

from ..cases.clip import texts
from ..cases.metaclip_2 import ended
from . import Checkpoint, Interface
from .clip import BOTH, CONFIG, GRAY, PIXELS, TEXT
from .clip import TEXT_CONFIG as CLIP_TEXT
from .vit import images

TEXT_CONFIG = {**CLIP_TEXT, "eos_token_id": 2}
TEXT = replace(TEXT, auto=transformers.MetaClip2TextModel)
# The norm of the pooled output is MetaCLIP2Backbone's.
VISION = Interface(
    {"images": "pixel_values"},
    {"output": ("last_hidden_state", None)},
    unmatched=("post_layernorm.weight", "post_layernorm.bias"),
    forms=PIXELS,
    auto=transformers.MetaClip2VisionModel,
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
