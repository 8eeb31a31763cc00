"""The progress bar of training."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's bar, whose numbers change when the trainer logs.

    To show the loss of every step is to wait for the GPU in every step.
    """

    shown: dict[str, int | str | float | dict[str, float]] | None = None

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """Return the numbers to show."""
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if self.shown is None or not trainer.training or trainer.global_step % max(every, 1) == 0:
            self.shown = super().get_metrics(trainer, pl_module)
        return self.shown
