"""The slow twin of the sampler: every frame is evaluated in every iteration, step by step."""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DPMSolver2M
from ardiffusion.nn.dit import ARDiT, DiTBlock, modulate
from ardiffusion.nn.rotary import rotary_phases, rotate

SCHEDULE = NoiseSchedule(timesteps=100, beta_end=0.2)


class NaiveSink:
    """An ARDiT that computes all frames and shows each one what it sees, at places of their own.

    Frame f sees the first `sink` frames and the latest ones, itself included, `window` in all; the
    first ones lie at places 0, 1, ..., the latest so that they end at place `window` - 1.
    """

    def __init__(self, net: ARDiT, sink: int) -> None:
        self.net, self.sink = net, sink

    def attend(self, block: DiTBlock, h: Tensor, f: int) -> Tensor:
        attention, window = block.attention, self.net.window
        seen = [g for g in range(f + 1) if g < self.sink or g > f - (window - self.sink)]
        qkv = rearrange(attention.qkv(h[:, seen]), "b f l (three d) -> three b 1 (f l) d", three=3)
        places = torch.arange(len(seen)).repeat_interleave(h.shape[2])
        phases = rotary_phases(places, width=h.shape[-1], dtype=h.dtype)
        q, k = rotate(attention.normalise(qkv[:2]), *phases)[:, :, 0]
        scores = q[:, -h.shape[2] :] @ k.mT * h.shape[-1] ** -0.5  # (B, L, seen L)
        return attention.out(scores.softmax(dim=-1) @ qkv[2, :, 0])

    def __call__(
        self, x_t: Tensor, t: Tensor, label: Tensor | None = None, null: Tensor | None = None
    ) -> Tensor:
        net, frames = self.net, range(x_t.shape[1])
        *modulations, last = net.modulations(t, label=label, null=null)
        x = net.embed(x_t) + net.position
        for block, modulation in zip(net.blocks, modulations, strict=True):
            assert isinstance(block, DiTBlock)
            shift, scale, gate, *mlp = modulation[:, :, None].chunk(6, dim=-1)
            h = modulate(x, shift=shift, scale=scale)
            x = x + gate * torch.stack([self.attend(block, h, f) for f in frames], dim=1)
            x = x + mlp[2] * block.mlp(modulate(x, shift=mlp[0], scale=mlp[1]))
        shift, scale = last[:, :, None].chunk(2, dim=-1)
        return net.out(modulate(x, shift=shift, scale=scale))


@torch.no_grad()
def recompute(
    net: ARDiT | NaiveSink,
    x: Tensor,
    plan: Tensor,
    steps: int,
    guidance: float = 1.0,
    label: Tensor | None = None,
    ready: int = 0,
    eta: float = 0.0,
    multistep: bool = False,
    context: int = 0,
    generators: Sequence[torch.Generator] = (),
) -> Tensor:
    """Sample x (B, F, L, C) along a plan (iterations, F); the first `ready` frames are clean.

    Clean frames are said to be at timestep `context`.
    """
    tau = [-(-(steps - k) * 100 // steps) - 1 for k in range(steps)] + [context]
    if multistep:
        tau = [*DPMSolver2M().times(SCHEDULE, steps).leaving.tolist(), context]
    abar = [SCHEDULE.alphas_cumprod[tau[k]].item() for k in range(steps)] + [1.0]
    x, past, prior = x.clone(), x.clone(), [-1] * x.shape[1]
    before = torch.where(torch.arange(x.shape[1]) < ready, steps, 0).tolist()
    seeds = [torch.randint(2**32, x.shape[1:2], generator=g).tolist() for g in generators]
    frames = [[torch.Generator().manual_seed(seed) for seed in own] for own in seeds]
    for after in plan.tolist():
        t = torch.tensor([tau[k] for k in before]).expand(len(x), -1)
        out = net(x, t, label=label)
        if guidance != 1:
            null = net(x, t, label=label, null=torch.ones(len(x), dtype=torch.bool))
            out = null + guidance * (out - null)
        moves = [f for f in range(x.shape[1]) if after[f] > before[f]]
        for f in moves:
            a, s, x_0 = abar[before[f]], abar[after[f]], out[:, f]
            if multistep and prior[f] >= 0 and s < 1:
                lam = [0.5 * math.log(v / (1 - v)) for v in (abar[prior[f]], a, s)]
                r = (lam[1] - lam[0]) / (lam[2] - lam[1])
                x_0 = x_0 + (x_0 - past[:, f]) / (2 * r)
            eps = (x[:, f] - a**0.5 * x_0) / (1 - a) ** 0.5
            std = eta * ((1 - s) / (1 - a)) ** 0.5 * (1 - a / s) ** 0.5
            x[:, f] = s**0.5 * x_0 + max(1 - s - std**2, 0) ** 0.5 * eps
            if eta > 0 and s < 1:  # the last step adds none
                z = [torch.randn(x.shape[2:], generator=own[f], dtype=x.dtype) for own in frames]
                x[:, f] += std * torch.stack(z)
            past[:, f], prior[f] = out[:, f], before[f]
        before = after
    return x
