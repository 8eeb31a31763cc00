"""Feature networks for Fréchet video distances: uint8 videos in, one vector per video out.

`I3D` is the network behind the published FVD numbers, called as StyleGAN-V calls it (Skorokhodov
et al., 2022). `Random3D` needs no download and serves to compare runs of one's own.
"""

import hashlib
import io
import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

I3D_REPO = "flateon/FVD-I3D-torchscript"
I3D_FILE = "i3d_torchscript.pt"
I3D_URL = f"https://huggingface.co/{I3D_REPO}/resolve/main/{I3D_FILE}"
I3D_BLOB = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"  # its name in git, wherever it is committed


class VideoFeatures(nn.Module, ABC):
    """A frozen network that describes each video by one vector.

    Attributes:
        name: What its Fréchet distance is called after.
        width: The length of the vectors.
    """

    name: str
    width: int

    def load(self) -> None:
        """Fetch what the network needs, so that a missing file is told before any work is done."""

    @property
    def hash(self) -> str:
        """What identifies the network with its weights: equal hashes, comparable features.

        By default that of its class, layers and weights; a subclass whose `forward` changes alone
        must return another one.
        """
        self.load()
        return weights_hash(self)

    @abstractmethod
    def forward(self, video: Tensor) -> Tensor:
        """Describe videos.

        Args:
            video: Videos, uint8 (B, F, 3, H, W).

        Returns:
            Features, float32 (B, width).
        """


class I3D(VideoFeatures):
    """I3D trained on Kinetics-400, whose 400 logits every published FVD since 2022 is made of.

    The TorchScript file comes from the Hugging Face Hub at first use. TorchScript can run code, so
    its content is compared with a hash written here before anything is loaded.

    Args:
        path: The file i3d_torchscript.pt; `None` takes it from the Hub or the Hub's cache.
    """

    name = "i3d"
    width = 400
    frames = 10

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path = path
        # A list hides the network from nn.Module: it belongs into no state_dict.
        self._loaded: list[torch.jit.ScriptModule] = []

    def load(self) -> None:
        if not self._loaded:
            path = Path(_download_i3d() if self.path is None else self.path)
            what = "the network that FVD is defined by"
            data = read_checked(path, blob=I3D_BLOB, url=I3D_URL, what=what)
            self._loaded.append(torch.jit.load(io.BytesIO(data), map_location="cpu").eval())

    @property
    def hash(self) -> str:
        return I3D_BLOB

    def forward(self, video: Tensor) -> Tensor:
        if video.shape[1] < self.frames:
            raise ValueError(
                f"I3D needs clips of {self.frames} frames or more, but these have "
                f"{video.shape[1]}; use longer clips or another feature network."
            )
        if video.dtype != torch.uint8:
            raise ValueError(
                f"I3D takes uint8 videos from 0 to 255, but these are {video.dtype}; convert "
                f"them, or choose InceptionI3D where a protocol prepares them."
            )
        self.load()
        x = rearrange(video, "b f c h w -> b c f h w").float()  # (B, 3, F, H, W)
        network = self._loaded[0].to(video.device)
        return network(x, rescale=True, resize=True, return_features=True)  # (B, 400)

    def __getstate__(self) -> dict[str, Any]:
        # TorchScript cannot be pickled; a copy loads the file again.
        return {**self.__dict__, "_loaded": []}


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
    """A feature network of your own, whatever its class; distances are called after the class.

    A subclass of `VideoFeatures` needs no such wrapping and can bring a name of its own.

    Args:
        network: Maps uint8 videos (B, F, 3, H, W) to features (B, d).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.name = network_name(network)

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


def network_hash(network: nn.Module) -> str:
    """What identifies a feature network with its weights, whether it is one of ours or not."""
    return network.hash if isinstance(network, VideoFeatures) else weights_hash(network)


def network_name(network: nn.Module) -> str:
    """What distances are called after, whether the feature network is one of ours or not."""
    return str(getattr(network, "name", type(network).__name__.lower()))


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of a network's class and module, its layers, and the names and values of weights.

    What `forward` does with them is not part of it: a network whose `forward` changes alone needs
    a `hash` of its own.
    """
    kind = type(network)
    layers = re.sub(r" at 0x[0-9a-f]+", "", repr(network))  # addresses differ from run to run
    digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}\n{layers}\n".encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def git_blob_hash(data: bytes) -> str:
    """The name git gives a file's content, the SHA-1 of its length and its bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def read_checked(path: Path, blob: str, url: str, what: str) -> bytes:
    """Read a file, but refuse one whose git blob hash is another.

    Args:
        path: The file.
        blob: The hash it must have.
        url: Where to get it.
        what: What it must be, for the sentence.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}; download {url} to it.")
    data = path.read_bytes()
    if git_blob_hash(data) != blob:
        raise ValueError(
            f"{path} is not {what} (its git blob hash is {git_blob_hash(data)}, not {blob}), so "
            f"it was not loaded; delete it and download {url} again."
        )
    return data


def _download_i3d() -> str:
    try:
        return hf_hub_download(I3D_REPO, I3D_FILE)
    except OSError as error:
        raise FileNotFoundError(
            f"FVD needs {I3D_FILE} from {I3D_REPO} on the Hugging Face Hub, which could not be "
            f"reached; download {I3D_URL} elsewhere and give its place as `path` of I3D."
        ) from error
