"""Fréchet video distance (Unterthiner et al., 2018) from running sums in float64.

Each side keeps N, sum x and sum x xᵀ of its features, so memory does not grow with the number of
videos, and processes are merged by adding. As in StyleGAN-V, C = sum x xᵀ / N - m mᵀ: the
population covariance, 1/N, not 1/(N-1). For whoever has batches; `ardiff fvd` and FVDGen, which
keep features, compare folders in `evaluation.py`.
"""

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from ardiffusion.metrics.features import OwnFeatures, VideoFeatures, check_finite
from ardiffusion.metrics.frechet import feature_sums, frechet_distance, gaussian_from_sums
from ardiffusion.metrics.parallel import full_precision


class FrechetVideoDistance(Metric):
    """Fréchet distance between the features of real and of generated videos.

    The number depends on how many videos there are (few videos give larger ones), on their
    length, frame rate and resolution, and on the split: report all of them with it.

    Args:
        extractor: Maps uint8 videos (B, F, 3, H, W) to features (B, d), like
            `ardiffusion.metrics.i3d.I3DTorchScript`; it is frozen. An attribute `width`, its d,
            is needed only where a process may get no video at all.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real: Tensor  # `feature_sums`, (1 + d, 1 + d)
    fake: Tensor

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        known = isinstance(extractor, VideoFeatures)
        self.extractor = extractor if known else OwnFeatures(extractor)
        width = self.extractor.width
        zero = torch.zeros(() if width is None else (1 + width, 1 + width), dtype=torch.float64)
        for side in ("real", "fake"):
            self.add_state(side, zero.clone(), dist_reduce_fx="sum")

    @property
    def name(self) -> str:
        return self.extractor.distance

    def update(self, real: Tensor | None = None, fake: Tensor | None = None) -> None:
        """Add videos, uint8 (B, F, 3, H, W), to either side or both."""
        if real is not None:
            self.real = self.real + self.sums(real, "real")
        if fake is not None:
            self.fake = self.fake + self.sums(fake, "fake")

    def compute(self) -> Tensor:
        """Return the distance, a float64 scalar."""
        real, fake = count_of(self.real), count_of(self.fake)
        if min(real, fake) < 2:
            raise ValueError(
                f"A Fréchet distance needs two real and two generated videos or more, but there "
                f"are {real} and {fake}; use more."
            )
        mean1, cov1 = gaussian_from_sums(self.real)
        mean2, cov2 = gaussian_from_sums(self.fake)
        return frechet_distance(mean1=mean1, cov1=cov1, mean2=mean2, cov2=cov2)

    def counts(self) -> tuple[int, int]:
        """Return how many real and generated videos all processes have seen."""
        with self.sync_context():
            return count_of(self.real), count_of(self.fake)

    def reset_fake(self) -> None:
        """Forget the generated videos and keep the real ones, for the next model."""
        real = self.real
        self.reset()
        self.real = real

    def sums(self, video: Tensor, side: str) -> Tensor:
        """Describe videos of a side, and sum their features."""
        if video.dtype != torch.uint8 or video.ndim != 5 or video.shape[2] != 3:
            raise ValueError(
                f"A Fréchet video distance takes uint8 videos (B, F, 3, H, W) from 0 to 255, but "
                f"these are {video.dtype} of shape {tuple(video.shape)}; convert them first."
            )
        self.extractor.load()
        with full_precision(video.device):
            features = self.extractor.eval()(video)  # (B, d)
        names = [f"video {i} of a batch of {len(video)} {side} ones" for i in range(len(video))]
        check_finite(features, network=self.extractor, videos=names)
        return feature_sums(features)


def count_of(sums: Tensor) -> int:
    return int(sums.flatten()[0])  # without any video there may be nothing but a zero
