import random

import numpy as np
import pytest
import torch
from numbered import numbered, numbers, write_numbered
from torch.testing import assert_close

from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.i3d import I3DPretrained400, I3DTorchScript
from ardiffusion.metrics.protocol import (
    Clip,
    EveryClip,
    OfficialARDiffusion,
    Protocol,
    StyleGANV,
)
from ardiffusion.metrics.reencoding import resize_bicubic, through_mp4v
from ardiffusion.tools.video_folder import VideoFolder

LENGTHS = [9, 3, 4, 20, 12, 30]
EXTRACTOR = Random3D(width=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> VideoFolder:
    tmp_path = tmp_path_factory.mktemp("numbered")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path))
        return VideoFolder(write_numbered(tmp_path / "videos", LENGTHS))


def taken(protocol: Protocol, folder: VideoFolder, clips: list[Clip]) -> list[list[tuple]]:
    """Read clips, prepare them, and read their numbers off the pixels."""
    found = []
    for clip in clips:
        video = protocol.prepare(folder.videos(protocol).read(clip)[None])[0]
        found.append(numbers(video if video.dtype == torch.uint8 else (video + 1) * 127.5))
    return found


@pytest.mark.parametrize(("frames", "stride"), [(4, 1), (4, 2), (3, 8)])
def test_styleganv_takes_one_clip_of_each_long_video(
    folder: VideoFolder, frames: int, stride: int
) -> None:
    protocol = StyleGANV(frames=frames, stride=stride, extractor=EXTRACTOR)
    span = (frames - 1) * stride + 1
    long = [i for i, length in enumerate(LENGTHS) if length >= span]
    kept = [i for i, length in enumerate(LENGTHS) if length >= frames * stride]
    real = taken(protocol, folder, protocol.real(folder.lengths))
    fake = taken(protocol, folder, protocol.fake(folder.lengths))
    assert fake == [[(i, k * stride) for k in range(frames)] for i in long]
    assert [{video for video, _ in clip} for clip in real] == [{i} for i in kept]
    for clip in real:
        (video, start), last = clip[0], clip[-1][1]
        assert [frame for _, frame in clip] == [start + k * stride for k in range(frames)]
        assert 0 <= start and last < LENGTHS[video]


def test_styleganv_leaves_out_videos_by_more_than_their_span() -> None:
    protocol = StyleGANV(frames=3, stride=8, videos=5000, extractor=EXTRACTOR)
    lengths = [23, 24, 17, 24] * 1000  # a clip spans 17 frames
    clips = protocol.real(lengths)
    assert [clip.video for clip in clips] == [i for i in range(4000) if i % 2]
    assert {clip.start for clip in clips} == set(range(24 - 17 + 1))
    assert len(protocol.fake(lengths)) == 4000
    assert "24 frames or more" in protocol.describe()["real"]


def test_styleganv_draws_every_offset_alike_and_from_its_seed() -> None:
    starts = [
        [clip.start for clip in StyleGANV(4, seed=seed, extractor=EXTRACTOR).real([8] * 2000)]
        for seed in (0, 0, 1)
    ]
    assert starts[0] == starts[1] != starts[2]
    counts = np.bincount(starts[0])
    assert len(counts) == 5
    assert ((counts - 400) ** 2 / 400).sum() < 18.5  # chi square of 4, p = 0.001


def test_ardiffusion_draws_from_all_windows(folder: VideoFolder) -> None:
    protocol = OfficialARDiffusion(frames=4, clip_stride=3, videos=12, extractor=EXTRACTOR)
    windows = []
    for video, length in enumerate(LENGTHS):
        start = 0
        while start + 4 <= length:
            windows.append([(video, start + k) for k in range(4)])
            start += 3
    real = taken(protocol, folder, protocol.real(folder.lengths))
    assert len(real) == 12 and len({str(clip) for clip in real}) == 12
    assert all(clip in windows for clip in real)
    assert real != sorted(real) and len({clip[0][0] for clip in real}) < 12
    everything = OfficialARDiffusion(4, clip_stride=3, extractor=EXTRACTOR).real(LENGTHS)
    assert sorted(everything) == [Clip(*clip[0]) for clip in windows]
    fake = taken(protocol, folder, protocol.fake(folder.lengths))
    long = [i for i, length in enumerate(LENGTHS) if length >= 4]
    assert fake == [[(i, k) for k in range(4)] for i in long]


def test_ardiffusion_shuffles_by_its_seed() -> None:
    first, same, other = (
        OfficialARDiffusion(4, seed=seed, extractor=EXTRACTOR).real([30] * 4) for seed in (0, 0, 1)
    )
    assert first == same != other


def test_everyclip_takes_all_clips_that_follow_each_other(folder: VideoFolder) -> None:
    protocol = EveryClip(frames=4, stride=2, extractor=EXTRACTOR)
    expected = [
        [(video, start + 2 * k) for k in range(4)]
        for video, length in enumerate(LENGTHS)
        for start in range(0, length, 8)
        if start + 7 <= length
    ]
    assert len(expected) == 7
    assert taken(protocol, folder, protocol.real(folder.lengths)) == expected
    assert protocol.fake(folder.lengths) == protocol.real(folder.lengths)


def test_everyclip_says_how_many_clips_it_took() -> None:
    protocol = EveryClip(frames=4, videos=5, extractor=EXTRACTOR)
    assert protocol.choice_warnings([8, 12], fake=[20]) == []
    (told,) = protocol.choice_warnings([8, 12], fake=[20, 4])
    assert "of 5 real and 6 generated ones only the first 5 of each side" in told
    assert "first `videos` at most" in protocol.describe()["real"]


@pytest.mark.parametrize("kind", [StyleGANV, OfficialARDiffusion, EveryClip])
def test_more_videos_are_the_same_and_further_ones(
    kind: type[StyleGANV | OfficialARDiffusion | EveryClip],
) -> None:
    lengths = [random.Random(i).randrange(30) for i in range(60)]
    few, many = (kind(frames=8, videos=n, extractor=EXTRACTOR) for n in (10, 30))
    for choose in ("real", "fake"):
        clips = getattr(many, choose)(lengths)
        assert len(clips) == 30
        assert getattr(few, choose)(lengths) == clips[:10]


def test_ardiffusion_goes_through_lossy_mpeg4_at_even_size() -> None:
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, (20, 3, 33, 47), generator=generator, dtype=torch.uint8)
    back = through_mp4v(video)
    assert back.shape == (20, 3, 32, 46) and back.dtype == torch.uint8
    error = (back.double() - video[..., :32, :46].double()).abs().mean()
    assert error > 20  # noise does not fit into two bits per pixel
    assert torch.equal(back, through_mp4v(video))
    still = numbered(3, frames=5)
    assert (through_mp4v(still).int() - still.int())[..., 2:14].abs().max() <= 3


def test_ardiffusion_prepares_what_i3d_takes() -> None:
    video = torch.stack([numbered(3, frames=5), numbered(4, frames=5)])
    prepared = OfficialARDiffusion(frames=5, extractor=EXTRACTOR).prepare(video)
    assert prepared.shape == (2, 5, 3, 224, 224) and prepared.dtype == torch.float32
    resized = resize_bicubic(through_mp4v(video[1]), side=224).double()
    assert_close(prepared[1].double(), resized / 127.5 - 1, rtol=0, atol=1e-6)
    unchanged = StyleGANV(frames=5, extractor=EXTRACTOR).prepare(video)
    assert torch.equal(unchanged, video)


def cubic(x: float) -> float:
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def naive_matrix(length: int, side: int) -> np.ndarray:
    """Weights of Keys' cubic filter, widened where it shrinks, so that it does not alias."""
    scale = length / side
    wide = max(scale, 1.0)
    matrix = np.zeros((side, length))
    for i in range(side):
        for j in range(length):
            matrix[i, j] = cubic((j + 0.5 - (i + 0.5) * scale) / wide)
    return matrix / matrix.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("side", [5, 40])
def test_bicubic_matches_a_naive_filter_without_rounding_or_clipping(side: int) -> None:
    generator = torch.Generator().manual_seed(1)
    video = torch.randint(0, 2, (2, 3, 24, 17), generator=generator).mul(255).to(torch.uint8)
    down, across = naive_matrix(24, side), naive_matrix(17, side)
    expected = torch.from_numpy(down @ video.double().numpy() @ across.T)
    assert_close(resize_bicubic(video, side=side).double(), expected, rtol=0, atol=1e-3)
    if side == 40:
        assert expected.min() < -5 and expected.max() > 260


def test_what_decides_comparability_is_described() -> None:
    described = OfficialARDiffusion(frames=16, clip_stride=64, extractor=EXTRACTOR).describe()
    assert described == {
        "name": "ARDiffusion",
        "frames": 16,
        "stride": 1,
        "resize": "Pillow bicubic to 224 x 224",
        "reencoded": "mp4v",
        "network": "random3d",
        "network_hash": EXTRACTOR.hash,
        "videos": 256,
        "covariance": "1/(N-1)",
        "real": "random windows of all videos, starting every 64 frames",
        "fake": "first frames of each video, videos in order",
    }
    assert StyleGANV().describe()["covariance"] == "1/N" and StyleGANV().ddof == 0
    assert StyleGANV(seed=1).describe() == StyleGANV(seed=2).describe()
    changed = [StyleGANV(frames=128), StyleGANV(stride=8), StyleGANV(videos=9), EveryClip()]
    assert all(other.describe() != StyleGANV().describe() for other in changed)


def test_records_call_a_protocol_by_its_class_or_its_recorded_name() -> None:
    class Mine(OfficialARDiffusion):
        """Measures otherwise, and must not pass for the other."""

    kinds = StyleGANV, EveryClip, OfficialARDiffusion, Mine
    names = [kind(extractor=EXTRACTOR).describe()["name"] for kind in kinds]
    assert names == ["StyleGANV", "EveryClip", "ARDiffusion", "Mine"]


def test_only_i3d_makes_an_fvd() -> None:
    assert isinstance(StyleGANV().extractor, I3DTorchScript)
    assert isinstance(OfficialARDiffusion().extractor, I3DPretrained400)
    assert [p.metric for p in (StyleGANV(128), OfficialARDiffusion())] == ["fvd_128", "fvd_16"]
    assert EveryClip(8, extractor=Random3D()).metric == "frechet_random3d_8"


@pytest.mark.parametrize("option", ["frames", "videos", "stride"])
def test_refuses_what_is_below_one(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} of a protocol must be at least 1, got 0"):
        StyleGANV(**{"frames": 1, option: 0})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="clip_stride of a protocol must be at least 1, got 0"):
        OfficialARDiffusion(clip_stride=0)
