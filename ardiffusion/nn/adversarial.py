"""The adversarial loss of stage 1: PatchGAN, hinge losses and the adaptive weight of VQGAN.

The discriminator is that of pix2pix (Isola et al., 2017). With last-layer gradients g of the
reconstruction and the adversarial loss, the latter is weighted by |g_rec| / (|g_adv| + 1e-4)
(Esser et al., 2021), so that both pull equally hard.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ardiffusion.nn.sizes import LARGEST, check_range

LARGEST_WEIGHT = 1e4


class Discriminator(nn.Module):
    """PatchGAN discriminator: says of each patch of an image whether it is real.

    Args:
        width: Channels of the first layer; they double with each layer up to eight times as many.
        layers: Layers that halve the image; three judge patches of 70 x 70 pixels and need images
            of 24 x 24 pixels or more, two 34 x 34 and 12 x 12.
    """

    def __init__(self, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        check_range("{}", 1, LARGEST, width=width, layers=layers)
        self.smallest = 3 * 2**layers  # side of an image
        widths = [width * min(2**layer, 8) for layer in range(layers + 1)]
        blocks: list[nn.Module] = [
            nn.Conv2d(3, width, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for layer in range(layers):
            stride = 2 if layer + 1 < layers else 1
            before, after = widths[layer : layer + 2]
            # No bias, because BatchNorm brings its own.
            conv = nn.Conv2d(before, after, kernel_size=4, stride=stride, padding=1, bias=False)
            blocks += [conv, nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        blocks.append(nn.Conv2d(widths[-1], 1, kernel_size=4, padding=1))
        self.blocks = nn.Sequential(*blocks)
        self.reset_parameters()

    def check_side(self, side: int) -> None:
        """Raise if images are too small for all layers."""
        if side < self.smallest:
            raise ValueError(
                f"The discriminator needs images of {self.smallest} pixels or more, and these "
                f"have {side}: lower --model.discriminator.layers."
            )

    def reset_parameters(self) -> None:
        """Begin with small normal weights, as pix2pix does."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, mean=1.0, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Judge images (N, 3, H, W) in [0, 1]: logits (N, 1, h, w), positive for real."""
        return self.blocks(2 * x - 1)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def generator_loss(fake: Tensor) -> Tensor:
    return -fake.mean()


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Weight of the adversarial loss, without gradient and at most 1e4; both graphs are kept."""
    (pull,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (push,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (pull.norm() / (push.norm() + 1e-4)).clamp(max=LARGEST_WEIGHT).detach()
