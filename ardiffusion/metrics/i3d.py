"""I3D from the file that VideoGPT, TATS and the authors of AR-Diffusion compare videos with."""

import io
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from huggingface_hub import hf_hub_download
from torch import Tensor, nn

from ardiffusion.metrics.features import VideoFeatures, read_checked
from ardiffusion.metrics.inception import InflatedInception

FILE = "i3d_pretrained_400.pt"
URL = f"https://github.com/songweige/TATS/raw/main/tats/fvd/{FILE}"
BLOB = "a867b87ac3a9097d200598b1d48a1b890d8ec744"  # its name in git, wherever it is committed
SPACE = "LanguageBind/Open-Sora-Plan-v1.0.0"
SPACE_FILE = f"opensora/eval/fvd/videogpt/{FILE}"
SPACE_COMMIT = "810fa8c4bdb3a4c8eec9bd57375c29bde6fb46de"
SIDE = 224


class InceptionI3D(VideoFeatures):
    """I3D of the file i3d_pretrained_400.pt, which VideoGPT, TATS and AR-Diffusion compare with.

    The network of `I3D` in another file, and scaled to 224 x 224 in another way: its distances
    come out close to those of `I3D` and do not compare with them. The content of the file is
    compared with a hash written here before anything of it is loaded.

    Args:
        path: The file i3d_pretrained_400.pt; `None` takes it from the Hugging Face Hub (51 MB) or
            the Hub's cache.
    """

    name = "inception_i3d"
    width = 400
    frames = 10

    def __init__(self, path: str | None = None) -> None:
        super().__init__()
        self.path = path
        # A list hides the network from nn.Module: it belongs into no state_dict.
        self._loaded: list[InflatedInception] = []

    def load(self) -> None:
        if not self._loaded:
            path = Path(_download() if self.path is None else self.path)
            network = InflatedInception(classes=self.width)
            fill(network, weights=_read(path), path=path)
            self._loaded.append(network.eval().requires_grad_(False))

    @property
    def hash(self) -> str:
        return BLOB

    def forward(self, video: Tensor) -> Tensor:
        """Describe videos.

        Args:
            video: Videos, uint8 (B, F, 3, H, W), which are scaled to 224 x 224 bilinearly, or
                floats in [-1, 1], (B, F, 3, 224, 224), which a protocol has scaled its own way.

        Returns:
            Features, float32 (B, 400).
        """
        if video.shape[1] < self.frames:
            raise ValueError(
                f"I3D needs clips of {self.frames} frames or more, but these have "
                f"{video.shape[1]}; use longer clips or another feature network."
            )
        self.load()
        x = scale(video) if video.dtype == torch.uint8 else checked(video)  # (B, F, 3, 224, 224)
        network = self._loaded[0].to(video.device)
        return network(rearrange(x, "b f c h w -> b c f h w"))  # (B, 400)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_loaded": []}


def scale(video: Tensor) -> Tensor:
    """Scale uint8 videos (B, F, 3, H, W) to floats in [-1, 1], (B, F, 3, 224, 224)."""
    frames = video.shape[1]
    x = rearrange(video, "b f c h w -> (b f) c h w").float()
    x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    return rearrange(x / 127.5 - 1, "(b f) c h w -> b f c h w", f=frames)


def checked(video: Tensor) -> Tensor:
    """Refuse prepared videos of another size or range than the network was trained on."""
    # Bicubic scaling overshoots, by 56 % of the range at the very most.
    if video.shape[2:] != (3, SIDE, SIDE) or video.abs().max() > 2:
        raise ValueError(
            f"I3D takes uint8 videos, or floats in [-1, 1] of {SIDE} x {SIDE} pixels, but these "
            f"are {video.dtype} {tuple(video.shape)} from {video.min():.3g} to {video.max():.3g}; "
            f"prepare them accordingly."
        )
    return video.float()


def fill(network: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load weights of exactly the network's names, but for counters that nothing reads."""
    missing, unexpected = network.load_state_dict(weights, strict=False)
    wrong = [name for name in missing if not name.endswith("num_batches_tracked")] + unexpected
    if wrong:
        raise ValueError(f"{path} does not fit I3D ({wrong[0]}); download {URL} in its place.")


def _read(path: Path) -> dict[str, Tensor]:
    what = "the I3D that published distances were computed with"
    data = read_checked(path, blob=BLOB, url=URL, what=what)
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _download() -> str:
    try:
        return hf_hub_download(SPACE, SPACE_FILE, repo_type="space", revision=SPACE_COMMIT)
    except OSError as error:
        raise FileNotFoundError(
            f"This distance needs {FILE}, which the space {SPACE} on the Hugging Face Hub did not "
            f"hand out; download {URL} and give its place as `path` of InceptionI3D."
        ) from error
