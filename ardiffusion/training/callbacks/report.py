"""What callbacks do with a score: log, print and keep it in the folder of the run."""

from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from ardiffusion.metrics.score import Score
from ardiffusion.training.step_guard import log_folder


def report(score: Score, name: str, trainer: Trainer, module: LightningModule) -> None:
    """Log a score, print its line and write `scores/NAME_step_000123.json`; all processes must.

    Where nothing is trained the trainer knows no step, and the file is called after the
    fingerprint of the weights: `scores/NAME_test_0123456789abcdef.json`.
    """
    for warning in score.warnings:
        rank_zero_warn(f"{name}: {warning}")
    module.log(name, score.value, on_step=False, on_epoch=True, sync_dist=True, batch_size=1)
    folder = log_folder(trainer)
    when = f"step_{trainer.global_step:06d}"
    if trainer.state.fn is not TrainerFn.FITTING:
        when = f"{'test' if trainer.testing else 'val'}_{score.weights}"
    if trainer.is_global_zero:
        score.save(folder / "scores" / f"{name}_{when}.json")
        trainer.print(score.line())
