import pytest

from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.published.presets import PRESETS, UCF101_CLASSES, preset


def test_presets_sample_as_the_authors_did() -> None:
    assert set(PRESETS) == {"sky", "taichi", "ucf101", "ffs"}
    for short in PRESETS.values():
        sampler = short.sampler()
        assert isinstance(sampler.solver, PublishedDDIM)
        assert (sampler.steps, sampler.difference, sampler.guidance) == (50, 5, 2.0)
        assert sampler.schedule.alphas_cumprod[981] == pytest.approx(0.001049, rel=1e-3)
        assert short.sampler(frames=128).guidance == 1.0
        paper = short.sampler(frames=128, difference=50, guidance=1.5)
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
