"""Judges optimiser steps: skips those that are not finite, on all devices alike.

A skipped step takes the gradients away, and optimisers pass over parameters without one: neither
weights nor moments nor the count of steps change, whichever the optimiser is and whether or not
it is fused. Zeros in their place would still move Adam. Persistent buffers, as are the running
statistics of batch norms and of latents, are put back when the batch is over. The batch is kept,
so that one can find out why.

To decide needs one number of the device in each optimiser step, however many batches it gathers.
The device has then done what it was given, and idles until the step's few kernels reach it.

With 16-mixed precision nothing is done: gradients are scaled, some of them overflow until the
scale is found, and the scaler itself skips these steps.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ardiffusion.files import write_json, write_tensors
from ardiffusion.nn.shares import whole

BATCHES = "nonfinite"


class StepGuard(Callback):
    """Inspects each optimiser step before it is taken; `Stability` ends its batches.

    Args:
        keep: Batches that are kept at most of skipped steps in a row.

    Attributes:
        batches: The batches of the step so far, with what their training steps returned.
        losses: What was differentiated in each of them.
        norm: Norm of the gradient before clipping, of the first optimiser if there are two; None
            until the step is inspected, NaN if gradients are scaled.
        skipped: Whether the step of this batch is skipped.
        blown_up: Whether it is so although every loss is finite.
    """

    def __init__(self, keep: int = 3) -> None:
        self.keep = keep
        self.skips = self.in_a_row = 0
        self.statistics: list[Tensor] = []
        self.next_step()

    def next_step(self) -> None:
        self.batches: list[dict[str, Any]] = []
        self.losses: list[list[Tensor]] = []
        self.norm: Tensor | None = None
        self.skipped = self.blown_up = False
        self.before = [buffer.clone() for buffer in self.statistics]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.folder = log_folder(trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the buffers that training may change: tables are not persistent."""
        kept = pl_module.state_dict().keys()
        self.statistics = [b for name, b in pl_module.named_buffers() if name in kept]
        self.next_step()

    def on_train_batch_start(self, *_: object, **__: object) -> None:
        if self.norm is not None:
            self.next_step()
        self.losses.append([])

    def on_before_backward(self, trainer: Trainer, pl_module: object, loss: Tensor) -> None:
        self.losses[-1].append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: object, optimizer: Optimizer
    ) -> None:
        self.inspect([optimizer], trainer=trainer)

    @torch.no_grad()
    def inspect(self, optimizers: Sequence[Optimizer], trainer: Trainer) -> None:
        """Take all gradients away if a loss or a gradient is not finite on any device."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            self.norm = torch.full((), torch.nan)
            return
        trained = [[p for g in o.param_groups for p in g["params"]] for o in optimizers]
        losses = torch.stack([loss for batch in self.losses for loss in batch])
        norms = [get_total_norm([p.grad for p in ps if p.grad is not None]) for ps in trained]
        norms = [whole(norm).to(losses.device) for norm in norms]
        self.norm = norms[0]
        wrong = torch.stack([(~x.isfinite()).any() for x in (losses, torch.stack(norms))])
        # Losses are those of each device: without the sum devices might not agree.
        wrong = trainer.strategy.reduce(wrong.float(), reduce_op="sum")
        assert isinstance(wrong, Tensor)
        loss_wrong, norm_wrong = wrong.tolist()  # waits for the device
        self.skipped = loss_wrong + norm_wrong > 0
        self.blown_up = self.skipped and not loss_wrong
        if self.skipped:
            for parameter in (p for ps in trained for p in ps):
                parameter.grad = None

    def end_batch(self, trainer: Trainer, values: dict[str, Any]) -> None:
        """Count a skipped step, put buffers back and keep the batch to blame."""
        self.batches.append(values)
        if self.norm is None:
            return
        self.in_a_row = self.in_a_row + 1 if self.skipped else 0
        if self.skipped:
            self.skips += 1
            for buffer, before in zip(self.statistics, self.before, strict=True):
                buffer.data.copy_(before)
            self.keep_batch(trainer)
        self.batches = []

    def keep_batch(self, trainer: Trainer) -> None:
        """Write the batch to blame: the first whose loss is not finite, else the last one.

        NAME.safetensors has its tensors with losses and t, NAME.json says which clips it holds.
        """
        good = [all(bool(loss.isfinite()) for loss in losses) for losses in self.losses]
        guilty = [i for i, is_good in enumerate(good) if not is_good]
        if self.blown_up and trainer.is_global_zero:
            guilty = [len(good) - 1]
        if not guilty or self.in_a_row > self.keep:
            return
        name = f"step_{trainer.global_step:06d}"
        if not trainer.is_global_zero:
            name = f"{name}_rank_{trainer.global_rank}"
        values, file = self.batches[guilty[0]], self.folder / BATCHES / name
        tensors = {k: v.detach().cpu() for k, v in values.items() if isinstance(v, Tensor)}
        note = {"step": trainer.global_step, "key": list(values.get("key", []))}
        if "t" in tensors:
            note["t"] = tensors["t"].tolist()
        write_tensors(file.with_suffix(".safetensors"), tensors)
        write_json(file.with_suffix(".json"), note)


def guards_of(trainer: Trainer) -> list[StepGuard]:
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return [callback for callback in callbacks if isinstance(callback, StepGuard)]


def inspect_step(optimizers: Sequence[Optimizer], trainer: Trainer) -> None:
    """Let the guards among the callbacks inspect a step of manual optimisation."""
    for guard in guards_of(trainer):
        guard.inspect(optimizers, trainer=trainer)


def step_skipped(trainer: Trainer) -> bool:
    return any(guard.skipped for guard in guards_of(trainer))


def log_folder(trainer: Trainer) -> Path:
    """Return where a run keeps its logs; all processes must ask."""
    return Path(trainer.log_dir or trainer.default_root_dir)
