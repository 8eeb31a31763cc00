"""Procedural videos: skies (for the demo) and bouncing shapes (for tests).

Both are drawn from closed-form expressions in the frame index, so that a video has any number of
frames, starts with the same frames whatever its length, and looks alike at every resolution.
"""

import math

import torch
from einops import einsum, rearrange
from torch import Tensor

SKIES = ("dawn", "day", "dusk", "night")
SHAPES = ("circle", "square", "triangle")

# RGB per class: zenith, middle of the sky, horizon, lit cloud, cloud shade, hills, sun, glow
_PALETTES = (
    ("5b9bd0", "e9c9cf", "ffd9a0", "fff0e4", "d9a3b4", "59506f", "fff6d8", "ffc27a"),
    ("1f6fd0", "5aa8ea", "c4e6f7", "ffffff", "bccbdc", "2f6b3c", "fffbe0", "fff3b8"),
    ("38245f", "9c3f76", "ff7a2e", "f08a6a", "7c3566", "1d1226", "ffdf8f", "ff5a28"),
    ("050a1e", "0d1b40", "22406e", "46587f", "1b2748", "04060e", "f4f4e6", "7f9bd0"),
)
_SUN_HEIGHT = (0.26, 0.58, 0.22, 0.50)  # the top of the sun's arc above the horizon, per class
_COLOURS = ("e6392f", "f2b01e", "3fae49", "2f7de1", "9b4fd0", "18b8b8")
_GROUNDS = ("f3efe6", "20242e", "cfe3f2", "3a2f3f")


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _rgb(colour: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(colour)), dtype=torch.float32) / 255


def _grid(resolution: int) -> Tensor:
    """Pixel centres in [0, 1]."""
    return (torch.arange(resolution) + 0.5) / resolution


def _mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    return a + (b - a) * weight


def _smoothstep(x: Tensor) -> Tensor:
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _bytes(video: Tensor) -> Tensor:
    return (video.clamp(0, 1) * 255).round().to(torch.uint8)


def _clouds(time: Tensor, resolution: int, generator: torch.Generator) -> Tensor:
    """Sum plane waves that drift sideways and slowly change; mean 0, variance 1, (F, H, W)."""
    waves = 10
    across = 2 * math.pi * _uniform(0.3, 0.9, waves, generator)
    down = 2 * math.pi * _uniform(-1.6, 1.6, waves, generator)
    phase = 2 * math.pi * torch.rand(waves, generator=generator)
    drift = _uniform(0.010, 0.022, 1, generator)
    change = _uniform(-0.05, 0.05, waves, generator)
    grid = _grid(resolution)
    moving = phase + rearrange(time, "f -> f 1") * (change - across * drift)  # (F, K)
    horizontal = rearrange(moving, "f k -> f 1 k") + einsum(grid, across, "w, k -> w k")
    vertical = einsum(grid, down, "h, k -> h k")
    # cos(a + b) = cos a cos b - sin a sin b keeps the cost at one small matrix product
    even = einsum(horizontal.cos(), vertical.cos(), "f w k, h k -> f h w")
    odd = einsum(horizontal.sin(), vertical.sin(), "f w k, h k -> f h w")
    return (even - odd) * math.sqrt(2 / waves)  # (F, H, W)


def _horizon(resolution: int, generator: torch.Generator) -> Tensor:
    """Height of the hills' outline over x, as y in [0, 1] from the top, (W,)."""
    x = _grid(resolution)
    level = _uniform(0.74, 0.84, 1, generator)
    size = _uniform(0.02, 0.06, 2, generator)
    phase = 2 * math.pi * torch.rand(2, generator=generator)
    broad = size[0] * torch.sin(2 * math.pi * 0.6 * x + phase[0])
    return level + broad + 0.6 * size[1] * torch.sin(2 * math.pi * 1.4 * x + phase[1])


def _sun(time: Tensor, height: float, resolution: int, generator: torch.Generator) -> Tensor:
    """Distance of each pixel to the sun, which crosses on an arc and rises again, (F, H, W)."""
    start, peak = _uniform(0, 1, 1, generator), height * _uniform(0.85, 1.15, 1, generator)
    speed = _uniform(0.010, 0.016, 1, generator)
    span = 1.7  # wider than the picture, so that the sun is out of sight when it jumps back
    x = (start * 1.1 + 0.35 + speed * time) % span - 0.35  # (F,)
    y = 0.80 - peak * (1 - ((x - 0.5) / 0.62) ** 2)
    grid = _grid(resolution)
    dx = rearrange(grid, "w -> 1 1 w") - rearrange(x, "f -> f 1 1")
    dy = rearrange(grid, "h -> 1 h 1") - rearrange(y, "f -> f 1 1")
    return (dx**2 + dy**2).sqrt()


def skies(label: int, frames: int, resolution: int, generator: torch.Generator) -> Tensor:
    """Draw drifting clouds and a moving sun (or moon) over hills, uint8 (F, 3, H, W)."""
    tint = 1 + 0.045 * (2 * torch.rand(3, generator=generator) - 1)
    palette = [rearrange(_rgb(c) * tint, "c -> c 1 1") for c in _PALETTES[label]]
    zenith, middle, low, lit, shade, hills, disc, glow = palette
    time = torch.arange(frames, dtype=torch.float32)
    outline = _horizon(resolution, generator)
    distance = rearrange(_sun(time, _SUN_HEIGHT[label], resolution, generator), "f h w -> f 1 h w")
    noise = rearrange(_clouds(time, resolution, generator), "f h w -> f 1 h w")
    cover = _uniform(-0.1, 0.7, 1, generator)
    y = rearrange(_grid(resolution), "h -> 1 h 1")
    upper = _mix(zenith, middle, _smoothstep(y / 0.5))
    sky = _mix(upper, low, _smoothstep((y - 0.3) / 0.5))  # (3, H, 1)
    halo = torch.exp(-distance / 0.16)
    sky = _mix(sky, glow, 0.75 * halo)  # (F, 3, H, W)
    sky = _mix(sky, disc, torch.sigmoid((0.08 - distance) * 60))
    density = _smoothstep((noise - cover + 0.8) / 2.6)
    slope = torch.gradient(noise, spacing=1 / resolution, dim=2)[0]  # undersides are darker
    cloud = _mix(lit, shade, _smoothstep(0.35 - 0.06 * slope + 0.25 * (y - 0.3)))
    cloud = _mix(cloud, glow, 0.45 * halo)
    sky = _mix(sky, cloud, (0.7 - 0.25 * halo) * density)
    ground = torch.sigmoid((y - rearrange(outline, "w -> 1 1 w")) * 1.5 * resolution)
    depth = _mix(hills, low, 0.35 * (1 - _smoothstep((y - 0.7) / 0.25)))
    return _bytes(_mix(sky, depth, ground))


def _bounce(time: Tensor, margin: Tensor, generator: torch.Generator) -> Tensor:
    """Position that moves at constant speed between margin and 1 - margin, (F,)."""
    phase, speed = torch.rand(1, generator=generator), _uniform(0.02, 0.05, 1, generator)
    triangle = 1 - (2 * ((2 * phase + speed * time) / 2 % 1) - 1).abs()
    return margin + (1 - 2 * margin) * triangle


def _outside(label: int, dx: Tensor, dy: Tensor) -> Tensor:
    """Signed distance to the outline of a shape of radius 1, negative inside."""
    triangle = torch.maximum(0.8660254 * dx.abs() - 0.5 * dy, dy) - 0.5
    square = torch.maximum(dx.abs(), dy.abs()) - 0.8
    return ((dx**2 + dy**2).sqrt() - 1, square, triangle)[label]


def shapes(label: int, frames: int, resolution: int, generator: torch.Generator) -> Tensor:
    """Draw a shape that bounces off the edges of a plain picture, uint8 (F, 3, H, W)."""
    colour = _rgb(_COLOURS[int(torch.randint(len(_COLOURS), (), generator=generator))])
    ground = _rgb(_GROUNDS[int(torch.randint(len(_GROUNDS), (), generator=generator))])
    radius = _uniform(0.14, 0.22, 1, generator)
    time, grid = torch.arange(frames, dtype=torch.float32), _grid(resolution)
    x, y = _bounce(time, radius, generator), _bounce(time, radius, generator)
    dx = (rearrange(grid, "w -> 1 1 w") - rearrange(x, "f -> f 1 1")) / radius
    dy = (rearrange(grid, "h -> 1 h 1") - rearrange(y, "f -> f 1 1")) / radius
    inside = torch.sigmoid(-_outside(label, dx, dy) * radius * 2 * resolution)  # (F, H, W)
    return _bytes(
        _mix(
            rearrange(ground, "c -> c 1 1"),
            rearrange(colour, "c -> c 1 1"),
            rearrange(inside, "f h w -> f 1 h w"),
        )
    )
