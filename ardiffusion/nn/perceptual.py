"""LPIPS, the perceptual distance of Zhang et al. (CVPR 2018), on VGG16.

    d(x, y) = sum over layers l of mean over places of w_l · (f_l(x) - f_l(y))²

where f_l are VGG16's activations before each pooling, of unit length at every place, and w_l are
the heads fitted to people's judgements. torchvision hosts VGG16, TorchMetrics ships the heads.
"""

import pickle
from pathlib import Path

import torch
import torchmetrics
from einops import einsum, rearrange, reduce
from torch import Tensor, nn
from torch.nn.utils import skip_init

from ardiffusion.nn.pretrained import Pretrained

VGG_FILE = "vgg16-397923af.pth"
VGG_URL = f"https://download.pytorch.org/models/{VGG_FILE}"
VGG_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
HEADS_FILE = "functional/image/lpips_models/vgg.pth"


class LPIPS(Pretrained):
    """Perceptual distance of images, differentiable in both, with nothing to train.

    Args:
        trunk: File with torchvision's VGG16 weights; `None` downloads vgg16-397923af.pth (528 MB)
            into the folder of torch.hub at first use.
    """

    def __init__(self, trunk: str | None = None) -> None:
        super().__init__()
        self.trunk = trunk

    def read_network(self) -> nn.Module:
        network = VGGDistance()
        load_trunk(network.features, self.trunk)
        network.heads = nn.ParameterList(read_heads())
        return network

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Compare images (N, 3, H, W) in [0, 1], of 16 x 16 pixels or more: distances (N,)."""
        return self.network(x.device)(x.float(), y.float())


class VGGDistance(nn.Module):
    """The network behind LPIPS; `features` counts its layers as torchvision's VGG16 does."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [], 3
        for widths in VGG_STAGES:
            for width in widths:
                # Drawing weights would cost a second and disturb the randomness of training.
                conv = skip_init(nn.Conv2d, channels, width, kernel_size=3, padding=1)
                layers += [conv, nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        # Mean and deviation of photographs in [-1, 1].
        self.register_buffer("mean", torch.tensor([-0.030, -0.088, -0.188]))
        self.register_buffer("std", torch.tensor([0.458, 0.448, 0.450]))
        self.heads = nn.ParameterList(torch.zeros(widths[-1]) for widths in VGG_STAGES)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        distance = x.new_zeros(len(x))
        for f, g, head in zip(self.directions(x), self.directions(y), self.heads, strict=True):
            difference = reduce((f - g).square(), "n c h w -> n c", "mean")
            distance = distance + einsum(difference, head, "n c, c -> n")
        return distance

    def directions(self, x: Tensor) -> list[Tensor]:
        """Unit vectors at every place (N, C, H, W) of each stage."""
        mean, std = (rearrange(v, "c -> c 1 1") for v in (self.mean, self.std))
        x = (2 * x - 1 - mean) / std
        stages = []
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                stages.append(x)
            x = layer(x)
        # The small number keeps the gradient finite where all channels are off.
        return [s / (s.square().sum(dim=1, keepdim=True) + 1e-8).sqrt() for s in (*stages, x)]


def load_trunk(features: nn.Module, path: str | None) -> None:
    try:
        if path is None:
            weights = torch.hub.load_state_dict_from_url(
                VGG_URL, map_location="cpu", check_hash=True, weights_only=True
            )
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)
        prefix = "features."
        chosen = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        features.load_state_dict(chosen)
    except OSError as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(
            f"LPIPS needs {path or VGG_FILE}, which could neither be read nor fetched: download "
            f"{VGG_URL}, put it into {folder} or name its place as `trunk`, or do without it by "
            "a perceptual weight of 0 in training and by --lpips false in a measurement."
        ) from error
    except (RuntimeError, AttributeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{path or VGG_FILE} does not hold the VGG16 of torchvision; delete it and download "
            f"{VGG_URL} in its place."
        ) from error


def read_heads() -> list[Tensor]:
    path = Path(torchmetrics.__file__).parent / HEADS_FILE
    weights = torch.load(path, map_location="cpu", weights_only=True)
    heads = [weights[f"lin{stage}.model.1.weight"] for stage in range(len(VGG_STAGES))]
    return [rearrange(head, "1 c 1 1 -> c") for head in heads]
