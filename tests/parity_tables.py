"""Integer tables, schedules and timestep marginals against the reference."""

from collections.abc import Iterator

import torch
from goldens import Golden, Row, compare

from ardiffusion.diffusion.ad import ad_plan, ad_rows
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.diffusion.spans import sliding
from ardiffusion.diffusion.timesteps import FoPP


def steps(golden: Golden) -> Iterator[Row]:
    """Every iteration's step indices, timesteps, updated frames and window."""
    for case in sorted({name.split("/")[0] for name in golden.tensors}):
        frames, s, wanted, window = (int(part[1:]) for part in case.split("_"))
        times = PublishedDDIM().times(NoiseSchedule(), steps=wanted)
        after = ad_plan(frames, steps=times.steps, difference=s)
        before = torch.cat([torch.zeros(1, frames, dtype=torch.long), after[:-1]])
        found = {
            "timestep": times.timesteps(before, after),
            "step_index": after,
            "update_mask": before != after,
        }
        if frames <= window or times.steps <= window * s:
            rows = ad_rows(frames, steps=times.steps, difference=s)
            spans = sliding(rows, steps=times.steps, window=window, end=min(window, frames))
            found["window"] = torch.tensor([[span.end - window, span.end] for span in spans])
        for name, value in found.items():
            yield compare(golden, f"{case}/{name}", value, limit=0)


def schedule(golden: Golden) -> Iterator[Row]:
    """The noise schedule and the published sampler's steps on it."""
    for name in sorted(golden.tensors):
        betas, *rest = name.split("/")
        start, end = (float(b) for b in betas.split("_"))
        noise = NoiseSchedule(beta_start=start, beta_end=end)
        abar = noise.alphas_cumprod
        if rest[-1].startswith("ddim_"):
            times = PublishedDDIM().times(noise, steps=int(rest[0][1:]))
            levels = times.alphas_cumprod.flip(0)
            waiting = abar[-1:]
            tables = {
                "ddim_timesteps": times.leaving.flip(0),
                "ddim_alphas_f64": torch.cat([levels[1:], waiting]),
                "ddim_alphas_prev_f64": torch.cat([levels[:-1], waiting]),
            }
            yield compare(golden, name, tables[rest[-1]], limit=1e-7)
            continue
        tables = {
            "betas": 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]]),
            "alphas_cumprod": abar,
            "sqrt_recip_alphas_cumprod": abar.rsqrt(),
            "sqrt_recipm1_alphas_cumprod": (1 / abar - 1).sqrt(),
        }
        limit = 1e-12 if rest[-1].endswith("f64") else 1e-7
        yield compare(golden, name, tables[rest[-1][:-4]], limit=limit)


def fopp(golden: Golden) -> Iterator[Row]:
    """How often FoPP draws each timestep, in standard errors of a million draws."""
    for name, exact in golden.tensors.items():
        if not name.endswith("marginal_mid"):
            continue
        frames, timesteps = exact.shape
        generator = torch.Generator().manual_seed(0)
        drawn = FoPP(timesteps)(1_000_000, frames, generator=generator)
        counts = torch.stack([torch.bincount(t, minlength=timesteps) for t in drawn.T])
        spread = (exact * (1 - exact) / len(drawn)).clamp(min=1e-12).sqrt()
        error = ((counts / len(drawn) - exact) / spread).abs().max().item()
        yield Row(golden.name, f"{name}, standard errors", error=error, bound=6.0)
