"""Stage 2 with the network of the baselines."""

from functools import partial
from pathlib import Path

import pytest
import torch
from stages import DIT_SIZES, make_loader, make_trainer
from torch.optim import SGD
from torch.testing import assert_close

from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.target import Velocity
from ardiffusion.diffusion.timesteps import Independent
from ardiffusion.generator import Generator
from ardiffusion.nn.joint import JointDiT
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings("ignore:Attribute|You defined a|Found .* in eval mode")


def make_module(tokenizer: Path) -> DiffusionModule:
    torch.manual_seed(0)
    dit = JointDiT(**DIT_SIZES, window=3)
    for parameter in dit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return DiffusionModule(
        dit=dit,
        arvae=str(tokenizer),
        schedule=NoiseSchedule(beta_start=8.5e-4, beta_end=0.012),
        timesteps=Independent(),
        target=Velocity(),
        optimizer=partial(SGD, lr=0.1),
    )


def test_a_step_to_v_equals_a_naive_loop(tokenizer: Path) -> None:
    module = make_module(tokenizer).double()
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, 2, 3, 2, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([[0, 400, 999], [250, 20, 5]])
    loss = module.loss(x, label=torch.zeros(2).long(), t=t, noise=noise, null=None, seen=x)
    abar, level = [], 1.0
    for u in range(1000):
        level *= 1 - (8.5e-4**0.5 + u / 999 * (0.012**0.5 - 8.5e-4**0.5)) ** 2
        abar.append(level)
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for b in range(2):
        a = torch.tensor([abar[int(step)] for step in t[b]], dtype=torch.float64).sqrt()
        s = (1 - a**2).sqrt()
        x_t = torch.stack([a[f] * x[b, f] + s[f] * noise[b, f] for f in range(3)])
        v = torch.stack([a[f] * noise[b, f] - s[f] * x[b, f] for f in range(3)])
        error = (module.dit(x_t[None], t[b][None])[0] - v) ** 2
        expected[b] = torch.stack([error[f].sum() / 8 for f in range(3)])
    assert_close(loss, expected, rtol=1e-6, atol=1e-6)  # the loss is in float32
    parameters = list(module.dit.parameters())
    ours = torch.autograd.grad(loss.mean(), parameters, retain_graph=True)
    naive = torch.autograd.grad(expected.sum() / 6, parameters)
    assert_close(ours, naive, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_generates_with_the_network_it_names(tokenizer: Path, tmp_path: Path) -> None:
    module, trainer = make_module(tokenizer), make_trainer(max_steps=1)
    trainer.fit(module, make_loader(1, frames=3))
    trainer.save_checkpoint(tmp_path / "dit.ckpt")
    found = Generator.from_pretrained(tmp_path / "dit.ckpt")
    assert type(found.dit) is JointDiT and type(found.target) is Velocity
    assert_close(found.dit.state_dict(), module.dit.state_dict(), rtol=0, atol=0)
    sampler = found.sampler(steps=4, difference=2)
    assert found.generate([1], frames=6, sampler=sampler).shape == (1, 6, 3, 16, 16)


def test_clips_longer_than_the_window_are_refused_in_training(tokenizer: Path) -> None:
    with pytest.raises(ValueError, match="use clips of at most 3 frames"):
        make_trainer().fit(make_module(tokenizer), make_loader(1, frames=4))
