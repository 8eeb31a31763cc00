"""How steadily a run trains (supplement, section C): its losses, spikes and skipped steps."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ardiffusion.training.guard import StepGuard
from ardiffusion.training.loss_parts import batch_sums, finite, means
from ardiffusion.training.nonfinite import save_batch
from ardiffusion.training.spikes import HEIGHT, WINDOW, Spikes
from ardiffusion.training.step_log import StepLog

LOG, BATCHES = "stability.jsonl", "nonfinite"


class Step(NamedTuple):
    """An optimiser step whose numbers are still on the device."""

    step: int
    sums: Tensor
    norm: Tensor
    skipped: bool


class Stability(StepGuard):
    """Logs every optimiser step and skips those whose loss or gradient is not finite.

    Writes `stability.jsonl` into the run's folder, a line per optimiser step: its number as
    checkpoints count it, mean loss over all devices, norm of the gradient before clipping, mean
    loss by timestep bin and by frame (stage 2), whether the loss is a spike, whether the step was
    skipped. A skipped step leaves weights, optimiser and averages as they were; its batch is
    kept in `nonfinite`. Numbers leave the device when the trainer logs, but for one per optimiser
    step that says whether to skip it. With 16-mixed precision the scaler skips steps: they are
    neither known here nor counted, and the log has no norms.

    Args:
        window: Finite losses before a step that its loss is compared with.
        height: MADs above their median from which on a loss is a spike.
        bins: Number of equal parts of the timesteps that losses are logged of.
        patience: Skipped steps in a row that end the run.
        keep: Batches that are kept at most of skipped steps in a row.
    """

    def __init__(
        self,
        window: int = WINDOW,
        height: float = HEIGHT,
        bins: int = 10,
        patience: int = 10,
        keep: int = 3,
    ) -> None:
        for name, value in {"bins": bins, "patience": patience}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        super().__init__()
        self.rule = Spikes(window, height=height)
        self.bins, self.patience, self.keep = bins, patience, keep
        self.spikes = self.skips = self.in_a_row = 0
        self.totals: list[float] = []  # sums since the trainer last logged
        self.forget()

    def forget(self) -> None:
        """Drop what belongs to steps that are not over."""
        self.next_step()
        self.batches: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        self.sums: Tensor | None = None
        self.pending: list[Step] = []
        self.step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Learn the run's folder and the number of timesteps; stage 1 has none."""
        self.folder = Path(trainer.log_dir or trainer.default_root_dir)
        self.log = StepLog(self.folder / LOG)
        self.timesteps = int(getattr(getattr(pl_module, "schedule", None), "timesteps", 1))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on after the step that the run starts from."""
        self.forget()
        self.step = trainer.global_step
        if trainer.is_global_zero:
            self.log.cut(self.step)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Add a batch; finish the step if the optimiser had its turn, log if the trainer does."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        gathered = trainer.accumulate_grad_batches
        sums = batch_sums(outputs, self.bins, timesteps=self.timesteps, gathered=gathered)
        self.sums = sums if self.sums is None else self.sums + sums
        self.batches.append((batch, outputs))
        if self.norm is not None:
            self.finish_step(trainer, norm=self.norm)
        if trainer.global_step == self.step:  # gathering gradients
            return
        self.step = trainer.global_step
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if every > 0 and self.step % every == 0:
            self.flush(trainer)
            pl_module.log_dict(self.scalars())
            self.totals = []

    def finish_step(self, trainer: Trainer, norm: Tensor) -> None:
        """Note a step; keep its batch if it was skipped, and stop the run after too many."""
        assert self.sums is not None
        self.pending.append(Step(trainer.global_step, self.sums, norm, self.skipped))
        self.in_a_row = self.in_a_row + 1 if self.skipped else 0
        if self.skipped:
            self.keep_batch(trainer)
            self.skips += 1
        self.sums, self.batches = None, []
        if self.in_a_row >= self.patience:
            self.flush(trainer)
            kept = f" or look at the batches in {self.folder / BATCHES}" if self.keep > 0 else ""
            raise ValueError(
                f"{self.in_a_row} steps in a row, up to step {trainer.global_step}, had a loss or "
                f"gradient that is not finite: lower the learning rate{kept}."
            )

    def keep_batch(self, trainer: Trainer) -> None:
        """Write the batch to blame: the first whose loss is not finite, else the last one."""
        good = [all(bool(loss.isfinite()) for loss in losses) for losses in self.losses]
        guilty = [i for i, is_good in enumerate(good) if not is_good]
        if self.blown_up and trainer.is_global_zero:
            guilty = [len(good) - 1]
        if not guilty or self.in_a_row > self.keep:
            return
        batch, outputs = self.batches[guilty[0]]
        name = f"step_{trainer.global_step:06d}"
        if not trainer.is_global_zero:
            name = f"{name}_rank_{trainer.global_rank}"
        save_batch(self.folder / BATCHES, name, batch, outputs, step=trainer.global_step)

    def flush(self, trainer: Trainer) -> None:
        """Fetch the pending steps of all devices, judge their losses and write their lines."""
        if not self.pending:
            return
        sums = trainer.strategy.reduce(
            torch.stack([s.sums for s in self.pending]), reduce_op="sum"
        )
        assert isinstance(sums, Tensor)
        rows, norms = sums.tolist(), torch.stack([s.norm for s in self.pending]).tolist()
        pending, self.pending = self.pending, []
        lines = [self.line(*given) for given in zip(pending, rows, norms, strict=True)]
        if trainer.is_global_zero:
            self.log.add(lines)

    def line(self, step: Step, sums: list[float], norm: float) -> dict[str, Any]:
        """Make the line of a step; count it."""
        loss, bins, frames = means(sums, bins=self.bins)
        spike = loss is not None and self.rule.is_spike(self.rule.add(loss))
        self.spikes += spike
        if not step.skipped:
            totals = self.totals or [0.0] * len(sums)
            self.totals = [total + value for total, value in zip(totals, sums, strict=True)]
        return {
            "step": step.step,
            "loss": loss,
            "grad_norm": finite(norm),
            "bins": bins,
            "frames": frames,
            "spike": spike,
            "skipped": step.skipped,
        }

    def scalars(self) -> dict[str, Tensor]:
        """Return what is logged; tensors of the CPU, which nobody has to wait for."""
        found: dict[str, float] = {
            "stability/spikes": self.spikes,
            "stability/skipped": self.skips,
        }
        _, bins, frames = means(self.totals or [0.0] * 3, bins=self.bins)
        # the first t of which t * bins // timesteps is i
        edges = [-(-self.timesteps * i // self.bins) for i in range(self.bins + 1)]
        for i, loss in enumerate(bins):
            if loss is not None:
                found[f"train/loss_by_bin/t{edges[i]:03d}-{edges[i + 1] - 1:03d}"] = loss
        for i, loss in enumerate(frames):
            if loss is not None:
                found[f"train/loss_by_frame/{i:02d}"] = loss
        return {name: torch.tensor(float(value)) for name, value in found.items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last lines."""
        self.flush(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the last lines, unless that takes other devices, which may be gone."""
        if trainer.world_size == 1:
            with suppress(RuntimeError):  # the device may be what broke
                self.flush(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write all lines up to here, and keep what the next ones depend on."""
        self.flush(trainer)
        checkpoint["stability"] = {
            "spikes": self.spikes,
            "skips": self.skips,
            "in_a_row": self.in_a_row,
            "recent": list(self.rule.recent),
            "totals": self.totals,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting where the checkpoint was saved."""
        state = checkpoint.get("stability")
        if state is None or trainer.state.fn != TrainerFn.FITTING:
            return
        self.spikes, self.skips = state["spikes"], state["skips"]
        self.in_a_row, self.totals = state["in_a_row"], list(state["totals"])
        self.rule.restore(state["recent"])
