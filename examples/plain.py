"""Fine-tune in a loop of one's own, and go on where an earlier run ended.

python examples/plain.py --steps 40
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
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    start = 0

    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
        print(f"resumed at step {start}")

    batches = list(DataLoader(examples(), args.batch_size))
    for step in range(start, args.steps):
        torch.manual_seed(step)  # dropout, too, goes on as if nothing had happened
        batch = {name: x.to(device) for name, x in batches[step % len(batches)].items()}
        loss = model(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print(f"step {step} loss {loss.item():.6f}")

    args.out.mkdir(parents=True, exist_ok=True)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": max(start, args.steps),
    }
    torch.save(state, checkpoint)
    model.backbone.save_to_preset(args.out / "preset")


if __name__ == "__main__":
    main()
