"""What users get from a package index: the wheel in an environment of its own, and the sdist."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path

import numpy as np
import pytest

import keras_hub_torch
from keras_hub_torch import models

from .conftest import Reference
from .make_stubs import STUB, stub

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
BUILD = """
import sys
from setuptools.build_meta import build_sdist, build_wheel
print({"sdist": build_sdist, "wheel": build_wheel}[sys.argv[1]](sys.argv[2]))
"""
# Run by the environment of its own.
USE = """
import json, sys
import numpy as np
import keras_hub_torch
from keras_hub_torch import generate, models, samplers, upload_preset
from keras_hub_torch.models import Backbone, BertBackbone

folder, outputs = sys.argv[1:]
inputs = dict(np.load(f"{folder}/inputs.npz"))
np.savez(outputs, **{k: v.detach() for k, v in Backbone.from_preset(folder)(inputs).items()})
print(json.dumps({
    "file": keras_hub_torch.__file__,
    "names": dir(keras_hub_torch),
    "classes": [name for name in dir(models) if isinstance(getattr(models, name), type)],
    "presets": sorted(BertBackbone.presets),
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a program prints, run without this checkout's paths."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    shutil.copytree(ROOT, folder / "checkout", ignore=LEFT_OUT)
    run(sys.executable, "-c", BUILD, "sdist", folder, cwd=folder / "checkout")
    [archive] = folder.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def python(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel that the sdist gives.

    It sees this environment's packages, but not what these install by `.pth` files: an editable
    install of the checkout.
    """
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-c", BUILD, "wheel", folder, cwd=sdist)
    [wheel] = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", wheel, cwd=folder)
    [site_packages] = (folder / "venv").glob("lib/*/site-packages")
    here = [path for path in sys.path if Path(path).name == "site-packages"]
    (site_packages / "packages_of_the_tests.pth").write_text("\n".join(here))
    return python


def test_the_installed_wheel(python: Path, bert: Reference, tmp_path: Path) -> None:
    preset = tmp_path / "preset"
    backbone = bert.load()
    backbone.save_to_preset(preset)
    np.savez(preset / "inputs.npz", **bert.inputs)
    seen = json.loads(run(python, "-c", USE, preset, tmp_path / "outputs.npz", cwd=tmp_path))
    assert Path(seen["file"]).is_relative_to(python.parents[1])
    assert seen["names"] == keras_hub_torch.__all__
    assert seen["classes"] == dir(models)
    assert seen["presets"] == sorted(models.BertBackbone.presets)
    outputs = np.load(tmp_path / "outputs.npz")
    for name, expected in backbone(bert.inputs).items():
        np.testing.assert_array_equal(outputs[name], expected.detach())


def test_the_installed_command(python: Path, tmp_path: Path) -> None:
    listed = run(python.with_name("keras-hub-torch"), "list", cwd=tmp_path)
    assert "bert_tiny_en_uncased" in listed


def test_the_sdist_has_what_its_tests_need(python: Path, sdist: Path) -> None:
    here = {
        path.relative_to(ROOT)
        for folder in ("tests", "benchmarks", "examples")
        for path in ROOT.glob(f"{folder}/**/*.*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    here |= {Path(name) for name in ("Makefile", "constraints.txt", "README.md", "LICENSE")}
    assert not {str(path) for path in here if not (sdist / path).is_file()}
    tested = run(
        python, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_readme.py", cwd=sdist
    )
    assert " passed" in tested


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_types_of_what_users_write(checker: str, python: Path, tmp_path: Path) -> None:
    """Against the wheel; what they get wrong is found as well."""
    shutil.copy(ROOT / "tests" / "typing" / "user.py", tmp_path)
    if checker == "mypy":
        run(python, "-m", "mypy", "--strict", "user.py", cwd=tmp_path)
        return
    config = {
        "typeCheckingMode": "standard",  # that of pyright itself
        "reportUnnecessaryTypeIgnoreComment": "error",
        "include": ["user.py"],
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(config))
    run(python, "-m", "basedpyright", "--pythonpath", python, cwd=tmp_path)


def test_the_stub_is_up_to_date() -> None:
    assert STUB.read_text(encoding="utf-8") == stub(), "run `python -m tests.make_stubs`"
