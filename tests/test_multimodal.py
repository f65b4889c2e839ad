"""Preprocessors of text with images or sound, compared with KerasHub's."""

from __future__ import annotations

from .oracle import keras, keras_hub  # isort: skip  # before all that imports Keras

import json
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.utils.data import DataLoader

from keras_hub_torch import generate, layers, models
from keras_hub_torch import tokenizers as ours
from keras_hub_torch.preprocessing.prompts import text_prompts

from .cases import all_cases
from .checkpoints import gemma4, qwen3_5
from .test_cli import run, succeed
from .test_converters import GEMMA3N, pixels, waves
from .test_tokenizers import pairs

IMAGE, IMAGES = pixels(9, 8, 3), pixels(2, 9, 8, 3)
SIZED = {"image_size": (5, 6), "scale": 0.01, "offset": -1.0}
VIDEOS, SOUND = pixels(2, 5, 9, 14, 3), waves(2, 1999)
START, HEAR = "<start_of_image>", "<start_of_audio>"
SEE = "<|vision_start|><|image_pad|><|vision_end|>"
PATCHES = {"patch_size": 2, "min_pixels": 64, "max_pixels": 400}
BOXES = {
    "boxes": np.array([[[0, 0, 3, 3], [1, 2, 5, 6]], [[2, 2, 4, 5], [-10] * 4]], "float32"),
    "box_labels": np.array([[1, 0], [1, -10]]),
}


@dataclass(frozen=True)
class Task:
    """A preprocessor, with what it is called on to train and to generate."""

    name: str
    tokenizer: str
    options: dict[str, Any]
    converters: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)
    training: Sequence[Any] = ()
    generating: Sequence[Any] = ()


def pair_task(name: str, tokenizer: str, options: dict[str, Any]) -> Task:
    converter = name.replace("CausalLM", "").replace("Preprocessor", "ImageConverter")
    batch = {"prompts": ["The QUICK, brown  fox!", "ÀÉ Über\t\n (x)"], "images": IMAGES}
    one = {"prompts": "Hello WORLD", "images": IMAGE}
    parts = {"image_converter": (converter, SIZED)}
    return Task(name, tokenizer, options, parts, (batch, one), ("a",))


PLAIN = {"sequence_length": 9, "add_end_token": False}
TASKS = {
    "siglip": pair_task("SigLIPPreprocessor", "SigLIPTokenizer", {}),
    "siglip-plain": pair_task(
        "SigLIPPreprocessor", "SigLIPTokenizer", {**PLAIN, "canonicalize_text": False}
    ),
    "clip": pair_task("CLIPPreprocessor", "CLIPTokenizer", {**PLAIN, "to_lower": False}),
    "metaclip2": pair_task("MetaCLIP2CausalLMPreprocessor", "MetaCLIP2Tokenizer", {}),
    "pali_gemma": Task(
        "PaliGemmaCausalLMPreprocessor",
        "PaliGemmaTokenizer",
        {"sequence_length": 9},
        {"image_converter": ("PaliGemmaImageConverter", SIZED)},
        (
            {"prompts": ["the quick", "a"], "responses": ["b", "c d e f g h"], "images": IMAGES},
            {"prompts": "the quick", "responses": "fox", "images": IMAGE},
        ),
        (
            {"prompts": ["the quick brown fox", "a"], "images": IMAGES},
            {"prompts": "the", "responses": "b", "images": IMAGE},
        ),
    ),
    "gemma3": Task(
        "Gemma3CausalLMPreprocessor",
        "Gemma3Tokenizer",
        {"sequence_length": 29, "num_vision_tokens_per_image": 3, "max_images_per_prompt": 3},
        {"image_converter": ("Gemma3ImageConverter", SIZED)},
        (
            {"prompts": [f"the {START} b", START], "responses": ["c", "d"], "images": IMAGES},
            {"prompts": ["the quick", "a"], "responses": ["b", "c d"]},
            {"prompts": f"the{START}{START}", "responses": "fox", "images": [IMAGE, IMAGE]},
            {
                "prompts": [f"the{START}{START}", "a"],
                "responses": ["fox", "e"],
                "images": [[IMAGE, IMAGE], []],
            },
        ),
        ("the quick", {"prompts": f"the{START}", "images": IMAGE}, ["a", "b"]),
    ),
    "gemma3-text": Task(
        "Gemma3CausalLMPreprocessor",
        "Gemma3Tokenizer",
        {"sequence_length": 9, "add_start_token": False, "add_end_token": False},
        {},
        ({"prompts": [f"the{START}", "a"], "responses": ["x", "y"]},),
        ("a",),
    ),
    "blip2": Task(
        "BLIP2CausalLMPreprocessor",
        "BLIP2FlanT5Tokenizer",
        {"sequence_length": 9},
        {"image_converter": ("BLIP2ImageConverter", {"image_size": (5, 6)})},
        ({"text": ["a cat", "the dog jumped over it"], "images": IMAGES}, "a"),
        ({"text": ["a cat", "b"], "images": IMAGES}, "a"),
    ),
    "blip2-seq2seq": Task(
        "BLIP2Seq2SeqLMPreprocessor",
        "BLIP2FlanT5Tokenizer",
        {"encoder_sequence_length": 9, "decoder_sequence_length": 6},
        {"image_converter": ("BLIP2ImageConverter", {"image_size": (5, 6)})},
        ({"encoder_text": ["a cat", "b"], "decoder_text": ["x", "y"], "images": IMAGES},),
        ({"encoder_text": ["a cat", "b"], "images": IMAGES}, ["a"]),
    ),
    "t5gemma2": Task(
        "T5Gemma2Seq2SeqLMPreprocessor",
        "T5Gemma2Tokenizer",
        {"encoder_sequence_length": 29, "decoder_sequence_length": 6, "image_size": 6}
        | {"num_vision_tokens_per_image": 4, "add_start_token": True},
        {"image_converter": ("T5Gemma2ImageConverter", {"image_size": (6, 6)})},
        ({"encoder_text": ["a cat", "b"], "decoder_text": ["x", "y"]},),
        (
            ["a", "b"],
            {
                "encoder_text": [f"a{START}", f"{START}b"],
                "decoder_text": ["x", "y z"],
                "images": IMAGES,
            },
        ),
    ),
    "moonshine": Task(
        "MoonshineAudioToTextPreprocessor",
        "MoonshineTokenizer",
        {"decoder_sequence_length": 7},
        {"audio_converter": ("MoonshineAudioConverter", {})},
        ({"audio": waves(2, 1999), "text": ["the quick", "b"]},),
        ({"audio": waves(2, 1999)}, {"audio": waves(2, 1999), "text": ["a", "b"]}),
    ),
    "parseq": Task(
        "PARSeqCausalLMPreprocessor",
        "PARSeqTokenizer",
        {"sequence_length": 7},
        {"image_converter": ("PARSeqImageConverter", SIZED)},
        ({"images": IMAGES, "responses": ["abc", "D e!"]},),
    ),
    "sam3": Task(
        "SAM3PromptableConceptImageSegmenterPreprocessor",
        "SAM3Tokenizer",
        {"sequence_length": 7},
        {"image_converter": ("SAM3ImageConverter", {"image_size": (6, 6)})},
        (
            {"images": IMAGE},
            {"images": IMAGES, "prompts": ["ear", "a head"], **BOXES},
            {"images": IMAGE, **{key: value[0] for key, value in BOXES.items()}},
        ),
    ),
    "gemma3n": Task(
        "Gemma3nCausalLMPreprocessor",
        "Gemma3nTokenizer",
        {"sequence_length": 40, "num_vision_tokens_per_image": 5, "num_audio_tokens_per_audio": 4},
        {
            "image_converter": ("Gemma3nImageConverter", SIZED),
            "audio_converter": ("Gemma3nAudioConverter", GEMMA3N),
        },
        (
            {
                "prompts": [f"the {HEAR}{HEAR}{START}", f"{HEAR}a"],
                "responses": ["b", "c"],
                "audios": [[SOUND[0], SOUND[1][:900]], [SOUND[0]]],
                "images": [[IMAGE], []],
            },
            {"prompts": "the", "responses": "c"},
        ),
        ({"prompts": f"the {HEAR}{START}", "audios": SOUND[0], "images": IMAGE}, ["a", "b"]),
    ),
    "gemma4-text": Task(
        "Gemma4CausalLMPreprocessor",
        "Gemma4Tokenizer",
        {"sequence_length": 9},
        {},
        ({"prompts": ["a b", "c"], "responses": ["d", "e"]},),
        ("a",),
    ),
    "gemma4-images": Task(
        "Gemma4CausalLMPreprocessor",
        "Gemma4Tokenizer",
        {"sequence_length": 40, "num_vision_tokens_per_image": 6},
        {
            "image_converter": (
                "Gemma4ImageConverter",
                {"patch_size": 2, "max_soft_tokens": 6, "scale": 0.01},
            )
        },
        (
            {"prompts": ["a <|image|>", "<|image|>b"], "responses": ["c", "d"], "images": IMAGES},
            {
                "prompts": ["a <|image|><|image|>", "<|image|>b"],
                "responses": ["c", "d"],
                "images": [[IMAGE, IMAGE], [IMAGE]],
            },
        ),
        ("a", {"prompts": "<|image|>b", "images": IMAGE}),
    ),
    "gemma4-sound-video": Task(
        "Gemma4CausalLMPreprocessor",
        "Gemma4Tokenizer",
        {"sequence_length": 60, "num_frames_per_video": 3, "audio_input_feat_size": 9},
        {
            "audio_converter": (
                "Gemma4AudioConverter",
                {"num_mels": 9, "sampling_rate": 1600, "max_audio_length": 2}
                | {"max_frequency": 800.0},
            ),
            "video_converter": (
                "Gemma4VideoConverter",
                {"patch_size": 2, "max_soft_tokens": 6, "num_frames": 3},
            ),
        },
        (
            {
                "prompts": ["the <|audio|>", "<|audio|>a<|video|>"],
                "responses": ["b", "c"],
                "audio": SOUND,
                "videos": VIDEOS,
            },
        ),
        (
            {"prompts": "the <|video|>", "videos": VIDEOS[0]},
            {"prompts": ["the <|audio|>", "<|audio|>c"], "audio": [SOUND[0], SOUND[1][:1111]]},
        ),
    ),
    "qwen3_5": Task(
        "Qwen3_5CausalLMPreprocessor",
        "Qwen3_5Tokenizer",
        {"sequence_length": 90},
        {
            "image_converter": ("Qwen3_5ImageConverter", PATCHES),
            "video_converter": ("Qwen3_5VideoConverter", PATCHES),
        },
        ("the quick",),
        (
            ["a", "b"],
            {"prompts": f"a {SEE}b{SEE}", "images": IMAGES},
            {
                "prompts": ["<|im_start|>a " + SEE.replace("image", "video") + SEE + "<|im_end|>"],
                "images": [IMAGE],
                "videos": VIDEOS[:1],
            },
        ),
    ),
}


def both(task: Task) -> tuple[Any, Any]:
    """Ours and KerasHub's."""
    keras.utils.clear_session(free_memory=False)
    arguments, options = pairs()[task.tokenizer]
    options = {key: value for key, value in options.items() if key != "sequence_length"}
    found = []
    for tokenizers, room, tasks in (
        (ours, layers, models),
        (keras_hub.tokenizers, keras_hub.layers, keras_hub.models),
    ):
        parts = {k: getattr(room, name)(**c) for k, (name, c) in task.converters.items()}
        parts["tokenizer"] = getattr(tokenizers, task.tokenizer)(*arguments, **options)
        found.append(getattr(tasks, task.name)(**parts, **task.options))
    if "Qwen" in task.name:  # KerasHub cuts no text: let it have ours
        found[1].tokenizer._tokenizer = found[0].tokenizer.library
    return pickle.loads(pickle.dumps(found[0])), found[1]


def check_equal(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            check_equal(found[key], expected[key])
    elif isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            check_equal(one, other)
    else:
        expected = torch.as_tensor(np.asarray(expected))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        if found.numel():
            assert (found.double() - expected.double()).abs().max() < 1e-4


@pytest.mark.parametrize("name", TASKS)
def test_equal_to_keras_hub(name: str) -> None:
    task = TASKS[name]
    mine, theirs = both(task)
    config, expected = mine.get_config(), theirs.get_config()
    lost = {"tokenizer", *mine.lost, *task.converters}
    wanted = {k: v for k, v in expected.items() if k not in lost and v is not None}
    assert wanted.items() <= json.loads(json.dumps(config)).items()
    for x in task.training:
        check_equal(mine(dict(x) if isinstance(x, dict) else x), theirs(x))
    for x in task.generating:
        found, wanted = mine.generate_preprocess(x), theirs.generate_preprocess(x)
        check_equal(found, wanted)
        keys = [key for key in wanted if key.endswith(("token_ids", "padding_mask"))]
        arrays = {key: np.asarray(wanted[key]) for key in keys}
        assert mine.generate_postprocess(found) == theirs.generate_postprocess(arrays)


@pytest.mark.parametrize("name", ["gemma3", "gemma3n", "moonshine", "clip"])
def test_presets(name: str, tmp_path: Path) -> None:
    task = TASKS[name]
    mine, theirs = both(task)
    theirs.save_to_preset(str(tmp_path))
    config = {"registered_name": f"keras_hub>{mine.backbone}", "config": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    lost = {key: value for key, value in task.options.items() if key in mine.lost}
    x = task.training[0]
    check_equal(type(mine).from_preset(tmp_path, **lost)(x), theirs(x))
    again = tmp_path / "ours"
    type(mine).from_preset(tmp_path).save_to_preset(again)
    names = {path.name for path in tmp_path.glob("*.json")} - {"config.json", "tokenizer.json"}
    for name in names:
        saved = json.loads((again / name).read_text())
        assert saved == json.loads((tmp_path / name).read_text()), name


def test_samples_of_a_loader() -> None:
    mine, _ = both(TASKS["gemma3"])
    batch = {"prompts": [START, "a"], "responses": ["x", "y"], "images": [[IMAGE], []]}
    rows = [{key: value[i] for key, value in batch.items()} for i in range(2)]
    expected = {key: value.numpy() for key, value in mine(batch)[0].items()}
    check_equal(mine(rows)[0], expected)
    loader = DataLoader(rows, 2, collate_fn=pickle.loads(pickle.dumps(mine)), num_workers=1)
    check_equal(next(iter(loader))[0], expected)


def test_bad_input() -> None:
    mine, _ = both(TASKS["gemma3"])
    for x, message in (
        ({"prompts": "a"}, "no 'responses'"),
        ({"prompts": ["a"], "responses": ["b", "c"]}, "1 prompts and 2 responses"),
        ({"prompts": "a", "responses": "b", "images": [IMAGE] * 4}, "4 images; 3 are the most"),
        ({"prompts": ["a"], "responses": ["b"], "images": IMAGES}, "1 prompts and 2 images"),
    ):
        with pytest.raises(ValueError, match=message):
            mine(x)
    text, _ = both(TASKS["gemma3-text"])
    with pytest.raises(ValueError, match="no image_converter"):
        text({"prompts": "a", "responses": "b", "images": IMAGE})
    with pytest.raises(ValueError, match="need more than 512"):
        models.Gemma3CausalLMPreprocessor(
            mine.tokenizer, layers.Gemma3ImageConverter((5, 6)), sequence_length=512
        )


def test_samples_without_images() -> None:
    """Among others, in whatever way that is said; KerasHub takes none."""
    for name, place, key in (
        ("gemma3", START, "images"),
        ("gemma4-images", "<|image|>", "images"),
        ("gemma3n", HEAR, "audios"),
        ("gemma4-sound-video", "<|audio|>", "audio"),
    ):
        mine, _ = both(TASKS[name])
        one = IMAGE if key == "images" else SOUND[0]
        prompts = {"prompts": [f"a {place}", "b"], "responses": ["x", "y"]}
        found = mine({**prompts, key: [one, None]})
        rows = [{k: v[i] for k, v in prompts.items()} for i in range(2)]
        for other in (mine({**prompts, key: [[one], []]}), mine([{**rows[0], key: one}, rows[1]])):
            assert all(map(torch.equal, found[0].values(), other[0].values()))
        prompts["prompts"][0] = "a"
        none = mine({**prompts, key: [[], None]})[0]
        assert torch.equal(none["token_ids"], mine(prompts)[0]["token_ids"])
    with pytest.raises(ValueError, match="2 clips; one is the most"):
        mine({"prompts": "a", "responses": "b", "audio": [SOUND[0]] * 2})
    with pytest.raises(ValueError, match="2 prompts and 1 audio"):
        mine({"prompts": ["a", "b"], "responses": ["x", "y"], "audio": SOUND[:1]})
    qwen, _ = both(TASKS["qwen3_5"])
    assert "pixel_values" not in qwen.generate_preprocess({"prompts": ["a"], "images": []})
    pali_gemma, _ = both(TASKS["pali_gemma"])
    with pytest.raises(ValueError, match="Every prompt must have an image"):
        pali_gemma.generate_preprocess({"prompts": ["a", "b"], "images": [IMAGE, None]})
    parseq, _ = both(TASKS["parseq"])
    with pytest.raises(ValueError, match="no 'responses'"):
        parseq({"images": IMAGES})


def test_images_and_videos_of_several_prompts() -> None:
    """Each prompt has its own, in order; KerasHub gives each the first ones."""
    mine, _ = both(TASKS["qwen3_5"])
    place = SEE.replace("image", "video")
    prompts = [f"a {SEE} b", f"{place}{SEE}{place}"]
    images = [pixels(9, 8, 3), pixels(30, 9, 3)]
    videos = [VIDEOS[0], pixels(2, 12, 9, 3)]
    batch = mine.generate_preprocess({"prompts": prompts, "images": images, "videos": videos})
    first = mine.generate_preprocess({"prompts": prompts[0], "images": images[0]})
    second = mine.generate_preprocess(
        {
            "prompts": prompts[1],
            "images": images[1],
            "videos": videos,
            "video_metadata": [
                {"frames_indices": list(range(count)), "fps": 2.0} for count in (6, 2)
            ],
        }
    )
    for key in ("token_ids", "padding_mask", "position_ids"):
        assert torch.equal(batch[key], torch.stack([first[key], second[key]]))
    assert len(batch["vision_indices"]) == len(first["vision_indices"]) + len(
        second["vision_indices"]
    )
    with pytest.raises(ValueError, match="more places for videos"):
        mine.generate_preprocess({"prompts": place * 2, "videos": videos[:1]})


def test_whisper() -> None:
    """KerasHub has no preprocessor for it."""
    arguments, options = pairs()["WhisperTokenizer"]
    tokenizer = ours.WhisperTokenizer(*arguments, **options)
    converter = layers.WhisperAudioConverter(num_mels=5, max_audio_length=1)
    preprocessor = models.WhisperPreprocessor(
        converter, tokenizer, decoder_sequence_length=12, language="de", task="translate"
    )
    start = [tokenizer.bos_token_id, tokenizer.language_tokens["<|de|>"]]
    start += [tokenizer.translate_token_id, tokenizer.no_timestamps_token_id]
    x, y, weights = preprocessor({"audio": list(SOUND), "text": ["hello", "a"]})
    text = tokenizer.tokenize("hello")
    assert x["decoder_token_ids"][0].tolist()[: len(text) + 4] == start + text
    assert y[0][weights[0]].tolist() == [*start, *text, tokenizer.eos_token_id][1:]
    assert torch.equal(x["encoder_features"], converter(SOUND))
    assert preprocessor.generate_postprocess(x) == ["hello", "a"]
    rows = [{"audio": clip, "text": text} for clip, text in zip(SOUND, ["hello", "a"])]
    assert torch.equal(preprocessor(rows)[1], y)
    small = {"num_layers": 1, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4}
    model = models.WhisperBackbone(1510, **small, num_mels=5).eval()
    options = {"max_new_tokens": 3, "preprocessor": preprocessor}
    with pytest.raises(ValueError, match="num_mels=5 numbers a frame, not 6"):
        model(encoder_features=torch.zeros(1, 6, 6), decoder_token_ids=torch.ones(1, 1).int())
    said = generate(model, {"audio": list(SOUND)}, **options)
    assert generate(model, {"audio": SOUND[1]}, **options) == said[1]
    found = preprocessor.generate_preprocess(SOUND[0])
    assert found["decoder_token_ids"][found["decoder_padding_mask"]].tolist() == start
    assert set(found) <= set(models.WhisperBackbone.input_specs)
    preprocessor.timestamps = True
    assert preprocessor.decoder_start == start[:3]
    preprocessor.language = "xx"
    with pytest.raises(ValueError, match="no language 'xx', but de, en"):
        preprocessor(rows)


CLIPS = {"num_mels": 7, "sampling_rate": 1600, "max_audio_length": 1}
# Cases of backbones, what is changed in them, and the preprocessor that is made for each.
TAKEN = {
    "gemma3-images": (
        {},
        Task(
            "Gemma3CausalLMPreprocessor",
            "Gemma3Tokenizer",
            {"sequence_length": 16, "num_vision_tokens_per_image": 1},
            {"image_converter": ("Gemma3ImageConverter", {"image_size": (8, 8), "scale": 0.01})},
        ),
        {"prompts": [f"a{START}", "b"], "images": [[IMAGE, IMAGE], []]},
    ),
    "pali-gemma": (
        {},
        Task(
            "PaliGemmaCausalLMPreprocessor",
            "PaliGemmaTokenizer",
            {"sequence_length": 7},
            {"image_converter": ("PaliGemmaImageConverter", {"image_size": (8, 8), "scale": 0.01})},
        ),
        {"prompts": ["a", "b c"], "images": IMAGES},
    ),
    "gemma4": (
        {"vocab_size_per_layer_input": 1100},
        Task(
            "Gemma4CausalLMPreprocessor",
            "Gemma4Tokenizer",
            {"sequence_length": 40, "num_vision_tokens_per_image": 9, "audio_input_feat_size": 7},
            {
                "image_converter": (
                    "Gemma4ImageConverter",
                    {"patch_size": 1, "max_soft_tokens": 9, "pooling_kernel_size": 2},
                ),
                "audio_converter": ("Gemma4AudioConverter", {**CLIPS, "max_frequency": 800.0}),
            },
        ),
        {
            "prompts": ["a<|image|>", "<|image|>b<|audio|>"],
            "images": IMAGES,
            "audio": SOUND[:, :700],
        },
    ),
    "qwen3.5-images": (
        {},
        Task(
            "Qwen3_5CausalLMPreprocessor",
            "Qwen3_5Tokenizer",
            {"sequence_length": 90},
            {
                "image_converter": (
                    "Qwen3_5ImageConverter",
                    {**PATCHES, "patch_size": 4, "spatial_merge_size": 1, "scale": 0.01},
                )
            },
        ),
        {"prompts": ["a " + SEE, SEE], "images": [IMAGE, pixels(20, 9, 3)]},
    ),
    "moonshine": (
        {},
        Task(
            "MoonshineAudioToTextPreprocessor",
            "MoonshineTokenizer",
            {"decoder_sequence_length": 7},
            {"audio_converter": ("MoonshineAudioConverter", {})},
        ),
        {"audio": SOUND},
    ),
}


@pytest.mark.parametrize("case_id", TAKEN)
def test_backbones_take_it(case_id: str) -> None:
    """Also to generate text of what people have."""
    changes, task, x = TAKEN[case_id]
    preprocessor, _ = both(task)
    case = next(case for case in all_cases() if case.id == case_id)
    config = {**case.config, "vocabulary_size": preprocessor.tokenizer.vocabulary_size(), **changes}
    torch.manual_seed(0)
    backbone = getattr(models, case.cls)(**config).eval()
    inputs = preprocessor.generate_preprocess(x)
    with torch.no_grad():
        outputs = backbone(inputs)
    found = outputs.values() if isinstance(outputs, dict) else [outputs]
    assert all(one.isfinite().all() for one in found if one.is_floating_point())
    rows = generate(backbone, inputs, max_new_tokens=3)
    prefix = "decoder_" if "decoder_token_ids" in inputs else ""
    expected = preprocessor.generate_postprocess({prefix + key: one for key, one in rows.items()})
    options = {"max_new_tokens": 3, "preprocessor": preprocessor, "stop_token_ids": None}
    said = generate(backbone, x, **options)
    if case_id != "gemma4":  # whose images have as many tokens as in transformers
        assert said == expected
    first = {key: value[0] for key, value in x.items()}
    if "qwen" in case_id:  # images of all prompts
        return
    alone = generate(backbone, first, **options)
    assert alone == generate(backbone, [first], **options)[0] == said[0]


@torch.no_grad()
def test_images_in_time_rows_and_columns(tmp_path: Path) -> None:
    """Qwen3.5 says of images what it says in transformers; KerasHub knows no place of them."""
    preprocessor, _ = both(TAKEN["qwen3.5-images"][1])
    preprocessor.image_converter = layers.Qwen3_5ImageConverter(
        **{**PATCHES, "patch_size": 4}, scale=0.01
    )
    tokenizer = preprocessor.tokenizer
    rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 1.0}
    rope |= {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
    torch.manual_seed(0)
    theirs = transformers.Qwen3_5ForConditionalGeneration(
        transformers.Qwen3_5Config(
            text_config={
                **{**qwen3_5.TEXT, "vocab_size": tokenizer.vocabulary_size()},
                "rope_parameters": rope,
            },
            vision_config=qwen3_5.VISION,
            image_token_id=tokenizer.image_token_id,
        )
    ).eval()
    for weight in theirs.parameters():
        weight.normal_(0, 0.3)
    theirs.save_pretrained(tmp_path)
    model = models.Backbone.from_preset(tmp_path)
    x = {"prompts": [f"the {SEE} and", SEE], "images": [pixels(9, 8, 3), pixels(20, 9, 3)]}
    inputs = dict(text_prompts(x, preprocessor).inputs)
    ids = [row[real].long() for row, real in zip(inputs["token_ids"], inputs["padding_mask"])]
    ids = torch.nn.utils.rnn.pad_sequence(ids, True, padding_side="left")
    types = (ids == tokenizer.image_token_id).long()
    expected = theirs.generate(
        ids,
        attention_mask=(ids != 0).long(),
        pixel_values=inputs["pixel_values"].permute(0, 4, 1, 2, 3).flatten(1),
        image_grid_thw=inputs["image_grid_thw"].long(),
        mm_token_type_ids=types,
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[:, ids.shape[1] :]
    found = generate(model, inputs, max_new_tokens=6)
    new = [row[real][-6:] for row, real in zip(found["token_ids"], found["padding_mask"])]
    assert torch.equal(torch.stack(new), expected)
    options = {"preprocessor": preprocessor, "max_new_tokens": 6, "stop_token_ids": None}
    alone = {"prompts": x["prompts"][1], "images": x["images"][1]}
    said = generate(model, x, **options)
    assert generate(model, alone, **options) == said[1]
    tokenizer.chat_template = "{{ messages[0].content[0].text }}<|image_pad|><|vision_end|>"
    part = {"type": "image", "image": x["images"][1]}
    chat = [{"role": "user", "content": [{"type": "text", "text": "<|vision_start|>"}, part]}]
    assert generate(model, chat, **options) == generate(model, alone, **options, strip_prompt=True)
    last = inputs["token_ids"].numel() - 1
    for place, message in ((-1, f"must be from 0 to {last}"), (last, "has places of padding")):
        places = torch.full_like(inputs["vision_indices"], place)
        with pytest.raises(ValueError, match=f"vision_indices {message}"):
            generate(model, {**inputs, "vision_indices": places}, 99)


@torch.no_grad()
def test_images_of_few_tokens(tmp_path: Path) -> None:
    """Gemma 4 says of an image what it says in transformers; KerasHub fills it up with tokens."""
    tokenizer = ours.Gemma4Tokenizer(*pairs()["Gemma4Tokenizer"][0])
    sizes = dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), tokenizer.vocabulary_size())
    torch.manual_seed(0)
    theirs = transformers.Gemma4ForConditionalGeneration(
        transformers.Gemma4Config(
            text_config={**gemma4.TEXT, **sizes, "sliding_window": 64},
            vision_config={**gemma4.VISION_CONFIG, "position_embedding_size": 40},
            image_token_id=tokenizer.image_placeholder_id,
        )
    ).eval()
    for name, weight in theirs.named_parameters():
        weight.normal_(0, 0.01 if "embed_tokens" in name else 0.8)
    theirs.save_pretrained(tmp_path)
    converter = layers.Gemma4ImageConverter(1, 20, 2, scale=1 / 255)
    options = {"num_vision_tokens_per_image": 20, "audio_input_feat_size": 0}
    preprocessor = models.Gemma4CausalLMPreprocessor(tokenizer, converter, **options)
    x = {"prompts": ["the <|image|> a"], "images": [[pixels(9, 30, 3)]]}
    inputs = text_prompts(x, preprocessor).inputs
    seen = inputs["token_ids"] == tokenizer.image_placeholder_id
    assert seen.sum() == (inputs["vision_indices"] > 0).sum() == 16
    length = seen.shape[1]
    expected = theirs.generate(
        inputs["token_ids"].long(),
        pixel_values=inputs["pixel_values"].flatten(0, 1),
        image_position_ids=inputs["pixel_position_ids"].flatten(0, 1).long(),
        mm_token_type_ids=seen.long(),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
    )[:, length:]
    found = generate(models.Backbone.from_preset(tmp_path), inputs, max_new_tokens=6)
    assert torch.equal(found["token_ids"][:, length:], expected)
    with pytest.raises(ValueError, match="2 places for 1 images"):
        text_prompts({**x, "prompts": ["<|image|><|image|>"]}, preprocessor)


def test_command_line(tmp_path: Path) -> None:
    task = TAKEN["gemma3-images"][1]
    preprocessor, _ = both(task)
    case = next(case for case in all_cases() if case.id == "gemma3-images")
    size = preprocessor.tokenizer.vocabulary_size()
    models.Gemma3Backbone(**{**case.config, "vocabulary_size": size}).save_to_preset(tmp_path)
    preprocessor.tokenizer.chat_template = f"{START}{{{{ messages[0].content[-1].text }}}}"
    preprocessor.save_to_preset(tmp_path)
    picture = tmp_path / "a.png"
    Image.fromarray(np.zeros((4, 4, 3), "uint8")).save(picture)
    model = models.Backbone.from_preset(tmp_path)
    options = {"max_new_tokens": 3, "strip_prompt": True}
    expected = generate(model, {"prompts": f"{START}a", "images": picture}, **options)
    said = ("generate", tmp_path, "--image", picture, "--max-new-tokens", 3)
    assert succeed(*said, f"{START}a") == f"{expected}\n"
    part = {"type": "image", "image": picture}
    chat = [{"role": "user", "content": [part, {"type": "text", "text": "a"}]}]
    expected = generate(model, chat, max_new_tokens=3)
    assert succeed(*said, "a", "--chat") == f"{expected}\n"
    refused = run(*said, "a", "--audio", "x").stderr
    assert "takes prompts, responses, images, but no audio" in refused
    assert "--image needs a prompt" in run(*said, "--audio", "x").stderr


def test_what_is_computed_already() -> None:
    """Patches and spectrograms of Gemma 4."""
    mine, theirs = both(TASKS["gemma4-images"])
    x = {"prompts": ["a <|image|>", "<|image|>b"], "responses": ["c", "d"]}
    expected = mine({**x, "images": IMAGES})
    made = {key: expected[0][key] for key in ("pixel_values", "pixel_position_ids")}
    arrays = {key: one.numpy() for key, one in made.items()}
    check_equal(mine({**x, **made}), theirs({**x, **arrays}))
    alone = mine({key: value[0] for key, value in {**x, **made}.items()})[0]
    check_equal(alone, {key: one[0].numpy() for key, one in expected[0].items()})
    check_equal(
        mine.generate_preprocess({"prompts": x["prompts"], **made}),
        theirs.generate_preprocess({"prompts": x["prompts"], **arrays}),
    )
    with pytest.raises(ValueError, match="go together; there is only pixel_values"):
        mine({**x, "pixel_values": made["pixel_values"]})

    mine, theirs = both(TASKS["gemma4-sound-video"])
    rng = np.random.default_rng(0)
    sound = {
        "audio_mel": rng.standard_normal((2, 1, 13, 9)).astype("float32"),
        "audio_mel_mask": np.array([[[1] * 13], [[1] * 5 + [0] * 8]], "int32"),
    }
    x = {"prompts": ["the <|audio|><|audio|>", "<|audio|><|audio|><|audio|>a"]}
    x |= {"responses": ["b", "c"], **sound}
    check_equal(mine(x), theirs(x))
