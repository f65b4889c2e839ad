"""Conversations: templates are rendered, kept and carried as by transformers."""

from __future__ import annotations

from . import oracle  # isort: skip  # before Keras

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.utils.chat_template_utils import render_jinja_template

from keras_hub_torch import generate, layers, models, samplers, stream
from keras_hub_torch import tokenizers as ours
from keras_hub_torch.models import Backbone
from keras_hub_torch.preprocessing import chat
from keras_hub_torch.preprocessing.prompts import text_prompts

from .test_cli import succeed
from .test_tokenizers import SENTENCE_PIECE, pairs
from .vocabularies import sentence_pieces

# Each in the way of a family.
CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.content is string %}
        {{- message.content }}
    {%- else %}
        {%- for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}
    {%- endif %}
    {{- '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}
"""
QWEN = """
{%- if tools %}
    {{- '<|im_start|>system\n# Tools\n' }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=messages|length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if not ns.found and message.role == 'user' %}
        {%- set ns.found = true %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' }}
    {%- if message.reasoning_content is defined and loop.index0 > ns.last %}
        {{- '<think>\n' ~ message.reasoning_content.strip('\n') ~ '\n</think>\n\n' }}
    {%- endif %}
    {{- message.content.split('</think>')[-1] }}
    {%- for call in message.tool_calls or [] %}
        {%- set call = call.function if call.function else call %}
        {{- '\n<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' }}
        {{- call.arguments | tojson(indent=2) }}{{- '}\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
"""
GEMMA = """
{{ bos_token }}{% if messages[0]['role'] == 'system' %}
    {{ raise_exception('System role not supported') }}
{% endif %}
{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate') }}
    {% endif %}
    {% set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<start_of_turn>model\n' }}{% endif %}
"""
LLAMA3 = """{{- bos_token }}
{%- set date = strftime_now("%Y") if strftime_now is defined else "26 Jul 2024" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday: " + date + "\n\n" + system }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}{%- continue %}{%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {%- generation %}{{- message['content'] | trim + '<|eot_id|>' }}{%- endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""
MISTRAL = """
{%- set loop_messages = messages %}
{%- set users = loop_messages | selectattr("role", "equalto", "user") | list %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and message == users[-1] %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {%- for key, val in tool.function.items() if key != "return" %}
                    {{- '"' + key + '": ' + (val | tojson if val is not string else val) }}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
    {%- elif message["content"] is defined %}
        {{- " " + message["content"] | trim + eos_token }}
    {%- endif %}
{%- endfor %}
"""
TEMPLATES = {"chatml": CHATML, "qwen": QWEN, "gemma": GEMMA, "llama3": LLAMA3, "mistral": MISTRAL}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string", "description": "Größe"}}}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"city": "<Paris>", "n": 3}}}
FUNCTION = {"name": "look", "description": "a & <b>", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": FUNCTION}]
USER = {"role": "user", "content": " Hi there, Größe 12345 "}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one": [USER],
    "more": [USER, {"role": "assistant", "content": "Yes.\n"}, {"role": "user", "content": "No?"}],
    "told": [
        {"role": "system", "content": "Be kind."},
        USER,
        {"role": "assistant", "content": "a"},
    ],
    "called": [
        USER,
        {"role": "assistant", "content": "so", "thinking": "hm", "tool_calls": [CALL]},
        {"role": "tool", "content": "22", "name": None},
    ],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"add_generation_prompt": True},
    {"add_generation_prompt": True, "enable_thinking": False},
    {"continue_final_message": True},
]


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates(name: str) -> None:
    """The same text, or an error where transformers has one."""
    marks = {"bos_token": "<s>", "eos_token": "</s>"}
    errors = 0
    for conversation in CONVERSATIONS.values():
        # transformers leaves them out before that.
        said = [{k: v for k, v in one.items() if v is not None} for one in conversation]
        for options in OPTIONS:
            for tools in (None, TOOLS):
                given = {"tools": tools, **marks, **options}
                try:
                    expected = render_jinja_template([said], chat_template=TEMPLATES[name], **given)
                except Exception:  # of any kind
                    errors += 1
                    with pytest.raises((ValueError, TypeError)):
                        chat.rendered(TEMPLATES[name], conversation, **given)
                else:
                    found = chat.rendered(TEMPLATES[name], conversation, **given)
                    assert found == expected[0][0]
    assert errors < 30


TOKENIZERS = {
    "Gemma": GEMMA,
    "Llama": MISTRAL,
    "Llama3": LLAMA3.replace("%Y", "now"),
    "Qwen3": CHATML.replace("<|im_start|>", "<|im_end|>"),
}


# KerasHub does not close the files of its assets.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_files(name: str, tmp_path: Path) -> None:
    """Ids are transformers'; templates are kept in presets and checkpoints."""
    tokenizer = getattr(ours, f"{name}Tokenizer")(*pairs()[f"{name}Tokenizer"][0])
    tokenizer.chat_template = TOKENIZERS[name]
    conversation = CONVERSATIONS["more"]
    ids = tokenizer.apply_chat_template(conversation, add_generation_prompt=True)
    config = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 8}
    config |= {"intermediate_dim": 12} | ({"head_dim": 4} if name in ("Gemma", "Qwen3") else {})
    config |= {"layer_norm_epsilon": 1e-5} if name == "Qwen3" else {}
    size = {"vocabulary_size": tokenizer.vocabulary_size()}
    getattr(models, f"{name}Backbone")(**size, **config).save_to_preset(tmp_path / "ours")
    tokenizer.save_to_preset(tmp_path / "ours")
    kept = "assets/tokenizer/chat_template.jinja"
    assert kept in Backbone.from_preset(tmp_path / "ours").save_to_preset(tmp_path / "copy")
    loaded = ours.Tokenizer.from_preset(tmp_path / "copy")
    assert loaded.chat_template == tokenizer.chat_template
    oracle.keras_hub.tokenizers.Tokenizer.from_preset(str(tmp_path / "copy"))

    model = Backbone.from_preset(tmp_path / "copy")
    assert "chat_template.jinja" in model.export_to_transformers(tmp_path / "theirs")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    for options in OPTIONS[:2]:
        found = theirs.apply_chat_template(conversation, return_dict=False, **options)
        assert loaded.apply_chat_template(conversation, **options) == found
    assert loaded.apply_chat_template([conversation] * 2, add_generation_prompt=True) == [ids] * 2
    back = ours.Tokenizer.from_preset(tmp_path / "theirs")
    assert back.apply_chat_template(conversation, add_generation_prompt=True) == ids
    assert kept in Backbone.from_preset(tmp_path / "theirs").save_to_preset(tmp_path / "back")
    assert (tmp_path / "back" / kept).read_text() == tokenizer.chat_template


@pytest.mark.parametrize("legacy", [True, False])
def test_spaces_behind_special_tokens(legacy: bool, tmp_path: Path) -> None:
    """transformers' own tokenizer of a model has some, or none."""
    (tmp_path / "tokenizer.model").write_bytes(pairs()["LlamaTokenizer"][0][0])
    folder = tmp_path / "theirs"
    theirs = transformers.LlamaTokenizer.from_pretrained(tmp_path, chat_template=MISTRAL)
    theirs.save_pretrained(folder)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**about, "legacy": legacy}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    found = ours.Tokenizer.from_preset(tmp_path / "theirs")
    found.save_to_preset(tmp_path / "ours")
    kept = ours.Tokenizer.from_preset(tmp_path / "ours")
    for name in ("one", "more"):
        ids = theirs.apply_chat_template(CONVERSATIONS[name], return_dict=False)
        assert found.apply_chat_template(CONVERSATIONS[name]) == ids
        assert kept.apply_chat_template(CONVERSATIONS[name]) == ids


def test_places(tmp_path: Path) -> None:
    """All files in which transformers has templates, and several of them."""
    tokenizer = ours.Qwen3Tokenizer(*pairs()["Qwen3Tokenizer"][0])
    several = {"default": CHATML, "tool_use": QWEN}
    size = {"vocabulary_size": tokenizer.vocabulary_size(), "head_dim": 4, "num_layers": 1}
    size |= {"num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 8}
    size |= {"layer_norm_epsilon": 1e-5}
    models.Qwen3Backbone(intermediate_dim=12, **size).save_to_preset(tmp_path / "a")
    tokenizer.save_to_preset(tmp_path / "a")
    folder = tmp_path / "theirs"
    Backbone.from_preset(tmp_path / "a").export_to_transformers(folder)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    listed = [{"name": name, "template": text} for name, text in several.items()]
    for given, expected in ((CHATML, CHATML), (listed, several)):
        changed = json.dumps({**about, "chat_template": given})
        (folder / "tokenizer_config.json").write_text(changed)
        assert ours.Tokenizer.from_preset(folder).chat_template == expected
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": GEMMA}))
    assert ours.Tokenizer.from_preset(folder).chat_template == GEMMA
    transformers.AutoTokenizer.from_pretrained(folder, chat_template=several).save_pretrained(
        folder
    )
    loaded = ours.Tokenizer.from_preset(folder)
    assert loaded.chat_template == several
    tools = loaded.apply_chat_template([USER], TOOLS, tokenize=False)
    assert tools == chat.rendered(QWEN, [USER], TOOLS)
    named = loaded.apply_chat_template([USER], chat_template="tool_use", tokenize=False)
    assert named == chat.rendered(QWEN, [USER])
    loaded.save_to_preset(tmp_path / "kept")
    loaded.save_to_preset(tmp_path / "a")
    assert ours.Tokenizer.from_preset(tmp_path / "kept").chat_template == several
    Backbone.from_preset(tmp_path / "a").export_to_transformers(tmp_path / "again")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert theirs.chat_template == several

    # Text in, text out.
    torch.manual_seed(3)
    model = Backbone.from_preset(tmp_path / "a")
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    prompt = loaded.apply_chat_template([USER], add_generation_prompt=True)
    stops = loaded.stop_token_ids
    rows = generate(model, [prompt], max_new_tokens=6, stop_token_ids=stops)
    new = [id for id in rows["token_ids"][0, len(prompt) :].tolist() if id not in stops]
    expected = loaded.detokenize(new[: int(rows["padding_mask"].sum()) - len(prompt)])
    assert generate(model, [USER], max_new_tokens=6) == expected
    two = [[USER], CONVERSATIONS["more"]]
    assert generate(model, two, max_new_tokens=6)[0] == expected
    assert "".join(stream(model, [USER], max_new_tokens=6)) == expected
    options = {"chat_template": "{{ messages[-1].content }}", "continue_final_message": True}
    plain = generate(model, [USER], max_new_tokens=6, chat_options=options)
    assert plain == generate(model, USER["content"], max_new_tokens=6, strip_prompt=True)
    model.save_to_preset(tmp_path / "b")
    said = succeed("generate", tmp_path / "b", USER["content"], "--chat", "--max-new-tokens", 6)
    assert said.rstrip("\n") == expected.rstrip("\n")
    with pytest.raises(NotImplementedError, match="type 'image'"):
        generate(model, [{"role": "user", "content": [{"type": "image"}]}], max_new_tokens=1)
    with pytest.raises(ValueError, match="chat_options are for conversations"):
        generate(model, "a", max_new_tokens=1, chat_options={})
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        generate(model, [USER], max_new_tokens=1, preprocessor=tokenizer)


def test_images(tmp_path: Path) -> None:
    """The prompt is that of transformers' processor; the images are where it has their places."""
    tokenizer = ours.Gemma3Tokenizer(*pairs()["Gemma3Tokenizer"][0])
    tokenizer.chat_template = (
        "{{ bos_token }}{% for part in messages[0].content %}{% if part.type == 'text' %}"
        "{{ part.text }}{% else %}<start_of_image>{% endif %}{% endfor %}<end_of_turn>"
    )
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    names = ("boi", "eoi", "image")
    tokens = (tokenizer.start_of_image_token, tokenizer.end_of_image_token, "<img>")
    theirs = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessor(size={"height": 6, "width": 6}, **mean),
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.to_library(),
            bos_token=tokenizer.start_token,
            extra_special_tokens={f"{name}_token": one for name, one in zip(names, tokens)},
        ),
        image_seq_length=3,
    )
    scale = {"scale": 1 / 127.5, "offset": -1.0, "crop_to_aspect_ratio": False}
    converter = layers.Gemma3ImageConverter((6, 6), **scale)
    preprocessor = models.Gemma3CausalLMPreprocessor(
        tokenizer, converter, 40, num_vision_tokens_per_image=3
    )
    picture = Image.fromarray(np.arange(108, dtype="uint8").reshape(6, 6, 3))
    picture.save(tmp_path / "a.png")
    first = [{"type": "image", "image": picture}, {"type": "text", "text": "What  is <eos>this?"}]
    second = [{"type": "text", "text": "a"}, {"type": "image", "url": str(tmp_path / "a.png")}]
    both = [[{"role": "user", "content": content}] for content in (first, second)]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
    options["chat_template"] = tokenizer.chat_template
    expected = theirs.apply_chat_template(both[:1], **options)
    inputs = text_prompts(both[0], preprocessor).inputs
    assert torch.equal(inputs["token_ids"], expected["input_ids"].int())
    pixels = expected["pixel_values"].movedim(1, -1)
    torch.testing.assert_close(inputs["images"][:, 0], pixels, rtol=0, atol=1e-6)
    assert torch.equal(text_prompts(both, preprocessor).inputs["images"][1], inputs["images"][0])
    tokenizer.chat_template = "{{ messages[0].content[-1].text }}"
    with pytest.raises(ValueError, match="1 of type 'image', and its prompt 0 places for them"):
        text_prompts(both[0], preprocessor)
    for part, error, message in (
        ({"type": "image"}, ValueError, "no image in a part of type 'image'"),
        ({"type": "image", "url": "http://a/b"}, ValueError, "'http://a/b' is not downloaded"),
        ({"type": "audio", "audio": "a.wav"}, NotImplementedError, "type 'audio'"),
        ("a", NotImplementedError, "type 'a'"),
    ):
        with pytest.raises(error, match=message):
            text_prompts([{"role": "user", "content": [part]}], preprocessor)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@torch.no_grad()
def test_a_model_that_sees(tmp_path: Path) -> None:
    """From transformers into a Keras preset and back; it says of a picture what it said there."""
    _, control, defined, ids = SENTENCE_PIECE["Gemma3Tokenizer"]
    pieces = (*(piece for piece in defined if piece != "<img>"), "<image_soft_token>")
    tokenizer = ours.GemmaTokenizer(sentence_pieces("gemma", control, pieces, **ids))
    template = (
        "{{ bos_token }}{% for part in messages[0].content %}{% if part.type == 'text' %}"
        "{{ part.text }}{% else %}<start_of_image>{% endif %}{% endfor %}<end_of_turn>\n"
    )
    names = {"boi": "<start_of_image>", "eoi": "<end_of_image>", "image": pieces[-1]}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    sizes["num_attention_heads"] = 2
    text = {**sizes, "num_key_value_heads": 1, "query_pre_attn_scalar": 8, "head_dim": 8}
    torch.manual_seed(1)
    theirs: Any = transformers.Gemma3ForConditionalGeneration(
        transformers.Gemma3Config(
            text_config={**text, "vocab_size": tokenizer.vocabulary_size()},
            vision_config={**sizes, "image_size": 32, "patch_size": 2},
            **{f"{name}_token_index": tokenizer.token_to_id(one) for name, one in names.items()},
        )
    ).eval()
    for name, weight in theirs.named_parameters():
        weight.normal_(0, 0.002 if "embed_tokens" in name else 1.5)
    theirs.generation_config.eos_token_id = None
    theirs.save_pretrained(tmp_path / "a")
    mean = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32}, **mean),
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.to_library(),
            bos_token=tokenizer.start_token,
            pad_token=tokenizer.pad_token,
            extra_special_tokens={f"{name}_token": one for name, one in names.items()},
        ),
        chat_template=template,
    )
    processor.save_pretrained(tmp_path / "a")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype="uint8")
    content = [{"type": "image", "image": Image.fromarray(pixels)}, {"type": "text", "text": "a"}]
    chat = [{"role": "user", "content": content}]

    def said(model: Any, processor: Any) -> str:
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        inputs = processor.apply_chat_template(chat, **options)
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        new = ids[0, inputs["input_ids"].shape[1] :]
        return str(processor.tokenizer.decode(new, skip_special_tokens=True))

    expected = said(theirs, processor)
    options = {"max_new_tokens": 6, "stop_token_ids": None}
    assert generate(Backbone.from_preset(tmp_path / "a"), chat, **options) == expected
    Backbone.from_preset(tmp_path / "a").save_to_preset(tmp_path / "b")
    model = Backbone.from_preset(tmp_path / "b")
    assert generate(model, chat, **options) == expected
    model.export_to_transformers(tmp_path / "c")
    theirs = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "c")
    theirs.generation_config.eos_token_id = None
    assert said(theirs, transformers.AutoProcessor.from_pretrained(tmp_path / "c")) == expected


def test_what_text_ends_with(tmp_path: Path) -> None:
    """A checkpoint's own ids, and how it wants to be sampled, are kept."""
    tokenizer = ours.GemmaTokenizer(*pairs()["GemmaTokenizer"][0])
    tokenizer.chat_template = GEMMA
    config = {"num_layers": 1, "num_query_heads": 2, "num_key_value_heads": 1, "hidden_dim": 8}
    config |= {"intermediate_dim": 12, "head_dim": 4}
    models.GemmaBackbone(tokenizer.vocabulary_size(), **config).save_to_preset(tmp_path / "a")
    tokenizer.save_to_preset(tmp_path / "a")
    Backbone.from_preset(tmp_path / "a").export_to_transformers(tmp_path / "theirs")
    file = tmp_path / "theirs" / "generation_config.json"
    said = json.loads(file.read_text())
    said |= {"eos_token_id": [1, 77], "do_sample": True, "top_k": 64, "temperature": 0.7}
    said |= {"repetition_penalty": 1.5}
    file.write_text(json.dumps(said))
    ends = [*tokenizer.stop_token_ids, 77]
    assert ours.Tokenizer.from_preset(tmp_path / "theirs").stop_token_ids == ends
    names = Backbone.from_preset(tmp_path / "theirs").save_to_preset(tmp_path / "ours")
    assert file.name in names
    assert ours.Tokenizer.from_preset(tmp_path / "ours").stop_token_ids == ends
    model = Backbone.from_preset(tmp_path / "ours")
    found = []
    for options in (
        {"sampler": "auto"},
        {"sampler": samplers.CheckpointSampler(64, temperature=0.7), "repetition_penalty": 1.5},
        {"sampler": "auto", "repetition_penalty": 1.0},
        {},
        {"sampler": "greedy", "repetition_penalty": 1.0},
    ):
        torch.manual_seed(3)
        found.append(generate(model, "a b", max_new_tokens=30, stop_token_ids=None, **options))
    assert found[0] == found[1] != found[2] != found[3] == found[4]
    Backbone.from_preset(tmp_path / "ours").save_to_preset(tmp_path / "copy")
    Backbone.from_preset(tmp_path / "copy").export_to_transformers(tmp_path / "back")
    again = transformers.GenerationConfig.from_pretrained(tmp_path / "back")
    expected = transformers.GenerationConfig.from_pretrained(tmp_path / "theirs")
    assert again.to_dict() == expected.to_dict()
    assert again.eos_token_id == [1, 77]
    file.write_text(json.dumps({"eos_token_id": ["a", -1, True, None, 2**40]}))
    loaded = ours.Tokenizer.from_preset(tmp_path / "theirs")
    assert loaded.stop_token_ids == tokenizer.stop_token_ids
    assert loaded.sampling == {}


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.__class__ }}{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ namespace(__a=1) }}", "cannot have '__a'"),
        ("{{ dict.__class__.__subclasses__() }}", "unsafe|undefined"),
        ("{% for a in range(10**9) %}{% endfor %}", "too big|much"),
        ("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}", "seconds"),
        ("{{ 'a' * 10**9 }}", "much|repeated"),
        ("{{ 9 ** (9 ** 9) }}", "much"),
        ("{{ [1] | tojson(indent=10**8) }}", "repeated"),
        ("{% if %}", "Expected an expression"),
        ("{{ raise_exception('no') }}", "no"),
        ("{% include 'a' %}", "no loader"),
        ("{{ 1 + 'a' }}", "TypeError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "Recursion"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_hostile_templates(template: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "SECONDS", 0.5)
    with pytest.raises(ValueError, match=f"The chat template.*({message})"):
        chat.rendered(template, [USER])
    assert sys.gettrace() is None or "coverage" in sys.modules


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a" * (2**20 + 1), "'default' is none"),
        ({"../a": "b"}, "cannot be named '../a'"),
        ({"default": 3}, "'default' is none"),
        (3, "is none"),
    ],
)
def test_bad_templates(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        chat.checked(value)


def test_bad_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    for conversation, options, error, message in (
        ([], {}, ValueError, "no message"),
        (["a"], {}, TypeError, "message must be a dictionary, not str"),
        ([USER], {"tools": [len]}, TypeError, "tool must be"),
        ([{"role": "user"}], {"continue_final_message": True}, ValueError, "no text"),
        ([USER], {"continue_final_message": True, "add_generation_prompt": True}, ValueError, "on"),
    ):
        with pytest.raises(error, match=message):
            chat.rendered("{{ messages }}", conversation, **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="leaves out"):
        chat.rendered("a", [USER], continue_final_message=True)
    assert (
        chat.rendered("{{ a }}", [USER], a={1: (torch.zeros(1), True)}) == "{1: ['<Tensor>', True]}"
    )
    monkeypatch.setitem(sys.modules, "jinja2", None)
    chat.compiled.cache_clear()
    with pytest.raises(ImportError, match="keras_hub_torch\\[text\\]"):
        chat.rendered("a", [USER])
