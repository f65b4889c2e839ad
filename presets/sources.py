"""Where presets are: built-in ids, hub handles and folders, turned into local files."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import reprlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from . import builtin
from .files import read_json, relative_name, safe_name
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


def _not_yet(preset: str) -> str:
    """What an error adds of a preset that KerasHub is only about to bring."""
    version = builtin.version_of(preset)
    if version is None:
        return ""
    return (
        f" It comes with KerasHub {version}: before that is out it may not be there. Once it is, "
        "try again, with a newer keras_hub_torch if its handle has changed."
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
                f"Preset {self.handle!r} has no file {name!r}.{_not_yet(self.handle)}"
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

        _check_kaggle_listings()
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
        self.download(sorted(self._files))
        return self.file("config.json").parent

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
        _check_hugging_face_answers()
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


# Errors that say enough, or are no answers of a hub.
NOT_OURS = (ImportError, Warning, MemoryError)
ABSENT = "is not present in the model files"
NOT_KAGGLES = "What answered for {!r} does not answer as Kaggle does: {}"

_HUBS: dict[str, type[_Kaggle | _HuggingFace | _ModelScope]] = {
    "kaggle": _Kaggle,
    "hf": _HuggingFace,
    "modelscope": _ModelScope,
}


def _check_hugging_face_answers() -> None:
    """Have answers looked at before `huggingface_hub` makes paths of what their headers say."""
    from huggingface_hub import utils

    session: Any = utils.get_session()  # type: ignore[attr-defined]
    hooks = getattr(session, "event_hooks", None)
    if hooks is None:  # requests, before huggingface_hub 1.0
        if _check_headers not in session.hooks["response"]:
            session.hooks["response"].append(_check_headers)
    elif _check_headers not in hooks["response"]:
        session.event_hooks = {**hooks, "response": [*hooks["response"], _check_headers]}


def _check_headers(response: Any, *args: Any, **kwargs: Any) -> None:
    """Refuse an ETag or commit that is no plain name.

    Raises:
        OSError: of a path; others are no concern of ours.
    """
    if "X-Repo-Commit" not in response.headers:
        return
    for header in ("X-Repo-Commit", "X-Linked-Etag", "ETag"):
        value = response.headers.get(header)
        # The client strips a `W/` and quotation marks.
        plain = r'(W/)?"?[\w=+~-][\w.=+~-]{0,127}"?'
        if value is not None and not re.fullmatch(plain, value, re.ASCII):
            raise OSError(
                f"{header} of {response.request.url} is {reprlib.repr(value)}, which is no plain "
                "name; the client would take it for a path."
            )


def _check_kaggle_listings() -> None:
    """Have `kagglehub` look at the names that the hub lists before it writes to them."""
    from kagglehub import http_resolver

    listed = getattr(http_resolver, "_list_model_files", None)
    if listed is None or hasattr(listed, "__wrapped__"):
        return

    @functools.wraps(listed)
    def checked(api_client: Any, handle: Any) -> Any:
        files, has_more = listed(api_client, handle)
        return [relative_name(name, f"Kaggle's {handle}") for name in files], has_more

    http_resolver._list_model_files = checked


def kaggle_parts(path: str, handle: str, *, versioned: bool) -> list[str]:
    """Organisation, model, framework, variation and version of a Kaggle handle.

    The version is empty where none is given. Raises ValueError for anything else, and for a
    version where none is allowed.
    """
    match = re.fullmatch(r"([\w.-]+)/([\w.-]+)/([\w.-]+)/([\w.-]+)(?:/([1-9][0-9]*))?", path)
    if match is None or (match[5] and not versioned):
        version = ", and may end in a version, as in .../variation/3." if versioned else "."
        raise ValueError(
            f"Malformed Kaggle handle {handle!r}; it should be kaggle://org/model/keras/variation"
            + version
        )
    return [part or "" for part in match.groups()]


def hugging_face_repo(repo: str, handle: str) -> str:
    """`repo`, if it is a name that repositories of the Hugging Face Hub can have."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ValueError(
            f"Malformed Hugging Face handle {handle!r}; it should be hf://org/name. {error}"
        ) from error
    return repo


def network_errors() -> tuple[type[Exception], ...]:
    """What the hubs' clients raise where a hub does not answer: errors of httpx and requests."""
    import requests
    from huggingface_hub import errors

    return (requests.RequestException, errors.HTTPError, ConnectionError)  # type: ignore[attr-defined]


@contextlib.contextmanager
def hugging_face_errors(handle: str, repo: str) -> Iterator[None]:
    """Turn what `huggingface_hub` raises into built-in exceptions that say what to do."""
    from huggingface_hub import constants, errors

    url = f"{constants.ENDPOINT}/{repo}"
    log_in = "log in with `hf auth login` or set HF_TOKEN"
    try:
        yield
    except errors.GatedRepoError as error:
        raise PermissionError(
            f"{handle!r} is gated. Accept its terms at {url}, then {log_in}."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"There is no repository {repo!r} at {constants.ENDPOINT}. If it is private, {log_in}."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{handle!r} names a branch, tag or commit that {url} does not have."
        ) from error
    except errors.LocalEntryNotFoundError:  # an HfHubHTTPError too, before huggingface_hub 1.0
        raise
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"The Hugging Face Hub does not let you use {handle!r} ({status}). Your token is "
                f"not valid or lacks the right: {log_in}."
            ) from error
        raise ConnectionError(
            f"The Hugging Face Hub at {constants.ENDPOINT} answered {status} for {handle!r}."
        ) from error
    except network_errors() as error:
        raise ConnectionError(
            f"The Hugging Face Hub at {constants.ENDPOINT} cannot be reached ({error})."
        ) from error
    except (*NOT_OURS, OSError):
        raise
    except Exception as error:  # the client trusts answers to be those of a hub
        raise OSError(
            f"What {constants.ENDPOINT} answered for {handle!r} is not what the Hugging Face Hub "
            f"answers; something between may have: {cause(error)}"
        ) from error


@contextlib.contextmanager
def kaggle_errors(handle: str, path: str) -> Iterator[None]:
    """Turn what `kagglehub` raises into built-in exceptions that say what to do."""
    import requests
    from kagglehub.exceptions import BackendError, DataCorruptionError, UnauthenticatedError

    org, model = path.split("/")[:2]
    url = f"https://www.kaggle.com/models/{org}/{model}"
    log_in = "log in with `kagglehub.login()` or set KAGGLE_API_TOKEN"
    try:
        yield
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 404:
            raise FileNotFoundError(f"Kaggle has no model {handle!r}. See {url}.") from error
        if status == 403:
            raise PermissionError(
                f"Kaggle does not let you use {handle!r}: it does not exist, or is private, or its "
                f"terms have to be accepted first. Look at {url}, then {log_in}.{_not_yet(handle)}"
            ) from error
        if status == 401:
            raise PermissionError(
                f"Kaggle does not accept your credentials for {handle!r}: {log_in}."
            ) from error
        raise ConnectionError(f"Kaggle answered {status} for {handle!r} ({error}).") from error
    except UnauthenticatedError as error:
        raise PermissionError(f"Kaggle wants to know who asks for {handle!r}: {log_in}.") from error
    except DataCorruptionError as error:
        raise OSError(f"A file of {handle!r} arrived damaged; try again. {error}") from error
    except BackendError as error:
        raise OSError(f"Kaggle refused {handle!r}: {error}") from error
    except requests.exceptions.JSONDecodeError as error:
        raise OSError(NOT_KAGGLES.format(handle, cause(error))) from error
    except network_errors() as error:
        raise ConnectionError(
            f"Kaggle cannot be reached for {handle!r} ({error}). Only what was downloaded before "
            "works without it, from the folder in KAGGLEHUB_CACHE (~/.cache/kagglehub)."
        ) from error
    except json.JSONDecodeError as error:
        raise OSError(NOT_KAGGLES.format(handle, cause(error))) from error
    except (*NOT_OURS, ValueError, OSError):
        raise
    except Exception as error:
        raise OSError(NOT_KAGGLES.format(handle, cause(error))) from error
