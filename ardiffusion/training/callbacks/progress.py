"""The progress bar of training."""

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's bar, whose numbers change when the trainer logs.

    To show the loss of every step is to wait for the GPU in every step.
    """

    shown: dict[str, int | str | float | dict[str, float]] | None = None
    read = -1  # the step that the numbers are from

    def get_metrics(
        self, trainer: Trainer, pl_module: LightningModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        every = max(trainer.log_every_n_steps, 1)  # pyright: ignore[reportAttributeAccessIssue]
        step = trainer.global_step
        due = step % every == 0 and step != self.read  # once, however many batches make the step
        if self.shown is None or not trainer.training or due:
            self.shown, self.read = super().get_metrics(trainer, pl_module), step
        return self.shown

    def _get_train_description(self, current_epoch: int) -> str:
        """Count epochs without an end, "/-2", where steps limit the run."""
        return super()._get_train_description(current_epoch).replace("/-2", "   ")
