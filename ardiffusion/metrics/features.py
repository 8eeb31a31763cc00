"""Feature networks for Fréchet video distances: uint8 videos in, one vector per video out.

`Random3D` needs no download and serves to compare runs of one's own; the networks behind published
numbers are in `i3d.py` and `videomae.py`.
"""

import hashlib
import re
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.nn.sizes import LARGEST, check_range


class VideoFeatures(nn.Module, ABC):
    """A frozen network that describes each video by one vector."""

    name: str  # what it is called in records
    width: int | None = None  # the length of the vectors, if it is known
    frames: int = 1  # how many a clip must have at least

    def load(self) -> None:
        """Fetch what `forward` needs, so that a missing file is told before any work is done."""

    @property
    def hash(self) -> str:
        """What identifies the network with its weights: equal hashes, comparable features.

        By default that of its class, layers and weights; a subclass whose `forward` changes alone
        must return another one.
        """
        self.load()
        return weights_hash(self)

    @property
    def distance(self) -> str:
        """What a distance is called, as `frechet_random3d`; `fvd` is kept for I3D."""
        return f"frechet_{self.name}"

    def check_frames(self, frames: int, source: str = "these have") -> None:
        if frames < self.frames:
            raise ValueError(
                f"{type(self).__name__} needs clips of {self.frames} frames or more, but {source} "
                f"{frames}; use longer clips or another feature network."
            )

    @abstractmethod
    def forward(self, video: Tensor) -> Tensor:
        """Describe videos, uint8 (B, F, 3, H, W), by features, float32 (B, width)."""


class Random3D(VideoFeatures):
    """A small 3-D convolutional network with fixed random weights, for runs without downloads.

    Layer by layer it averages the activations and the size of their change from frame to frame, so
    that it tells pictures apart, and also still, smooth and shuffled videos of the same pictures.
    Its distances compare runs of one's own and say nothing about published FVD.

    Args:
        seed: Seed of the weights; only distances of the same seed and width are comparable.
        width: Channels of each of the three layers; there are six times as many features.
    """

    name = "random3d"
    layers = 3
    side = 32

    def __init__(self, seed: int = 0, width: int = 16) -> None:
        super().__init__()
        check_range("{} of Random3D", 1, LARGEST, width=width)
        check_range("{} of Random3D", 0, seed=seed)
        self.seed = seed
        self.width = 2 * self.layers * width
        generator = torch.Generator().manual_seed(seed)
        channels = 3
        for layer in range(self.layers):
            weight = torch.randn(width, channels, 3, 3, 3, generator=generator)
            weight = weight * (2 / (27 * channels)) ** 0.5
            self.register_buffer(f"weight{layer}", weight, persistent=False)
            channels = width

    @property
    def hash(self) -> str:
        # Not of the weights: their last bits may depend on the version of PyTorch.
        text = f"{type(self).__name__} seed={self.seed} width={self.width}"
        return hashlib.sha256(text.encode()).hexdigest()

    def forward(self, video: Tensor) -> Tensor:
        frames = video.shape[1]
        x = video.float() / 127.5 - 1 if video.dtype == torch.uint8 else video
        x = rearrange(x, "b f c h w -> b c f h w")  # (B, 3, F, H, W)
        x = F.adaptive_avg_pool3d(x, (frames, self.side, self.side))
        features = []
        for layer in range(self.layers):
            # Repeated, not zero, frames at both ends: a still video must not seem to move.
            x = F.pad(x, (1, 1, 1, 1, 1, 1), mode="replicate")
            x = F.conv3d(x, self.get_buffer(f"weight{layer}"), stride=(1, 2, 2)).relu()
            moved = x.diff(dim=2, prepend=x[:, :, :1]).abs()
            features += [reduce(y, "b c f h w -> b c", "mean") for y in (x, moved)]
        # The logarithm weighs slow motion, whose averages are small, like brightness and colour.
        return torch.cat(features, dim=1).mul(100).log1p()  # (B, width)


class OwnFeatures(VideoFeatures):
    """A feature network of your own; distances are called after its `name`, else its class.

    A subclass of `VideoFeatures` needs no such wrapping and can bring a name of its own.

    Args:
        network: Maps uint8 videos (B, F, 3, H, W) to features (B, d).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.name = str(getattr(network, "name", type(network).__name__.lower()))
        self.width = getattr(network, "width", None)

    @property
    def hash(self) -> str:
        return weights_hash(self.network)

    def forward(self, video: Tensor) -> Tensor:
        features = self.network.eval()(video)
        if features.ndim != 2 or len(features) != len(video):
            raise ValueError(
                f"{type(self.network).__name__} gave features of shape {tuple(features.shape)} "
                f"for {len(video)} videos; let it give one vector per video, (B, d)."
            )
        return features.float()


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of a network's class and module, its layers, and the fingerprint of its weights.

    What `forward` does with them is not part of it: a network whose `forward` changes alone needs
    a `hash` of its own.
    """
    kind = type(network)
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(network))  # addresses differ from run to run
    text = f"{kind.__module__}.{kind.__qualname__}\n{layers}\n{fingerprint(network)}"
    return hashlib.sha256(text.encode()).hexdigest()


def check_finite(features: Tensor, network: VideoFeatures, videos: list[str]) -> None:
    """Raise if the features (N, d) of some video are not all finite, naming the first."""
    wrong = (~features.isfinite()).any(dim=1).nonzero()
    if len(wrong):
        raise ValueError(
            f"{network.name} gave features that are not finite for "
            f"{videos[int(wrong[0])]}: check its weights."
        )
