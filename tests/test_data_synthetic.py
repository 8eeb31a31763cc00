import pytest
import torch
from torch import Tensor

from ardiffusion.data.synthetic import SHAPES, SKIES, shapes, skies
from ardiffusion.tools.videos import Draw

KINDS = [(skies, len(SKIES)), (shapes, len(SHAPES))]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_every_class_is_drawn_at_the_size_asked_for() -> None:
    for draw, classes in KINDS:
        for label in range(classes):
            video = draw(label, 3, 40, generator(0))
            assert video.shape == (3, 3, 40, 40)
            assert video.dtype == torch.uint8


@pytest.mark.parametrize("draw", [skies, shapes])
def test_same_seed_gives_the_same_frames_whatever_the_length(draw: Draw) -> None:
    short, long = draw(1, 4, 32, generator(3)), draw(1, 9, 32, generator(3))
    torch.testing.assert_close(short, long[:4], rtol=0, atol=1)
    assert not torch.equal(short, draw(1, 4, 32, generator(4)))


@pytest.mark.parametrize("draw", [skies, shapes])
def test_neighbouring_frames_differ_a_little_and_distant_ones_a_lot(draw: Draw) -> None:
    def change(step: int) -> float:
        return float((video[step:] - video[:-step]).abs().mean())

    for seed in range(4):
        video = draw(0, 120, 32, generator(seed)).double() / 255
        assert 0 < change(1) < 0.03
        assert change(16) > 2 * change(1)
        steps = (video[1:] - video[:-1]).square().mean((1, 2, 3)).sqrt()
        assert steps.max() < 0.15  # no jump anywhere, the sun's return included


def test_skies_are_told_apart_by_their_mean_colour() -> None:
    def mean(label: int, seed: int) -> Tensor:
        return skies(label, 2, 32, generator(seed)).double().mean((0, 2, 3))

    centres = torch.stack([torch.stack([mean(c, s) for s in range(8)]).mean(0) for c in range(4)])
    for label in range(4):
        for seed in range(50, 58):
            assert int((centres - mean(label, seed)).norm(dim=1).argmin()) == label


def test_sky_looks_alike_at_other_resolutions() -> None:
    small = skies(2, 1, 32, generator(5)).double()
    large = skies(2, 1, 128, generator(5)).double()
    shrunk = torch.nn.functional.interpolate(large, size=32, mode="area")
    assert (small - shrunk).abs().mean() < 3


def test_shape_stays_inside_the_picture() -> None:
    for label in range(len(SHAPES)):
        video = shapes(label, 100, 64, generator(label)).int()
        ground = video[:, :, :1, :1]
        border = torch.cat((video[:, :, 0], video[:, :, -1], video[..., 0], video[..., -1]), -1)
        assert (border - ground[..., 0]).abs().float().mean() < 3
        assert ((video - ground).abs().amax((1, 2, 3)) > 20).all()
