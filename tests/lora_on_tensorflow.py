"""Run by the tests in a process of its own: KerasHub on TensorFlow with LoRA on every layer
that takes it. It writes the files and a `cases.json`: case id → file, outputs, layers by index.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"  # else some CPUs have no channels-first convolution
    sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from tests import oracle
from tests.cases import all_cases


def indexed_cases() -> list[oracle.Case]:
    """The first case of each class with layers that may be counted in another order than they
    stand in the graph: all but plain encoders and decoders, and one of those each.
    """
    firsts = {case.cls: case for case in reversed(all_cases())}
    plain = ({"token_ids", "padding_mask"}, {"token_ids", "segment_ids", "padding_mask"})
    return [
        case
        for case in reversed(firsts.values())
        if case.cls in ("BertBackbone", "GemmaBackbone", "RWKV7Backbone")
        or not isinstance(inputs := case.make_inputs(), dict)
        or set(inputs) not in plain
    ]


def main(folder: Path) -> None:
    results = {}
    for case in indexed_cases():
        model = oracle.keras_model(case)
        flat = [layer for layer in model._flatten_layers(include_self=False) if layer.weights]
        targets = {
            layer.name
            for layer in flat
            if type(layer).__name__ in ("Dense", "EinsumDense", "Conv1D", "Conv2D")
        }
        model.enable_lora(2, target_layer_names=list(targets))
        for weight in model.weights:
            if "lora_kernel" in weight.path:
                weight.assign(case.rng.standard_normal(weight.shape).astype("float32") * 0.3)
        file = folder / f"{case.id}.lora.h5"
        model.save_lora_weights(str(file))
        outputs = oracle.flat(oracle.called(model, case.make_inputs()))
        np.savez(
            folder / f"{case.id}.npz", **{name: value.numpy() for name, value in outputs.items()}
        )
        results[case.id] = {
            "file": str(file),
            "outputs": str(folder / f"{case.id}.npz"),
            "count": len(flat),
            "names": {str(i): layer.name for i, layer in enumerate(flat) if layer.name in targets},
        }
    (folder / "cases.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
