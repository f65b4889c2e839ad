"""What a preset has beside its backbone: tokenizers, preprocessors, converters, a task's head."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .checkpoints import dialect_in
from .sources import PresetSource

TASK = "task.json"
ASSETS = ("vocabulary.txt", "vocabulary.json", "merges.txt", "vocabulary.spm")
GENERATION = "generation_config.json"
CHAT = ("chat_template.jinja", "chat_template.json")
KERAS = (
    *("tokenizer.json", "preprocessor.json", TASK, "task.weights.h5", GENERATION),
    *("image_converter.json", "audio_converter.json", "video_converter.json"),
    *(f"assets/tokenizer/{name}" for name in (*ASSETS, *CHAT)),
)
# Those of several encoders have their names before these.
OF_KERAS = re.compile(
    r"(\w+_)?(tokenizer|preprocessor|(image|audio|video)_converter)\.json"
    r"|task\.json|task\.weights\.h5|generation_config\.json|assets/.+"
)
VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model"),
    *("spm.model", "sentencepiece.bpe.model", "tekken.json"),
)
FOREIGN = (
    *VOCABULARIES,
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *(*CHAT, GENERATION),
    *("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json"),
)


def companions(source: PresetSource) -> list[str]:
    """Names of the files of a preset that tokenizers and the like are read from.

    Hubs that give no list are asked for the usual ones.
    """
    foreign = dialect_in(source) is not None
    known = source.sizes()
    if known is not None:
        return sorted(n for n in known if (n in FOREIGN if foreign else OF_KERAS.fullmatch(n)))
    found = []
    for name in FOREIGN if foreign else KERAS:
        if not name.startswith("assets/") or "tokenizer.json" in found:
            found += [name] if source.has(name) else []
    return sorted(found)


def has_tokenizer(names: list[str]) -> bool:
    """Whether there is a vocabulary among a preset's companions."""
    return any(name in VOCABULARIES for name in names)


def copy_companions(source: PresetSource, backbone: Mapping[str, Any], folder: Path) -> list[str]:
    """Copy those of a Keras preset for a backbone, serialized, that takes the place of its own.

    Returns:
        Their names; empty of a checkpoint of another library.
    """
    if dialect_in(source) is not None:
        return []
    names = companions(source)
    for name, path in zip(names, source.download(names)):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if name == TASK:
            task = source.json(TASK)
            arguments = task.get("config")
            if isinstance(arguments, dict) and "backbone" in arguments:
                arguments["backbone"] = dict(backbone)
                target.write_text(json.dumps(task, indent=4))
    return names


def summary(names: list[str]) -> str:
    """Names with those in a folder as that folder."""
    return ", ".join(dict.fromkeys(re.sub("/.*", "/", name) for name in names))
