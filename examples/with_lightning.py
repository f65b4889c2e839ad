"""Fine-tune with Lightning, which keeps checkpoints and resumes from them itself.

python examples/with_lightning.py --steps 40
"""

from __future__ import annotations

import lightning
import torch
from common import Batch, Classifier, arguments, examples
from torch.utils.data import DataLoader

from keras_hub_torch.models import Backbone


class Task(lightning.LightningModule):
    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def on_train_start(self) -> None:
        self.train()  # a loaded backbone is in eval() mode, and Lightning leaves modes alone

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        torch.manual_seed(self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        loss = self.model(batch)
        print(f"step {self.global_step} loss {loss.item():.6f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=5e-5)


def main() -> None:
    args = arguments(__doc__)
    torch.manual_seed(0)
    task = Task(Classifier(Backbone.from_preset(args.preset)))
    trainer = lightning.Trainer(
        max_steps=args.steps,
        default_root_dir=args.out,
        logger=False,
        enable_checkpointing=False,  # its callback would write one each epoch
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    checkpoint = args.out / "last.ckpt"
    trainer.fit(
        task,
        DataLoader(examples(), args.batch_size),
        ckpt_path=checkpoint if checkpoint.exists() else None,
        weights_only=True,
    )
    trainer.save_checkpoint(checkpoint)
    task.model.backbone.save_to_preset(args.out / "preset")


if __name__ == "__main__":
    main()
