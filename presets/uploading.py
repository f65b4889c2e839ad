"""Upload a preset folder to Kaggle or the Hugging Face Hub."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .checkpoints import configuration, dialect_of
from .checkpoints.loading import files_of
from .files import SAFETENSORS, SHARD_INDEX, WEIGHTS
from .hubs import hugging_face_errors, hugging_face_repo, kaggle_errors, kaggle_parts
from .journal import HIDDEN
from .keras.h5 import shard_names
from .replacing import staging_in
from .sources import PresetSource, open_preset

_CARD = """\
---
library_name: {library}
{pipeline}---
# {name}

A preset of `{name}`{size}. It loads in KerasHub, on JAX, TensorFlow or PyTorch, and as a plain
PyTorch module in `keras_hub_torch`:

```python
import keras_hub_torch as keras_hub  # or: import keras_hub

backbone = keras_hub.models.Backbone.from_preset("hf://{repo}")
```

## Configuration

```json
{config}
```

*This card was written by a program. What the model is for, what it was trained on and where it
fails is for its author to add.*
"""
_PIPELINES = {
    "CausalLM": "text-generation",
    "TextClassifier": "text-classification",
    "ImageClassifier": "image-classification",
    "ImageSegmenter": "image-segmentation",
    "ObjectDetector": "object-detection",
    "DepthEstimator": "depth-estimation",
    "TextToImage": "text-to-image",
}

# Of saves that are going on, or were killed.
OURS = [f"{HIDDEN}*"]
# What the hubs' clients leave out, and may be large.
NOT_UPLOADED = (".git", ".cache")


def upload_preset(uri: str, preset: str | os.PathLike[str]) -> None:
    """Upload a preset folder to `kaggle://org/model/keras/variation` or `hf://[org/]name`.

    What is not there yet is created: on Kaggle as a private model, on Hugging Face with the
    visibility that is the user's default. Kaggle adds a version to a model, Hugging Face a commit
    to a repository, which also gets a model card if neither it nor the folder has a `README.md`.

    Raises:
        FileNotFoundError: no such folder, or it lacks the configuration or weights.
        ValueError: malformed `uri`, or unreadable configuration.
        PermissionError: not logged in, or not allowed to write there.
        ConnectionError: the hub cannot be reached.
    """
    folder = Path(os.path.expanduser(preset))
    scheme, _, path = uri.partition("://")
    if scheme not in ("kaggle", "hf"):
        raise ValueError(
            f"Cannot upload to {uri!r}; it should be kaggle://org/model/keras/variation or hf://org/name."
        )
    if scheme == "kaggle":
        kaggle_parts(path, uri, versioned=False)
    else:
        hugging_face_repo(path, uri)
    with _kept(open_preset(folder)) as kept:
        if scheme == "kaggle":
            import kagglehub

            with kaggle_errors(uri, path):
                kagglehub.model_upload(path, str(kept), ignore_patterns=OURS)
        else:
            _upload_to_hugging_face(uri, path, kept)


@contextlib.contextmanager
def _kept(source: PresetSource) -> Iterator[Path]:
    """A folder of links to a preset's files, which stay as they are whatever is saved meanwhile.

    Raises as `check_weights` does.
    """
    folder = source.download_all()

    def link(target: Path) -> None:
        assert source.snapshot is not None
        check_weights(source, configuration(source)[1])
        shutil.rmtree(target, ignore_errors=True)
        for name in source.snapshot.names():
            path = None if name.partition("/")[0] in NOT_UPLOADED else source.snapshot.find(name)
            if path is not None:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                _link(path.resolve(), target / name)

    source.consistently(lambda: check_weights(source, configuration(source)[1]))
    with contextlib.ExitStack() as stack:
        kept = folder
        try:
            kept = stack.enter_context(staging_in(folder)) / "files"
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
        else:
            source.consistently(lambda: link(kept))
        yield kept


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # not every file system has links
        shutil.copyfile(path, target)


def _upload_to_hugging_face(uri: str, repo: str, folder: Path) -> None:
    from huggingface_hub import HfApi

    hub = HfApi()
    source = open_preset(folder)
    with hugging_face_errors(uri, repo):
        # The hub completes a name without an organisation by that of the user.
        repo = hub.create_repo(repo, exist_ok=True).repo_id
        hub.upload_folder(repo_id=repo, folder_path=folder, ignore_patterns=OURS)
        if not hub.file_exists(repo, "README.md"):
            hub.upload_file(
                path_or_fileobj=model_card(source, configuration(source)[1], repo).encode(),
                path_in_repo="README.md",
                repo_id=repo,
            )


def model_card(source: PresetSource, config: dict[str, Any], repo: str) -> str:
    """A README.md for a preset, in Markdown with the front matter of the Hugging Face Hub."""
    dialect = dialect_of(config)
    name = dialect.title(config) if dialect else config.get("class_name", "Model")
    task = source.json("task.json").get("class_name", "") if source.has("task.json") else ""
    pipelines = [pipeline for end, pipeline in _PIPELINES.items() if task.endswith(end)]
    metadata = source.json("metadata.json") if source.has("metadata.json") else {}
    parameters = metadata.get("parameter_count")
    return _CARD.format(
        library=dialect.name if dialect else "keras-hub",
        pipeline="".join(f"pipeline_tag: {pipeline}\n" for pipeline in pipelines),
        name=name,
        size=f" with {parameters:,} parameters" if isinstance(parameters, int) else "",
        repo=repo,
        config=json.dumps(config.get("config", config), indent=2),
    )


def check_weights(source: PresetSource, config: dict[str, Any]) -> None:
    """Look for all files that hold weights.

    Raises:
        FileNotFoundError: one is missing.
    """
    dialect = dialect_of(config)
    if dialect is not None:
        files_of(dialect, source, config)
    elif source.has(SHARD_INDEX) and not source.has(WEIGHTS):
        shards = shard_names(source.file(SHARD_INDEX))
        missing = [shard for shard in shards if not source.has(shard)]
        if missing:
            raise FileNotFoundError(
                f"Preset {source.handle!r} lacks what its {SHARD_INDEX} lists: "
                f"{', '.join(missing)}."
            )
    elif not (source.has(WEIGHTS) or source.has(SAFETENSORS)):
        raise FileNotFoundError(
            f"Preset {source.handle!r} has no weights: neither {WEIGHTS}, nor {SHARD_INDEX} with "
            f"its shards, nor {SAFETENSORS}."
        )
