"""Fine-tune adapters alone; the checkpoint is the adapters, the head and the optimizer.

python examples/lora.py --steps 40
"""

from __future__ import annotations

import torch
from common import Classifier, arguments, examples
from torch.utils.data import DataLoader

from keras_hub_torch.models import Backbone


def main() -> None:
    args = arguments(__doc__)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = Classifier(Backbone.from_preset(args.preset, device=device)).to(device)
    model.backbone.enable_lora(rank=4)
    model.train()
    trainable = [p for p in model.parameters() if p.requires_grad]
    print(f"{sum(p.numel() for p in trainable):,} of {model.backbone.count_params():,} parameters")
    optimizer = torch.optim.AdamW(trainable, lr=5e-3)
    start = 0

    adapters, rest = args.out / "adapters.lora.h5", args.out / "rest.pt"
    if rest.exists():
        state = torch.load(rest, map_location=device, weights_only=True)
        model.backbone.load_lora_weights(adapters)
        model.head.load_state_dict(state["head"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        print(f"resumed at step {start}")

    batches = list(DataLoader(examples(), args.batch_size))
    for step in range(start, args.steps):
        torch.manual_seed(step)
        batch = {name: x.to(device) for name, x in batches[step % len(batches)].items()}
        loss = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} loss {loss.item():.6f}")

    args.out.mkdir(parents=True, exist_ok=True)
    model.backbone.save_lora_weights(adapters)  # KerasHub loads it, too
    state = {
        "head": model.head.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": max(start, args.steps),
    }
    torch.save(state, rest)
    model.backbone.save_to_preset(args.out / "preset")  # the adapters are merged into it


if __name__ == "__main__":
    main()
