"""What the README says about families is what there is."""

from __future__ import annotations

import re
from pathlib import Path

from keras_hub_torch.backbones._backbone import Backbone
from keras_hub_torch.backbones._registry import public_classes
from keras_hub_torch.presets.builtin import presets_of
from keras_hub_torch.presets.checkpoints import TRANSFORMERS
from keras_hub_torch.presets.checkpoints.engine import known_kinds

README = Path(__file__).parents[1] / "README.md"


def families() -> dict[str, tuple[str, str]]:
    """Class → number of presets and model types, as the README's table should have them."""
    classes = public_classes(Backbone)
    names: dict[type, list[str]] = {}
    for name, cls in classes.items():
        names.setdefault(cls, []).append(name)
    return {
        " = ".join(sorted(found, key=lambda name: name != cls.__name__)): (
            str(len(presets_of([cls.__name__]))),
            ", ".join(sorted(known_kinds(TRANSFORMERS, cls))) or "–",
        )
        for cls, found in names.items()
        if cls.__name__ not in ("Backbone", "FeaturePyramidBackbone")
    }


def test_the_table_of_families() -> None:
    rows = re.findall(r"^\| `(.+?)` \| (\d+) \| (.+?) \|$", README.read_text(), re.MULTILINE)
    assert {name: (count, types) for name, count, types in rows} == families()


if __name__ == "__main__":
    for name, (count, types) in sorted(families().items()):
        print(f"| `{name}` | {count} | {types} |")
