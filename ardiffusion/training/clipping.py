"""Gradient clipping for fused optimisers, which Lightning refuses in mixed precision."""

from lightning import LightningModule
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch.optim import Optimizer


def clip_gradients(
    module: LightningModule, optimizer: Optimizer, value: float | None, algorithm: str | None
) -> None:
    """Clip as Lightning does, but refuse a fused optimiser only where gradients are scaled."""
    plugin = module.trainer.precision_plugin
    if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
        super(MixedPrecision, plugin).clip_gradients(  # leaves out nothing but the refusal
            optimizer,
            clip_val=value or 0.0,
            gradient_clip_algorithm=GradClipAlgorithmType(algorithm or "norm"),
        )
    else:
        module.clip_gradients(
            optimizer, gradient_clip_val=value, gradient_clip_algorithm=algorithm
        )
