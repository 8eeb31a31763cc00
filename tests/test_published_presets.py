import pytest
from stages import make_arvae

from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.generator import Generator
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published.presets import (
    PRESETS,
    UCF101_CLASSES,
    preset,
    published_sampling,
)


def test_presets_sample_as_the_authors_did() -> None:
    assert set(PRESETS) == {"sky", "taichi", "ucf101", "ffs"}
    net = PublishedDiT(width=16, depth=1, heads=2, tokens=2, context=2, context_width=4)
    generator = Generator(net, make_arvae(), **published_sampling())
    short, long = (generator.sampler(frames=frames) for frames in (16, 128))
    assert isinstance(short.solver, PublishedDDIM)
    assert (short.steps, short.difference, short.guidance) == (50, 5, 2.0)
    assert short.schedule.alphas_cumprod[981] == pytest.approx(0.001049, rel=1e-3)
    assert long.guidance == 1.0
    paper = generator.sampler(frames=128, difference=50, guidance=1.5)
    assert (paper.difference, paper.guidance) == (50, 1.5)


def test_classes_of_ucf101_count_from_0() -> None:
    classes = preset("ucf101").classes
    assert classes == UCF101_CLASSES and len(set(classes)) == 101
    assert [c.lower() for c in classes] == sorted(c.lower() for c in classes)
    ids = {"ApplyEyeMakeup": 0, "BlowDryHair": 12, "HandstandPushups": 36, "YoYo": 100}
    assert {name: classes.index(name) for name in ids} == ids


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no published weights for cats, only for sky"):
        preset("cats")
