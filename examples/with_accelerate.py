"""Fine-tune with Accelerate; `accelerate launch` runs it on several devices, too.

python examples/with_accelerate.py --steps 40
"""

from __future__ import annotations

import itertools

import torch
from accelerate import Accelerator
from common import Classifier, arguments, examples
from torch.utils.data import DataLoader

from keras_hub_torch.models import Backbone


class Progress:
    """The step, as an object that Accelerate saves and loads."""

    step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def main() -> None:
    args = arguments(__doc__)
    accelerator = Accelerator()
    torch.manual_seed(0)
    model = Classifier(Backbone.from_preset(args.preset)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    loader = DataLoader(examples(), args.batch_size)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    progress = Progress()
    accelerator.register_for_checkpointing(progress)

    checkpoint = args.out / "checkpoint"
    if checkpoint.exists():
        accelerator.load_state(str(checkpoint))
        accelerator.print(f"resumed at step {progress.step}")

    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for batch in itertools.islice(batches, progress.step, max(progress.step, args.steps)):
        torch.manual_seed(progress.step)
        loss = model(batch)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        accelerator.print(f"step {progress.step} loss {loss.item():.6f}")
        progress.step += 1

    accelerator.save_state(str(checkpoint))
    accelerator.unwrap_model(model).backbone.save_to_preset(args.out / "preset")


if __name__ == "__main__":
    main()
