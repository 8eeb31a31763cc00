"""The AR-VAE: frames to a few Gaussian tokens each, and l2-normalised tokens back to video.

Stage 1a trains it on single frames; stage 1b adds the temporal attention of the decoder, which
starts as the identity, and trains only that (AR-Diffusion, https://arxiv.org/abs/2503.07418).
"""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ardiffusion.nn.autoencoder import Autoencoder, Posterior, in_groups
from ardiffusion.nn.blocks import PairCache
from ardiffusion.nn.decoder import Decoder, SoftCodebook
from ardiffusion.nn.encoder import Encoder, ScrambledHead, TokenHead
from ardiffusion.nn.linear import linear
from ardiffusion.nn.packed import packed
from ardiffusion.nn.pixels import DetachedResidualBlock, PixelDecoder, ResidualBlock
from ardiffusion.nn.sizes import LARGEST, check_range


class ARVAE(Autoencoder):
    """Auto-encoder of video: each frame becomes a few tokens, decoded causally in time.

    Args:
        resolution: The height and width of a frame in pixels, a multiple of `patch`.
        patch: The height and width of a patch in pixels, a power of two.
        width: The number of channels of both transformers.
        depth: The number of blocks of each transformer.
        heads: The number of attention heads.
        tokens: The number of latent tokens per frame.
        channels: The number of latent channels per token.
        temporal: Whether the decoder sees earlier frames (stage 1b) or each frame alone (1a).
        window: How many frames a frame then sees, itself included.
        pixel_width: The number of channels of the convolutional decoder at full resolution.
        codebook: The number of embeddings in the soft codebook; 0 projects patches directly, which
            small models trained from scratch learn much faster with.
        embedding: The number of channels of such an embedding.
    """

    head: type[TokenHead] = TokenHead
    residual: type[ResidualBlock] = ResidualBlock

    def __init__(
        self,
        resolution: int = 256,
        patch: int = 16,
        width: int = 1024,
        depth: int = 24,
        heads: int = 16,
        tokens: int = 32,
        channels: int = 4,
        temporal: bool = False,
        window: int = 16,
        pixel_width: int = 128,
        codebook: int = 1024,
        embedding: int = 256,
    ) -> None:
        super().__init__()
        sizes = {"resolution": resolution, "patch": patch, "width": width, "depth": depth}
        sizes |= {"heads": heads, "tokens": tokens, "channels": channels}
        check_range("{}", 1, LARGEST, **sizes, window=window)
        check_range("{}", 1, LARGEST, pixel_width=pixel_width, embedding=embedding)
        if resolution % patch:
            raise ValueError(
                f"resolution {resolution} is not a multiple of patch {patch}; change either."
            )
        self.resolution, self.patch, self.width, self.depth = resolution, patch, width, depth
        self.heads, self.tokens, self.channels = heads, tokens, channels
        self.temporal, self.window = temporal, window
        self.pixel_width, self.codebook, self.embedding = pixel_width, codebook, embedding
        self.encoder = Encoder(**sizes, head=self.head)
        self.decoder = Decoder(**sizes, temporal=temporal, window=window)
        self.lookup = (
            SoftCodebook(width=width, codebook=codebook, embedding=embedding)
            if codebook > 0
            else linear(width, embedding)
        )
        self.pixels = PixelDecoder(
            patch=patch, width=pixel_width, embedding=embedding, block=self.residual
        )

    def posterior(self, video: Tensor) -> Posterior:
        frames = rearrange(video, "b f c h w -> (b f) c h w")
        moments = packed(self.encoder, frames=len(frames))(frames)
        moments = rearrange(moments, "(b f) l c -> b f l c", f=video.shape[1])
        mean, logvar = moments.chunk(2, dim=-1)
        return Posterior(mean=mean, logvar=logvar.clamp(-30, 20))

    def normalise(self, latents: Tensor) -> Tensor:
        return F.normalize(latents, dim=-1)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode tokens (B, F, L, C) of any length to video (B, F, 3, H, W), unclamped.

        Frames are decoded `window` at a time, so memory for a long video is that of its pixels.
        """
        network = packed(self, frames=latents.shape[:2].numel())
        parts, cache = latents.split(self.window, dim=1), self.decoder.make_cache()
        return torch.cat([network.decode_next(part, cache) for part in parts], dim=1)

    @torch.no_grad()
    def stream_decode(self, latents: Iterable[Tensor], together: int = 1) -> Iterator[Tensor]:
        network, cache = packed(self), self.decoder.make_cache()
        for part in in_groups(latents, together):
            yield from network.decode_next(part, cache).unbind(dim=1)

    def decode_next(self, latents: Tensor, cache: list[PairCache]) -> Tensor:
        """Decode the frames (B, F, L, C) that follow those in `cache`, and add them to it."""
        normalised = self.normalise(latents).to(self.decoder.mask_token.dtype)
        embeddings = self.lookup(self.decoder(normalised, cache=cache))
        side = self.resolution // self.patch
        frames = self.pixels(rearrange(embeddings, "n (p q) e -> n e p q", p=side))
        return rearrange(frames, "(b f) c h w -> b f c h w", f=latents.shape[1])

    def temporal_parameters(self) -> Iterator[nn.Parameter]:
        return self.decoder.temporal.parameters()

    @property
    def last_layer(self) -> Tensor:
        return self.pixels.conv_out.weight


class PublishedARVAE(ARVAE):
    """AR-VAE with the published tokenizer's quirks, for models that start from its weights."""

    head = ScrambledHead
    residual = DetachedResidualBlock
