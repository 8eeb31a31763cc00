"""Stage 2: the LightningModule that trains AR-Diffusion (paper, section 3.3).

    loss = mean (network(x_t, t) - target)^2,   x_t = alpha_t x + sigma_t eps,

with x the normalised tokens of a clip and one timestep t_f per frame.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor, nn
from torch.optim import Optimizer

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import Solver
from ardiffusion.diffusion.target import X0, Target
from ardiffusion.diffusion.timesteps import FoPP, Timesteps
from ardiffusion.generator import Generator
from ardiffusion.hub import load_arvae
from ardiffusion.nn.autoencoder import Autoencoder, to_unit
from ardiffusion.training.checkpoint import check_fits, describe_into
from ardiffusion.training.clipping import clip_gradients
from ardiffusion.training.compatibility import check_classes, check_latents, check_resolution
from ardiffusion.training.randomness import step_generator
from ardiffusion.weights.description import build, describe


class DiffusionModule(LightningModule):
    """Trains a generator on the latents of a frozen AR-VAE.

    Checkpoints hold the generator, AR-VAE included, so that they need nothing else to generate.

    Args:
        dit: The network.
        arvae: Where the AR-VAE's weights are: a file, a folder or hf://user/repo.
        schedule: The noise schedule.
        timesteps: How training timesteps are drawn.
        target: What the network predicts.
        class_dropout: Probability of training a clip without its class.
        solver: How one step of sampling is taken, unless one asks for another; DDIM by default.
        steps: Denoising steps per frame, unless one asks for others.
        difference: Steps between neighbouring frames, unless one asks for others.
        guidance: Classifier-free guidance scale, unless one asks for another; 1 is off.
        optimizer: The optimiser.
        lr_scheduler: Learning rate schedule, stepped every optimiser step; constant if not given.
        compile: Whether to compile the network with torch.compile.
    """

    generator: Generator

    def __init__(
        self,
        dit: nn.Module | None = None,
        arvae: str | None = None,
        schedule: NoiseSchedule | None = None,
        timesteps: Timesteps | None = None,
        target: Target | None = None,
        class_dropout: float = 0.1,
        solver: Solver | None = None,
        steps: int = 50,
        difference: int = 5,
        guidance: float = 1.0,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        if dit is None or arvae is None:
            missing = "dit, the network" if dit is None else "arvae, the AR-VAE's weights"
            raise ValueError(f"Stage 2 needs --model.{missing}; start from a config as dit.yaml.")
        if not 0 <= class_dropout <= 1:
            raise ValueError(f"class_dropout is a probability, got {class_dropout}.")
        self.dit, self.arvae_source = dit, arvae
        self.schedule, self.target = schedule or NoiseSchedule(), target or X0()
        self.timesteps = timesteps or FoPP(self.schedule.timesteps)
        self.sampling: dict[str, Any] = {"solver": solver, "steps": steps}
        self.sampling |= {"difference": difference, "guidance": guidance}
        self.class_dropout = class_dropout
        self.optimizer, self.lr_scheduler, self.compiled = optimizer, lr_scheduler, compile

    @property
    def arvae(self) -> Autoencoder:
        """The frozen AR-VAE."""
        return self.generator.arvae

    def set_autoencoder(self, arvae: Autoencoder) -> None:
        """Complete the generator by its AR-VAE, which is not trained."""
        self.generator = Generator(
            self.dit, arvae, schedule=self.schedule, target=self.target, **self.sampling
        )

    def setup(self, stage: str) -> None:
        """Load the frozen AR-VAE, unless a checkpoint that the trainer knows of brings it."""
        if not hasattr(self, "generator") and not self.trainer.ckpt_path:
            self.set_autoencoder(load_arvae(self.arvae_source))
        if stage == "fit" and self.compiled:
            self.dit.compile()

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # noqa: ANN401 torch's own
        """Return the generator's weights, under the names that they have there."""
        whole = self.generator if hasattr(self, "generator") else super()
        return whole.state_dict(*args, **kwargs)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:  # noqa: ANN401 torch's own
        """Load the generator's weights, those of the network alone while there is no AR-VAE."""
        if hasattr(self, "generator"):
            return self.generator.load_state_dict(state_dict, strict=strict, assign=assign)
        own = {name: value for name, value in state_dict.items() if name.startswith("dit.")}
        return super().load_state_dict(own, strict=strict, assign=assign)

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride] needs less
        cls,
        checkpoint_path: str | Path,
        **options: Any,  # noqa: ANN401
    ) -> Self:
        """Load a module with its generator from a checkpoint; `options` are other arguments."""
        generator = Generator.from_pretrained(checkpoint_path)
        given = {"schedule": generator.schedule, "target": generator.target}
        given |= {"dit": generator.dit, "arvae": str(checkpoint_path)} | options
        module = cls(**given)
        module.generator = generator
        return module

    def on_fit_start(self) -> None:
        """Check that data and networks match, and learn the names of the classes."""
        classes = self.check_data()
        self.generator.classes = classes if self.generator.conditional else []

    def on_validation_start(self) -> None:
        """Check the data of `validate`; `fit` has done so."""
        if self.trainer.state.fn is not TrainerFn.FITTING:
            self.check_data()

    def on_test_start(self) -> None:
        """Do as in validation."""
        self.on_validation_start()

    def check_data(self) -> list[str]:
        """Raise if data, AR-VAE and network do not match; return the names of the classes."""
        data = getattr(self.trainer, "datamodule", None)
        classes = list(getattr(data, "classes", self.generator.classes))
        check_resolution(data, arvae=self.arvae)
        check_latents(data, arvae=self.arvae)
        check_classes(classes, dit=self.dit)
        return classes

    def latents(self, batch: dict[str, Any]) -> Tensor:
        """Return the normalised tokens (B, F, L, C) of a batch, from its cache or its video."""
        if "latents" in batch:
            return self.arvae.normalise(batch["latents"])
        with torch.no_grad():
            latents = self.arvae.encode(to_unit(batch["video"]))
        return self.arvae.normalise(latents.float())

    def loss(
        self, x: Tensor, label: Tensor, t: Tensor, noise: Tensor, null: Tensor | None
    ) -> Tensor:
        """Compute the error of every frame.

        Args:
            x: Normalised tokens, shape (B, F, L, C).
            label: Class indices, shape (B,).
            t: Timesteps, shape (B, F).
            noise: Standard normal noise, shape (B, F, L, C).
            null: Clips to be seen without their class, bool, shape (B,).

        Returns:
            Mean squared errors, shape (B, F).
        """
        alpha, sigma = self.schedule.alpha_sigma(t, dtype=x.dtype)
        target = self.target.from_clean(x, noise=noise, alpha=alpha, sigma=sigma)
        output = self.dit(alpha * x + sigma * noise, t, label=label, null=null)
        return (output.float() - target).square().mean(dim=(-2, -1))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> STEP_OUTPUT:
        """Compute the loss of a batch; callbacks get that of every frame with its timestep."""
        x = self.latents(batch)  # (B, F, L, C)
        generator = step_generator(self.trainer, device=x.device)
        t = self.timesteps(x.shape[0], x.shape[1], generator=generator, device=x.device)  # (B, F)
        null = torch.rand(len(x), generator=generator, device=x.device) < self.class_dropout
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        losses = self.loss(x, label=batch["label"], t=t, noise=noise, null=null)  # (B, F)
        loss = losses.mean()
        self.log("train/loss", loss.detach())
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return {"loss": loss, "losses": losses.detach(), "t": t}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Log the loss under noise and timesteps that are the same in every run."""
        x = self.latents(batch)
        generator = torch.Generator().manual_seed(batch_idx)
        t = self.timesteps(x.shape[0], x.shape[1], generator=generator).to(x.device)
        noise = torch.randn(x.shape, generator=generator).to(x.device)
        loss = self.loss(x, label=batch["label"], t=t, noise=noise, null=None).mean()
        name = "test" if self.trainer.testing else "val"
        self.log(f"{name}/loss", loss, batch_size=len(x), sync_dist=True, prog_bar=True)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Do as in validation."""
        self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 whatever Lightning takes
        """Build the optimiser of the network; the AR-VAE has none."""
        optimizer = self.optimizer(self.dit.parameters())
        if self.lr_scheduler is None:
            return optimizer
        schedule = {"scheduler": self.lr_scheduler(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients, of fused optimisers too."""
        clip_gradients(self, optimizer, value=gradient_clip_val, algorithm=gradient_clip_algorithm)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Describe the generator, so that it can be rebuilt without its configuration."""
        parts = self.generator.describe() | {"timesteps": describe(self.timesteps)}
        describe_into(checkpoint, stage="dit", parts=parts)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rebuild the AR-VAE that the checkpoint brings."""
        parts = check_fits(
            checkpoint, stage="dit", dit=self.dit, schedule=self.schedule, target=self.target
        )
        arvae = build(parts["arvae"], source="The checkpoint")
        assert isinstance(arvae, Autoencoder)
        self.set_autoencoder(arvae.to_empty(device=self.device))
        self.generator.classes = list(parts.get("classes", []))
