"""Stage 1: the LightningModule that trains an AR-VAE (paper, section 3.1).

    loss = l1 |x - y| + mse (x - y)^2 + perceptual LPIPS(x, y) + kl KL + adversarial w GAN(y)

The terms are means over pixels, w balances the gradients of the last layer as VQGAN does, and
the discriminator learns by the hinge loss from a start step on.
"""

from functools import partial
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, ReduceLROnPlateau

from ardiffusion.hub import load_arvae
from ardiffusion.nn.adversarial import (
    Discriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)
from ardiffusion.nn.autoencoder import Autoencoder, Posterior, to_bytes, to_unit
from ardiffusion.nn.perceptual import LPIPS
from ardiffusion.nn.sizes import check_range
from ardiffusion.training.checkpoint import check_fits, describe_into, init_from
from ardiffusion.training.checks import check_videos
from ardiffusion.training.randomness import graded_noise, step_generator
from ardiffusion.training.step_guard import inspect_step, step_skipped
from ardiffusion.weights.description import describe


class ARVAEModule(LightningModule):
    """Trains an AR-VAE; steps of trainer, checkpoints and schedules count batches.

    Args:
        arvae: The network: an AR-VAE, or another autoencoder in its place.
        start: Weights to start from: a file, a folder or hf://user/repo. A network with temporal
            blocks may start from one without (stage 1b).
        temporal_only: Whether to train only the temporal blocks of the decoder (stage 1b).
        l1: Weight of the absolute error.
        mse: Weight of the squared error; 0 in the paper, small models need it.
        perceptual: Weight of LPIPS; above 0 it needs the weights of VGG16.
        kl: Weight of the posterior's divergence from the standard normal, per number.
        adversarial: Weight of the adversarial loss; 0 trains no discriminator.
        adversarial_start: Batch from which on the discriminator takes part.
        sampled: Whether to decode a sample of the posterior in training instead of its mean.
        latent_noise: Most noise, as a standard deviation drawn per frame, on the normalised
            latents that training decodes, so that errors of a generator show less (l-DeTok, 2025).
        lpips: The perceptual distance.
        discriminator: The discriminator.
        optimizer: Optimiser of the AR-VAE.
        discriminator_optimizer: Optimiser of the discriminator.
        lr_scheduler: Learning rate schedule of both, stepped every batch; constant if not given.
        grad_clip: Largest norm of the gradients; 0 does not clip.
        accumulate: Batches that one optimiser step gathers.
        compile: Whether to compile the network with torch.compile; not for a CPU, which it slows.
    """

    def __init__(
        self,
        arvae: Autoencoder,
        start: str | None = None,
        temporal_only: bool = False,
        l1: float = 1.0,
        mse: float = 0.0,
        perceptual: float = 1.0,
        kl: float = 0.0,
        adversarial: float = 1.0,
        adversarial_start: int = 50_000,
        sampled: bool = True,
        latent_noise: float = 0.0,
        lpips: LPIPS | None = None,
        discriminator: Discriminator | None = None,
        optimizer: OptimizerCallable = torch.optim.AdamW,
        discriminator_optimizer: OptimizerCallable = torch.optim.AdamW,
        lr_scheduler: LRSchedulerCallable | None = None,
        grad_clip: float = 1.0,
        accumulate: int = 1,
        compile: bool = False,
    ) -> None:
        super().__init__()
        check_range("{}", 0, l1=l1, mse=mse, perceptual=perceptual, kl=kl, adversarial=adversarial)
        check_range("{}", 0, adversarial_start=adversarial_start, grad_clip=grad_clip)
        check_range("{}", 0, latent_noise=latent_noise)
        check_range("{}", 1, accumulate=accumulate)
        if not l1 + mse + perceptual + adversarial:
            raise ValueError("No loss: l1, mse, perceptual or adversarial must be above 0.")
        if temporal_only and not arvae.temporal:
            raise ValueError("temporal_only needs an AR-VAE with temporal: true.")
        self.automatic_optimization = False
        self.arvae, self.start, self.started = arvae, start, False
        self.l1, self.mse, self.perceptual, self.kl = l1, mse, perceptual, kl
        self.adversarial, self.adversarial_start = adversarial, adversarial_start
        self.sampled, self.latent_noise, self.lpips = sampled, latent_noise, lpips or LPIPS()
        self.discriminator = (discriminator or Discriminator()) if adversarial > 0 else None
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer
        self.lr_scheduler = lr_scheduler
        self.grad_clip, self.accumulate, self.compiled = grad_clip, accumulate, compile
        if temporal_only:
            arvae.requires_grad_(False)
            for parameter in arvae.temporal_parameters():
                parameter.requires_grad_(True)

    @classmethod
    def load_from_checkpoint(  # pyright: ignore[reportIncompatibleMethodOverride] needs less
        cls,
        checkpoint_path: str | Path,
        **options: Any,  # noqa: ANN401
    ) -> Self:
        """Load a module with its AR-VAE from a checkpoint; `options` are other arguments."""
        return cls(load_arvae(checkpoint_path), **options)

    def setup(self, stage: str) -> None:
        """Load and check what is needed, so that what is missing shows before the first batch."""
        check_videos(getattr(self.trainer, "datamodule", None), arvae=self.arvae)
        if self.start and not (self.trainer.ckpt_path or self.started):
            init_from(self.arvae, self.start)
        self.started = True  # a later run of the same module goes on with what it has learnt
        if stage != "fit":
            return
        if str(self.trainer.precision).startswith("16"):
            raise ValueError(
                "Stage 1 has two optimisers and no gradient scaling for float16; use "
                "--trainer.precision bf16-mixed or 32-true."
            )
        if self.perceptual > 0:
            self.lpips.load()
        if self.compiled:
            self.arvae.compile()
        if self.discriminator is not None and isinstance(self.trainer.strategy, DDPStrategy):
            # either backward pass leaves the other network out
            self.trainer.strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Update the AR-VAE and, once it takes part, the discriminator; return the loss."""
        video = to_unit(batch["video"])  # (B, F, 3, H, W)
        noise, error = self.draw_noise(video)
        fake, mean, logvar = self.arvae(video, noise=noise, error=error)
        terms = self.reconstruction_terms(video, fake=fake, posterior=Posterior(mean, logvar))
        loss = sum((getattr(self, name) * terms[name] for name in terms), torch.zeros(()))
        adversarial = self.discriminator is not None and self.global_step >= self.adversarial_start
        if adversarial:
            terms["gan"], terms["gan_weight"] = self.adversarial_terms(fake, loss=loss)
            loss = loss + self.adversarial * terms["gan_weight"] * terms["gan"]
        self.manual_backward(loss / self.accumulate)
        if adversarial:
            terms["discriminator"] = self.discriminator_term(video, fake=fake.detach())
            self.manual_backward(terms["discriminator"] / self.accumulate)
        self.take_step(adversarial=adversarial)
        self.arvae.update_statistics(mean.detach())
        terms["loss"] = loss
        self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
        self.log("loss", loss.detach(), prog_bar=True, logger=False)
        return {"loss": loss}

    def reconstruction_terms(
        self, real: Tensor, fake: Tensor, posterior: Posterior
    ) -> dict[str, Tensor]:
        """Compute the unweighted terms of the loss but the adversarial one."""
        terms = {"l1": F.l1_loss(fake, real), "mse": F.mse_loss(fake, real)}
        if self.perceptual > 0:
            terms["perceptual"] = self.lpips(frames_of(fake), frames_of(real)).mean()
        if self.kl > 0:
            terms["kl"] = posterior.kl().mean() / posterior.mean[0, 0].numel()
        return terms

    def adversarial_terms(self, fake: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the adversarial loss of the AR-VAE and the weight that balances it."""
        assert self.discriminator is not None
        self.discriminator.requires_grad_(False)
        gan = generator_loss(self.discriminator(frames_of(fake)))
        if not (layer := self.arvae.last_layer).requires_grad:  # stage 1b: nothing to balance
            return gan, torch.ones_like(gan)
        return gan, adaptive_weight(loss, adversarial=gan, last_layer=layer)

    def discriminator_term(self, real: Tensor, fake: Tensor) -> Tensor:
        assert self.discriminator is not None
        score = self.discriminator.requires_grad_(True)
        return discriminator_loss(score(frames_of(real)), score(frames_of(fake)))

    def take_step(self, adversarial: bool) -> None:
        """Step optimisers when enough batches are gathered, schedules and counter in any case."""
        optimizers = self.trainer.optimizers[: 2 if adversarial else 1]
        if (self.global_step + 1) % self.accumulate == 0:
            inspect_step(optimizers, trainer=self.trainer)
            for optimizer in [] if step_skipped(self.trainer) else optimizers:
                if self.grad_clip > 0:
                    parameters = [p for group in optimizer.param_groups for p in group["params"]]
                    norm = nn.utils.clip_grad_norm_(parameters, self.grad_clip)
                    name = "grad_norm" if optimizer is optimizers[0] else "grad_norm_d"
                    self.log(f"train/{name}", norm)
                optimizer.step()
                optimizer.zero_grad()
        for config in self.trainer.lr_scheduler_configs:
            config.scheduler.step()  # pyright: ignore[reportCallIssue] no ReduceLROnPlateau
        # Raw optimisers go uncounted; Lightning's count two steps a batch, none while gathering.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def draw_noise(self, video: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Draw noise (B, F, L, C) of the posterior or None, and of latents, alike either way."""
        size = (*video.shape[:2], self.arvae.tokens, self.arvae.channels)
        generator, most = step_generator(self.trainer, device=video.device), self.latent_noise
        noise = torch.randn(size, generator=generator, device=video.device)
        return noise if self.sampled else None, graded_noise(size, most, generator)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Reconstruct a batch for the callbacks and log its errors."""
        real = to_unit(batch["video"])
        fake = self.arvae.decode(self.arvae.encode(real)).float()
        name = "test" if self.trainer.testing else "val"
        errors = {f"{name}/l1": F.l1_loss(fake, real), f"{name}/mse": F.mse_loss(fake, real)}
        self.log_dict(errors, batch_size=len(real), sync_dist=True)
        return {"real": batch["video"], "fake": to_bytes(fake)}

    test_step = validation_step

    def predict_step(self, batch: dict[str, Any], *_: int) -> dict[str, Any]:
        """Encode a batch; the latents are those of the posterior's mean."""
        latents = self.arvae.encode(to_unit(batch["video"])).float()
        return {"latents": latents, "label": batch["label"], "key": batch["key"]}

    def configure_optimizers(self) -> tuple[list[Any], list[Any]]:
        optimizers = [self.optimizer([p for p in self.arvae.parameters() if p.requires_grad])]
        if self.discriminator is not None:
            self.discriminator.check_side(self.arvae.resolution)
            optimizers.append(self.discriminator_optimizer(self.discriminator.parameters()))
        schedule = self.lr_scheduler or partial(ConstantLR, factor=1.0)
        schedulers = [schedule(optimizer) for optimizer in optimizers]
        if any(isinstance(each, ReduceLROnPlateau) for each in schedulers):
            raise ValueError("lr_scheduler steps every batch, which ReduceLROnPlateau cannot.")
        return optimizers, schedulers

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        describe_into(checkpoint, stage="arvae", parts={"arvae": describe(self.arvae)})

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        check_fits(checkpoint, stage="arvae", arvae=self.arvae)


def frames_of(video: Tensor) -> Tensor:
    return rearrange(video, "b f c h w -> (b f) c h w")
