"""A 2D grid of tokens per frame: the published kind of image VAE, where an AR-VAE is expected.

A convolutional VAE (Rombach et al., Latent Diffusion, https://arxiv.org/abs/2112.10752) keeps the
grid, 32 x 32 = 1024 tokens of 4 numbers for a frame of 256 x 256, of which an AR-VAE makes 32. The
network is AutoencoderKL of the package diffusers.

It stands for the baseline of supplement, Table 1, but is not the same: OpenSora-VAE-v1.2 also
compresses time by 4, so that a clip of 16 frames has 4 x 1024 tokens, 8 times the AR-VAE's. Here
every frame keeps its own, 16 x 1024, 32 times the AR-VAE's.

Stage 2 learns z = (raw - shift) / scale with the mean and the standard deviation of each channel.
All latents outside this file are such z.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, distributed

from ardiffusion.nn.autoencoder import Autoencoder, Posterior, in_groups
from ardiffusion.nn.sizes import LARGEST, check_range

PART = 16  # frames that are encoded or decoded at once
MOMENTUM = 0.01  # of the running mean and variance


class GridVAE(Autoencoder):
    """Convolutional VAE of single frames, whose tokens are a grid in raster order.

    While it trains, the mean and the variance of each channel follow the latents as those of batch
    normalisation do, and `encode` gives normalised latents. The divergence from the standard
    normal is that of normalised latents too, so its weight has the same meaning at any scale.

    Args:
        resolution: The height and width of a frame in pixels.
        channels: The number of latent channels per token.
        widths: The numbers of channels from full resolution down; each after the first halves the
            resolution, so four make the grid 8 times as small as the frame.
        layers: The number of residual blocks at each resolution, one more in the decoder.
        groups: The number of groups of the group normalisation, a divisor of all widths.
    """

    def __init__(
        self,
        resolution: int = 256,
        channels: int = 4,
        widths: tuple[int, ...] = (128, 256, 512, 512),
        layers: int = 2,
        groups: int = 32,
    ) -> None:
        super().__init__()
        check_range("{}", 1, LARGEST, resolution=resolution, channels=channels)
        check_range("{}", 1, LARGEST, layers=layers, groups=groups)
        if not widths or any(width % groups for width in widths):
            raise ValueError(f"widths must be multiples of groups {groups}, got {list(widths)}.")
        factor = 2 ** (len(widths) - 1)
        if resolution % factor:
            raise ValueError(
                f"resolution {resolution} is not a multiple of {factor}, by which {len(widths)} "
                "widths divide it; change either."
            )
        self.resolution, self.channels, self.widths = resolution, channels, list(widths)
        self.layers, self.groups = layers, groups
        self.side = resolution // factor
        self.tokens = self.side**2
        self.network: Any = autoencoder_kl()(
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            up_block_types=("UpDecoderBlock2D",) * len(widths),
            block_out_channels=tuple(widths),
            layers_per_block=layers,
            latent_channels=channels,
            norm_num_groups=groups,
            sample_size=resolution,
        )
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def posterior(self, video: Tensor) -> Posterior:
        frames = rearrange(video * 2 - 1, "b f c h w -> (b f) c h w")
        moments = in_parts(lambda part: self.network.encode(part).latent_dist.parameters, frames)
        moments = rearrange(moments, "(b f) c p q -> b f (p q) c", f=video.shape[1])
        mean, logvar = moments.chunk(2, dim=-1)  # (B, F, L, C) each
        logvar = logvar.clamp(-30, 20) - 2 * self.scale.log()
        return Posterior(mean=(mean - self.shift) / self.scale, logvar=logvar)

    def normalise(self, latents: Tensor) -> Tensor:
        return latents  # they come normalised

    @torch.no_grad()
    def update_statistics(self, latents: Tensor) -> None:
        """Move shift and scale towards the moments of a batch's latents (B, F, L, C)."""
        shift, scale = self.shift.float(), self.scale.float()
        mean, variance = common_moments(latents.float() * scale + shift)  # (C)
        self.shift.copy_(shift.lerp(mean, MOMENTUM))
        self.scale.copy_(scale.square().lerp(variance, MOMENTUM).sqrt())

    def decode(self, latents: Tensor) -> Tensor:
        raw = latents.to(self.scale.dtype) * self.scale + self.shift
        grid = rearrange(raw, "b f (p q) c -> (b f) c p q", p=self.side)
        frames = in_parts(lambda part: self.network.decode(part).sample, grid)
        return rearrange((frames + 1) / 2, "(b f) c h w -> b f c h w", f=latents.shape[1])

    @torch.no_grad()
    def stream_decode(self, latents: Iterable[Tensor], together: int = 1) -> Iterator[Tensor]:
        for part in in_groups(latents, together):
            yield from self.decode(part).unbind(dim=1)

    @property
    def last_layer(self) -> Tensor:
        return self.network.decoder.conv_out.weight


def in_parts(function: Callable[[Tensor], Tensor], frames: Tensor) -> Tensor:
    """Apply a function of frames to a few at a time: without gradients memory is that of a few."""
    return torch.cat([function(part) for part in frames.split(PART)])


def common_moments(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance (C) of latents (B, F, L, C), and as many of each other process.

    Nothing else keeps the buffers of the processes alike: stage 1 optimises manually, where DDP
    leaves buffers to each process.
    """
    variance, mean = torch.var_mean(raw, dim=(0, 1, 2), correction=0)  # (C)
    if not (distributed.is_available() and distributed.is_initialized()):
        return mean, variance
    count, own = distributed.get_world_size(), mean.clone()
    distributed.all_reduce(mean)
    mean /= count
    variance += (own - mean).square()
    distributed.all_reduce(variance)
    return mean, variance / count


def autoencoder_kl() -> Callable[..., Any]:
    """Import the network's class, for which nobody else should have to wait or have it at all."""
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise ValueError(
            "GridVAE needs the package diffusers; install it by: pip install 'ardiffusion[grid]'."
        ) from error
    return AutoencoderKL
