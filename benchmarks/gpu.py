"""What a GPU shows, in one table and nine minutes: first correctness, then speed beside peers.

    python benchmarks/gpu.py [--json FILE] [--only PART] [--tiny]

It needs this checkout, torch ≥ 2.11, h5py, safetensors and pytest; nothing is downloaded. Where
transformers, timm or peft are missing, rows have no peer, and without KerasHub fewer tests run.
`--tiny` runs everything in seconds on a CPU or a GPU, with shapes that say nothing of speed.

Times are medians of runs, ours and the peer's in turn, after warm-up; weights are random, and
computation is in bfloat16. Decoding and compiled steps count from when they are compiled. `share`
is of what the same run measured, with ours: of the bandwidth of a copy on the device for decoding
(a step reads all weights and the whole cache once; the aim is 80 % for one row), of the rate of a
large matrix product elsewhere, and of the bandwidth of a copy from the host for loading.

The preset to load is made on the fly in the folder for temporary files (TMPDIR), 16 GB if there is
room.

Each part is a process of its own with a limit of time. One that fails, crashes or takes too long is
reported, the rows it had are kept, and the rest goes on. The exit status is 1 if correctness failed
or was not shown in time.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import importlib.util
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
# Of the machine the parts share only what is here: the package's name, and the preset to load.
SCRATCH = Path(tempfile.gettempdir(), f"keras_hub_torch-{os.getpid()}")
SECONDS = 520
DTYPE = torch.bfloat16
Call = Callable[[], Any]


@dataclasses.dataclass
class Row:
    """A line of the table.

    Attributes:
        ours, theirs: seconds.
        work: bytes or operations that `share` of the rate called `rate` follows from.
        items: what is done in these seconds, counted in `unit`.
    """

    name: str
    ours: float | None = None
    peer: str = ""
    theirs: float | None = None
    ratio: float | None = None
    work: float = 0
    rate: str = ""
    share: float | None = None
    items: float = 0
    unit: str = ""
    note: str = ""
    failed: bool = False
    part: str = ""


@dataclasses.dataclass
class Part:
    """One process; `rows` yields what it finds, given whether it is to be tiny."""

    name: str
    seconds: float
    rows: Callable[[bool], Iterator[Row]]


# Measuring


@functools.cache
def device() -> torch.device:
    """Called in the processes of parts only: CUDA does not survive a fork."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait() -> None:
    if device().type == "cuda":
        torch.cuda.synchronize()


def race(
    row: Row,
    ours: Call,
    peers: dict[str, Callable[[], Call]],
    *,
    steps: int = 1,
    warm_up: int = 3,
    runs: int = 10,
) -> Iterator[Row]:
    """Rows with the times of ours and of each peer, in turn; ours alone as soon as it is known.

    Args:
        peers: what makes the peer's call, by name.
        steps: in one call.
    """
    for _ in range(warm_up):
        ours()
    once = seconds(ours)
    repeats = max(1, round(0.02 / once))  # shorter ones say little
    yield dataclasses.replace(row, ours=seconds(ours, repeats) / steps)
    for name, make in peers.items():
        try:
            theirs = make()
            for _ in range(warm_up):
                theirs()
            pairs: list[tuple[float, float]] = []
            start = time.perf_counter()
            while len(pairs) < runs and (len(pairs) < 2 or time.perf_counter() - start < 5):
                pairs.append((seconds(ours, repeats) / steps, seconds(theirs, repeats) / steps))
        except Exception as error:
            here = not isinstance(error, ModuleNotFoundError)
            note = f"failed: {summary(error)}" if here else f"no module {error.name}"  # type: ignore[attr-defined]
            mine = statistics.median(seconds(ours, repeats) / steps for _ in range(3))
            note = f"{row.note}; {name} {note}".removeprefix("; ")
            yield dataclasses.replace(row, ours=mine, peer=name, note=note)
            continue
        mine, other = (statistics.median(times) for times in zip(*pairs))
        ratio = statistics.median(a / b for a, b in pairs)
        yield dataclasses.replace(row, ours=mine, peer=name, theirs=other, ratio=ratio)


def seconds(call: Call, repeats: int = 1) -> float:
    wait()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    wait()
    return (time.perf_counter() - start) / repeats


def compiled(function: Any, graphs: bool = False) -> Any:
    """With CUDA graphs if asked for; a CPU does without its C++ compiler."""
    if device().type != "cuda":
        return torch.compile(function, backend="aot_eager", dynamic=False)
    return torch.compile(function, mode="reduce-overhead" if graphs else None, dynamic=False)


def operations(call: Call) -> float:
    """Of matrix products, convolutions and attention; where weights train the counter wants
    gradients enabled.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Of fused kernels with grouped heads the counter knows nothing.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def autocast() -> torch.autocast:
    return torch.autocast(device().type, DTYPE)


def forward(call: Call) -> Call:
    @torch.no_grad()
    def run() -> None:
        with autocast():
            call()

    return run


def training_step(model: Any, call: Call) -> Call:
    """Forward, backward and AdamW, of what is trainable."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)

    def run() -> None:
        with autocast():
            loss = call().float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def summary(error: BaseException) -> str:
    """The exception, and where it was raised."""
    message = (str(error).strip().splitlines() or [""])[0][:160]
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {message}{where}"


# Parts


def correctness(tiny: bool) -> Iterator[Row]:
    chosen = ["loading"] if tiny else []  # `make test` runs the others already
    command = ["pytest", "tests/gpu", "--noconftest", "-p", "no:cacheprovider"]
    command += ["-k", *chosen] if chosen else []
    if importlib.util.find_spec("xdist") and not tiny:
        command += ["-p", "xdist", "--numprocesses", "8"]  # most of the time goes to compilers
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    lines = done.stdout.strip().splitlines() or ["no output"]
    if done.returncode:
        print(done.stdout, file=sys.stderr)
    yield Row("tests/gpu", note=lines[-1].strip("= "), failed=done.returncode != 0)
    for line in lines:
        if line.startswith(("FAILED ", "ERROR ")):
            yield Row(line[:160], failed=True)


def rates(tiny: bool) -> Iterator[Row]:
    """What the device does at best, for the shares of others."""
    name = torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
    note = f"{name}, torch {torch.__version__}"
    source = torch.ones(2**20 if tiny else 2**30, dtype=torch.uint8, device=device())
    target = torch.empty_like(source)
    host = torch.ones(source.shape, dtype=torch.uint8, pin_memory=device().type == "cuda")
    size = 128 if tiny else 8192
    a, b = (torch.randn(size, size, device=device(), dtype=DTYPE) for _ in range(2))
    for row, call in (
        (Row("copy", work=2 * source.nbytes), lambda: target.copy_(source)),
        (Row("from the host", work=source.nbytes), lambda: target.copy_(host)),
        (Row("matrix", work=2 * size**3), lambda: a @ b),
    ):
        for _ in range(3):
            call()
        repeats = max(1, round(0.02 / seconds(call)))
        best = min(seconds(call, repeats) for _ in range(3 if tiny else 10))
        giga = row.work / 1e9
        unit = "Gop" if row.name == "matrix" else "GB"
        yield dataclasses.replace(row, ours=best, rate=row.name, items=giga, unit=unit, note=note)
        note = ""


def decoding(name: str, tiny: bool) -> Iterator[Row]:
    """Prefill, and one token at a time from the middle of the cache, compiled with CUDA graphs."""
    import decode

    shape = small(decode.SHAPES[name]) if tiny else decode.SHAPES[name]
    length, prompt, tokens = (32, 16, 4) if tiny else (256, 2048, 30)
    ours = decode.our_model(shape, DTYPE)
    their_model = functools.cache(lambda: decode.their_model(shape, DTYPE))

    ids = torch.randint(0, shape["vocab_size"], (1, prompt), device=device())
    cache = ours.make_cache(1, prompt)

    @torch.no_grad()
    def prefill() -> None:
        hidden = ours(ids, cache=cache)
        ours.token_embedding(hidden[:, -1:], reverse=True)

    def their_prefill() -> Call:
        model = their_model()
        return torch.no_grad()(lambda: model(ids, logits_to_keep=1))

    row = Row(f"prefill of {prompt}, eager", work=operations(prefill), rate="matrix")
    row = dataclasses.replace(row, items=prompt, unit="tokens")
    yield from race(row, prefill, {"transformers": their_prefill})

    for batch in (1, 16):
        torch._dynamo.reset()  # or the batch's size becomes dynamic

        def feed(step: Any, rewind: Any, batch: int = batch) -> Call:
            step = compiled(step, graphs=True)
            start = torch.tensor(length // 2, device=device())

            @torch.no_grad()
            def run() -> None:
                rewind(length // 2)
                chosen = torch.ones((batch, 1), dtype=torch.long, device=device())
                for i in range(tokens):
                    chosen = step(chosen, start + i).argmax(-1, keepdim=True)

            return run

        def peer(batch: int = batch, feed: Any = feed) -> Call:
            return feed(*decode.their_step(their_model(), batch, length, False))

        work = decode.step_bytes(ours, batch, length)
        row = Row(f"decoding, batch {batch}", work=work, rate="copy", items=batch, unit="tokens")
        if batch == 1:
            row.note = "aim: a share of 80 %"
        call = feed(*decode.our_step(ours, batch, length, False))
        yield from race(row, call, {"transformers, static cache": peer}, steps=tokens)


def small(shape: dict[str, Any]) -> dict[str, Any]:
    """The same kind of model in tiny."""
    sizes = {"vocab_size": 100, "num_hidden_layers": 1, "hidden_size": 64, "intermediate_size": 96}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    return shape | sizes | ({"head_dim": 16} if "head_dim" in shape else {})


def bert(tiny: bool) -> Iterator[Row]:
    import keras_hub_torch

    layers, heads, width, batch, length = (1, 4, 64, 2, 16) if tiny else (12, 12, 768, 32, 128)
    vocabulary = 30522
    ours = keras_hub_torch.models.BertBackbone(
        vocabulary, layers, heads, width, intermediate_dim=4 * width
    ).to(device())
    ids = torch.randint(0, vocabulary, (batch, length), device=device())
    ends = torch.linspace(length / 2, length, batch, device=device())
    mask = (torch.arange(length, device=device()) < ends[:, None]).long()

    @functools.cache
    def theirs() -> Any:
        from transformers import BertConfig, BertModel

        sizes = {"num_hidden_layers": layers, "num_attention_heads": heads}
        sizes |= {"hidden_size": width, "intermediate_size": 4 * width}
        return BertModel(BertConfig(**sizes, hidden_act="gelu_new")).to(device())

    def our_call(model: Any) -> Call:
        return lambda: model(token_ids=ids, padding_mask=mask)["sequence_output"]

    def their_call(model: Any) -> Call:
        return lambda: model(input_ids=ids, attention_mask=mask).last_hidden_state

    for how in (lambda model: model, compiled):
        for training in (False, True):

            def step(model: Any, call: Any, training: bool = training, how: Any = how) -> Call:
                run = call(how(model.train(training)))
                return training_step(model, run) if training else forward(run)

            eager = training_step(ours, our_call(ours)) if training else our_call(ours)
            row = Row(
                f"{'AdamW step' if training else 'forward'}, "
                f"{'compiled' if how is compiled else 'eager'}",
                work=operations(eager),
                rate="matrix",
                items=batch,
                unit="rows",
                note=f"{batch} × {length}, a quarter padding",
            )
            peer = functools.partial(lambda step: step(theirs(), their_call), step)
            yield from race(row, step(ours, our_call), {"transformers": peer})


def lora(tiny: bool) -> Iterator[Row]:
    """Rank 8 on queries and values of a frozen decoder in bfloat16."""
    import decode

    shape = small(decode.SHAPES["Gemma 2B"]) if tiny else decode.SHAPES["Gemma 2B"]
    batch, length = (2, 16) if tiny else (4, 512)
    ids = torch.randint(0, shape["vocab_size"], (batch, length), device=device())
    ours = decode.our_model(shape, DTYPE)
    ours.enable_lora(8)
    step = training_step(ours.train(), lambda: ours(ids))

    def peer() -> Call:
        from peft import LoraConfig, get_peft_model

        base = decode.their_model(shape, DTYPE).model
        model = get_peft_model(base, LoraConfig(r=8, target_modules=["q_proj", "v_proj"])).train()
        return training_step(model, lambda: model(ids).last_hidden_state)

    row = Row("AdamW step, eager", rate="matrix", items=batch * length, unit="tokens")
    row = dataclasses.replace(row, work=operations(step), note="Gemma 2B, rank 8, query and value")
    yield from race(row, step, {"PEFT": peer})


def routing(tiny: bool) -> Iterator[Row]:
    """Mixtral's layer of experts, beside a dense one with as many weights as one token meets."""
    import experts

    from keras_hub_torch.backbones.mixtral import MixtralSparseMoeBlock

    hidden, inner, number, top_k = (64, 96, 8, 2) if tiny else (4096, 14336, 8, 2)
    with device():
        ours = MixtralSparseMoeBlock(hidden, inner, number, top_k, 0.0).to(DTYPE)
        dense = experts.Dense(hidden, top_k * inner).to(DTYPE)
    matrices = 3 * hidden * inner
    theirs = functools.cache(lambda: experts.theirs(ours, "grouped_mm"))
    for tokens in (1, 16) if tiny else (1, 64, 4096):
        x = torch.randn(1, tokens, hidden, device=device(), dtype=DTYPE, requires_grad=True)
        for training in (False, True) if tokens > 1 else (False,):

            def step(model: Any, x: Any = x, training: bool = training) -> Call:
                return experts.train(model, x) if training else experts.infer(model, x)

            row = Row(
                f"{tokens} tokens, {'forward and backward' if training else 'forward'}",
                work=6 * tokens * top_k * matrices if training else 2 * tokens * top_k * matrices,
                rate="matrix",
                items=tokens,
                unit="tokens",
            )
            if tokens == 1:
                row.work, row.rate = top_k * matrices * DTYPE.itemsize, "copy"
            peers = {
                "dense": functools.partial(step, dense),
                "transformers, grouped": functools.partial(lambda s: s(theirs()), step),
            }
            yield from race(row, step(ours), peers)


def images(name: str, tiny: bool) -> Iterator[Row]:
    """Forward and AdamW step, ours on NHWC, timm's in channels_last."""
    import keras_hub_torch

    batch, size = (2, 32) if tiny else (64, 224)
    cls, make = {"ResNet-50": ("ResNetBackbone", resnet), "ViT-B": ("ViTBackbone", vit)}[name]
    if not hasattr(keras_hub_torch.models, cls):
        yield Row("forward", note="not part of the package yet")
        return
    make_ours, make_theirs = make(size, tiny)
    ours = make_ours().to(device())
    nhwc = torch.rand(batch, size, size, 3, device=device())
    nchw = nhwc.permute(0, 3, 1, 2)

    @functools.cache
    def theirs() -> Any:
        return make_theirs().to(device(), memory_format=torch.channels_last)

    for training in (False, True):

        def step(model: Any, call: Call, training: bool = training) -> Call:
            model.train(training)
            return training_step(model, call) if training else forward(call)

        mine = step(ours, lambda: ours(nhwc))
        row = Row("AdamW step, eager" if training else "forward, eager", items=batch, unit="images")
        work = operations(mine if training else lambda: ours(nhwc))
        row = dataclasses.replace(row, work=work, rate="matrix")
        peer = functools.partial(
            lambda step: step(theirs(), lambda: theirs().forward_features(nchw)), step
        )
        yield from race(row, mine, {"timm": peer})


def resnet(size: int, tiny: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    blocks = [1, 1, 1, 1] if tiny else [3, 4, 6, 3]

    def ours() -> Any:
        from keras_hub_torch import models

        filters, strides = [64, 128, 256, 512], [1, 2, 2, 2]
        return models.ResNetBackbone([64], [7], filters, blocks, strides, "bottleneck_block")

    def theirs() -> Any:
        from timm.models.resnet import Bottleneck, ResNet

        return ResNet(Bottleneck, blocks, num_classes=0)

    return ours, theirs


def vit(size: int, tiny: bool) -> tuple[Callable[[], Any], Callable[[], Any]]:
    layers, heads, width = (2, 4, 64) if tiny else (12, 12, 768)

    def ours() -> Any:
        from keras_hub_torch import models

        return models.ViTBackbone((size, size, 3), (16, 16), layers, heads, width, 4 * width)

    def theirs() -> Any:
        from timm.models.vision_transformer import VisionTransformer

        sizes = {"img_size": size, "embed_dim": width, "depth": layers, "num_heads": heads}
        return VisionTransformer(**sizes, num_classes=0)

    return ours, theirs


def loading(tiny: bool) -> Iterator[Row]:
    """A preset of Llama 3 8B's shape straight to the device, the file in the page cache."""
    import decode

    import keras_hub_torch

    shape = small(decode.SHAPES["Llama 3 8B"]) if tiny else decode.SHAPES["Llama 3 8B"]
    room = shutil.disk_usage(SCRATCH).free / 1.1
    layers = shape["num_hidden_layers"]
    a_layer = shape["hidden_size"] * (3 * shape["intermediate_size"] + 2.5 * shape["hidden_size"])
    tables = 2 * shape["vocab_size"] * shape["hidden_size"]
    while layers > 1 and DTYPE.itemsize * (layers * a_layer + tables) > room:
        layers //= 2
    model = decode.our_model(shape | {"num_hidden_layers": layers}, DTYPE)
    size = sum(parameter.nbytes for parameter in model.parameters())
    note = "" if layers == shape["num_hidden_layers"] else f"room for {layers} layers only"

    def load(folder: str) -> None:
        keras_hub_torch.models.Backbone.from_preset(folder, device=device())

    for form, peer in (("safetensors", read_safetensors), ("keras", read_h5)):
        with tempfile.TemporaryDirectory(dir=SCRATCH) as folder:
            model.save_to_preset(folder, max_shard_size=None, format=form)
            row = Row(f"{size / 1e9:.1f} GB, {form}", work=size, rate="from the host")
            row = dataclasses.replace(row, items=size / 1e9, unit="GB", note=note)
            peers = {f"{peer.__name__[5:]}, no model": functools.partial(peer, folder)}
            yield from race(row, functools.partial(load, folder), peers, warm_up=0, runs=2)


def read_safetensors(folder: str) -> Call:
    from safetensors.torch import load_file

    def read() -> None:
        load_file(f"{folder}/model.safetensors", device=str(device()))

    return read


def read_h5(folder: str) -> Call:
    import h5py

    def read() -> None:
        tensors = []

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                tensors.append(torch.from_numpy(item[()].reshape(-1).view("u1")).to(device()))

        with h5py.File(f"{folder}/model.weights.h5") as file:
            file.visititems(visit)

    return read


PARTS = (
    Part("correctness", 150, correctness),
    Part("rates", 20, rates),
    Part("Gemma 2B", 110, functools.partial(decoding, "Gemma 2B")),
    Part("Llama 3 8B", 130, functools.partial(decoding, "Llama 3 8B")),
    Part("BERT base", 110, bert),
    Part("experts", 30, routing),
    Part("loading", 80, loading),
    Part("LoRA", 30, lora),
    Part("ResNet-50", 35, functools.partial(images, "ResNet-50")),
    Part("ViT-B", 35, functools.partial(images, "ViT-B")),
)


# Running


def run_part(part: Part, tiny: bool, limit: float) -> list[Row]:
    """The rows of a part, with one more if it did not come to its end."""
    rows: list[Row] = []
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(part, tiny, sender))
    process.start()
    sender.close()
    deadline = time.monotonic() + limit
    note = None
    while note is None:
        waiting = (receiver, process.sentinel)
        ready = multiprocessing.connection.wait(waiting, max(0, deadline - time.monotonic()))
        row: Any = EOFError
        if receiver in ready:
            with contextlib.suppress(EOFError):
                row = receiver.recv()
        if isinstance(row, Row):
            # What is known of ours alone gives way to a comparison.
            rows = [old for old in rows if old.name != row.name or old.peer]
            rows.append(dataclasses.replace(row, part=part.name))
        elif row is None:
            note = ""
        elif ready:
            process.join(30)
            note = f"ended with {process.exitcode}"
        else:
            note = f"stopped after {limit:.0f} s"
    for kill in (process.kill, lambda: os.killpg(process.pid, signal.SIGKILL)):  # compilers, too
        with contextlib.suppress(ProcessLookupError):
            kill()
    process.join()
    if note:
        rows.append(Row("", note=note, failed=True, part=part.name))
    return rows


def work(part: Part, tiny: bool, sender: Any) -> None:
    os.setsid()
    torch.manual_seed(0)
    try:
        if device().type != "cuda" and not tiny:
            raise RuntimeError("No GPU is here; --tiny runs on a CPU, too.")
        for row in part.rows(tiny):
            sender.send(row)
    except Exception as error:
        traceback.print_exc()
        sender.send(Row("", note=summary(error), failed=True))
    sender.send(None)


def table(rows: list[Row]) -> str:
    head = ("part", "what", "ours ms", "peer", "peer ms", "ratio", "share", "per second", "note")
    lines = [head]
    for row in rows:
        lines.append(
            (
                row.part,
                row.name,
                "" if row.ours is None else f"{1000 * row.ours:.3f}",
                row.peer,
                "" if row.theirs is None else f"{1000 * row.theirs:.3f}",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                "" if row.share is None else f"{row.share:.0%}",
                "" if not row.ours or not row.items else f"{row.items / row.ours:,.1f} {row.unit}",
                ("FAILED " if row.failed else "") + row.note,
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where the rows go as JSON, too")
    parser.add_argument("--only", action="append", choices=[part.name for part in PARTS])
    parser.add_argument("--tiny", action="store_true", help="everything in small, on any device")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    start = time.monotonic()
    rows: list[Row] = []
    measured: dict[str, float] = {}
    SCRATCH.mkdir()
    try:
        # The package is the checkout itself, whatever else is installed.
        Path(SCRATCH, "keras_hub_torch").symlink_to(ROOT, target_is_directory=True)
        sys.path[:0] = [str(SCRATCH), str(Path(__file__).parent)]
        for part in PARTS:
            if arguments.only and part.name not in arguments.only:
                continue
            left = SECONDS - (time.monotonic() - start)
            print(f"{part.name} …", file=sys.stderr, flush=True)
            if left < 10:
                found = [Row("", note="skipped, no time was left", failed=True, part=part.name)]
            else:
                limit = left if arguments.tiny else min(part.seconds, left)
                found = run_part(part, arguments.tiny, limit)
            if part.rows is rates:
                measured = {row.rate: row.work / row.ours for row in found if row.ours}
            else:
                for row in found:
                    if row.ours and row.work and row.rate in measured:
                        row.share = row.work / row.ours / measured[row.rate]
            rows += found
            if arguments.json:
                text = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
                arguments.json.write_text(text + "\n")
    finally:
        shutil.rmtree(SCRATCH)
    print(table(rows))
    print(f"{time.monotonic() - start:.0f} s")
    return int(any(row.failed for row in rows if row.part == "correctness"))


if __name__ == "__main__":
    sys.exit(main())
