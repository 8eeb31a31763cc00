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

    real_count: Tensor
    real_sum: Tensor
    real_outer: Tensor
    fake_count: Tensor
    fake_sum: Tensor
    fake_outer: Tensor

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        known = isinstance(extractor, VideoFeatures)
        self.extractor = extractor if known else OwnFeatures(extractor)
        shape = () if self.extractor.width is None else (self.extractor.width,)
        for side in ("real", "fake"):
            count, zero = torch.tensor(0), torch.tensor(0.0, dtype=torch.float64)
            self.add_state(f"{side}_count", count, dist_reduce_fx="sum")
            self.add_state(f"{side}_sum", zero.expand(shape).clone(), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", zero.expand(2 * shape).clone(), dist_reduce_fx="sum")

    @property
    def name(self) -> str:
        return self.extractor.distance

    def update(self, real: Tensor | None = None, fake: Tensor | None = None) -> None:
        """Add videos, uint8 (B, F, 3, H, W), to either side or both."""
        for side, video in (("real", real), ("fake", fake)):
            if video is not None:
                names = f"{side}_count", f"{side}_sum", f"{side}_outer"
                for name, added in zip(names, self.sums(video, side), strict=True):
                    setattr(self, name, getattr(self, name) + added)

    def compute(self) -> Tensor:
        """Return the distance, a float64 scalar."""
        real, fake = int(self.real_count), int(self.fake_count)
        if min(real, fake) < 2:
            raise ValueError(
                f"A Fréchet distance needs two real and two generated videos or more, but there "
                f"are {real} and {fake}; use more."
            )
        mean1, cov1 = gaussian_from_sums(self.real_count, self.real_sum, self.real_outer)
        mean2, cov2 = gaussian_from_sums(self.fake_count, self.fake_sum, self.fake_outer)
        return frechet_distance(mean1=mean1, cov1=cov1, mean2=mean2, cov2=cov2)

    def counts(self) -> tuple[int, int]:
        """Return how many real and generated videos all processes have seen."""
        with self.sync_context():
            return int(self.real_count), int(self.fake_count)

    def reset_fake(self) -> None:
        """Forget the generated videos and keep the real ones, for the next model."""
        real = self.real_count, self.real_sum, self.real_outer
        self.reset()
        self.real_count, self.real_sum, self.real_outer = real

    def sums(self, video: Tensor, side: str) -> tuple[int, Tensor, Tensor]:
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
        _, total, outer = feature_sums(features)
        return len(features), total, outer
