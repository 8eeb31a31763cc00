"""Stage 2: the LightningModule that trains AR-Diffusion (paper, section 3.3).

    loss = mean w (network(x_t, t) - target)^2,   x_t = alpha_t x + sigma_t eps,
with x the normalised tokens of a clip and one timestep t_f per frame.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from ardiffusion.diffusion.history import OwnHistory
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import Solver
from ardiffusion.diffusion.target import X0, Target
from ardiffusion.diffusion.timesteps import FoPP, Timesteps
from ardiffusion.diffusion.weighting import Uniform, Weighting
from ardiffusion.generator import Generator
from ardiffusion.hub import load_arvae
from ardiffusion.nn.autoencoder import Autoencoder
from ardiffusion.nn.denoising import DenoisingNetwork
from ardiffusion.training.checkpoint import check_fits, check_given, describe_into, start_from
from ardiffusion.training.checks import check_clips, check_generator
from ardiffusion.training.clipping import FusedClipping
from ardiffusion.training.distillation import Distillation
from ardiffusion.training.randomness import step_generator
from ardiffusion.weights.description import build, describe


class DiffusionModule(FusedClipping):
    """Trains a generator on the latents of a frozen AR-VAE; checkpoints hold both.

    Args:
        dit: The network.
        arvae: Where the AR-VAE's weights are: a file, a folder or hf://user/repo.
        start: A generator to go on with, in place of `dit`, `schedule` and `target`: a checkpoint,
            folder or file of weights, also on the Hub, as hf://user/repo[/path].
        schedule: The noise schedule.
        timesteps: How training timesteps are drawn.
        target: What the network predicts.
        weighting: How much the errors of noise levels count; all alike if not given.
        history: How own predictions of the network stand in for true past frames, if at all.
        distillation: How a teacher, `start`, is learnt from in place of the data, if at all.
        class_dropout: Probability of training a clip without its class.
        solver: How a step of sampling is taken; that of `start`, or DDIM, if not given.
        steps: Denoising steps per frame; those of `start`, or 50, if not given.
        difference: Steps between neighbouring frames; those of `start`, or 5, if not given.
        guidance: Scale of classifier-free guidance; that of `start`, or 1, if not given.
        optimizer: The optimiser.
        lr_scheduler: Learning rate schedule, stepped every optimiser step; constant if not given.
        compile: Whether to compile the network with torch.compile; not for a CPU, which it slows.
    """

    generator: Generator

    def __init__(
        self,
        dit: DenoisingNetwork | None = None,
        arvae: str | None = None,
        start: str | None = None,
        schedule: NoiseSchedule | None = None,
        timesteps: Timesteps | None = None,
        target: Target | None = None,
        weighting: Weighting | None = None,
        history: OwnHistory | None = None,
        distillation: Distillation | None = None,
        class_dropout: float = 0.1,
        solver: Solver | None = None,
        steps: int | None = None,
        difference: int | None = None,
        guidance: float | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        check_given(start, arvae=arvae, dit=dit, schedule=schedule, target=target)
        if not 0 <= class_dropout <= 1:
            raise ValueError(f"class_dropout is a probability, got {class_dropout}.")
        if dit is not None:
            self.dit = dit
        self.arvae_source, self.start, self.draws = arvae, start, timesteps
        self.schedule, self.target = schedule or NoiseSchedule(), target or X0()
        self.timesteps = timesteps or FoPP(self.schedule.timesteps)
        asked = {"solver": solver, "steps": steps, "difference": difference, "guidance": guidance}
        self.sampling = {name: value for name, value in asked.items() if value is not None}
        self.difference, self.weighting, self.history = difference, weighting or Uniform(), history
        self.class_dropout, self.compiled, self.distillation = class_dropout, compile, distillation
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler

    @property
    def arvae(self) -> Autoencoder:
        return self.generator.arvae

    def set_autoencoder(self, arvae: Autoencoder) -> None:
        """Complete the generator by its AR-VAE, which is not trained."""
        self.generator = Generator(
            self.dit, arvae, schedule=self.schedule, target=self.target, **self.sampling
        )

    def setup(self, stage: str) -> None:
        """Load what is given, unless a checkpoint that the trainer knows of brings it."""
        loaded = hasattr(self, "generator")  # by an earlier run of the same module
        if self.start and not loaded:
            self.go_on_with(str(self.trainer.ckpt_path or self.start))
        elif not loaded and not self.trainer.ckpt_path:
            self.set_autoencoder(load_arvae(self.arvae_source or ""))
        if stage == "fit" and self.compiled:
            self.dit.compile()
            if self.distillation is not None:
                self.distillation.teacher.compile()

    def go_on_with(self, source: str) -> None:
        """Take all parts from a generator, its network fitted to the data of the trainer."""
        data = getattr(self.trainer, "datamodule", None)
        parts = start_from(source, arvae=self.arvae_source, data=data)
        if self.distillation is not None:
            self.distillation.load(self.start or source, arvae=self.arvae_source, data=data)
            parts["guidance"] = 1.0  # a student has the guidance of its teacher in it
        self.dit, arvae = parts.pop("dit"), parts.pop("arvae")
        self.schedule = parts.pop("schedule", self.schedule)
        self.target = parts.pop("target", self.target)
        self.timesteps = self.draws or FoPP(self.schedule.timesteps)
        self.sampling = parts | self.sampling
        self.set_autoencoder(arvae)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 torch's own
        """Return the generator's weights, under the names that they have there."""
        return getattr(self, "generator", super()).state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:  # noqa: ANN401 torch's own
        """Load the generator's weights, those of the network alone while there is no AR-VAE."""
        if hasattr(self, "generator"):
            return self.generator.load_state_dict(state_dict, strict=strict, assign=assign)
        own = {name: w for name, w in state_dict.items() if name.startswith("dit.")}
        return super().load_state_dict(own, strict=strict, assign=assign)

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride] needs less
        cls,
        checkpoint_path: str | Path,
        **options: Any,  # noqa: ANN401
    ) -> Self:
        """Load a module with its generator from a checkpoint; `options` are other arguments."""
        made = Generator.from_pretrained(checkpoint_path)
        options = {"schedule": made.schedule, "target": made.target} | options
        module = cls(made.dit, arvae=str(checkpoint_path), **options)
        module.generator = made
        return module

    def on_fit_start(self) -> None:
        """Check that data and networks match, and learn the names of the classes."""
        classes = self.check_data()
        self.generator.classes = classes if self.generator.conditional else []

    def on_validation_start(self) -> None:
        """Check the data of `validate` and `test`; `fit` has done so."""
        if self.trainer.state.fn is not TrainerFn.FITTING:
            self.check_data()

    on_test_start = on_validation_start

    def check_data(self) -> list[str]:
        """Raise if data and parts do not match each other; return the names of the classes."""
        data = getattr(self.trainer, "datamodule", None)
        classes = list(getattr(data, "classes", self.generator.classes))
        check_clips(data, arvae=self.arvae)
        check_generator(self.generator, classes, drawn=self.timesteps)
        self.generator.sampler(difference=self.difference)  # too large a default is cut to `steps`
        return classes

    def latents(self, batch: dict[str, Any]) -> Tensor:
        """Return the normalised tokens (B, F, L, C) of a batch."""
        if "latents" in batch:
            return self.arvae.normalise(batch["latents"])
        return self.generator.encode(batch["video"])

    def loss(
        self, x: Tensor, label: Tensor, t: Tensor, noise: Tensor, null: Tensor | None, seen: Tensor
    ) -> Tensor:
        """Return the mean squared error of every frame, (B, F).

        Learnt are tokens x (B, F, L, C) of classes `label` (B,), hidden where `null` (B,) is true;
        shown is `seen`, x or x with a past of its own, with noise (B, F, L, C) at timesteps t.
        """
        alpha, sigma = self.schedule.alpha_sigma(t, dtype=x.dtype)
        own = noise + alpha / sigma * (seen - x)  # the noise that makes of x what is shown
        target = self.target.from_clean(x, noise=own, alpha=alpha, sigma=sigma)
        output = self.dit(alpha * seen + sigma * noise, t, label=label, null=null)
        return (output.float() - target).square().mean(dim=(-2, -1))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> STEP_OUTPUT:
        """Compute the loss of a batch; callbacks get that of every frame with its timestep."""
        x = self.latents(batch)  # (B, F, L, C)
        generator = step_generator(self.trainer, device=x.device)
        t = self.timesteps(*x.shape[:2], generator=generator, device=x.device)  # (B, F)
        null = torch.rand(len(x), generator=generator, device=x.device) < self.class_dropout
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        seen, counted, flying = x, torch.ones_like(t), 1.0
        if self.history is not None:
            network, parts = partial(self.dit, label=batch["label"]), (self.schedule, self.target)
            seen, counted = self.history(network, x, t, *parts, generator=generator)
        if self.distillation is not None:
            x, flying = self.distillation(seen, noise, t, label=batch["label"], null=null)
            counted = counted * (flying > 0)
        losses = self.loss(x, label=batch["label"], t=t, noise=noise, null=null, seen=seen)
        losses = losses * flying  # (B, F)
        levels = (level[..., 0, 0] for level in self.schedule.alpha_sigma(t, dtype=x.dtype))
        loss = (self.weighting.weigh(losses, *levels) * counted).mean()
        self.log("train/loss", losses.detach().mean())
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return {"loss": loss, "losses": losses.detach(), "t": t}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the loss under noise and timesteps that are the same in every run."""
        x, generator = self.latents(batch), torch.Generator().manual_seed(batch_idx)
        t = self.timesteps(x.shape[0], x.shape[1], generator=generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        loss = self.loss(x, label=batch["label"], t=t, noise=noise, null=None, seen=x).mean()
        name = "test/loss" if self.trainer.testing else "val/loss"
        self.log(name, loss, batch_size=len(x), sync_dist=True, prog_bar=True)

    test_step = validation_step

    def configure_optimizers(self) -> Any:  # noqa: ANN401 whatever Lightning takes
        optimizer = self.optimizer([*self.dit.parameters(), *self.weighting.parameters()])
        schedulers = [self.lr_scheduler(optimizer)] if self.lr_scheduler else []
        return [optimizer], [{"scheduler": each, "interval": "step"} for each in schedulers]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        parts = self.generator.describe() | {"timesteps": describe(self.timesteps)}
        describe_into(checkpoint, stage="dit", parts=parts)
        checkpoint["weighting"] = self.weighting.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        mine = {name: getattr(self, name) for name in ("dit", "schedule", "target")}
        parts = check_fits(checkpoint, stage="dit", **mine)
        self.set_autoencoder(build(parts["arvae"]).to_empty(device=self.device))
        self.generator.classes = list(parts.get("classes", []))
        if self.trainer.state.fn is TrainerFn.FITTING:
            self.weighting.resume(checkpoint.get("weighting", {}))
