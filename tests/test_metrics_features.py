import hashlib

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ardiffusion.metrics.features import (
    OwnFeatures,
    Random3D,
    VideoFeatures,
    weights_hash,
)
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.nn.fingerprint import fingerprint


def moving(count: int = 24) -> Tensor:
    """Coloured waves that drift steadily to the left, (B, 8, 3, 24, 24)."""
    generator = torch.Generator().manual_seed(0)
    colour = torch.randint(40, 200, (count, 1, 3, 1, 1), generator=generator)
    phase = 6 * torch.rand(count, 1, 1, 1, 1, generator=generator)
    frame, column = torch.arange(8.0), torch.arange(24.0)
    angle = phase + (0.3 * frame[:, None] + column / 4)[:, None, None, :]
    return (colour + 40 * angle.sin()).repeat(1, 1, 1, 24, 1).to(torch.uint8)


def distance(real: Tensor, fake: Tensor) -> float:
    metric = FrechetVideoDistance(Random3D(width=4))
    metric.update(real=real, fake=fake)
    return metric.compute().item()


def test_random3d_tells_still_and_shuffled_videos_from_moving_ones() -> None:
    video = moving()
    order = torch.tensor([5, 0, 3, 7, 1, 6, 2, 4])
    still, shuffled = video[:, :1].expand_as(video), video[:, order]
    chance = distance(video[::2], video[1::2])
    assert distance(video, still) > 2 * chance
    assert distance(video, shuffled) > 2 * chance


def test_random3d_sees_no_motion_in_a_still_video() -> None:
    video = moving(3)[:, :1].repeat(1, 6, 1, 1, 1)
    pooled = Random3D(width=4)(video).unflatten(1, (3, 2, 4))
    assert (pooled[:, :, 1] == 0).all() and (pooled[:, :, 0] > 0).any()
    assert_close(Random3D(width=4)(video[:, :1]), Random3D(width=4)(video))


def test_random3d_is_fixed_by_its_seed_and_global_randomness_is_left_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (Random3D(seed=s, width=2)(moving(2)) for s in (3, 3, 4))
    assert first.shape == (2, Random3D(width=2).width) and first.dtype == torch.float32
    assert_close(first, again, rtol=0, atol=0)
    assert (first - other).abs().max() > 0.1
    assert_close(torch.get_rng_state(), state)


def test_random3d_gives_the_same_numbers_on_every_machine() -> None:
    video = (torch.arange(4 * 3 * 8 * 8) % 251).to(torch.uint8).view(1, 4, 3, 8, 8)
    expected = torch.tensor([3.5011, 3.7485, 3.2585, 3.2714, 3.0123, 2.7831, 2.5454, 2.8190])
    assert_close(Random3D(width=2)(video)[0, :8], expected, rtol=1e-4, atol=1e-4)


class Projection(nn.Module):
    """Somebody's own network: mean colours, weighed."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(4, 3, generator=generator))
        self.register_buffer("offset", torch.tensor(2))
        self.dropout = nn.Dropout()

    def forward(self, video: Tensor) -> Tensor:
        colours = video.float().mean(dim=(1, 3, 4))
        return self.dropout(colours @ self.weight.T + self.get_buffer("offset"))


class Named(VideoFeatures):
    """A subclass with a name of its own."""

    name = "mine"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.inner = Projection(seed)

    def forward(self, video: Tensor) -> Tensor:
        return self.inner(video)


def test_random3d_is_known_by_its_seed_and_width() -> None:
    one = Random3D(seed=3, width=2).hash
    others = [Random3D(seed=3, width=4).hash, Random3D(seed=4, width=2).hash, Random3D().hash]
    assert one == Random3D(seed=3, width=2).hash
    assert len({one, *others}) == 4 and {len(h) for h in (one, *others)} == {64}


def test_other_networks_are_known_by_their_class_and_their_weights() -> None:
    network = Projection()
    layers = "Projection(\n  (dropout): Dropout(p=0.5, inplace=False)\n)"
    text = f"{__name__}.Projection\n{layers}\n{fingerprint(network)}"
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert weights_hash(network) == OwnFeatures(network).hash == expected
    assert weights_hash(Projection(seed=1)) != weights_hash(network)
    names = [("elsewhere", "Projection"), (__name__, "Other.Projection")]
    twins = [
        type("Projection", (Projection,), {"__module__": m, "__qualname__": q}) for m, q in names
    ]
    assert len({weights_hash(kind()) for kind in (Projection, *twins)}) == 3
    odd = nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.1)), nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.2))
    assert weights_hash(odd[0]) != weights_hash(odd[1])
    assert Named().hash == weights_hash(Named()) != Named(seed=1).hash
    names = [n.name for n in (OwnFeatures(network), OwnFeatures(Named()), Named(), Random3D())]
    assert names == ["projection", "mine", "mine", "random3d"]


def test_any_network_can_describe_videos_and_stays_as_it_is() -> None:
    network = Projection()
    features = OwnFeatures(network).train()
    result = features(moving(3))
    assert_close(result, network.eval()(moving(3)))
    assert not result.requires_grad and result.shape == (3, 4)
    metric = FrechetVideoDistance(features)
    metric.update(real=moving(6), fake=255 - moving(6))
    assert metric.name == "frechet_projection" and metric.compute() > 1


def test_features_that_are_no_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"Flatten gave features of shape \(13824,\) for 2"):
        OwnFeatures(nn.Flatten(0, -1))(moving(2)[:, :4])
