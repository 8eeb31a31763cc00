"""Skips optimiser steps whose loss or gradient is not finite, on all devices alike.

A skipped step takes the gradients away, and optimisers pass over parameters without one: neither
weights nor moments nor the count of steps change, whichever the optimiser is and whether or not
it is fused. Zeros in their place would still move Adam. Persistent buffers, as are the running
statistics of batch norms and of latents, are put back when the batch is over.

To decide needs one number of the device in each optimiser step, however many batches it gathers.
The device has then done what it was given, and idles until the step's few kernels reach it.

With 16-mixed precision nothing is done: gradients are scaled, some of them overflow until the
scale is found, and the scaler itself skips these steps.
"""

from collections.abc import Sequence
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer


class StepGuard(Callback):
    """Looks at each optimiser step before it is taken.

    Attributes:
        losses: What was differentiated in each batch of the step so far.
        norm: Norm of the gradient before clipping, of the first optimiser if there are two; None
            until the step is looked at, NaN if gradients are scaled.
        skipped: Whether the step of this batch is skipped.
        blown_up: Whether it is so although every loss is finite.
    """

    def __init__(self) -> None:
        self.statistics: list[Tensor] = []
        self.next_step()

    def next_step(self) -> None:
        """Forget the last step."""
        self.losses: list[list[Tensor]] = []
        self.norm: Tensor | None = None
        self.skipped = self.blown_up = False
        self.before = [buffer.clone() for buffer in self.statistics]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look up the buffers that training may change: tables are not persistent."""
        kept = pl_module.state_dict().keys()
        self.statistics = [b for name, b in pl_module.named_buffers() if name in kept]
        self.next_step()

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Start a new step after one that was looked at."""
        if self.norm is not None:
            self.next_step()
        self.losses.append([])

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        """Note a loss of the batch."""
        self.losses[-1].append(loss.detach())

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """Look at the step of automatic optimisation, before gradients are clipped."""
        self.look([optimizer], trainer=trainer)

    @torch.no_grad()
    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Put buffers back after a skipped step."""
        if self.skipped:
            for buffer, before in zip(self.statistics, self.before, strict=True):
                buffer.copy_(before)

    def look(self, optimizers: Sequence[Optimizer], trainer: Trainer) -> None:
        """Take all gradients away if a loss or a gradient is not finite on any device."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            self.norm = torch.full((), torch.nan)
            return
        trained = [[p for g in o.param_groups for p in g["params"]] for o in optimizers]
        norms = [get_total_norm([p.grad for p in ps if p.grad is not None]) for ps in trained]
        self.norm = norms[0]
        losses = torch.stack([loss for batch in self.losses for loss in batch])
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


def look_at_step(optimizers: Sequence[Optimizer], trainer: Trainer) -> None:
    """Let the guards among the callbacks look at a step of manual optimisation."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, StepGuard):
            callback.look(optimizers, trainer=trainer)


def step_skipped(trainer: Trainer) -> bool:
    """Say whether a guard skips the step of the batch in training."""
    callbacks = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
    return any(isinstance(c, StepGuard) and c.skipped for c in callbacks)
