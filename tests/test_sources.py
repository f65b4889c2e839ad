"""Presets from folders and, through the hubs' real clients, from and to a hub on this machine."""

from __future__ import annotations

import builtins
import json
import os
import selectors
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keras_hub_torch.models import BertBackbone
from keras_hub_torch.preprocessing.text_classifier import BertTextClassifierPreprocessor
from keras_hub_torch.preprocessing.tokenizers.bert import BertTokenizer
from keras_hub_torch.presets import builtin, loading, sources
from keras_hub_torch.presets.sources import open_preset
from keras_hub_torch.presets.uploading import upload_preset

from .hub_server import Files, HubServer, Repository

CONFIG = {
    "module": "keras_hub.src.models.bert.bert_backbone",
    "class_name": "BertBackbone",
    "config": {"name": "bert_backbone", "num_layers": 2},
    "registered_name": "keras_hub>BertBackbone",
}
PRESET: Files = {
    "config.json": json.dumps(CONFIG).encode(),
    "metadata.json": b'{"parameter_count": 1234567}',
    "task.json": b'{"class_name": "BertTextClassifier"}',
    "model.weights.h5": bytes(range(256)) * 300,
    "assets/tokenizer/vocabulary.txt": b"one\ntwo\n",
}
NEWER = PRESET | {"config.json": b'{"newer": true}', "model.weights.h5": b"newer"}

WORKER = """
import json, os, sys
from pathlib import Path
from keras_hub_torch.presets.sources import open_preset
from keras_hub_torch.presets.uploading import upload_preset
heavy = {"kagglehub", "huggingface_hub", "requests", "h5py", "modelscope"} & set(sys.modules)
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # the clients print
memory = {}
for line in sys.stdin:
    asked = json.loads(line)
    environment = dict(os.environ)
    os.environ.update(asked["variables"])
    try:
        answer = {"value": eval(asked["code"])}
    except Exception as error:
        answer = {"type": type(error).__name__, "message": str(error)}
    os.environ.clear()
    os.environ.update(environment)
    print(json.dumps(answer, default=str), file=answers, flush=True)
"""


class Client:
    """A Python process whose hub clients know only our hub: they read variables when imported."""

    def __init__(self, environment: dict[str, str], log: Path):
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().startswith(
                ("hf_", "hugging", "kaggle", "http", "no_proxy", "all_p")
            )
        }
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", WORKER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=inherited | environment,
            )

    def __call__(self, code: str, **variables: str) -> Any:
        """The value of an expression, or the built-in exception it raised."""
        assert self._process.stdin
        assert self._process.stdout
        print(
            json.dumps({"code": code, "variables": variables}),
            file=self._process.stdin,
            flush=True,
        )
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout=30):
                self.close()
                pytest.fail(f"no answer in 30 seconds: {code}")
        line = self._process.stdout.readline()
        assert line, self._log.read_text()
        answer = json.loads(line)
        if "type" in answer:
            exception = getattr(builtins, answer["type"], None)
            assert exception is not None, f"not a built-in exception: {answer}"
            raise exception(answer["message"])
        return answer["value"]

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def server() -> Iterator[HubServer]:
    server = HubServer()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def client(server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    home = tmp_path_factory.mktemp("home")
    client = Client(server.environment(home), home / "stderr.txt")
    yield client
    client.close()


@pytest.fixture
def hub(server: HubServer) -> Iterator[HubServer]:
    """The hub, well and empty."""
    server.repositories = {}
    server.models = {}
    server.forbidden = set()
    server.requests = []
    server.status = server.cut = server.page = None
    server.headers = {}
    yield server
    server.start_again()


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    folder = tmp_path / "preset"
    write(folder, PRESET)
    return folder


def write(folder: Path, files: Files) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def call(handle: str, method: str = "file('config.json')") -> str:
    return f"open_preset({handle!r}).{method}"


# Folders and names.


def test_folder(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(preset.parent))
    monkeypatch.chdir(preset.parent)
    for name in (preset, str(preset), "preset", "./preset/", "~/preset", Path("~/preset")):
        source = open_preset(name)
        assert source.handle == str(name)
        assert source.json("config.json") == CONFIG
        assert source.file("model.weights.h5").read_bytes() == PRESET["model.weights.h5"]
        assert source.has("assets/tokenizer/vocabulary.txt")
        assert not source.has("model.weights.json")
        assert not source.has("assets")
        with pytest.raises(FileNotFoundError, match=r"preset.*no file 'model\.weights\.json'"):
            source.file("model.weights.json")
        paths = source.download(list(PRESET))
        assert [path.read_bytes() for path in paths] == list(PRESET.values())
        assert source.download([]) == []


def test_file_instead_of_folder(preset: Path) -> None:
    for name in (preset / "config.json", str(preset / "config.json")):
        with pytest.raises(NotADirectoryError, match=r"is a file. Give the folder"):
            open_preset(name)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("bert_base_en_uncase", ValueError, "Did you mean .*'bert_base_en_uncased'"),
        ("Gemma2_2b_en", ValueError, "'gemma2_2b_en'"),
        ("./not/here", ValueError, "neither a built-in id nor a folder"),
        ("google/gemma-2b", ValueError, "Did you mean 'hf://google/gemma-2b'"),
        ("", ValueError, "Unknown preset ''"),
        (Path("not/here"), FileNotFoundError, "'not/here' does not exist"),
        ("gs://bucket/preset", ValueError, "Unknown scheme.*kaggle://, hf://, modelscope://"),
        ("https://huggingface.co/a/b", ValueError, "Unknown scheme"),
        ("hf://", ValueError, "Malformed.*hf://org/name"),
        ("hf://a/b/c", ValueError, "Malformed.*hf://org/name"),
        ("hf://a/b@", ValueError, "nothing follows the '@'"),
        ("hf://a b", ValueError, "Malformed"),
        ("kaggle://keras/bert", ValueError, "should be kaggle://org/model/keras/variation"),
        ("kaggle://keras/bert/keras/bert_en/x", ValueError, "version, as in .../variation/3"),
        ("kaggle://keras/bert/keras/bert_en/0", ValueError, "Malformed"),
        ("kaggle://keras/bert/keras//1", ValueError, "Malformed"),
        ("modelscope://bert", ValueError, "should be modelscope://org/name"),
        (None, TypeError, "PathLike"),
    ],
)
def test_unknown_presets(name: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_preset(name)


def test_built_in_ids_come_before_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bert_tiny_en_uncased", PRESET)
    assert not isinstance(open_preset("bert_tiny_en_uncased"), sources._Folder)
    assert isinstance(open_preset("./bert_tiny_en_uncased"), sources._Folder)
    assert isinstance(open_preset(Path("bert_tiny_en_uncased")), sources._Folder)


def test_every_built_in_id_opens() -> None:
    for preset_id in builtin.presets_of():
        assert open_preset(preset_id).handle == preset_id


@pytest.mark.parametrize(
    "name", ["../preset/config.json", "/etc/passwd", "a\\b", "C:x", "", ".", "a//b", "./a", "a/.."]
)
def test_names_that_lead_elsewhere(preset: Path, name: str) -> None:
    source = open_preset(preset)
    for method in (source.file, source.has, source.json):
        with pytest.raises(ValueError, match="plain file name"):
            method(name)


# The Hugging Face Hub.


def test_nothing_heavy_is_imported(client: Client) -> None:
    assert client("sorted(heavy)") == []


def test_hugging_face(hub: HubServer, client: Client) -> None:
    hub.repositories["org/tiny"] = Repository({"main": PRESET, "v2": NEWER})
    assert client(call("hf://org/tiny", "json('config.json')")) == CONFIG
    for name, content in PRESET.items():
        path = Path(client(call("HF://org/tiny", f"file({name!r})")))
        assert path.read_bytes() == content
    assert client(call("hf://org/tiny@v2", "json('config.json')")) == {"newer": True}
    with pytest.raises(FileNotFoundError, match=r"'hf://org/tiny'.* no file 'model\.safetensors'"):
        client(call("hf://org/tiny", "file('model.safetensors')"))
    with pytest.raises(FileNotFoundError, match="'hf://org/tiny@v3' names a branch, tag or commit"):
        client(call("hf://org/tiny@v3"))


def test_hugging_face_answers_without_downloading(hub: HubServer, client: Client) -> None:
    hub.repositories["org/asked"] = Repository({"main": PRESET})
    names = ["model.weights.h5", "model.weights.json"]
    has = client(f"[*map({call('hf://org/asked', 'has')}, {names})]")
    assert has == [True, False]
    assert not [request for request in hub.requests if "resolve" in request]


def test_hugging_face_files_are_of_one_commit(hub: HubServer, client: Client) -> None:
    repository = hub.repositories["org/moving"] = Repository({"main": PRESET})
    client("memory.setdefault('moving', open_preset('hf://org/moving')).json('config.json')")
    repository.revisions["main"] = NEWER
    path = Path(client("memory['moving'].file('model.weights.h5')"))
    assert path.read_bytes() == PRESET["model.weights.h5"]
    assert client(call("hf://org/moving", "json('config.json')")) == {"newer": True}


def test_download(hub: HubServer, client: Client) -> None:
    shards = {f"model_{i:05}.weights.h5": bytes([i]) * 5000 for i in range(9)}
    hub.repositories["org/shards"] = Repository({"main": PRESET | shards})
    hub.models["keras/shards/keras/shards"] = [PRESET | shards]
    for handle in ("hf://org/shards", "kaggle://keras/shards/keras/shards"):
        paths = client(call(handle, f"download({list(shards)})"))
        assert [Path(path).read_bytes() for path in paths] == list(shards.values())
        with pytest.raises(FileNotFoundError, match=r"no file 'nope.h5'"):
            client(call(handle, f"download({[*shards, 'nope.h5']})"))


def test_hugging_face_gated(hub: HubServer, client: Client) -> None:
    hub.repositories["org/gated"] = Repository({"main": PRESET}, gated=True)
    with pytest.raises(
        PermissionError, match=f"gated. Accept its terms at {hub.url}/org/gated, then log in"
    ):
        client(call("hf://org/gated"))
    assert client(call("hf://org/gated", "json('config.json')"), HF_TOKEN=hub.TOKEN) == CONFIG


def test_hugging_face_refusals(hub: HubServer, client: Client) -> None:
    for variables in ({}, {"HF_TOKEN": hub.TOKEN}):
        for method in ("file", "has", "json"):
            with pytest.raises(
                FileNotFoundError, match=r"no repository 'org/none'.*private, log in"
            ):
                client(call("hf://org/none", f"{method}('config.json')"), **variables)
    hub.repositories["org/tiny"] = Repository({"main": PRESET})
    with pytest.raises(PermissionError, match=r"401.*token.*hf auth login"):
        client(call("hf://org/tiny"), HF_TOKEN="wrong")


@pytest.mark.parametrize("trouble", ["gone", "503"])
def test_hugging_face_out_of_reach(hub: HubServer, client: Client, trouble: str) -> None:
    name = f"org/away{trouble}"
    hub.repositories[name] = Repository({"main": PRESET})
    client(call(f"hf://{name}", "json('config.json')"))
    if trouble == "gone":
        hub.stop()
    else:
        hub.status = 503
    start = time.monotonic()
    assert client(call(f"hf://{name}", "json('config.json')")) == CONFIG
    source = f"memory.setdefault({name!r}, open_preset('hf://{name}'))"
    with pytest.raises(ConnectionError, match=r"'model\.weights\.h5' of .* is not in the cache"):
        client(f"{source}.has('model.weights.h5')")
    assert client(f"{source}.has('config.json')") is True
    assert client(f"{source}.has('model.weights.h5')") is False
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        client(f"{source}.file('model.weights.h5')")
    reason = "cannot be reached" if trouble == "gone" else "answered 503"
    with pytest.raises(ConnectionError, match=f"{reason}.* 'config.json' of 'hf://org/x' is not"):
        client(call("hf://org/x"))
    assert time.monotonic() - start < 5


def test_hugging_face_offline(hub: HubServer, client: Client, tmp_path: Path) -> None:
    hub.repositories["org/offline"] = Repository({"main": PRESET})
    home = Path(client("os.environ['HOME']"))
    client(call("hf://org/offline", "json('config.json')"))
    variables = hub.environment(home) | {"HF_HUB_OFFLINE": "1"}
    offline = Client(variables, tmp_path / "stderr.txt")
    hub.requests.clear()
    assert offline(call("hf://org/offline", "json('config.json')")) == CONFIG
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE"):
        offline(call("hf://org/offline", "file('model.weights.h5')"))
    assert hub.requests == []
    offline.close()


# Kaggle.


def test_kaggle(hub: HubServer, client: Client) -> None:
    hub.models["keras/bert/keras/tiny"] = [PRESET, NEWER]
    older, newest = "kaggle://keras/bert/keras/tiny/1", "kaggle://keras/bert/keras/tiny"
    for name, content in PRESET.items():
        assert Path(client(call(older, f"file({name!r})"))).read_bytes() == content
    assert client(call(newest, "json('config.json')")) == {"newer": True}
    for handle in (older, newest):
        assert client(call(handle, "has('model.weights.h5')")) is True
        assert client(call(handle, "has('model.weights.json')")) is False
        with pytest.raises(FileNotFoundError, match=f"'{handle}' has no file 'model.safetensors'"):
            client(call(handle, "file('model.safetensors')"))


def test_built_in_id(hub: HubServer, client: Client) -> None:
    handle = builtin.handle_of("bert_tiny_en_uncased")
    assert handle is not None
    variation, version = handle.removeprefix("kaggle://").rsplit("/", 1)
    hub.models[variation] = [NEWER] * (int(version) - 1) + [PRESET]
    assert client(call("bert_tiny_en_uncased", "json('config.json')")) == CONFIG
    with pytest.raises(FileNotFoundError, match="'bert_tiny_en_uncased' has no file 'x'"):
        client(call("bert_tiny_en_uncased", "file('x')"))


def test_tokenizers_of_hubs(hub: HubServer, client: Client, tmp_path: Path) -> None:
    """Through the same loader as backbones; their own files alone are downloaded."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "fox"]
    BertTextClassifierPreprocessor(BertTokenizer(tokens), sequence_length=6).save_to_preset(
        tmp_path
    )
    files = PRESET | read(tmp_path)
    hub.repositories["org/tiny"] = Repository({"main": files})
    handle = builtin.handle_of("bert_tiny_en_uncased") or ""
    variation, version = handle.removeprefix("kaggle://").rsplit("/", 1)
    hub.models[variation] = [NEWER] * (int(version) - 1) + [files]
    imported = "__import__('keras_hub_torch')"
    for preset in ("hf://org/tiny", handle, "bert_tiny_en_uncased"):
        made = f"{imported}.tokenizers.Tokenizer.from_preset({preset!r})"
        assert client(f"{made}('the fox')") == [5, 6]
        made = f"{imported}.models.TextClassifierPreprocessor.from_preset({preset!r})"
        assert client(f"{made}('the fox')['token_ids'].tolist()") == [2, 5, 6, 3, 0, 0]
    assert not any("weights" in request for request in map(str, hub.requests))


def test_kaggle_files_are_of_one_version(hub: HubServer, client: Client) -> None:
    versions = hub.models["keras/bert/keras/moving"] = [PRESET]
    source = "memory.setdefault('kaggle', open_preset('kaggle://keras/bert/keras/moving'))"
    assert client(f"{source}.json('config.json')") == CONFIG
    versions.append(NEWER)
    path = Path(client(f"{source}.file('model.weights.h5')"))
    assert path.read_bytes() == PRESET["model.weights.h5"]


def test_kaggle_refusals(hub: HubServer, client: Client) -> None:
    handle = "kaggle://keras/bert/keras/refused"
    for method in ("file", "has"):
        with pytest.raises(FileNotFoundError, match=r"no model.*kaggle.com/models/keras/bert"):
            client(call(handle, f"{method}('config.json')"))
    hub.models["keras/bert/keras/refused"] = [PRESET]
    with pytest.raises(PermissionError, match=r"not accept your credentials.*KAGGLE_API_TOKEN"):
        client(call(handle), KAGGLE_API_TOKEN="wrong")
    hub.forbidden = {"keras/bert"}
    for version in ("", "/1"):
        with pytest.raises(
            PermissionError, match=r"terms.*kaggle.com/models/keras/bert, then log in"
        ):
            client(call(handle + version))
    hub.status = 500
    with pytest.raises(ConnectionError, match="Kaggle answered 500"):
        client(call(handle))


def test_kaggle_out_of_reach(hub: HubServer, client: Client) -> None:
    variation = "keras/bert/keras/away"
    hub.models[variation] = [PRESET] * 9 + [NEWER]
    for version in (2, 10, 9):
        client(call(f"kaggle://{variation}/{version}"))
    client(call(f"kaggle://{variation}/9", "file('metadata.json')"))
    hub.status = 500
    assert client(call(f"kaggle://{variation}", "json('config.json')")) == {"newer": True}
    hub.stop()
    assert client(call(f"kaggle://{variation}/2", "json('config.json')")) == CONFIG
    assert client(call(f"kaggle://{variation}", "json('config.json')")) == {"newer": True}
    assert "/9/" in client(call(f"kaggle://{variation}", "file('metadata.json')"))
    source = f"memory.setdefault('away', open_preset('kaggle://{variation}'))"
    assert client(f"{source}.has('config.json')") is True
    assert client(f"{source}.has('model.weights.h5')") is False
    for handle in (variation, f"{variation}/2", "keras/bert/keras/never"):
        for method in ("file", "has"):
            with pytest.raises(ConnectionError, match=r"cannot be reached.*KAGGLEHUB_CACHE"):
                client(call(f"kaggle://{handle}", f"{method}('model.weights.h5')"))


def test_kaggle_breaks_off(hub: HubServer, client: Client) -> None:
    hub.models["keras/bert/keras/cut"] = [PRESET]
    weights = call("kaggle://keras/bert/keras/cut/1", "file('model.weights.h5')")
    hub.cut = 1000
    with pytest.raises(ConnectionError, match="IncompleteRead"):
        client(weights)
    hub.stop()
    with pytest.raises(ConnectionError, match="cannot be reached"):
        client(weights)
    hub.start_again()
    hub.cut = None
    assert Path(client(weights)).read_bytes() == PRESET["model.weights.h5"]


def test_no_configuration_at_the_top(hub: HubServer, client: Client) -> None:
    hub.repositories["org/pipeline"] = Repository({"main": {"a/b/x.txt": b"x", "model.txt": b""}})
    folder = Path(client(call("hf://org/pipeline", "download_all()")))
    assert (folder / "a/b/x.txt").read_bytes() == b"x"
    assert (folder / "model.txt").exists()


# Hubs that are odd.


@pytest.mark.parametrize(
    "name", ["../../../../evil.txt", "/tmp/evil.txt", "a\\..\\b", "a//b", "\n"]
)
@pytest.mark.parametrize("handle", ["hf://org/odd", "kaggle://org/odd/keras/one"])
def test_listed_names_that_lead_elsewhere(
    handle: str, name: str, hub: HubServer, client: Client
) -> None:
    hub.repositories["org/odd"] = Repository({"main": PRESET | {name: b"evil"}})
    hub.models["org/odd/keras/one"] = [PRESET | {name: b"evil"}]
    with pytest.raises((ValueError, OSError), match="which is no plain relative name") as caught:
        client(call(handle, "download_all()"))
    assert handle in str(caught.value)
    assert not any(request.endswith("evil.txt") for request in hub.requests)


@pytest.mark.parametrize("header", ["ETag", "X-Linked-Etag", "X-Repo-Commit"])
@pytest.mark.parametrize("value", ["../../../../evil", '"/tmp/evil"', "a/b", "..", "x" * 300])
def test_headers_that_lead_elsewhere(
    header: str, value: str, hub: HubServer, client: Client, tmp_path: Path
) -> None:
    hub.repositories["org/odd"] = Repository({"main": PRESET})
    hub.headers = {header: value}
    home = str(tmp_path / "home")
    with pytest.raises(OSError, match=f"{header} of .*config.json is .*no plain name") as caught:
        client(call("hf://org/odd"), HF_HOME=home, HF_HUB_CACHE=home)
    assert "hf://org/odd" in str(caught.value)
    hub.headers = {}
    assert json.loads(Path(client(call("hf://org/odd"))).read_text()) == CONFIG


@pytest.mark.parametrize("page", [b"<html>Please log in</html>", b"", b"[]", b"null", b"{}"])
@pytest.mark.parametrize("handle", ["hf://org/odd", "kaggle://org/odd/keras/one"])
def test_answers_of_something_else(
    handle: str, page: bytes, hub: HubServer, client: Client
) -> None:
    hub.page = page
    with pytest.raises(OSError, match=handle):
        client(call(handle))


# ModelScope.


def test_modelscope(preset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(model: str, allow_patterns: list[str]) -> str:
        if model != "org/tiny":
            raise RuntimeError("no such model")
        asked.extend(allow_patterns)
        return str(preset)

    asked: list[str] = []
    module = types.ModuleType("modelscope.hub.snapshot_download")
    module.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    source = open_preset("modelscope://org/tiny")
    assert source.json("config.json") == CONFIG
    assert not source.has("model.weights.json")
    assert asked == ["config.json", "model.weights.json"]
    with pytest.raises(
        ConnectionError, match="did not give 'x' of 'modelscope://a/b': no such mod"
    ):
        open_preset("modelscope://a/b").file("x")


def test_modelscope_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope.hub.snapshot_download", None)
    with pytest.raises(ImportError, match="pip install modelscope"):
        open_preset("modelscope://org/tiny").file("config.json")


# Uploading.


def upload(handle: str, folder: Path) -> str:
    return f"upload_preset({handle!r}, Path({str(folder)!r}))"


def test_upload_to_hugging_face(hub: HubServer, client: Client, preset: Path) -> None:
    client(upload("hf://org/mine", preset), HF_TOKEN=hub.TOKEN)
    assert read(preset) == PRESET
    files = hub.repositories["org/mine"].revisions["main"]
    card = files["README.md"].decode()
    assert files == PRESET | {"README.md": card.encode()}
    front = "---\nlibrary_name: keras-hub\npipeline_tag: text-classification\n---\n"
    assert card.startswith(front)
    assert "`BertBackbone` with 1,234,567 parameters" in card
    assert 'from_preset("hf://org/mine")' in card
    assert '"num_layers": 2' in card
    assert client(call("hf://org/mine", "json('config.json')")) == CONFIG

    # A second time, the card that its author has completed stays.
    files["README.md"] = b"by hand"
    write(preset, NEWER)
    client(upload("hf://org/mine", preset), HF_TOKEN=hub.TOKEN)
    assert hub.repositories["org/mine"].revisions["main"] == NEWER | {"README.md": b"by hand"}

    write(preset, {"README.md": b"from the folder"})
    client(upload("hf://mine", preset), HF_TOKEN=hub.TOKEN)
    assert hub.repositories["me/mine"].revisions["main"] == read(preset)


def test_upload_to_kaggle(hub: HubServer, client: Client, preset: Path) -> None:
    handle = "kaggle://me/bert/keras/mine"
    client(upload(handle, preset), KAGGLE_API_TOKEN=hub.TOKEN)
    assert hub.models == {"me/bert/keras/mine": [PRESET]}
    write(preset, NEWER)
    client(upload(handle, preset), KAGGLE_API_TOKEN=hub.TOKEN)
    assert hub.models == {"me/bert/keras/mine": [PRESET, NEWER]}
    assert client(call(handle, "json('config.json')")) == {"newer": True}
    assert client(call(f"{handle}/1", "json('config.json')")) == CONFIG


def test_remains_of_killed_saves_are_not_uploaded(
    hub: HubServer, client: Client, preset: Path
) -> None:
    remains = preset / ".saving-x1y2z3"
    remains.mkdir()
    (remains / "model.weights.h5").write_bytes(b"half")
    client(upload("hf://org/mine", preset), HF_TOKEN=hub.TOKEN)
    files = hub.repositories["org/mine"].revisions["main"]
    assert files.keys() == PRESET.keys() | {"README.md"}
    client(upload("kaggle://me/bert/keras/mine", preset), KAGGLE_API_TOKEN=hub.TOKEN)
    assert hub.models == {"me/bert/keras/mine": [PRESET]}


def test_upload_refusals(hub: HubServer, client: Client, preset: Path) -> None:
    hub.repositories["org/theirs"] = Repository()
    for handle in ("hf://org/mine", "hf://org/theirs"):
        with pytest.raises(PermissionError, match="not valid or lacks the right: log in"):
            client(upload(handle, preset))
    hub.forbidden = {"me/theirs"}
    for variables in ({}, {"KAGGLE_API_TOKEN": "wrong"}):
        with pytest.raises(PermissionError, match="KAGGLE_API_TOKEN"):
            client(upload("kaggle://me/bert/keras/mine", preset), **variables)
    with pytest.raises(OSError, match="Kaggle refused 'kaggle://me/theirs/keras/mine': Denied"):
        client(upload("kaggle://me/theirs/keras/mine", preset), KAGGLE_API_TOKEN=hub.TOKEN)
    hub.stop()
    for handle in ("hf://org/mine", "kaggle://me/bert/keras/mine"):
        with pytest.raises(ConnectionError, match="cannot be reached"):
            client(upload(handle, preset), HF_TOKEN=hub.TOKEN, KAGGLE_API_TOKEN=hub.TOKEN)
    assert read(preset) == PRESET


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("org/name", "Cannot upload to 'org/name'"),
        ("modelscope://org/name", "Cannot upload"),
        ("hf://a/b/c", "Malformed"),
        ("hf://a/b@main", "Malformed"),
        ("kaggle://a/b/keras", "Malformed"),
        ("kaggle://a/b/keras/c/1", "Malformed.*variation[.]$"),
    ],
)
def test_upload_to_nowhere(preset: Path, uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        upload_preset(uri, preset)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"config.json": None}, FileNotFoundError, "no file 'config.json'"),
        ({"config.json": b'{"class_name": '}, ValueError, "config.json is no valid JSON"),
        ({"config.json": b"[1]"}, ValueError, "config.json must hold a JSON object"),
        ({"model.weights.h5": None}, FileNotFoundError, "has no weights: neither model.weights.h5"),
        (
            {
                "model.weights.h5": None,
                "model.weights.json": b'{"weight_map": {"a": "1.h5", "b": ["1.h5", "2.h5"]}}',
                "1.h5": b"",
            },
            FileNotFoundError,
            "lacks what its model.weights.json lists: 2.h5",
        ),
        (
            {"model.weights.h5": None, "model.weights.json": b'{"weight_map": {"a": "../1.h5"}}'},
            ValueError,
            "no plain file name",
        ),
    ],
)
def test_incomplete_presets_are_not_uploaded(
    preset: Path, change: dict[str, bytes | None], error: type[Exception], message: str
) -> None:
    for name, content in change.items():
        (preset / name).unlink(missing_ok=True)
        if content is not None:
            (preset / name).write_bytes(content)
    with pytest.raises(error, match=message):
        upload_preset("hf://org/mine", preset)


def test_no_folder_to_upload(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        upload_preset("hf://org/mine", tmp_path / "none")


@pytest.mark.parametrize(
    "add",
    [
        {"model.weights.json": b'{"weight_map": {"a": ["1.h5"]}}', "1.h5": b"1"},
        {"model.safetensors": b"1", "config.json": b'{"model_type": "bert"}'},
    ],
)
def test_other_layouts_are_uploaded(
    hub: HubServer, client: Client, preset: Path, add: Files
) -> None:
    write(preset, add)
    (preset / "model.weights.h5").unlink()
    client(upload("hf://org/other", preset), HF_TOKEN=hub.TOKEN)
    files = hub.repositories["org/other"].revisions["main"]
    assert files.keys() == read(preset).keys() | {"README.md"}
    library = b"transformers" if "model.safetensors" in add else b"keras-hub"
    assert b"library_name: " + library in files["README.md"]


# From a hub to a model.


def test_models_from_both_hubs(
    hub: HubServer, client: Client, preset_folder: Path, tmp_path: Path
) -> None:
    from .conftest import reference_of

    reference = reference_of("bert", preset_folder)
    model = reference.load()
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=5e-6)
    sharded = read(tmp_path) | {
        name: (reference.preset / name).read_bytes() for name in ("config.json", "metadata.json")
    }
    assert len(sharded) > 4
    hub.repositories = {"org/bert": Repository({"main": read(reference.preset)})}
    handle = builtin.handle_of("bert_base_en")
    assert handle is not None
    path, _, version = handle.removeprefix("kaggle://").rpartition("/")
    hub.models = {path: [sharded] * int(version)}
    loaded = "__import__('keras_hub_torch').models.Backbone.from_preset({!r}).state_dict()"
    total = "float(sum(value.double().abs().sum() for value in {}.values()))"
    expected = float(sum(value.double().abs().sum() for value in model.state_dict().values()))
    for preset in ("hf://org/bert", "bert_base_en"):
        assert client(total.format(loaded.format(preset))) == pytest.approx(expected, rel=1e-12)
    hub.repositories["org/bert"].revisions["empty"] = {"README.md": b""}
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        client(loaded.format("hf://org/bert@empty"))


def test_a_preset_of_the_next_kerashub(hub: HubServer, client: Client) -> None:
    preset = "modern_bert_base_en"
    with pytest.raises(FileNotFoundError, match=r"with KerasHub 0\.33\.0"):
        client(f"open_preset({preset!r}).file('config.json')")
    with pytest.raises(ValueError, match=r"KerasHub up to 0\.33\.0: one of a later version"):
        open_preset("bert_of_tomorrow")


def test_a_family_that_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so before anything is opened."""
    monkeypatch.setattr(loading, "find_class", lambda *_: None)
    monkeypatch.setattr(sources, "open_preset", None)
    with pytest.raises(NotImplementedError, match=r"bert_base_en is a BertBackbone: .* not part"):
        BertBackbone.from_preset("bert_base_en")
