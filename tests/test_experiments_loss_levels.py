import json

import numpy as np
import pytest
import torch
from cli_runs import Runs
from einops import rearrange
from torch import Tensor

from ardiffusion.diffusion.target import X0
from ardiffusion.diffusion.timesteps import FoPP
from ardiffusion.tools.loss_curve import fluctuation
from ardiffusion.training.diffusion import DiffusionModule
from experiments import loss_levels
from experiments.loss_levels import exchanged, main, read_clips


def test_exchanged_timesteps_are_those_of_their_frame() -> None:
    generator = torch.Generator().manual_seed(0)
    t = FoPP()(400, 16, generator=generator)
    other = exchanged(t, generator)
    assert torch.equal(other.sort(dim=0).values, t.sort(dim=0).values)
    together = [torch.corrcoef(x[:, [6, 7]].T.double())[0, 1] for x in (t, other)]
    assert together[0] > 0.9 and abs(together[1]) < 0.2


def test_fluctuation_is_a_relative_deviation_that_single_spikes_do_not_move() -> None:
    losses = 3 + 0.6 * np.random.default_rng(0).standard_normal(20_000)
    assert fluctuation(losses) == pytest.approx(0.2, rel=0.03)
    assert fluctuation(np.append(losses, [1e9] * 20)) == pytest.approx(0.2, rel=0.03)


class Noisy(torch.nn.Module):
    """A network whose loss is the share of frames in the noisy half."""

    def forward(self, x: Tensor, t: Tensor, label: Tensor, null: None) -> Tensor:
        return x + rearrange(t > 499, "b f -> b f 1 1")


class Shown(X0):
    """Has the network give back what it is shown."""

    def from_clean(self, x: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha * x + sigma * noise


def test_what_frames_of_a_clip_share_makes_a_loss_fluctuate(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = DiffusionModule.load_from_checkpoint(runs.dit)
    made.dit, made.target = Noisy(), Shown()
    monkeypatch.setattr(loss_levels.DiffusionModule, "load_from_checkpoint", lambda _: made)
    main([str(runs.dit), str(runs.latents), "--batches=400"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    clips, labels = read_clips(made, str(runs.latents))
    assert labels.shape == clips.shape[:1] and {*labels.tolist()} <= {0, 1, 2, 3}
    coins = 8 * clips.shape[1]  # of a batch
    assert found["independent"] == pytest.approx(coins**-0.5, rel=0.25)
    assert found["fopp"] > 1.3 * found["exchanged"]
