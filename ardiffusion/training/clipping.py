"""Gradient clipping for fused optimisers, which Lightning refuses in mixed precision."""

from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.optim import Optimizer


class FusedClipping(LightningModule):
    """Clips as Lightning does, but refuses a fused optimiser only where gradients are scaled."""

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip gradients."""
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            super(MixedPrecision, plugin).clip_gradients(  # leaves out nothing but the refusal
                optimizer,
                clip_val=gradient_clip_val or 0.0,
                gradient_clip_algorithm=GradClipAlgorithmType(gradient_clip_algorithm or "norm"),
            )
        else:
            super().configure_gradient_clipping(
                optimizer, gradient_clip_val, gradient_clip_algorithm
            )
