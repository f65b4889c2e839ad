"""What the hubs' clients take, answer and raise."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import reprlib
from collections.abc import Iterator
from typing import Any

from . import builtin
from .files import relative_name
from .refusals import cause

# Errors that say enough, or are no answers of a hub.
NOT_OURS = (ImportError, Warning, MemoryError)
ABSENT = "is not present in the model files"
NOT_KAGGLES = "What answered for {!r} does not answer as Kaggle does: {}"


def check_hugging_face_answers() -> None:
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


def check_kaggle_listings() -> None:
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
                f"terms have to be accepted first. Look at {url}, then {log_in}."
                + builtin.not_yet(handle)
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
