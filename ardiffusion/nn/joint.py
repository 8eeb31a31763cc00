"""JointDiT: ARDiT without the causal mask, the network of ordinary video diffusion.

Every frame of a clip attends to every other, later ones included. With one timestep for all frames
that is a video diffusion transformer, with independent ones the network of Diffusion Forcing's
baseline: the same weights, the same cost, nothing but who sees whom differs from ARDiT.
"""

import torch

from ardiffusion.nn.cache import AttentionContext, Part
from ardiffusion.nn.dit import ARDiT


class Bidirectional(AttentionContext):
    """Every frame attends to every other, of at most `window`; keys and values are not kept."""

    parts = [Part(queries=slice(None), keys=slice(None))]  # noqa: RUF012 never changed

    def __init__(self, window: int) -> None:
        self.window = window

    def prepare(self, frames: int) -> None:
        if frames > self.window:
            raise ValueError(
                f"JointDiT sees {self.window} frames at once, got {frames}: use clips of at most "
                f"{self.window} frames, or train it with a longer window."
            )


class JointDiT(ARDiT):
    """Diffusion transformer whose frames all see each other; takes clips of at most `window`.

    References:
        Video diffusion models (Ho et al., NeurIPS 2022); Diffusion Forcing (Chen et al., NeurIPS
        2024), as the baseline of AR-Diffusion (Sun et al., CVPR 2025).
    """

    strictly_causal = False

    def together(self, device: torch.device) -> AttentionContext:
        return Bidirectional(self.window)

    def storage(self, *_: object, **__: object) -> AttentionContext:
        return Bidirectional(self.window)  # keys and values change with later frames
