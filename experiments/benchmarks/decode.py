"""How fast the AR-VAE decodes: frame by frame as they come, in windows, and all frames at once.

The last way is the naive one, which the others must agree with; its memory grows with the video.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from ardiffusion.nn.arvae import ARVAE
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.options import device_of
from experiments.benchmarks.measure import (
    Result,
    peak_memory,
    print_results,
    randomize_zero_weights,
    seconds_of,
)

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of the video, relative


def decode(
    device: str = "cpu",
    resolution: int = 64,
    patch: int = 16,
    width: int = 128,
    depth: int = 4,
    heads: int = 4,
    pixel_width: int = 16,
    window: int = 16,
    frames: int = 48,
    batch: int = 1,
    temporal: bool = True,
    bf16: bool = False,
    repeats: int = 3,
) -> None:
    """Time decoding by a random AR-VAE; the defaults are small, those of `ARVAE` are full size.

    Args:
        device: Where to decode.
        resolution: Height and width of a frame in pixels, 256 at full size.
        patch: Height and width of a patch in pixels.
        width: Number of channels of the transformer, 1024 at full size.
        depth: Number of blocks of the transformer, 24 at full size.
        heads: Number of attention heads, 16 at full size.
        pixel_width: Number of channels of the convolutions at full resolution, 128 at full size.
        window: Frames that a frame sees, itself included.
        frames: Length of the videos.
        batch: Videos at once.
        temporal: Whether frames see earlier ones.
        bf16: Whether to decode in bfloat16, weights included.
        repeats: How often to decode, the median counts; three times more to warm up.
    """
    check_range("--{}", 1, frames=frames, batch=batch, repeats=repeats)
    torch.manual_seed(0)
    place, dtype = device_of(device), torch.bfloat16 if bf16 else torch.float32
    with place:  # where weights are drawn much faster, if it is a GPU
        arvae = ARVAE(
            resolution=resolution,
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            temporal=temporal,
            window=window,
            pixel_width=pixel_width,
        )
    randomize_zero_weights(arvae).to(dtype)
    latents = torch.randn(batch, frames, arvae.tokens, arvae.channels).to(place, dtype)
    print_results(time_ways(arvae, latents, repeats=repeats), device=place)


def streamed(arvae: ARVAE, latents: Tensor) -> Tensor:
    """Decode latents (B, F, L, C) frame by frame; return the last frame alone."""
    return deque(arvae.stream_decode(latents.unbind(dim=1)), maxlen=1).pop()


def in_windows(arvae: ARVAE, latents: Tensor) -> Tensor:
    """Decode latents (B, F, L, C) one window of frames at a time."""
    return arvae.decode(latents)


def naive(arvae: ARVAE, latents: Tensor) -> Tensor:
    """Decode latents (B, F, L, C) all at once."""
    return arvae.decode_next(latents, cache=arvae.decoder.make_cache())


WAYS: dict[str, Callable[[ARVAE, Tensor], Tensor]] = {
    "frame by frame": streamed,
    "in windows": in_windows,
    "all at once": naive,
}


@torch.no_grad()
def time_ways(arvae: ARVAE, latents: Tensor, repeats: int) -> list[Result]:
    """Time every way, the one with the least memory first: a process's peak never falls."""
    found = [
        result
        for name, way in WAYS.items()
        for result in time_way(name, partial(way, arvae, latents), latents, repeats=repeats)
    ]
    off = check_agreement(arvae, latents)
    rates = [result.value for result in found if result.unit == "frames/s"]
    return [
        *found,
        Result("frame by frame over all at once, frames per second", rates[0] / rates[-1], "x"),
        Result("largest difference from all at once, relative", off, "1"),
    ]


def time_way(
    name: str, call: Callable[[], Tensor], latents: Tensor, repeats: int
) -> Iterator[Result]:
    """Time one way of decoding latents (B, F, L, C)."""
    if latents.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(latents.device)
    seconds = seconds_of(call, latents.device, repeats=repeats)
    yield Result(f"{name}: decoded", latents.shape[0] * latents.shape[1] / seconds, "frames/s")
    yield Result(f"{name}: peak memory", peak_memory(latents.device), "GB")


def check_agreement(arvae: ARVAE, latents: Tensor) -> float:
    """Return how far the ways differ from the naive one, relative; raise if it is too far."""
    expected = naive(arvae, latents).float()
    frames = torch.stack(list(arvae.stream_decode(latents.unbind(dim=1))), dim=1)
    videos = (frames.float(), in_windows(arvae, latents).float())
    off = max(float((video - expected).norm() / expected.norm()) for video in videos)
    limit = TOLERANCE[latents.dtype]
    if not off <= limit:
        raise ValueError(
            f"Decoding in parts differs by {off:.2g} from decoding all at once, more than "
            f"{limit:g}: report the options that you gave."
        )
    return off
