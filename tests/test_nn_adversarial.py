import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ardiffusion.nn.adversarial import (
    Discriminator,
    adaptive_weight,
    discriminator_loss,
    generator_loss,
)


def test_published_size_and_one_logit_per_patch() -> None:
    with torch.device("meta"):
        network = Discriminator()
        logits = network(torch.empty(2, 3, 256, 256))
    assert logits.shape == (2, 1, 30, 30)
    # 4x4 convolutions 3-64-128-256-512-1, biases of the first and last, three BatchNorms
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
    expected = kernels + 64 + 1 + 2 * (128 + 256 + 512)
    assert sum(p.numel() for p in network.parameters()) == expected == 2_765_633


def test_width_grows_at_most_eightfold() -> None:
    network = Discriminator(width=2, layers=5)
    widths = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [2, 4, 8, 16, 16, 16, 1]


def test_a_logit_sees_a_patch_of_70_pixels() -> None:
    network = Discriminator(width=4).double().eval()
    x = torch.rand(1, 3, 128, 128, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(x)[0, 0, 7, 7], x)
    rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero()
    assert rows.max() - rows.min() + 1 == 70


def test_starts_with_small_weights_and_learns_to_tell_apart() -> None:
    torch.manual_seed(0)
    network = Discriminator(width=8, layers=2)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert_close(convolutions[1].weight.std().item(), 0.02, rtol=0.1, atol=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    real, fake = torch.rand(8, 3, 16, 16), torch.rand(8, 3, 1, 1).expand(-1, -1, 16, 16)
    loss = torch.tensor(1.0)
    for _ in range(30):
        loss = discriminator_loss(real=network(real), fake=network(fake))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.1
    assert network(real).min() > network(fake).max()


def test_hinge_losses_match_a_loop() -> None:
    real, fake = torch.tensor([-2.0, 0.5, 3.0]), torch.tensor([-3.0, 0.0, 2.0, 0.5])
    judged = [max(0.0, 1 - r) / 3 for r in real.tolist()]
    judged += [max(0.0, 1 + f) / 4 for f in fake.tolist()]
    assert_close(discriminator_loss(real, fake).item(), sum(judged) / 2)
    assert_close(generator_loss(fake).item(), -sum(fake.tolist()) / 4)


def test_the_adaptive_weight_is_the_ratio_of_last_layer_gradients() -> None:
    last = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    reconstruction = (last * torch.tensor([3.0, 4.0])).sum()
    adversarial = (last * torch.tensor([0.0, 0.5])).sum()
    weight = adaptive_weight(reconstruction, adversarial, last)
    assert not weight.requires_grad
    assert weight.item() == pytest.approx(5 / (0.5 + 1e-4))
    (reconstruction + weight * adversarial).backward()
    assert last.grad is not None


def test_the_adaptive_weight_is_bounded() -> None:
    last = torch.ones(2, requires_grad=True)
    assert adaptive_weight(1e6 * last.sum(), 0 * last.sum(), last).item() == 1e4
    assert adaptive_weight(0 * last.sum(), last.sum(), last).item() == 0
