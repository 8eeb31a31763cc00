"""I3D trained on Kinetics-400, from either of the two files that published FVD is measured with.

`I3DTorchScript` is called as StyleGAN-V calls it (Skorokhodov et al., 2022), `I3DPretrained400` is
what VideoGPT, TATS and the authors of AR-Diffusion compare videos with.
"""

import io
from abc import abstractmethod
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from huggingface_hub import hf_hub_download
from huggingface_hub.utils.sha import git_hash
from torch import Tensor, nn

from ardiffusion.metrics.features import VideoFeatures
from ardiffusion.metrics.inception import InflatedInception
from ardiffusion.nn.pretrained import Pretrained

SIDE = 224


class KineticsI3D(Pretrained, VideoFeatures):
    """What both files have in common: the 400 logits, and that their content is known.

    Args:
        path: The file; `None` takes it from the Hugging Face Hub or the Hub's cache.
    """

    width = 400
    frames = 10
    blob: str  # the file's name in git, wherever it is committed
    what: str  # what it is, for sentences
    url: str  # where to get the file by hand
    repository: str  # where it is on the Hub, and in what follows it there
    file: str
    repository_type: str | None = None
    revision: str | None = None

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path = path

    @property
    def hash(self) -> str:
        return self.blob

    @property
    def distance(self) -> str:
        return "fvd"

    @abstractmethod
    def parse_network(self, data: bytes) -> nn.Module:
        """Make the network of the file's content, which was compared with the hash."""

    def read_network(self) -> nn.Module:
        path = Path(self.download() if self.path is None else self.path)
        if not path.is_file():
            raise FileNotFoundError(f"There is no file {path}; download {self.url} to it.")
        data = path.read_bytes()
        if (found := git_hash(data)) != self.blob:
            raise ValueError(
                f"{path} is not {self.what} (its git blob hash is {found}, not {self.blob}), so "
                f"it was not loaded; delete it and download {self.url} again."
            )
        return self.parse_network(data)

    def download(self) -> str:
        try:
            return hf_hub_download(
                self.repository,
                self.file,
                repo_type=self.repository_type,
                revision=self.revision,
            )
        except OSError as error:
            raise FileNotFoundError(
                f"FVD needs {Path(self.file).name} from {self.repository} on the Hugging Face "
                f"Hub, which could not be reached; download {self.url} elsewhere and give its "
                f"place as `path` of {type(self).__name__}."
            ) from error


class I3DTorchScript(KineticsI3D):
    """I3D trained on Kinetics-400, whose 400 logits every published FVD since 2022 is made of.

    The TorchScript file comes from the Hugging Face Hub at first use. TorchScript can run code, so
    its content is compared with a hash written here before anything is loaded.

    Args:
        path: The file i3d_torchscript.pt; `None` takes it from the Hub or the Hub's cache.
    """

    name = "i3d"
    blob = "93daef59c7ae0e9e8f76225521407e60cbafa6aa"
    what = "the network that FVD is defined by"
    repository, file = "flateon/FVD-I3D-torchscript", "i3d_torchscript.pt"
    url = f"https://huggingface.co/{repository}/resolve/main/{file}"

    def parse_network(self, data: bytes) -> nn.Module:
        return torch.jit.load(io.BytesIO(data), map_location="cpu")

    def forward(self, video: Tensor) -> Tensor:
        self.check_frames(video.shape[1])
        if video.dtype != torch.uint8:
            raise ValueError(
                f"I3DTorchScript takes uint8 videos from 0 to 255, but these are {video.dtype}; "
                f"convert them, or choose I3DPretrained400 where a protocol prepares them."
            )
        x = rearrange(video, "b f c h w -> b c f h w").float()  # (B, 3, F, H, W)
        network = self.network(video.device)
        return network(x, rescale=True, resize=True, return_features=True)  # (B, 400)


class I3DPretrained400(KineticsI3D):
    """I3D of the file i3d_pretrained_400.pt, which VideoGPT, TATS and AR-Diffusion compare with.

    The network of `I3DTorchScript` in another file, and scaled to 224 x 224 in another way: its
    distances come out close to those of `I3DTorchScript` and do not compare with them. The content
    of the file is compared with a hash written here before anything of it is loaded.

    Args:
        path: The file i3d_pretrained_400.pt; `None` takes it from the Hugging Face Hub (51 MB) or
            the Hub's cache.
    """

    name = "inception_i3d"
    blob = "a867b87ac3a9097d200598b1d48a1b890d8ec744"
    what = "the I3D that published distances were computed with"
    url = "https://github.com/songweige/TATS/raw/main/tats/fvd/i3d_pretrained_400.pt"
    repository, repository_type = "LanguageBind/Open-Sora-Plan-v1.0.0", "space"
    file = "opensora/eval/fvd/videogpt/i3d_pretrained_400.pt"
    revision = "810fa8c4bdb3a4c8eec9bd57375c29bde6fb46de"

    def parse_network(self, data: bytes) -> nn.Module:
        network = InflatedInception()
        weights = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        network.load_state_dict(dict(weights))  # without its versions, counters may be missing
        return network

    def forward(self, video: Tensor) -> Tensor:
        """Describe uint8 videos (B, F, 3, H, W), scaled bilinearly, by features, float32 (B, 400).

        Or floats in [-1, 1], (B, F, 3, 224, 224), which a protocol has scaled its own way.
        """
        self.check_frames(video.shape[1])
        scale = scale_bytes if video.dtype == torch.uint8 else check_prepared
        x = rearrange(scale(video), "b f c h w -> b c f h w")  # (B, 3, F, 224, 224)
        return self.network(video.device)(x)  # (B, 400)


def scale_bytes(video: Tensor) -> Tensor:
    """Scale uint8 videos (B, F, 3, H, W) to floats in [-1, 1], (B, F, 3, 224, 224)."""
    frames = video.shape[1]
    x = rearrange(video, "b f c h w -> (b f) c h w").float()
    x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return rearrange(x / 127.5 - 1, "(b f) c h w -> b f c h w", f=frames)


def check_prepared(video: Tensor) -> Tensor:
    """Refuse prepared videos of another size or range than the network was trained on."""
    # Bicubic scaling overshoots, by 56 % of the range at the very most.
    if video.shape[2:] != (3, SIDE, SIDE) or video.abs().max() > 2:
        raise ValueError(
            f"I3D takes uint8 videos, or floats in [-1, 1] of {SIDE} x {SIDE} pixels, but these "
            f"are {video.dtype} {tuple(video.shape)} from {video.min():.3g} to {video.max():.3g}; "
            f"prepare them accordingly."
        )
    return video.float()
