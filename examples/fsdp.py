"""Fine-tune a model whose weights, gradients and optimizer are sharded over processes (FSDP2).

torchrun --nproc-per-node 2 examples/fsdp.py --steps 40

The same command with more steps goes on from the checkpoint, with any number of processes.
"""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from common import Classifier, arguments, examples
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from keras_hub_torch.models import Backbone


def main() -> None:
    args = arguments(__doc__)
    on_gpu = torch.cuda.is_available()
    device = f"cuda:{os.environ['LOCAL_RANK']}" if on_gpu else "cpu"
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    mesh = init_device_mesh("cuda" if on_gpu else "cpu", (dist.get_world_size(),))

    torch.manual_seed(0)  # the same head everywhere
    # Each process reads its part of the weights alone.
    backbone = Backbone.from_preset(args.preset, device=device, device_mesh=mesh, plan="fsdp")
    model = Classifier(backbone).to(device)
    fully_shard(model, mesh=mesh)  # the head
    model.train()  # from_preset gives models for inference
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    start = 0

    checkpoint = args.out / "checkpoint"
    weights, states = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": states, "step": 0}
    if checkpoint.exists():
        dcp.load(state, checkpoint_id=checkpoint)
        set_state_dict(
            model, optimizer, model_state_dict=weights, optim_state_dict=state["optimizer"]
        )
        start = state["step"]

    data = examples()
    sampler = DistributedSampler(data, shuffle=False)
    batches = list(DataLoader(data, args.batch_size // dist.get_world_size(), sampler=sampler))
    for step in range(start, args.steps):
        torch.manual_seed(step)
        batch = {name: x.to(device) for name, x in batches[step % len(batches)].items()}
        loss = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        dist.all_reduce(mean)
        if dist.get_rank() == 0:
            print(f"step {step} loss {mean.item() / dist.get_world_size():.6f}")

    weights, states = get_state_dict(model, optimizer)
    state = {"model": weights, "optimizer": states, "step": max(start, args.steps)}
    dcp.save(state, checkpoint_id=checkpoint)
    model.backbone.save_to_preset(args.out / "preset")  # every process calls it, one writes


if __name__ == "__main__":
    main()
    dist.barrier()  # nobody leaves while another one still talks to it
    dist.destroy_process_group()
    # Gloo's threads live on, since caches of DTensor hold the mesh and its groups. One that lets go
    # of a tensor while the interpreter shuts down would abort the process: leave without that.
    sys.stdout.flush()
    os._exit(0)
