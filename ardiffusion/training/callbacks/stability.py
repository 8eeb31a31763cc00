"""How steadily a run trains (supplement, section C): its losses, spikes and skipped steps."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from typing import Any, NamedTuple

import torch
from einops import rearrange, reduce
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ardiffusion.files import append_json_lines, atomic_write, read_json_lines
from ardiffusion.nn.sizes import check_range
from ardiffusion.training.spike_detector import HEIGHT, LOG, WINDOW, SpikeDetector
from ardiffusion.training.step_guard import BATCHES, StepGuard


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
        check_range("{}", 1, bins=bins, patience=patience)
        check_range("{}", 0, keep=keep)
        super().__init__(keep=keep)
        self.spike_detector = SpikeDetector(window, height=height)
        self.bins, self.patience, self.spikes = bins, patience, 0
        self.totals: list[float] = []  # sums since the trainer last logged
        self.sums: Tensor | None = None
        self.pending: list[Step] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.log, self.sums = self.folder / LOG, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on after the step that the run starts from; a resumed one takes later ones again.

        Learn the number of timesteps, too; stage 1 has none.
        """
        self.timesteps = int(getattr(getattr(pl_module, "schedule", None), "timesteps", 1))
        self.next_step()
        self.pending = []
        self.step = trainer.global_step
        if trainer.is_global_zero:
            lines = read_json_lines(self.log)
            with atomic_write(self.log) as partial:
                append_json_lines(partial, (x for x in lines if x.get("step", 0) <= self.step))

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        *_: object,
        **__: object,
    ) -> None:
        """Add a batch; finish the step if the optimiser had its turn, log if the trainer does."""
        self.end_batch(trainer, {**batch, **outputs})
        gathered = trainer.accumulate_grad_batches
        sums = batch_sums(outputs, self.bins, timesteps=self.timesteps, gathered=gathered)
        self.sums = sums if self.sums is None else pad_sequence([self.sums, sums]).sum(dim=1)
        if self.norm is not None:
            self.pending.append(Step(trainer.global_step, self.sums, self.norm, self.skipped))
            self.sums = None
        if self.in_a_row >= self.patience:
            self.flush(trainer)
            kept = f" or look at the batches in {self.folder / BATCHES}" if self.keep > 0 else ""
            raise ValueError(
                f"{self.in_a_row} steps in a row, up to step {trainer.global_step}, had a loss or "
                f"gradient that is not finite: lower the learning rate{kept}."
            )
        if trainer.global_step == self.step:  # gathering gradients
            return
        self.step = trainer.global_step
        every = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if every > 0 and self.step % every == 0:
            self.flush(trainer)
            pl_module.log_dict(self.scalars())
            self.totals = []

    def flush(self, trainer: Trainer) -> None:
        """Fetch the pending steps of all devices, judge their losses and write their lines."""
        if not self.pending:
            return
        sums = trainer.strategy.reduce(
            pad_sequence([s.sums for s in self.pending], batch_first=True), reduce_op="sum"
        )
        assert isinstance(sums, Tensor)
        rows, norms = sums.tolist(), torch.stack([s.norm for s in self.pending]).tolist()
        pending, self.pending = self.pending, []
        lines = [self.line(*given) for given in zip(pending, rows, norms, strict=True)]
        if trainer.is_global_zero:
            append_json_lines(self.log, lines)

    def line(self, step: Step, sums: list[float], norm: float) -> dict[str, Any]:
        loss, bins, frames = mean_losses(sums, bins=self.bins)
        detector = self.spike_detector
        spike = loss is not None and detector.is_spike(detector.add(loss))
        self.spikes += spike
        if not step.skipped:
            self.totals = [*map(sum, zip_longest(self.totals, sums, fillvalue=0.0))]
        found = {"step": step.step, "loss": loss, "grad_norm": finite(norm)}
        return {**found, "bins": bins, "frames": frames, "spike": spike, "skipped": step.skipped}

    def scalars(self) -> dict[str, Tensor]:
        """Return what is logged; tensors of the CPU, which nobody has to wait for."""
        _, bins, frames = mean_losses(self.totals or [0.0] * 2, bins=self.bins)
        # the first t of which t * bins // timesteps is i
        edges = [-(-self.timesteps * i // self.bins) for i in range(self.bins + 1)]
        found: dict[str, float | None] = {
            "stability/spikes": self.spikes,
            "stability/skipped": self.skips,
        }
        for i, loss in enumerate(bins):
            found[f"train/loss_by_bin/t{edges[i]:03d}-{edges[i + 1] - 1:03d}"] = loss
        for i, loss in enumerate(frames):
            found[f"train/loss_by_frame/{i:02d}"] = loss
        return {n: torch.tensor(float(value)) for n, value in found.items() if value is not None}

    def on_train_end(self, trainer: Trainer, *_: object, **__: object) -> None:
        self.flush(trainer)

    def on_exception(self, trainer: Trainer, *_: object, **__: object) -> None:
        """Write the last lines, unless that takes other devices, which may be gone."""
        if trainer.world_size == 1:
            with suppress(RuntimeError):  # the device may be what broke
                self.flush(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write all lines up to here, and keep what the next ones depend on."""
        self.flush(trainer)
        sums = self.sums
        if sums is not None:  # of this process; all of them go on with the mean
            sums = trainer.strategy.reduce(sums.clone(), reduce_op="mean")
        checkpoint["stability"] = {
            "spikes": self.spikes,
            "skips": self.skips,
            "in_a_row": self.in_a_row,
            "recent": list(self.spike_detector.recent),
            "sums": self.totals,
            "gathered": sums,
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Go on counting where the checkpoint was saved."""
        state = checkpoint.get("stability")
        if state is None or trainer.state.fn != TrainerFn.FITTING:
            return
        self.spikes, self.skips = state["spikes"], state["skips"]
        self.in_a_row, self.totals = state["in_a_row"], list(state.get("sums", []))
        self.spike_detector.restore(state["recent"])
        gathered = state.get("gathered")
        self.sums = None if gathered is None else gathered.to(pl_module.device)


def batch_sums(outputs: Mapping[str, Any], bins: int, timesteps: int, gathered: int) -> Tensor:
    """Sum the losses of a batch on its device, without waiting for it.

    Sums add up over batches, steps and devices; means are taken in the end. One row: loss,
    batches, then per bin its sum, per bin its count, and at the end, where rows of fewer frames
    are filled up with zeros, sum and count of each frame. What the training step returned has
    `losses` and `t`, shape (B, F), or `loss` alone, which Lightning divides by the batches
    `gathered` per optimiser step.
    """
    if "losses" not in outputs:
        loss = outputs["loss"].detach().float() * gathered
        return torch.stack([loss, torch.ones_like(loss)])
    losses = outputs["losses"].float()  # (B, F)
    t = outputs["t"]  # (B, F)
    part = torch.arange(bins, device=t.device)
    hit = rearrange(t * bins // timesteps, "b f -> b f 1") == part  # (B, F, bins)
    # A product would spread one that is not finite to every bin.
    parted = torch.where(hit, rearrange(losses, "b f -> b f 1"), 0.0)  # (B, F, bins)
    numbers = torch.stack([losses.mean(), losses.new_ones(())])
    by_bin = [reduce(x.float(), "b f bins -> bins", "sum") for x in (parted, hit)]
    by_frame = torch.stack([losses, torch.ones_like(losses)])
    return torch.cat([numbers, *by_bin, reduce(by_frame, "two b f -> (f two)", "sum")])


def mean_losses(
    sums: Sequence[float], bins: int
) -> tuple[float | None, list[float | None], list[float | None]]:
    """Make means of a row of sums: of all, by bin and by frame; None for bins without frames."""
    loss, batches, *rest = sums
    counts, frames = rest[bins : 2 * bins], rest[2 * bins :]
    by_bin = [ratio(total, count) for total, count in zip(rest, counts, strict=False)]
    by_frame = [ratio(*pair) for pair in zip(frames[::2], frames[1::2], strict=True)]
    return ratio(loss, batches), by_bin, by_frame


def ratio(total: float, count: float) -> float | None:
    return finite(total / count) if count else None


def finite(value: float) -> float | None:
    """Return a number that JSON knows; None for infinity and NaN."""
    return value if math.isfinite(value) else None
