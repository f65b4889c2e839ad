"""The command line."""

from __future__ import annotations

import functools
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch
import typer
from typer.testing import CliRunner

from keras_hub_torch import __version__, cli, generate
from keras_hub_torch.backbones._registry import find_class
from keras_hub_torch.backbones.layers.dtypes import FLOATS
from keras_hub_torch.cli._app import printable
from keras_hub_torch.cli.catalog import _short
from keras_hub_torch.models import Backbone, GPT2Backbone
from keras_hub_torch.presets import builtin, sources, verifying
from keras_hub_torch.presets.keras import h5

from . import oracle
from .conftest import Reference
from .hub_server import HubServer, Repository

COMMANDS = (
    "list",
    "info",
    "verify",
    "convert",
    "download",
    "tokenize",
    "embed",
    "generate",
    "adapter",
)
EXAMPLES = (*COMMANDS[:-1], "adapter merge", "adapter convert")


def run(*args: Any, columns: int | None = None) -> Any:
    """The result of a command: `exit_code`, `stdout`, `stderr`, `exception`."""
    environment = {"COLUMNS": str(columns) if columns else None}
    return CliRunner().invoke(cli.app, list(map(str, args)), env=environment)


def succeed(*args: Any, **options: Any) -> str:
    result = run(*args, **options)
    assert result.exit_code == 0, result.stderr
    return str(result.stdout)


def fail(*args: Any, code: int = 1) -> str:
    """What a command that fails says on stderr."""
    result = run(*args)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    return str(result.stderr)


def fail_in_one_line(*args: Any) -> str:
    message = fail(*args)
    assert re.fullmatch(r"error: .+\n", message), message
    return message


def process(*args: Any, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "keras_hub_torch", *map(str, args)],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


def state(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    return {name: tensor.to(dtype) for name, tensor in model.state_dict().items()}


def assert_equal_states(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


@pytest.fixture
def preset(bert: Reference, tmp_path: Path) -> Path:
    """A preset saved by KerasHub, to be spoilt."""
    return Path(shutil.copytree(bert.preset, tmp_path / "preset"))


# Help, and what is the same for all commands.


@pytest.mark.parametrize("command", EXAMPLES)
def test_help_has_an_example_that_parses(command: str) -> None:
    text = succeed(*command.split(), "--help", columns=200)
    example = re.search(r"Example: keras-hub-torch (.*?) *\n", text)
    assert example
    args = shlex.split(example[1])
    found: Any = typer.main.get_command(cli.app)
    for name in command.split():
        assert args.pop(0) == name
        found = found.commands[name]
    context = found.make_context(command, args)
    preset = context.params.get("preset") or context.params.get("src")
    if preset and not preset.startswith("."):
        assert builtin.handle_of(preset)


def test_help_is_quick() -> None:
    """It imports nothing large."""
    running = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "keras_hub_torch", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(re.findall(r"\| +([\w.]+)$", running.stderr, re.M))
    assert "keras_hub_torch.cli" in imported
    assert not imported & {"torch", "numpy", "h5py", "huggingface_hub", "kagglehub", "safetensors"}
    for command in COMMANDS:
        assert re.search(rf"^│ {command} ", running.stdout, re.M)


@pytest.mark.parametrize("args", [["list", "--json"], ["--version"]])
def test_commands_without_torch(args: list[str]) -> None:
    """They take a quarter of a second."""
    code = (
        "import sys; from keras_hub_torch.cli import app; app(sys.argv[1:], standalone_mode=False);"
        "print({'torch', 'numpy', 'keras_hub_torch.models'} & set(sys.modules))"
    )
    running = [sys.executable, "-c", code, *args]
    said = subprocess.run(running, capture_output=True, text=True, check=True).stdout
    assert said.endswith("\nset()\n")


def complete(typed: str, shell: str = "bash") -> list[str]:
    """What a shell is told to offer."""
    variables = {
        "_KERAS_HUB_TORCH_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": f"keras-hub-torch {typed}",
        "COMP_CWORD": str(len(typed.split(" "))),
        "_TYPER_COMPLETE_ARGS": f"keras-hub-torch {typed}",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    running = process(env={**os.environ, **variables})
    output, errors = running.communicate(timeout=60)
    assert errors == b""
    return output.decode().split()


def test_completion() -> None:
    assert complete("in") == ["info"]
    assert complete("info bert_ti") == ["bert_tiny_en_uncased", "bert_tiny_en_uncased_sst2"]
    assert complete("info ./") == []  # paths are the shell's
    assert complete("adapter merge bge_large_z") == ["bge_large_zh"]
    assert complete("list --family gpt") == ["gpt2", "gpt_oss"]
    assert complete("convert a b --format ti") == ["timm"]
    assert complete("info bge_large_z", "fish") == ["bge_large_zh"]


def test_completion_is_installed(tmp_path: Path) -> None:
    # Without it the shell is that of the parent process.
    variables = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1", "HOME": str(tmp_path)}
    running = process("--install-completion", "bash", env={**os.environ, **variables})
    running.communicate(timeout=60)
    assert running.returncode == 0
    assert (tmp_path / ".bashrc").is_file()
    assert "_KERAS_HUB_TORCH_COMPLETE=" in "".join(
        path.read_text() for path in tmp_path.rglob("*") if path.is_file()
    )


def test_version() -> None:
    assert succeed("--version") == f"keras_hub_torch {__version__}\n"


@pytest.mark.parametrize(
    "args",
    [
        ["nonsense"],
        ["info"],
        ["info", "a", "b"],
        ["verify", "a", "--nonsense"],
        ["convert", "a", "b"],
        ["convert", "a", "b", "--format", "pickle"],
        ["convert", "a", "b", "--format", "keras", "--dtype", "int3"],
        ["convert", "a", "b", "--format", "transformers", "--max-shard-size", "1"],
        ["convert", "a", "b", "--format", "transformers", "--dtype", "mixed_bfloat16"],
        ["generate", "a"],
        ["generate", "a", "--ids", "the"],
        ["generate", "a", "--ids", ""],
        ["generate", "a", "--ids", "1,-2"],
        ["generate", "a", "--ids", "1", "--max-new-tokens", "0"],
        ["adapter", "merge", "a"],
        ["list", "--family", "brt"],
    ],
)
def test_usage_errors(args: list[str]) -> None:
    assert "Usage: " in fail(*args, code=2)


@pytest.mark.parametrize("command", ["info", "verify", "download"])
def test_unknown_presets(command: str, tmp_path: Path) -> None:
    assert "'bert_tiny_en_uncased'" in fail_in_one_line(command, "bert_tiny_en_uncase")
    assert "Unknown scheme" in fail_in_one_line(command, "s3://bucket/bert")
    if command != "download":
        assert "no file 'config.json'" in fail_in_one_line(command, tmp_path)


def test_traceback_only_with_debug() -> None:
    for args in (["--debug", "info", "nonsense"], ["info", "nonsense", "--debug"]):
        result = run(*args)
        assert result.exit_code == 1
        assert result.stderr == ""
        assert isinstance(result.exception, ValueError)
    running = process("download", "nonsense", "--debug")
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert errors.startswith(b"Traceback")
    assert b"\nValueError: Unknown preset 'nonsense'" in errors


def test_mistakes_of_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(preset: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sources, "open_preset", broken)
    result = run("download", "bert_tiny_en_uncased")
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


def test_long_messages_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(preset: str) -> None:
        raise OSError("File x fails:\n  first\n  second\n\x1b[31mthird")

    monkeypatch.setattr(sources, "open_preset", broken)
    monkeypatch.setattr(verifying, "open_preset", broken)
    message = fail_in_one_line("download", "x")
    assert message == "error: File x fails: first … and 2 more lines (--debug shows them)\n"
    assert fail("verify", "x") == "error: File x fails:\n  first\n  second\n\\x1b[31mthird\n"


@pytest.mark.filterwarnings("default")
def test_warnings_are_one_line(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(preset: str) -> Any:
        warnings.warn("Keys that\n are not known.", stacklevel=1)
        return opened(preset)

    opened = sources.open_preset
    monkeypatch.setattr(sources, "open_preset", warn)
    result = run("download", preset)
    assert result.exit_code == 0
    assert result.stderr == "warning: Keys that are not known.\n"


def test_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(preset: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "open_preset", interrupted)
    assert fail("download", "x", code=130) == ""


def test_interrupted_download(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)}
        # A job in the background hands down that interrupts are ignored.
        heed = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        running = process("download", "hf://org/bert", env=environment, preexec_fn=heed)
        connection, _ = silent.accept()
        connection.recv(1)
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=60) == (b"", b"")
        connection.close()
    assert running.returncode == 130


def test_a_reader_may_leave() -> None:
    running = process("list")
    assert running.stdout
    assert running.stderr
    running.stdout.close()
    assert running.wait(60) == 1
    assert running.stderr.read() == b""
    running.stderr.close()


# list


def test_list_as_json() -> None:
    presets = json.loads(succeed("list", "--json"))
    assert {preset["id"] for preset in presets} == builtin.presets_of().keys()
    for preset in presets:
        facts = builtin.presets_of([preset["class"]])[preset["id"]]
        assert preset["handle"] == facts["kaggle_handle"]
        assert preset["parameters"] == facts["metadata"]["params"]
        assert preset["available"] == (find_class(preset["class"], Backbone) is not None)
    assert {preset["class"]: preset["family"] for preset in presets}["T5Backbone"] == "t5"


def test_list_filters() -> None:
    def ids(*args: str) -> list[str]:
        return [preset["id"] for preset in json.loads(succeed("list", *args, "--json"))]

    assert ids("BERT_Tiny") == ["bert_tiny_en_uncased", "bert_tiny_en_uncased_sst2"]
    assert set(ids("--family", "bert")) == builtin.presets_of(["BertBackbone"]).keys()
    assert set(ids("gpt2backbone")) == builtin.presets_of(["GPT2Backbone"]).keys()
    assert ids("_large_z", "--family", "bert") == ["bge_large_zh"]
    message = fail_in_one_line("list", "bert_tiny_en_uncase_")
    assert "No built-in preset matches 'bert_tiny_en_uncase_'" in message
    assert "Did you mean bert_tiny_en_uncased?" in message
    assert "Did you mean bert?" in fail("list", "--family", "brt", code=2)


def test_list_for_people() -> None:
    handle = "kaggle://keras/bert/keras/bert_tiny_en_uncased/3"
    piped = succeed("list", "bert_tiny")
    assert re.search(rf"^  bert_tiny_en_uncased +4\.4M  {handle}$", piped, re.M)
    narrow = succeed("list", columns=80).splitlines()
    assert max(map(len, narrow)) <= 81
    place = next(i for i, line in enumerate(narrow) if "bert_tiny_en_uncased " in line)
    assert narrow[place + 1].strip() == handle
    assert succeed("list", columns=140).count("\n") < succeed("list", columns=80).count("\n")


def test_list_marks_what_is_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builtin, "available", frozenset)
    assert succeed("list", "bert_tiny").startswith("BertBackbone  not in this version yet\n")
    assert not any(preset["available"] for preset in json.loads(succeed("list", "--json")))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (999, "999"),
        (1000, "1.0K"),
        (999_949, "999.9K"),
        (999_951, "1.0M"),
        (109_482_240, "109.5M"),
        (1_041_000_000_000, "1041.0B"),
    ],
)
def test_short_numbers(number: int, text: str) -> None:
    assert _short(number) == text


# info


def test_info_as_json(bert: Reference) -> None:
    shown = json.loads(succeed("info", bert.preset, "--json"))
    assert shown["class"] == "BertBackbone"
    assert shown["parameters"] == shown["trainable_parameters"] == bert.model.count_params()
    assert shown["bytes"] == 4 * shown["parameters"]
    assert shown["dtype"] == shown["saved_dtype"] == "float32"
    assert shown["config"]["vocabulary_size"] == 37
    assert shown["files"] == {
        name: (bert.preset / name).stat().st_size
        for name in ("config.json", "metadata.json", "model.weights.h5")
    }
    embedding, *_, pooled = shown["layers"]
    assert embedding["name"] == "token_embedding"
    assert embedding["weights"] == {"weight": [37, 12]}
    assert pooled == {
        "name": "pooled_dense",
        "class": "Dense",
        "weights": {"weight": [12, 12], "bias": [12]},
        "parameters": 156,
        "layers": [],
    }


@pytest.mark.parametrize("columns", [80, 120])
def test_info_for_people(preset: Path, columns: int) -> None:
    (preset / "odd\x1b[31m.txt").write_text("")
    Path(preset, ".hidden").write_text("")
    text = succeed("info", preset, columns=columns)
    assert max(map(len, text.splitlines())) <= columns
    text = re.sub(r" +", " ", text)
    for expected in (
        "Class BertBackbone",
        "Saved dtype float32",
        " model.weights.h5 ",
        " vocabulary_size = 37",
        "odd\\x1b[31m.txt",
        "transformer_layer_0…1",
        "query EinsumDense 12×2×6 + 2×6",
    ):
        assert expected in text
    assert ".hidden" not in text
    assert "\x1b" not in text


def test_info_of_what_is_no_backbone(preset: Path) -> None:
    (preset / "config.json").write_text('{"class_name": "Tokenizer"}')
    assert "no preset of a backbone" in fail_in_one_line("info", preset)
    (preset / "config.json").write_text('{"config": [], "class_name"')
    assert "no valid JSON" in fail_in_one_line("info", preset)


@pytest.mark.parametrize("change", [{"num_heads": 0}, {"hidden_dim": -4}, {"num_layers": None}])
@pytest.mark.parametrize("command", ["info", "verify"])
def test_configurations_of_no_model(preset: Path, change: dict[str, Any], command: str) -> None:
    config = json.loads((preset / "config.json").read_text())
    config["config"] |= change
    (preset / "config.json").write_text(json.dumps(config))
    fail_in_one_line(command, preset)


# verify


@pytest.fixture(params=["keras", "shards", "safetensors"])
def saved(request: pytest.FixtureRequest, bert: Reference, tmp_path: Path) -> Path:
    """The same weights in each kind of file."""
    folder = tmp_path / request.param
    if request.param == "shards":
        bert.load().save_to_preset(folder, max_shard_size=6000 / 2**30)
    else:
        bert.load().save_to_preset(folder, format=request.param)
    return folder


def test_verify(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(dataset: Any) -> None:
        pytest.fail("data were read")

    monkeypatch.setattr(h5.Dataset, "read", read)
    lines = succeed("verify", saved).splitlines()
    assert lines[0] == "config.json: BertBackbone with 39 weights, 3,220 parameters"
    files = {line.split(":")[0]: line for line in lines[1:-1]}
    assert files.keys() == {
        file.name for file in saved.iterdir() if file.suffix in (".h5", ".safetensors")
    }
    assert len(files) == 3 if saved.name == "shards" else 1
    assert sum(int(re.findall(r": (\d+) tensors?,", line)[0]) for line in files.values()) == 39
    assert lines[-1] == "All weights are accounted for, each once and in its shape."


def test_verify_lists_all_offenders(preset: Path) -> None:
    with h5py.File(preset / "model.weights.h5", "r+") as file:
        embedding = file["layers/reversible_embedding/vars"]
        del embedding["0"]
        embedding["1"] = [1.0]
        dense = file["layers/dense/vars"]
        del dense["1"]
        dense["1"] = [1.0, 2.0]
        file["layers/\x1b[31m"] = 1.0
    message = fail("verify", preset)
    assert message.startswith(f"error: {preset / 'model.weights.h5'} does not fit the model")
    assert [line.strip() for line in message.splitlines()[1:]] == [
        "missing: layers/reversible_embedding/vars/0 (37, 12) for token_embedding.weight",
        "shape: layers/dense/vars/1 is (2,), the model's pooled_dense.bias (12,)",
        *sorted(
            [
                "superfluous: layers/reversible_embedding/vars/1",
                "superfluous: layers/\\x1b[31m",
            ],
            key=lambda line: message.index(line),
        ),
    ]
    for command in (["convert", preset, preset / "new", "--format", "keras"],):
        assert "(4 problems); ignore=" in fail_in_one_line(*command)
    assert not (preset / "new").exists()


def test_verify_lists_all_offenders_in_safetensors(bert: Reference, preset: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: tensor.contiguous() for name, tensor in bert.load().state_dict().items()}
    tensors["more"] = tensors.pop("token_embedding.weight")
    tensors["pooled_dense.bias"] = torch.zeros(2)
    (preset / "model.weights.h5").unlink()
    save_file(tensors, preset / "model.safetensors")
    assert [line.strip() for line in fail("verify", preset).splitlines()[1:]] == [
        "missing: token_embedding.weight",
        "superfluous: more",
        "shape: pooled_dense.bias is (2,), the model's (12,)",
    ]


def test_verify_refuses_broken_files(saved: Path) -> None:
    file = next(file for file in sorted(saved.iterdir()) if file.suffix in (".h5", ".safetensors"))
    whole = file.read_bytes()
    for size in (0, 100, len(whole) - 1000):
        file.write_bytes(whole[:size])
        assert file.name in fail_in_one_line("verify", saved)
    file.unlink()
    fail_in_one_line("verify", saved)


# convert


@pytest.mark.parametrize("form", ["keras", "safetensors"])
def test_convert(bert: Reference, tmp_path: Path, form: str) -> None:
    said = succeed("convert", bert.preset, tmp_path / "new", "--format", form)
    assert said.startswith(f"{tmp_path / 'new'}: BertBackbone, 3,220 parameters")
    modes = {file.stat().st_mode for file in (tmp_path / "new").iterdir()}
    assert len(modes) == 1
    back = Backbone.from_preset(tmp_path / "new")
    assert_equal_states(state(back), state(bert.load()))
    succeed("verify", tmp_path / "new")
    if form == "keras":
        theirs = oracle.keras_hub.models.Backbone.from_preset(str(tmp_path / "new"))
        oracle.assert_close(back(bert.tensors), oracle.keras_outputs(theirs, bert.inputs))


def test_convert_to_shards(bert: Reference, tmp_path: Path) -> None:
    size = 6000 / 2**30
    succeed("convert", bert.preset, tmp_path, "--format", "keras", "--max-shard-size", size)
    assert len(list(tmp_path.glob("model_*.weights.h5"))) == 3
    assert_equal_states(state(Backbone.from_preset(tmp_path)), state(bert.load()))
    target = tmp_path / "none"
    args = ("convert", bert.preset, target, "--format", "keras", "--max-shard-size", 0)
    assert "more than max_shard_size" in fail_in_one_line(*args)
    assert not target.exists()


def test_convert_keeps_the_data_type(bert: Reference, tmp_path: Path) -> None:
    """That of the preset, until another one is asked for."""

    def convert(source: Path, target: str, *options: str) -> Any:
        said = succeed("convert", source, tmp_path / target, "--format", "keras", *options)
        assert json.loads(succeed("info", tmp_path / target, "--json"))["saved_dtype"] in said
        with h5py.File(tmp_path / target / "model.weights.h5") as file:
            return file["layers/dense/vars/0"].dtype.str

    assert convert(bert.preset, "same") == "<f4"
    assert convert(bert.preset, "half", "--dtype", "float16") == "<f2"
    assert convert(tmp_path / "half", "still", "--dtype", "float16") == "<f2"
    assert convert(tmp_path / "half", "kept") == "<f2"
    assert convert(tmp_path / "half", "mixed", "--dtype", "mixed_bfloat16") == "<f4"
    assert convert(tmp_path / "mixed", "mixed2") == "<f4"
    assert convert(tmp_path / "mixed", "brain", "--dtype", "bfloat16") == "|V2"
    half = Backbone.from_preset(tmp_path / "kept", dtype="float16")
    assert_equal_states(state(half, torch.float16), state(bert.load(), torch.float16))
    old = json.loads((tmp_path / "half" / "config.json").read_text())
    del old["config"]["dtype"]  # as before KerasHub 0.17
    (tmp_path / "half" / "config.json").write_text(json.dumps(old))
    assert convert(tmp_path / "half", "old") == "<f4"


SPELLINGS = {"torch.float16": "<f2", "half": "<f2", "torch.bfloat16": "|V2", "auto": "<f4"}


@pytest.mark.parametrize("dtype", [*FLOATS, "mixed_bfloat16", "mixed_float16", *SPELLINGS])
def test_convert_takes_every_spelling(bert: Reference, tmp_path: Path, dtype: str) -> None:
    options = ("--format", "keras", "--dtype", dtype)
    succeed("convert", bert.preset, tmp_path / "new", *options)
    expected = Backbone.from_preset(bert.preset, dtype=dtype)
    found = Backbone.from_preset(tmp_path / "new", dtype=dtype)
    assert_equal_states(state(found, expected.dtype), state(expected, expected.dtype))
    with h5py.File(tmp_path / "new" / "model.weights.h5") as file:
        stored = file["layers/dense/vars/0"].dtype.str
    if dtype in SPELLINGS:
        assert stored == SPELLINGS[dtype]
    assert dtype.removeprefix("torch.") in succeed("convert", "--help", columns=300) + "half"


@pytest.mark.filterwarnings("always:config.json. Unknown dtype:UserWarning")
@pytest.mark.parametrize(
    ("key", "recorded", "found"),
    [
        ("torch_dtype", "torch.float16", "float16"),
        ("dtype", "half", "float16"),
        ("torch_dtype", "auto", "float32"),
        ("torch_dtype", "float8_e4m3fn", "float32"),
    ],
)
def test_recorded_data_types(
    checkpoint: Path, tmp_path: Path, key: str, recorded: str, found: str
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    del config["torch_dtype"]
    (checkpoint / "config.json").write_text(json.dumps({**config, key: recorded}))
    result = run("convert", checkpoint, tmp_path / "new", "--format", "keras")
    assert result.stdout.endswith(f" in {found}\n"), result.stderr
    assert ("Unknown dtype" in result.stderr) is (recorded == "float8_e4m3fn")


@pytest.mark.filterwarnings("always:Only the model is saved:UserWarning")
def test_convert_carries_what_is_beside(preset: Path, tmp_path: Path) -> None:
    names = ("tokenizer.json", "task.weights.h5", "assets/tokenizer/vocabulary.txt", "mine.txt")
    for name in (*names, ".git/x"):
        (preset / name).parent.mkdir(parents=True, exist_ok=True)
        (preset / name).write_text("{}")
    result = run("convert", preset, tmp_path / "new", "--format", "keras")
    said, more = "Carried along: assets/, task.weights.h5, tokenizer.json\n", "mine.txt\n"
    assert result.stdout.startswith(said)
    assert result.stderr == f"Not carried over: {more}"
    for name in names[:-1]:
        assert (tmp_path / "new" / name).read_bytes() == (preset / name).read_bytes()
    assert "Beside the backbone: assets/, " in succeed("verify", tmp_path / "new")
    assert json.loads(succeed("info", preset, "--json"))["companions"] == sorted(names[:-1])
    assert re.search("Beside it +assets/, task", succeed("info", preset))
    alone = run("convert", preset, tmp_path / "alone", "--format", "keras", "--alone")
    assert (
        alone.stderr == f"Not carried over: assets/, {more[:-1]}, task.weights.h5, tokenizer.json\n"
    )
    assert len([*(tmp_path / "alone").iterdir()]) == 3
    there = run("convert", preset, preset, "--format", "safetensors", "--overwrite")
    assert (there.exit_code, there.stderr) == (0, "")
    broken = run("convert", preset, tmp_path / "theirs", "--format", "transformers")
    assert "warning: Only the model is saved" in broken.stderr
    assert broken.exit_code == 0


def test_convert_spares_what_is_there(bert: Reference, tmp_path: Path) -> None:
    args = ("convert", bert.preset, tmp_path, "--format", "safetensors")
    (tmp_path / "mine.txt").write_text("mine")
    assert "is not empty" in fail_in_one_line(*args)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
    assert "is a file" in fail_in_one_line(*args[:2], tmp_path / "mine.txt", *args[3:])
    succeed(*args, "--overwrite")
    succeed(*args[:-1], "keras", "--overwrite")
    assert {file.name for file in tmp_path.iterdir()} == {
        *("mine.txt", "config.json", "metadata.json", "model.weights.h5")
    }


def test_convert_in_place(preset: Path, bert: Reference) -> None:
    succeed("convert", preset, preset, "--format", "safetensors", "--overwrite")
    succeed("convert", preset, preset, "--format", "safetensors", "--overwrite")
    assert not (preset / "model.weights.h5").exists()
    assert_equal_states(state(Backbone.from_preset(preset)), state(bert.load()))


# Transformers


@pytest.fixture
def checkpoint(bert: Reference, tmp_path: Path) -> Path:
    """The weights as transformers has them."""
    succeed("convert", bert.preset, tmp_path / "bert", "--format", "transformers")
    return tmp_path / "bert"


def test_convert_to_transformers(bert: Reference, checkpoint: Path, tmp_path: Path) -> None:
    import transformers

    theirs = transformers.BertModel.from_pretrained(checkpoint).eval()
    ids, segments, mask = (
        bert.tensors[name].long() for name in ("token_ids", "segment_ids", "padding_mask")
    )
    mask[:, 0] = 1  # what a row of nothing but padding gives is not laid down
    with torch.no_grad():
        ours = bert.load()(token_ids=ids, segment_ids=segments, padding_mask=mask)
        output = theirs(ids, token_type_ids=segments, attention_mask=mask)
    visible = mask.bool()
    theirs_visible = {"output": output.last_hidden_state[visible].numpy()}
    oracle.assert_close(ours["sequence_output"][visible], theirs_visible)
    succeed("convert", checkpoint, tmp_path / "back", "--format", "keras")
    assert_equal_states(state(Backbone.from_preset(tmp_path / "back")), state(bert.load()))


def test_transformers_keep_their_data_type(checkpoint: Path, tmp_path: Path) -> None:
    args = ("--format", "transformers", "--dtype", "bfloat16")
    succeed("convert", checkpoint, tmp_path / "brain", *args)
    said = succeed("convert", tmp_path / "brain", tmp_path / "same", *args[:2])
    assert said.endswith(" in bfloat16\n")
    shown = json.loads(succeed("info", tmp_path / "same", "--json"))
    assert (shown["class"], shown["saved_dtype"]) == ("BertBackbone", "bfloat16")


def test_transformers_configurations_of_no_model(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "hidden_size": -12}))
    for command in ("info", "verify"):
        fail_in_one_line(command, checkpoint)


def test_verify_transformers(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    from keras_hub_torch.presets.checkpoints.files import Stored

    def read(stored: Any) -> None:
        pytest.fail("data were read")

    monkeypatch.setattr(Stored, "read", read)
    file = checkpoint / "model.safetensors"
    assert succeed("verify", checkpoint).splitlines() == [
        "config.json: BertBackbone with 39 weights, 3,220 parameters",
        f"model.safetensors: 39 tensors, {file.stat().st_size / 1000:.1f} kB",
        "All weights are accounted for, each once and in its shape.",
    ]
    tensors = load_file(file)
    for name in ("bias", "decoder.bias", "transform.dense.bias", "transform.LayerNorm.bias"):
        tensors[f"cls.predictions.{name}"] = torch.zeros(12)
    tensors["cls.seq_relationship.bias"] = torch.zeros(2)
    del tensors["pooler.dense.weight"], tensors["pooler.dense.bias"]
    save_file(tensors, file)
    notes = succeed("verify", checkpoint).splitlines()[2:-1]
    assert notes[0].startswith("No part of the backbone: cls.")
    assert notes[0].endswith(" and 1 more")
    assert notes[1:] == [
        "Not in the files, so drawn at random: pooled_dense.weight, pooled_dense.bias"
    ]
    tensors["encoder.more"] = torch.zeros(3)
    tensors["embeddings.LayerNorm.bias"] = torch.zeros(2)
    del tensors["embeddings.LayerNorm.weight"]
    save_file(tensors, file)
    first, *problems = fail("verify", checkpoint).splitlines()
    assert first.startswith("error: ")
    assert [re.sub(r",? for .*", "", problem.strip()) for problem in problems] == [
        "missing: embeddings.LayerNorm.weight (12,)",
        "shape: embeddings.LayerNorm.bias is (2,), not (12,)",
        "superfluous: encoder.more (3,)",
    ]


# generate


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt2")
    GPT2Backbone(99, 2, 2, 12, 16, max_sequence_length=64).save_to_preset(folder)
    return folder


def test_generate(gpt2: Path) -> None:
    model = Backbone.from_preset(gpt2)
    expected = generate(model, [[5, 6, 7]], 3 + 8)["token_ids"][0, 3:].tolist()
    args = ("generate", gpt2, "--max-new-tokens", 8, "--ids")
    assert succeed(*args, "5,6,7") == ",".join(map(str, expected)) + "\n"
    assert succeed(*args, "[5, 6, 7]") == ",".join(map(str, expected)) + "\n"
    stop = expected[3]
    until = expected[: expected.index(stop) + 1]
    assert succeed(*args, "5,6,7", "--stop", f"{stop},98") == ",".join(map(str, until)) + "\n"
    torch.manual_seed(3)
    drawn = generate(model, [[5, 6, 7]], 3 + 8, "top_p")["token_ids"][0, 3:].tolist()
    said = succeed(*args, "5,6,7", "--sampler", "top_p", "--seed", 3)
    assert said == ",".join(map(str, drawn)) + "\n"
    assert succeed(*args, "5,6,7", "--assistant", gpt2) == ",".join(map(str, expected)) + "\n"


@pytest.fixture
def gpt2_with_text(tmp_path: Path) -> Path:
    """A preset with a tokenizer, its vocabulary bytes."""
    from keras_hub_torch import tokenizers

    from .vocabularies import byte_pairs

    vocabulary, merges = byte_pairs("<|endoftext|>")
    torch.manual_seed(2)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 9}
    GPT2Backbone(len(vocabulary), **sizes, max_sequence_length=60).save_to_preset(tmp_path)
    tokenizers.GPT2Tokenizer(vocabulary, merges).save_to_preset(tmp_path)
    return tmp_path


def test_text(gpt2_with_text: Path) -> None:
    text = "Größe: 12 €"
    model = Backbone.from_preset(gpt2_with_text)
    said = succeed("generate", gpt2_with_text, text, "--max-new-tokens", 9)
    expected = generate(model, text, max_new_tokens=9, strip_prompt=True)
    assert said == printable(expected) + "\n"
    ids = succeed("tokenize", gpt2_with_text, text)
    assert succeed("generate", gpt2_with_text, "--ids", ids).count(",") == 31
    lines = succeed("tokenize", gpt2_with_text, text, "--tokens").splitlines()
    assert ",".join(line.partition("\t")[0] for line in lines) + "\n" == ids
    special = ("tokenize", gpt2_with_text, "<|endoftext|>")
    assert succeed(*special).count(",") == 0
    assert succeed(*special, "--plain").count(",") > 3
    assert "either a prompt or --ids" in fail("generate", gpt2_with_text, code=2)
    assert "No text is embedded" in fail_in_one_line("embed", gpt2_with_text, text)


def test_generate_refuses(gpt2: Path, bert: Reference) -> None:
    assert "99 is no id" in fail_in_one_line("generate", gpt2, "--ids", "1,99")
    fail_in_one_line("generate", bert.preset, "--ids", "1")
    assert "64" in fail_in_one_line("generate", gpt2, "--ids", "1", "--max-new-tokens", 64)


# Adapters


@pytest.fixture
def adapted(bert: Reference, tmp_path: Path) -> Any:
    model = bert.load()
    model.enable_lora(2)
    for name, parameter in model.named_parameters():
        if name.endswith("lora_kernel_b"):
            torch.nn.init.normal_(parameter)
    model.save_lora_weights(tmp_path / "my.lora.h5")
    model.save_lora_weights(tmp_path / "peft", format="peft")
    return model


@pytest.mark.parametrize("name", ["my.lora.h5", "peft"])
@pytest.mark.parametrize("form", ["keras", "safetensors", "transformers"])
def test_merge_adapter(adapted: Any, bert: Reference, tmp_path: Path, name: str, form: str) -> None:
    new = tmp_path / "new"
    args = ("adapter", "merge", bert.preset, tmp_path / name, new)
    assert "new: BertBackbone with " in succeed(*args, "--format", form)
    merged = Backbone.from_preset(new)
    assert not any("lora" in key for key in merged.state_dict())
    oracle.assert_close(merged(bert.tensors), oracle.named(adapted(bert.tensors)))
    assert "is not empty" in fail_in_one_line(*args)


def test_convert_adapter(adapted: Any, bert: Reference, tmp_path: Path) -> None:
    there, back = tmp_path / "there", tmp_path / "back.lora.h5"
    succeed("adapter", "convert", bert.preset, tmp_path / "my.lora.h5", there)
    succeed("adapter", "convert", bert.preset, there, back)
    assert (there / "adapter_model.safetensors").is_file()
    for path in (there, back):
        model = bert.load()
        model.load_lora_weights(path)
        oracle.assert_close(model(bert.tensors), oracle.named(adapted(bert.tensors)))
    assert "is there already" in fail_in_one_line("adapter", "convert", bert.preset, there, back)
    nowhere = tmp_path / "nowhere.lora.h5"
    fail_in_one_line("adapter", "merge", bert.preset, nowhere, tmp_path / "x")
    assert not (tmp_path / "x").exists()


# Progress


def test_bars_on_a_terminal_only(bert: Reference, tmp_path: Path) -> None:
    args = ("convert", bert.preset, tmp_path / "new", "--format", "keras")
    master, slave = pty.openpty()
    running = process(*args, stderr=slave, env={**os.environ, "TERM": "xterm"})
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(master)
    assert running.stdout
    assert running.stdout.read().startswith(f"{tmp_path / 'new'}: Bert".encode())
    running.stdout.close()
    assert running.wait(60) == 0
    assert b"Reading weights" in shown
    assert b"Writing weights" in shown
    assert shown.rstrip().endswith(b"\x1b[?25h")  # the cursor is visible again

    silent = run(*args, "--overwrite")
    assert (silent.exit_code, silent.stderr) == (0, "")


# Hubs


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    hub = HubServer()
    yield hub
    hub.stop()


@pytest.fixture
def remote(hub: HubServer, bert: Reference) -> HubServer:
    files = {path.name: path.read_bytes() for path in bert.preset.iterdir()}
    files["assets/tokenizer/vocabulary.txt"] = b"one\ntwo\n"
    hub.repositories = {"org/bert": Repository({"main": files})}
    hub.models = {"keras/bert/keras/bert_tiny_en_uncased": [files] * 3}
    hub.requests = []
    return hub


def away(hub: HubServer, home: Path, *args: Any) -> str:
    """Stdout of a command in a process whose hub clients know only our hub."""
    environment = {**os.environ, **hub.environment(home)}
    running = process(*args, env=environment)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors.decode()
    return output.decode()


@pytest.mark.parametrize("preset", ["hf://org/bert", "bert_tiny_en_uncased"])
def test_download(remote: HubServer, bert: Reference, tmp_path: Path, preset: str) -> None:
    folder = Path(away(remote, tmp_path, "download", preset).rstrip("\n"))
    assert tmp_path in folder.parents
    assert (folder / "assets/tokenizer/vocabulary.txt").read_bytes() == b"one\ntwo\n"
    assert_equal_states(state(Backbone.from_preset(folder)), state(bert.load()))
    remote.requests = []
    assert away(remote, tmp_path, "download", preset).rstrip("\n") == str(folder)
    assert not any("GET /org/bert/resolve" in r or "blobs" in r for r in remote.requests)


NEWEST = "kaggle://keras/bert/keras/bert_tiny_en_uncased"


@pytest.mark.parametrize("preset", ["hf://org/bert", "bert_tiny_en_uncased", NEWEST])
def test_download_without_the_hub(remote: HubServer, tmp_path: Path, preset: str) -> None:
    """What an earlier download left is used; what only some command has looked at is not enough."""

    def unreachable() -> subprocess.Popen[bytes]:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        gone = {"HF_ENDPOINT": endpoint, "http_proxy": endpoint}
        environment = {**os.environ, **remote.environment(tmp_path), **gone}
        return process("download", preset, env=environment)

    away(remote, tmp_path, "info", preset)
    running = unreachable()
    output, errors = running.communicate(timeout=120)
    assert (running.returncode, output) == (1, b"")
    assert errors.splitlines()[-1].startswith(b"error: ")
    assert b"cannot be reached" in errors
    folder = away(remote, tmp_path, "download", preset)
    running = unreachable()
    output, errors = running.communicate(timeout=120)
    assert (running.returncode, output.decode()) == (0, folder), errors
    # Of a version that is named and there, Kaggle's client asks nothing.
    assert (b"is from the cache" in errors) is (preset != "bert_tiny_en_uncased")


@pytest.mark.parametrize("preset", ["hf://org/bert", "bert_tiny_en_uncased"])
def test_info_downloads_only_the_configuration(
    remote: HubServer, bert: Reference, tmp_path: Path, preset: str
) -> None:
    shown = json.loads(away(remote, tmp_path, "info", preset, "--json"))
    cached = {path.name for path in tmp_path.rglob("*") if path.suffix in (".json", ".h5", ".txt")}
    assert "config.json" in cached
    assert not cached & {"metadata.json", "model.weights.h5", "vocabulary.txt"}
    assert shown["parameters"] == bert.model.count_params()
    if preset.startswith("hf://"):
        assert shown["files"]["assets/tokenizer/vocabulary.txt"] == 8
        assert shown["files"].keys() >= {"model.weights.h5", "config.json"}
    else:
        assert shown["files"] is None


def test_download_of_a_folder(preset: Path) -> None:
    assert succeed("download", preset) == f"{preset}\n"


def test_terminals_without_unicode(preset: Path) -> None:
    folder = preset.rename(preset.with_name("κ"))
    running = process("download", folder, env={**os.environ, "PYTHONIOENCODING": "cp1252"})
    output, errors = running.communicate(timeout=60)
    assert (running.returncode, errors) == (0, b"")
    assert output.endswith(b"\\u03ba\n")


def test_no_hub(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path)}
    running = process("download", "hf://org/bert", env=environment)
    output, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert output == b""
    assert re.fullmatch(rb"error: .*cannot be reached.*\n", errors)
