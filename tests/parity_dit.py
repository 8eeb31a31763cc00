"""The published transformer against the reference: evaluations, the loss, whole sampling runs."""

import re
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from einops import pack, rearrange
from goldens import Golden, Row, compare
from torch import Tensor, nn

from ardiffusion.convert import from_published
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published.dit import published_name

# Between processors float32 exp differs in the last digit, hence the sinusoids of a timestep of
# 1000 by 6e-5; on another one than the reference's an evaluation can come out 2e-5 apart.
FORWARD, ELSEWHERE, RESIDUAL, SAMPLING = 1e-5, 2e-5, 1e-4, 1e-4
TARGETS: dict[str, Target] = {"x0": X0(), "eps": Epsilon(), "v": Velocity()}


def build(golden: Golden) -> PublishedDiT:
    """Build the transformer of a manifest from its weights."""
    sizes = golden.manifest["config"]["model_cfg"]["params"]
    mode = sizes["causal_attn_mode"]
    networks = from_published(
        golden.state_dict(),
        heads=sizes["num_heads"],
        tokens=sizes["n_token_per_frame"],
        frames=sizes["num_frames"],
        causal=mode is not None,
        open_context=mode != "temporal_causal",
    )
    return cast(PublishedDiT, networks["dit"]).eval()


def diffusion(golden: Golden) -> tuple[NoiseSchedule, Target]:
    """Return the schedule and the target of a manifest."""
    start, end = golden.betas
    target = golden.manifest["config"]["diffusion_cfg"]["params"]["parameterization"]
    return NoiseSchedule(beta_start=start, beta_end=end), TARGETS[target]


@torch.no_grad()
def dit_forward(golden: Golden) -> Iterator[Row]:
    """One evaluation with and one without condition, and the tokens behind some blocks."""
    net, given, seen = build(golden), golden.tensors, {}

    def watch(name: str) -> Callable[[nn.Module, object, tuple[Tensor, Tensor]], None]:
        def keep(module: nn.Module, inputs: object, tokens: tuple[Tensor, Tensor]) -> None:
            seen[name] = pack(list(tokens), "b * d")[0]

        return keep

    for i, block in enumerate(net.blocks):
        block.register_forward_hook(watch(f"block{i}_out"))
    ids = golden.manifest["class_ids"]
    label = None if ids is None else torch.tensor(ids)
    yield compare(golden, "y", net(given["x"], given["t"], label=label), limit=FORWARD)
    rows = golden.manifest["token_rows"] or slice(None)
    for name in sorted(seen.keys() & given.keys()):
        yield compare(golden, name, seen[name][:, rows], limit=RESIDUAL)
    null = torch.ones(len(given["x"]), dtype=torch.bool)
    y = net(given["x"], given["t"], label=label, null=null)
    yield compare(golden, "y_null_context", y, limit=FORWARD)


def train_loss(golden: Golden) -> Iterator[Row]:
    """From latents of the tokenizer to the loss and its gradients."""
    net, given = build(golden), golden.tensors
    schedule, target = diffusion(golden)
    zs = F.normalize(rearrange(given["latents"], "b f c 1 l -> b f l c"), dim=-1)
    yield compare(golden, "zs", zs, limit=FORWARD)
    noise, t = given["noise"], given["t"]
    x_t = schedule.add_noise(zs, noise=noise, t=t)
    yield compare(golden, "x_noisy", x_t, limit=FORWARD)
    out = net(x_t, t)
    yield compare(golden, "model_output", out.detach(), limit=ELSEWHERE)
    alpha, sigma = schedule.alpha_sigma(t, dtype=zs.dtype)
    loss = F.mse_loss(out, target.from_clean(zs, noise=noise, alpha=alpha, sigma=sigma))
    yield compare(golden, "loss", rearrange(loss.detach(), "-> 1"), limit=FORWARD)
    if "grad_norms" in given:
        loss.backward()
        norms = {published_name(n, 0): p.grad for n, p in net.named_parameters()}
        grads = [norms[name] for name in golden.manifest["grad_names"]]
        found = torch.stack([g.norm() for g in grads if g is not None])
        yield compare(golden, "grad_norms", found, limit=SAMPLING)


def sampler(golden: Golden) -> Iterator[Row]:
    """Whole runs of the published sampler, from noise to latents."""
    net, (schedule, target) = build(golden), diffusion(golden)
    seed = int(re.findall(r"RandomState\((\d+)\)", golden.manifest["inputs"]["x_T"])[0])
    ids = golden.manifest["class_ids"]
    for tag, theirs in golden.tensors.items():
        values = [re.sub("[A-Za-z]", "", part) for part in tag.split("_")]
        frames, difference, steps, batch = (int(values[i]) for i in (0, 1, 2, 4))
        noise = np.random.RandomState(seed).standard_normal(theirs.shape).astype(np.float32)
        run = Sampler(
            schedule,
            target=target,
            solver=PublishedDDIM(),
            steps=steps,
            difference=difference,
            guidance=float(values[3]),
        )
        label = None if ids is None else torch.tensor(ids)[:batch]
        if frames > net.window and run.times.steps > net.window * difference:
            yield Row(golden.name, f"{tag} is refused", float(not refused(run, net, noise)), 0)
            continue
        ours = run.sample(net, torch.from_numpy(noise), label=label)
        yield compare(golden, tag, ours, limit=SAMPLING)


def refused(run: Sampler, net: PublishedDiT, noise: np.ndarray) -> bool:
    """Say whether a run in which the reference loses updates stops with our sentence."""
    try:
        run.sample(net, torch.from_numpy(noise))
    except ValueError as error:
        return "outrun the network's window" in str(error)
    return False
