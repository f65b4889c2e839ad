"""Write `presets/builtin.json` from the installed KerasHub, or compare it (`--check`)."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

BUILTIN = Path(__file__).resolve().parent.parent / "presets" / "builtin.json"


def facts() -> dict[str, Any]:
    """The content of `builtin.json`."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras_hub
    from keras_hub.models import Backbone, Task
    from keras_hub.src import models
    from keras_hub.src.utils.preset_utils import BUILTIN_PRESETS_FOR_BACKBONE, list_subclasses

    # Backbones that nothing exports (RQVAEBackbone) exist only once their module is imported.
    for module in pkgutil.walk_packages(models.__path__, models.__name__ + "."):
        if not module.name.endswith("_test"):
            importlib.import_module(module.name)

    def subclasses(cls: type) -> set[type]:
        """Those that the modules have which they name; the tests' own have none."""
        own = getattr(sys.modules[cls.__module__], cls.__name__, None) is cls
        return ({cls} if own else set()).union(*map(subclasses, cls.__subclasses__()))

    all_tasks = list_subclasses(Task)
    exported = inspect.getmembers(
        keras_hub.models, lambda x: inspect.isclass(x) and issubclass(x, Backbone)
    )

    def entries(of: type) -> dict[str, Any]:
        return {
            preset_id: {
                "class": (cls if of is Backbone else cls.backbone_cls).__name__,
                "handle": preset["kaggle_handle"],
                "parameters": preset["metadata"].get("params"),
            }
            for cls, presets in BUILTIN_PRESETS_FOR_BACKBONE.items()
            if issubclass(cls, of)
            for preset_id, preset in presets.items()
        }

    return {
        "keras_hub": keras_hub.__version__,
        "aliases": {name: cls.__name__ for name, cls in exported if name != cls.__name__},
        "backbones": {
            cls.__name__: {
                "module": cls.__module__,
                "tasks": sorted({t.__base__.__name__ for t in all_tasks if t.backbone_cls is cls}),
            }
            for cls in subclasses(Backbone) - {Backbone}
        },
        # Tasks, preprocessors and tokenizers, whose work is not done here.
        "others": sorted(
            name
            for name, cls in inspect.getmembers(keras_hub.models, inspect.isclass)
            if not issubclass(cls, Backbone)
        ),
        "presets": entries(Backbone),
        "task_presets": entries(Task),
    }


def dumps(builtin: dict[str, Any]) -> str:
    """JSON text, sorted, with one backbone or preset a line."""
    parts = []
    for key, value in builtin.items():
        if isinstance(value, dict):
            lines = (f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(value.items()))
            text = "{\n" + ",\n".join(lines) + "\n}"
        elif isinstance(value, list):
            text = "[\n" + ",\n".join(f"  {json.dumps(item)}" for item in value) + "\n]"
        else:
            text = json.dumps(value)
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if it differs")
    check = parser.parse_args().check
    text = dumps(facts())
    if not check:
        BUILTIN.write_text(text, encoding="utf-8")
        return 0
    if BUILTIN.read_text(encoding="utf-8") == text:
        return 0
    print(f"{BUILTIN} differs from the installed KerasHub; rewrite it.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
