"""Where presets are: built-in ids, hub handles and folders, turned into local files."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from . import builtin
from .files import CONFIG, read_json, relative_name, safe_name
from .hubs import (
    ABSENT,
    NOT_KAGGLES,
    check_hugging_face_answers,
    check_kaggle_listings,
    hugging_face_errors,
    hugging_face_repo,
    kaggle_errors,
    kaggle_parts,
    network_errors,
)
from .keras.archive import unpack
from .refusals import cause, naming
from .snapshot import Snapshot, consistently

ValueType = TypeVar("ValueType")


def open_preset(preset: str | os.PathLike[str]) -> PresetSource:
    """The source of a built-in id, a `kaggle://`, `hf://` or `modelscope://` handle, a folder, or a
    file that is a whole model: `.keras`, `.safetensors`.

    A string that is a built-in id means that id, even where a folder has the same name. Nothing is
    downloaded yet.

    Raises:
        ValueError: unknown id or scheme, or malformed handle.
        FileNotFoundError: no such folder, of a `Path`.
        NotADirectoryError: a file where the folder should be.
    """
    if isinstance(preset, str):
        scheme, found, rest = (builtin.handle_of(preset) or preset).partition("://")
        if found:
            hub = _HUBS.get(scheme.lower())
            if hub is None:
                raise ValueError(
                    f"Unknown scheme in preset {preset!r}; known are "
                    f"{', '.join(f'{name}://' for name in _HUBS)}. A preset kept elsewhere has to "
                    "be copied into a local folder first."
                )
            return hub(preset, rest)
    folder = Path(os.path.expanduser(preset))
    if preset and folder.is_dir():
        return _Folder(str(preset), folder)
    if preset and folder.is_file() and folder.name.endswith(".keras"):
        return _Archive(str(preset), folder)
    if preset and folder.is_file() and folder.name.endswith(".safetensors"):
        return _File(str(preset), folder)
    if preset and folder.exists():
        raise NotADirectoryError(_is_a_file(str(preset)))
    if isinstance(preset, str):
        raise ValueError(_unknown(preset))
    raise FileNotFoundError(f"Preset folder {str(preset)!r} does not exist.")


def _is_a_file(preset: str) -> str:
    return (
        f"Preset {preset!r} is a file. Give the folder it is in, with config.json and the weights."
    )


def _unknown(preset: str) -> str:
    near = builtin.nearest(preset)
    if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", preset):
        near = [f"hf://{preset}"]
    return (
        f"Unknown preset {preset!r}: neither a built-in id nor a folder."
        + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
        + " A preset is a built-in id ('bert_base_en'; `Backbone.presets` lists them), a handle"
        " ('kaggle://keras/bert/keras/bert_base_en', 'hf://org/name', 'modelscope://org/name') or"
        " a local folder ('./my_preset')."
        f" Ids are those of KerasHub up to {builtin.newest()}: one of a later version needs a newer"
        " keras_hub_torch, or its kaggle:// handle if the class is here."
    )


class PresetSource:
    """The files of one preset. `handle` is what the user called it."""

    # Of a folder that may be saved to at any time.
    snapshot: Snapshot | None = None

    def __init__(self, handle: str):
        self.handle = handle
        self._any_found = False

    def consistently(self, read: Callable[[], ValueType]) -> ValueType:
        """What `read` gives, of files that belong together. See `snapshot`."""
        return consistently(self.snapshot, read)

    def settle(self) -> None:
        """Make sure that the files given belong together, when they are open. See `snapshot`."""
        if self.snapshot is not None:
            self.snapshot.settle()

    @property
    def checkpoint(self) -> dict[str, str]:
        """What PEFT calls it, if it is of transformers; empty where transformers cannot load it."""
        return {}

    @property
    def origin(self) -> str | Path:
        """What opens it again, from another folder too."""
        return self.handle

    def _fetch(self, name: str) -> Path | None:
        """Local path of a file, downloaded if need be; None if the preset does not have it.

        Raises ConnectionError where that cannot be known: the hub does not answer and the file is
        not in its client's cache.
        """
        raise NotImplementedError

    def file(self, name: str) -> Path:
        """Local path of a file, downloaded if need be. Subfolders are separated by `/`.

        Raises:
            FileNotFoundError: the preset, or its file `name`, does not exist.
            PermissionError: the hub does not let us have it.
            ConnectionError: the hub cannot be reached and the file is not in the cache.
        """
        path = self._find(name)
        if path is None:
            raise FileNotFoundError(
                f"Preset {self.handle!r} has no file {name!r}.{builtin.not_yet(self.handle)}"
            )
        return path

    def has(self, name: str) -> bool:
        """Whether the preset has a file `name`; Kaggle and ModelScope download it to find out.

        Without the hub the cache answers, provided it has given a file before: a "no" may then
        mean "not downloaded yet", which `file` tells apart. Raises as `file` does otherwise.
        """
        try:
            return self._find(name) is not None
        except ConnectionError:
            if self._any_found:
                return False
            raise

    def _find(self, name: str) -> Path | None:
        with naming(self.handle):
            path = self._fetch("/".join(map(safe_name, name.split("/"))))
        self._any_found |= path is not None
        return path

    def download(self, names: Iterable[str]) -> list[Path]:
        """Local paths of several files, downloaded side by side. Raises as `file` does."""
        names = list(names)
        # The first file settles the version that the others come from.
        paths = [self.file(name) for name in names[:1]]
        with ThreadPoolExecutor(max_workers=4) as pool:
            return paths + list(pool.map(self.file, names[1:]))

    def download_all(self) -> Path:
        """The local folder with all files, downloaded if need be. Raises as `file` does."""
        raise NotImplementedError

    def cached(self) -> Path | None:
        """The folder that earlier downloads left in the cache; the hub is not asked.

        Kaggle's client knows whether all files are there, those of the others do not.
        """
        return None

    def sizes(self) -> dict[str, int] | None:
        """Bytes of all files by name; None where only a download would tell."""
        return None

    def names(self) -> list[str]:
        """Files of the top folder; empty where only a download would tell."""
        return [name for name in self.sizes() or () if "/" not in name]

    def json(self, name: str, limit: int | None = None) -> dict[str, Any]:
        """The JSON object in a file. Arguments and errors are those of `file` and `read_json`."""
        return read_json(self.file(name), limit)


class _Folder(PresetSource):
    def __init__(self, handle: str, folder: Path):
        super().__init__(handle)
        self._folder = folder
        self.snapshot: Snapshot = Snapshot(folder)

    def _fetch(self, name: str) -> Path | None:
        return self.snapshot.find(name)

    @property
    def origin(self) -> str | Path:
        return self._folder.absolute()

    @property
    def checkpoint(self) -> dict[str, str]:
        return {"base_model_name_or_path": str(self._folder.absolute())}

    def download_all(self) -> Path:
        return self._folder

    def sizes(self) -> dict[str, int]:
        return self.snapshot.sizes()

    def names(self) -> list[str]:
        found = (path.name for path in self._folder.iterdir())
        return [name for name in found if self.snapshot.find(name) is not None]


class _File(_Folder):
    """A file of safetensors, whatever is beside it."""

    def __init__(self, handle: str, path: Path):
        super().__init__(handle, path.parent)
        self._path = path

    def _fetch(self, name: str) -> Path | None:
        return super()._fetch(name) if name == self._path.name else None

    @property
    def origin(self) -> str | Path:
        return self._path.absolute()

    def download_all(self) -> Path:
        raise NotADirectoryError(_is_a_file(self.handle))

    def sizes(self) -> dict[str, int]:
        return {self._path.name: self._path.stat().st_size}

    def names(self) -> list[str]:
        return [self._path.name]


class _Archive(_Folder):
    """A `.keras` file, unpacked for as long as this lives."""

    def __init__(self, handle: str, path: Path):
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        super().__init__(handle, folder)
        self._path = path
        unpack(path, folder)

    @property
    def origin(self) -> str | Path:
        return self._path.absolute()


class _Kaggle(PresetSource):
    def __init__(self, handle: str, path: str):
        super().__init__(handle)
        *variation, version = kaggle_parts(path, handle, versioned=True)
        self._variation = "/".join(variation)
        self._version = version

    def _fetch(self, name: str) -> Path | None:
        with kaggle_errors(self.handle, self._variation):
            try:
                path = self._download(name, self._version)
            except network_errors() as error:
                response = getattr(error, "response", None)
                status, url = (
                    (503, "") if response is None else (response.status_code, response.url)
                )
                # A 404 to the question for the newest version means that there is no such model.
                if status == 404 and not url.endswith("/GetModelInstance"):
                    return None
                cached = self._newest_cached(name) if status >= 500 and not self._version else None
                if cached is None:
                    raise
                path = cached
            except ValueError as error:
                # In Kaggle's notebooks and in Colab models are mounted, not downloaded.
                if ABSENT not in str(error):
                    raise
                return None
        version = path.parents[name.count("/")].name
        if not self._version and version.isdecimal():
            # Stay with the version of the first file, should there be a newer one meanwhile.
            self._version = version
        return path

    def _download(self, name: str | None, version: str) -> Path:
        import kagglehub

        check_kaggle_listings()
        try:
            return Path(kagglehub.model_download(f"{self._variation}/{version}".rstrip("/"), name))
        except ValueError as error:
            if isinstance(error, network_errors()) or ABSENT in str(error):
                raise
            raise OSError(NOT_KAGGLES.format(self.handle, cause(error))) from error

    def download_all(self) -> Path:
        with naming(self.handle), kaggle_errors(self.handle, self._variation):
            return self._download(None, self._version)

    def cached(self) -> Path | None:
        return self._newest_cached(None)

    def _newest_cached(self, name: str | None) -> Path | None:
        from kagglehub.config import get_cache_folder

        folder = Path(get_cache_folder(), "models", self._variation)
        versions = [path.name for path in folder.glob("*") if path.name.isdecimal()]
        if self._version:
            versions = [self._version]
        for version in sorted(versions, key=int, reverse=True):
            # The client knows which files are complete, and asks the hub for the others.
            with contextlib.suppress(*network_errors()):
                return self._download(name, version)
        return None


class _HuggingFace(PresetSource):
    def __init__(self, handle: str, path: str):
        super().__init__(handle)
        self._repo, at, revision = path.partition("@")
        if at and not revision:
            raise ValueError(f"Malformed Hugging Face handle {handle!r}: nothing follows the '@'.")
        self._revision = revision or "main"
        self._trouble = ""
        hugging_face_repo(self._repo, handle)
        self._given_revision = revision

    @property
    def checkpoint(self) -> dict[str, str]:
        revision = {"revision": self._given_revision} if self._given_revision else {}
        return {"base_model_name_or_path": self._repo, **revision}

    @functools.cached_property
    def _files(self) -> frozenset[str] | None:
        """Names of all files, from the hub; None if it cannot be reached."""
        from huggingface_hub import HfApi
        from huggingface_hub.constants import HF_HUB_ETAG_TIMEOUT

        try:
            with hugging_face_errors(self.handle, self._repo):
                info = HfApi().model_info(
                    self._repo, revision=self._revision, timeout=HF_HUB_ETAG_TIMEOUT
                )
        except ConnectionError as error:
            self._trouble = str(error)
            return None
        where = f"The Hugging Face Hub's {self.handle}"
        return frozenset(relative_name(one.rfilename, where) for one in info.siblings or ())

    def has(self, name: str) -> bool:
        if self._files is not None:
            return name in self._files
        return super().has(name)

    def download_all(self) -> Path:
        if self._files is None:
            raise ConnectionError(self._trouble)
        names = sorted(self._files) or [CONFIG]
        first = self.download(names)[0]
        return first.parents[names[0].count("/")]

    def cached(self) -> Path | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            folder = snapshot_download(self._repo, revision=self._revision, local_files_only=True)
        except LocalEntryNotFoundError:
            return None
        return Path(folder)

    def sizes(self) -> dict[str, int] | None:
        from huggingface_hub import HfApi

        if self._files is None:
            return None
        with hugging_face_errors(self.handle, self._repo):
            info = HfApi().model_info(self._repo, revision=self._revision, files_metadata=True)
        return {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or ()}

    def _fetch(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        if self._files is not None and name not in self._files:
            return None
        check_hugging_face_answers()
        try:
            with hugging_face_errors(self.handle, self._repo):
                path = hf_hub_download(
                    self._repo,
                    name,
                    revision=self._revision,
                    # Without a hub the client would first retry for half a minute.
                    local_files_only=self._files is None,
                )
        except LocalEntryNotFoundError as error:
            raise ConnectionError(
                f"{self._trouble or error} And {name!r} of {self.handle!r} is not in the cache: "
                "only what was downloaded before works without the hub. Look at the connection, "
                "and at the variables HF_HUB_OFFLINE, HF_ENDPOINT and HF_HOME."
            ) from error
        file = Path(path)
        # Stay with the commit of the first file, should the branch move meanwhile.
        self._revision = file.parents[name.count("/")].name
        return file


class _ModelScope(PresetSource):
    def __init__(self, handle: str, path: str):
        super().__init__(handle)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", path):
            raise ValueError(
                f"Malformed ModelScope handle {handle!r}; it should be modelscope://org/name."
            )
        self._model = path

    def _fetch(self, name: str) -> Path | None:
        path = self._download(repr(name), allow_patterns=[name]) / name
        return path if path.is_file() else None

    def _download(self, what: str, **options: Any) -> Path:
        try:
            from modelscope.hub.snapshot_download import snapshot_download
        except ImportError as error:
            raise ImportError(
                f"{self.handle!r} is on ModelScope, whose client is not installed. "
                "Run `pip install modelscope`."
            ) from error
        try:
            return Path(snapshot_download(self._model, **options))
        except Exception as error:  # the client's exceptions differ from version to version
            raise ConnectionError(
                f"ModelScope did not give {what} of {self.handle!r}: {error}"
            ) from error

    def download_all(self) -> Path:
        return self._download("the files")

    def cached(self) -> Path | None:
        try:
            return self._download("the files", local_files_only=True)
        except ConnectionError:
            return None


_HUBS: dict[str, type[_Kaggle | _HuggingFace | _ModelScope]] = {
    "kaggle": _Kaggle,
    "hf": _HuggingFace,
    "modelscope": _ModelScope,
}
