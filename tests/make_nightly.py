"""Write `tests/fixtures/nightly`, with a later KerasHub than the tests have: what it makes of the
cases of `tests/nightly`, a zip file for each.

    pip install --no-deps --target NIGHTLY keras-hub-nightly==0.33.0.dev202610250352
    PYTHONPATH=NIGHTLY python tests/make_nightly.py [CASE ...]

A file holds

    preset/                 the model
    arrays.npz              `inputs/`, `outputs/`, `errors/<policy>/`: mean squares, of Keras;
                            `lora/<backend>/`: outputs with that adapter
    gradients.weights.h5    in the place of weights
    initial.weights.h5      of a model just built
    <backend>.lora.h5       LoRA on every layer that takes it
    layers.json             backend → the names of layers as LoRA counts them
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ["KERAS_BACKEND"] = "tensorflow" if "--tensorflow" in sys.argv else "torch"

import keras
import numpy as np
import torch

from tests import oracle
from tests.nightly import FIXTURES, nightly_cases

POLICIES = ("bfloat16", "mixed_bfloat16")
RANK = 2
Arrays = dict[str, np.ndarray]


def computed(case: oracle.Case, folder: Path) -> Arrays:
    """Files of a case with Keras on PyTorch, and its arrays."""
    inputs = case.make_inputs()
    model = oracle.keras_model(case)
    model.save_to_preset(str(folder / "preset"))
    outputs = oracle.keras_outputs(model, inputs)
    found = {f"inputs/{name}": value for name, value in oracle.flat(inputs).items()}
    found |= {f"outputs/{name}": value for name, value in outputs.items()}
    for policy in POLICIES:
        known = policy if case.mixed else policy.removeprefix("mixed_")
        rounded = oracle.keras_model(case, dtype=known)
        for drawn in oracle.draws(case, outputs):
            exact = oracle.keras_outputs(model, drawn)
            for name, value in oracle.keras_outputs(rounded, drawn).items():
                key = f"errors/{policy}/{name}"
                found[key] = found.get(key, 0.0) + np.square(value - exact[name]).mean()

    trained = oracle.keras_model(case, trainable=True)
    rng = case.rng
    given = oracle.flat(trained(inputs, training=False))
    outer = {k: rng.standard_normal(value.shape).astype("float32") for k, value in outputs.items()}
    sum((given[k] * torch.from_numpy(value)).sum() for k, value in outer.items()).backward()
    oracle.save_gradients(trained, folder / "gradients.weights.h5")

    keras.utils.set_random_seed(0)
    keras.utils.clear_session()
    type(model)(**case.keras_config).save_weights(str(folder / "initial.weights.h5"))
    return found


def adapted(case: oracle.Case, folder: Path) -> tuple[Arrays, list[str]]:
    """The file of an adapter with this backend, outputs, and the names of layers."""
    backend = keras.backend.backend()
    model = oracle.keras_model(case)
    flat = [layer for layer in model._flatten_layers(include_self=False) if layer.weights]
    kinds = ("Dense", "EinsumDense", "Conv1D", "Conv2D")
    targets = {layer.name for layer in flat if type(layer).__name__ in kinds}
    model.enable_lora(RANK, target_layer_names=sorted(targets))
    for weight in model.weights:
        if "lora_kernel" in weight.path:
            weight.assign(case.rng.standard_normal(weight.shape).astype("float32") * 0.3)
    model.save_lora_weights(str(folder / f"{backend}.lora.h5"))
    outputs = oracle.flat(model(case.make_inputs(), training=False))
    return {
        f"lora/{backend}/{name}": keras.ops.convert_to_numpy(value)
        for name, value in outputs.items()
    }, [layer.name for layer in flat]


def adapted_to(case: oracle.Case, folder: Path) -> None:
    """The part of Keras's other backend, in a process of its own."""
    found, names = adapted(case, folder)
    np.savez(folder / "found.npz", **found)  # type: ignore[arg-type]
    (folder / "names.json").write_text(json.dumps(names))


def write(case: oracle.Case) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, other = Path(name) / "case", Path(name) / "other"
        folder.mkdir()
        other.mkdir()
        arrays = computed(case, folder)
        found, names = adapted(case, folder)
        layers = {"torch": names}
        subprocess.run([sys.executable, __file__, "--tensorflow", case.id, str(other)], check=True)
        (other / "tensorflow.lora.h5").rename(folder / "tensorflow.lora.h5")
        layers["tensorflow"] = json.loads((other / "names.json").read_text())
        arrays |= found | dict(np.load(other / "found.npz"))
        np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
        (folder / "layers.json").write_text(json.dumps(layers))
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
            for path in sorted(folder.rglob("*")):
                if path.is_file():
                    # The same bytes whenever it is run.
                    info = zipfile.ZipInfo(str(path.relative_to(folder)))
                    info.compress_type = zipfile.ZIP_DEFLATED
                    file.writestr(info, path.read_bytes())
        (FIXTURES / f"{case.id}.zip").write_bytes(archive.getvalue())
        print(f"{case.id}: {len(archive.getvalue()) / 1000:.0f} kB")


def main(arguments: list[str]) -> None:
    cases: dict[str, Any] = {case.id: case for case in nightly_cases()}
    if arguments[:1] == ["--tensorflow"]:
        adapted_to(cases[arguments[1]], Path(arguments[2]))
        return
    for name in arguments or cases:
        write(cases[name])


if __name__ == "__main__":
    main(sys.argv[1:])
