"""Every argument of every public class is documented, where `help` shows it."""

from __future__ import annotations

import inspect
import pydoc
import re

import pytest

from keras_hub_torch.backbones._configuration import COMMON, constructor_arguments
from keras_hub_torch.backbones._model import Model
from keras_hub_torch.backbones._registry import public_classes

CLASSES = {cls.__name__: cls for cls in public_classes(Model).values()}
LINE = re.compile(r"^    (\w+(?:, \w+)*): (.+)", re.MULTILINE)


def documented(cls: type[Model]) -> dict[str, str]:
    """The names in a docstring's `Args:`, with the first line of what it says of them."""
    doc = inspect.cleandoc(vars(cls).get("__doc__") or "")
    section = re.search(r"^Args:\n((?: .*\n?)+)", doc, re.MULTILINE)
    assert section is not None, f"{cls.__name__} has no Args section"
    lines = LINE.findall(section[1])
    found = [(name, text) for names, text in lines for name in names.split(", ")]
    assert len(dict(found)) == len(found), f"{cls.__name__} documents an argument twice"
    return dict(found)


@pytest.mark.parametrize("name", CLASSES)
def test_arguments(name: str) -> None:
    cls = CLASSES[name]
    own = [arg for arg in constructor_arguments(cls) if arg not in COMMON]
    assert [arg for arg in documented(cls) if arg not in COMMON] == own
    assert cls.__init__.__doc__ is None  # one place


def test_help() -> None:
    """It begins with the constructor's own signature."""
    text = pydoc.plain(pydoc.render_doc(CLASSES["BertBackbone"]))
    words = " ".join(text.replace("|", " ").split())
    head = words.split(") BertBackbone(", 1)[1].strip()
    assert head.startswith(
        ("vocabulary_size: 'int', num_layers:", "vocabulary_size: int, num_layers:")
    )
    assert "Encoder with absolute positions and a pooled output. `token_ids`" in words
