"""Run by the tests in a process of its own: decoders in KerasHub on TensorFlow, where queries that
see no key get zeros, and where no configured window is dropped.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.path.insert(0, str(Path(__file__).parents[1]))

import keras_hub
import numpy as np

from tests import oracle
from tests.cases import all_cases
from tests.cases.common import ids, padding
from tests.cases.llama import SMALL
from tests.cases.qwen3_5 import SMALL as SMALL3_5
from tests.cases.qwen3_moe import EXPERTS

# What KerasHub on PyTorch cannot compute, or cannot load again.
FURTHER = [
    ("llama-tied", "LlamaBackbone", {**SMALL, "tie_word_embeddings": True}),
    (
        "qwen-window",
        "QwenBackbone",
        {**SMALL, "use_sliding_window_attention": True, "sliding_window_size": 4},
    ),
    ("qwen3.5-window", "Qwen3_5Backbone", {**SMALL3_5, "sliding_window_size": 4}),
    ("qwen3-window", "Qwen3Backbone", {**SMALL, "head_dim": 8, "sliding_window_size": 4}),
    ("qwen3-moe-window", "Qwen3MoeBackbone", {**EXPERTS, "sliding_window_size": 4}),
]


def inputs(rng: np.random.Generator) -> oracle.Inputs:
    return {"token_ids": ids(rng, 6, 11, 30), "padding_mask": padding(rng, 6, 11)}


def with_positions(rng: np.random.Generator) -> oracle.Inputs:
    given = inputs(rng)
    assert isinstance(given, dict)
    return {**given, "position_ids": np.tile(np.arange(11, dtype="int32"), (6, 1))}


def decoders() -> list[oracle.Case]:
    """The first case of each decoder, and further ones."""
    cases = [
        case
        for case in reversed(all_cases())
        if hasattr(keras_hub.models, f"{case.cls.removesuffix('Backbone')}CausalLM")
        and set(case.make_inputs()) - {"position_ids"} == {"token_ids", "padding_mask"}
    ]
    firsts = {
        case.cls: replace(
            case, inputs=with_positions if "position_ids" in case.make_inputs() else inputs
        )
        for case in cases
    }
    return [*firsts.values(), *(oracle.Case(*further, inputs) for further in FURTHER)]


def main(folder: Path) -> None:
    for case in decoders():
        model = oracle.keras_model(case)
        model.save_weights(str(folder / f"{case.id}.weights.h5"))
        outputs = model(case.make_inputs(), training=False)
        np.save(folder / f"{case.id}.npy", outputs.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
