"""Run by every process of a group: a preset is loaded, sharded by blocks, run, and saved."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from keras_hub_torch.models import Backbone


def main(folder: Path, adapters: bool) -> None:
    model = Backbone.from_preset(folder / "preset")
    ids = {"token_ids": torch.arange(1, 9).view(2, 4)}
    if adapters:
        torch.manual_seed(0)  # the same on all
        model.enable_lora(2)
        for name, parameter in model.named_parameters():
            if name.endswith("lora_kernel_b"):
                torch.nn.init.normal_(parameter)
    with torch.no_grad():
        expected = model(ids)
        (state,) = model.forward_intermediates(ids, [0])
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for module in list(model.modules()):
        if isinstance(module, model.block_classes):
            fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "forward_intermediates")
    (early,) = model.forward_intermediates(ids, [0])
    torch.testing.assert_close(early, state)
    early.square().sum().backward()
    found = model(ids)
    for name, value in (expected if isinstance(expected, dict) else {"": expected}).items():
        torch.testing.assert_close(found[name] if name else found, value)
    model.save_to_preset(folder / "keras")
    model.save_to_preset(folder / "safetensors", format="safetensors")
    model.export_to_transformers(folder / "transformers")
    with torch.no_grad():
        for place in ("keras", "safetensors", "transformers"):
            again = Backbone.from_preset(folder / place)(ids)
            for name, value in (expected if isinstance(expected, dict) else {"": expected}).items():
                torch.testing.assert_close(again[name] if name else again, value)
    # What one process cannot write fails on all of them.
    blocked = folder / "blocked"
    if dist.get_rank() == 0:
        blocked.write_text("a file")
    dist.barrier()
    try:
        model.save_to_preset(blocked)
    except OSError:
        pass
    else:
        raise AssertionError("saved into a file")


if __name__ == "__main__":
    dist.init_process_group("gloo")
    main(Path(sys.argv[1]), os.environ.get("ADAPTERS") == "1")
    dist.barrier()
    # A thread of gloo that lets go of a tensor while the interpreter shuts down aborts the process.
    os._exit(0)
