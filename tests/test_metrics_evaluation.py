import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numbered import numbered
from torch import Tensor
from torch.multiprocessing.spawn import start_processes

from ardiffusion.metrics.bootstrap import Bootstrap
from ardiffusion.metrics.clip_features import Videos
from ardiffusion.metrics.evaluation import evaluate, range_mismatch
from ardiffusion.metrics.features import Random3D, VideoFeatures
from ardiffusion.metrics.fvd import FrechetVideoDistance
from ardiffusion.metrics.i3d import I3DTorchScript
from ardiffusion.metrics.protocol import (
    Clip,
    EveryClip,
    OfficialARDiffusion,
    Protocol,
    StyleGANV,
)
from ardiffusion.metrics.score import Score


class Colours(VideoFeatures):
    """Mean colour, mean change of colour, and how many clips were seen."""

    name, width = "colours", 6

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, video: Tensor) -> Tensor:
        self.seen += len(video)
        colour = video.float().mean(dim=(3, 4))
        return torch.cat([colour.mean(1), colour.diff(dim=1).abs().mean(1)], dim=1)


def content(side: int, video: int, frames: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * side + video)
    high = 256 - 60 * side
    return torch.randint(0, high, (frames, 3, 8, 10), generator=generator, dtype=torch.uint8)


def videos(side: int, count: int, read: Callable[[Clip], Tensor] | None = None) -> Videos:
    return Videos(
        name=f"/data/{'fake' if side else 'real'}",
        names=[str(i) for i in range(count)],
        lengths=[12] * count,
        stamp=lambda video: str(side),
        read=read or (lambda clip: content(side, clip.video)[clip.start : clip.start + 4]),
        identity={"side": side},
    )


def measure(protocol: Protocol, count: int = 20, **options: Any) -> Score:  # noqa: ANN401
    options = {"split": "train"} | options
    return evaluate(protocol, videos(0, count), videos(1, count), **options)[0]


def test_the_kernel_distance_comes_with_the_frechet_distance() -> None:
    protocol = EveryClip(frames=4, stride=1, extractor=Colours())
    sides = videos(0, 20), videos(1, 20)
    frechet, kernel = evaluate(protocol, *sides, split="train", bootstrap=Bootstrap(20))
    assert (frechet.metric, kernel.metric) == ("frechet_colours_4", "kernel_colours_4")
    assert kernel.interval is not None and kernel.interval[0] < kernel.value < kernel.interval[1]
    assert kernel.compared()["protocol"] == frechet.compared()["protocol"]


def naive(protocol: Protocol, count: int, ddof: int) -> float:
    """The distance by float64 numpy."""
    stats = []
    for side, clips in enumerate((protocol.real([12] * count), protocol.fake([12] * count))):
        read = [content(side, v)[s : s + 4] for v, s in clips]
        x = Colours()(torch.stack(read)).double().numpy()
        stats.append((x.mean(axis=0), np.cov(x.T, ddof=ddof)))
    (m1, c1), (m2, c2) = stats
    overlap = np.sqrt(np.linalg.eigvals(c1 @ c2).astype(complex)).real.sum()
    return float(((m1 - m2) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * overlap)


class Unbiased(EveryClip):
    ddof = 1


@pytest.mark.parametrize("kind", [StyleGANV, EveryClip, Unbiased])
def test_score_matches_float64_numpy(kind: type[StyleGANV | EveryClip]) -> None:
    protocol = kind(frames=4, extractor=Colours())
    score = measure(protocol, bootstrap=Bootstrap(10))
    assert score.value == pytest.approx(naive(protocol, 20, ddof=kind.ddof), rel=1e-6)
    assert score.interval is not None and score.interval[0] < score.value < score.interval[1]
    assert score.metric == "frechet_colours_4" and score.split == "train"
    assert (score.real, score.fake) == ((20, 20) if kind is StyleGANV else (60, 60))
    assert score.protocol == protocol.describe()
    assert score.network == {"name": "colours", "hash": protocol.extractor.hash}
    assert score.data == {"real": "real", "fake": "fake", "size": [8, 10]}
    assert score.resolution == 8 and score.seeds == {"protocol": 0, "bootstrap": 0}


def test_features_are_computed_once(tmp_path: Path) -> None:
    protocol = StyleGANV(frames=4, extractor=Colours())
    first = measure(protocol, cache=tmp_path)
    assert protocol.extractor.seen == 40  # pyright: ignore[reportAttributeAccessIssue]
    again = StyleGANV(frames=4, extractor=Colours())
    told = []
    assert measure(again, cache=tmp_path, advance=told.append) == first
    assert again.extractor.seen == 0 and sum(told) == 40  # pyright: ignore[reportAttributeAccessIssue]
    assert first.value == measure(StyleGANV(frames=4, extractor=Colours())).value


def test_more_videos_cost_only_their_own_clips(tmp_path: Path) -> None:
    few, many = (StyleGANV(frames=4, videos=n, extractor=Colours()) for n in (8, 16))
    measure(few, cache=tmp_path)
    extended = measure(many, cache=tmp_path)
    assert many.extractor.seen == 16  # pyright: ignore[reportAttributeAccessIssue] 8 of each side
    fresh = measure(StyleGANV(frames=4, videos=16, extractor=Colours()))
    assert (extended.value, extended.real) == (fresh.value, 16)


def test_changed_files_and_other_preparations_are_computed_anew(tmp_path: Path) -> None:
    measure(StyleGANV(frames=4, extractor=Colours()), cache=tmp_path)
    changed = videos(1, 20)
    changed = replace(changed, stamp=lambda video: "later" if video == 19 else "1")
    protocol = StyleGANV(frames=4, extractor=Colours())
    evaluate(protocol, videos(0, 20), changed, split="", cache=tmp_path)
    assert protocol.extractor.seen == 4  # pyright: ignore[reportAttributeAccessIssue] its chunk
    assert len(kept := set(tmp_path.glob("*/*.safetensors"))) == 7
    for extractor in (Random3D(width=1), Random3D(width=1, seed=1)):
        measure(StyleGANV(frames=4, extractor=extractor), cache=tmp_path)
        assert len(set(tmp_path.glob("*/*.safetensors")) - kept) == 6
        kept = set(tmp_path.glob("*/*.safetensors"))
    moved = replace(videos(0, 20), identity={"side": 0, "resolution": 8})
    evaluate(protocol, moved, videos(1, 20), split="", cache=tmp_path)
    assert protocol.extractor.seen == 4 + 20  # pyright: ignore[reportAttributeAccessIssue]


def test_videos_of_many_clips_are_not_stamped_for_each() -> None:
    stamped = list[int]()
    of = replace(videos(0, 2), stamp=lambda video: str(stamped.append(video)))
    assert len(set(of.clip_keys([Clip(i, start) for i in (0, 1) for start in range(4)]))) == 8
    assert sorted(stamped) == [0, 1]


def test_a_run_cut_short_goes_on(tmp_path: Path) -> None:
    class Killed(Exception): ...

    def stop(clip: Clip) -> Tensor:
        if clip.video >= 17:
            raise Killed
        return content(1, clip.video)[clip.start : clip.start + 4]

    protocol = StyleGANV(frames=4, extractor=Colours())
    with pytest.raises(Killed):
        evaluate(protocol, videos(0, 20), videos(1, 20, stop), split="train", cache=tmp_path)
    rest = StyleGANV(frames=4, extractor=Colours())
    score = measure(rest, cache=tmp_path)
    assert rest.extractor.seen == 4  # pyright: ignore[reportAttributeAccessIssue]
    assert score == measure(StyleGANV(frames=4, extractor=Colours()))


def test_a_broken_file_of_features_is_computed_anew(tmp_path: Path) -> None:
    score = measure(StyleGANV(frames=4, extractor=Colours()), cache=tmp_path)
    files = sorted(tmp_path.glob("*/*.safetensors"))
    assert len(files) == 6
    files[0].write_bytes(files[0].read_bytes()[:-9])
    files[1].write_bytes(b"")
    assert measure(StyleGANV(frames=4, extractor=Colours()), cache=tmp_path) == score


def test_flipped_bytes_in_features_are_noticed(tmp_path: Path) -> None:
    score = measure(StyleGANV(frames=4, extractor=Colours()), count=4, cache=tmp_path)
    files = sorted(tmp_path.glob("*/*.safetensors"))
    for place in (-1, -4, b'"highest":"', b'"hash":"', b'"size":"['):  # features, then the header
        for file in files:
            data = bytearray(file.read_bytes())
            at = place if isinstance(place, int) else data.index(place) + len(place)
            data[at] ^= 1
            file.write_bytes(data)
        protocol = StyleGANV(frames=4, extractor=Colours())
        assert measure(protocol, count=4, cache=tmp_path) == score
        assert protocol.extractor.seen == 8  # pyright: ignore[reportAttributeAccessIssue]


class Broken(Colours):
    """Has no number for dark videos."""

    def forward(self, video: Tensor) -> Tensor:
        features = super().forward(video)
        return torch.where(features[:, :1] < 50, torch.nan, features)


def test_features_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    def dark(clip: Clip) -> Tensor:
        return content(0, clip.video)[:4] // (8 if clip.video == 13 else 1)

    real = replace(videos(0, 20, dark), names=[f"{i:03d}.mp4" for i in range(20)])
    protocol = StyleGANV(frames=4, extractor=Broken())
    message = r"colours gave features that are not finite for /data/real, 013\.mp4, frame \d+ on:"
    with pytest.raises(ValueError, match=message):
        evaluate(protocol, real, videos(1, 20), split="", cache=tmp_path)
    assert len(list(tmp_path.glob("*/*.safetensors"))) == 1  # the chunk before
    metric = FrechetVideoDistance(Broken())
    batch = torch.stack([content(0, 0), content(0, 1) // 8])
    with pytest.raises(ValueError, match="not finite for video 1 of a batch of 2 fake ones"):
        metric.update(real=batch[:1], fake=batch)


def test_features_do_not_depend_on_the_number_of_threads() -> None:
    scores, threads = [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            protocol = StyleGANV(frames=4, extractor=Random3D(width=8))
            scores.append(measure(protocol, count=9).value)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert scores[0] == pytest.approx(scores[1], rel=1e-9)


def share(rank: int, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", rendezvous, rank=rank, world_size=2)
    protocol = StyleGANV(frames=4, extractor=Colours())
    score = measure(protocol, cache=f"{folder}/cache", bootstrap=Bootstrap(5))
    score.save(f"{folder}/{rank}.json")
    seen = protocol.extractor.seen  # pyright: ignore[reportAttributeAccessIssue]
    Path(folder, f"{rank}.seen").write_text(str(seen))
    torch.distributed.destroy_process_group()


def test_two_processes_score_as_one(tmp_path: Path) -> None:
    start_processes(share, args=(str(tmp_path),), nprocs=2, start_method="fork")
    one = measure(StyleGANV(frames=4, extractor=Colours()), bootstrap=Bootstrap(5))
    for rank in range(2):
        two = Score.load(tmp_path / f"{rank}.json")
        assert two.value == pytest.approx(one.value, rel=1e-9)
        assert two == one
    seen = [int((tmp_path / f"{rank}.seen").read_text()) for rank in range(2)]
    assert sum(seen) == 40 and min(seen) > 0
    protocol = StyleGANV(frames=4, extractor=Colours())
    measure(protocol, cache=tmp_path / "cache")  # one process goes on where two were
    assert protocol.extractor.seen == 0  # pyright: ignore[reportAttributeAccessIssue]


def failing(count: int = 20, **sides: Callable[[Clip], Tensor]) -> None:
    reads = [sides.get(name) for name in ("real", "fake")]
    pair = [videos(side, count, read) for side, read in enumerate(reads)]
    evaluate(StyleGANV(frames=4, extractor=Colours()), *pair, split="")


def test_floats_are_refused() -> None:
    with pytest.raises(ValueError, match=r"/data/fake gives clips of torch\.float32 .*uint8"):
        failing(fake=lambda clip: torch.rand(4, 3, 8, 10))


def test_floats_made_bytes_are_refused() -> None:
    def dark(clip: Clip) -> Tensor:
        return content(1, clip.video)[:4] // 128

    sentence = "No value in /data/{} is above 1, while /data/{} reaches 2"
    with pytest.raises(ValueError, match=sentence.format("fake", "real")):
        failing(fake=dark)
    with pytest.raises(ValueError, match=sentence.format("real", "fake").removesuffix("2")):
        failing(real=dark)
    # Black on both sides is no mistake of the range.
    assert range_mismatch("a", 1, "b", 1) is None


def test_black_samples_are_in_doubt_but_no_error() -> None:
    black = replace(videos(1, 20, lambda clip: content(1, 0)[:4] * 0), made=True)
    protocol = StyleGANV(frames=4, extractor=Colours())
    score, _ = evaluate(protocol, videos(0, 20), black, split="")
    assert score.warnings[-1].startswith("No value in /data/fake is above 0, while /data/real")
    assert score.warnings[-1].endswith(": they are black.") and score.value > 1000
    bright = replace(videos(1, 20), made=True)
    score, _ = evaluate(protocol, videos(0, 20), bright, split="")
    assert not any("black" in warning for warning in score.warnings)


def test_one_video_on_a_side_gives_no_interval() -> None:
    protocol = EveryClip(frames=4, extractor=Colours())
    score, _ = evaluate(protocol, videos(0, 20), videos(1, 1), split="", bootstrap=Bootstrap(5))
    assert score.interval is None and score.fake == 3
    assert sum("single video" in warning for warning in score.warnings) == 1
    unasked, _ = evaluate(protocol, videos(0, 20), videos(1, 1), split="")
    assert not any("single video" in warning for warning in unasked.warnings)


def test_clips_that_are_cut_are_told() -> None:
    score = measure(EveryClip(frames=4, videos=50, extractor=Colours()))
    assert (score.real, score.fake) == (50, 50)
    assert "of 60 real and 60 generated ones only the first 50" in score.warnings[-1]


class Late(Colours):
    """Knows how many frames it needs when it is loaded."""

    def load(self) -> None:
        self.frames = 5


def test_frames_are_checked_when_the_network_is_loaded() -> None:
    with pytest.raises(ValueError, match="Late needs clips of 5 frames or more"):
        measure(StyleGANV(frames=4, extractor=Late()))


class Precision(Colours):
    """Notes how precisely it is run."""

    def forward(self, video: Tensor) -> Tensor:
        self.found = precision()
        return super().forward(video)


def precision() -> tuple[object, ...]:
    backends = torch.backends
    single = backends.cuda.matmul.fp32_precision
    return single, backends.cudnn.allow_tf32, torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("chosen", ["highest", "high", "medium"])
def test_networks_run_in_full_precision(chosen: str) -> None:
    network = Precision()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(chosen)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outside = precision()
            for run in (
                lambda: measure(StyleGANV(frames=4, extractor=network), count=2),
                lambda: FrechetVideoDistance(network).update(real=content(0, 0)[None]),
            ):
                run()
                assert network.found == ("ieee", False, False)
                assert precision() == outside and outside[2]
        assert torch.get_float32_matmul_precision() == chosen
    finally:
        torch.set_float32_matmul_precision(before)


def test_range_is_remembered_with_the_features(tmp_path: Path) -> None:
    dark = videos(1, 20, lambda clip: content(1, clip.video)[:4] // 128)
    for seen in (40, 0):
        protocol = StyleGANV(frames=4, extractor=Colours())
        with pytest.raises(ValueError, match="No value in /data/fake is above 1"):
            evaluate(protocol, videos(0, 20), dark, split="", cache=tmp_path)
        assert protocol.extractor.seen == seen  # pyright: ignore[reportAttributeAccessIssue]


def test_sizes_that_differ_are_refused() -> None:
    message = r"The frames of /data/real and /data/fake differ in size \(10 x 8 and 9 x 8 pixels"
    with pytest.raises(ValueError, match=message):
        failing(fake=lambda clip: content(1, clip.video)[:4, ..., :9])
    message = r"The frames of /data/fake differ in size .*give a --resolution"
    for odd in (3, 12):  # within a chunk, and from one to the next
        cut = [int(video >= odd) for video in range(16)]
        with pytest.raises(ValueError, match=message):
            failing(16, fake=lambda c, cut=cut: content(1, c.video)[:4, :, cut[c.video] :])


def test_clips_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"/data/real gives .* \(3, 3, 8, 10\).* 4 frames"):
        failing(real=lambda clip: content(0, clip.video)[:3])


def test_short_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"I3DTorchScript needs .* 10 frames or .*takes 4; use"):
        measure(StyleGANV(frames=4, extractor=I3DTorchScript("none")))
    with pytest.raises(ValueError, match="longest video has 12 frames"):
        measure(StyleGANV(frames=13, extractor=Colours()))
    with pytest.raises(ValueError, match=r"11 frames.*video has 12 of 15 that are asked for"):
        measure(StyleGANV(frames=3, stride=5, extractor=Colours()))
    with pytest.raises(ValueError, match="gives 1 clips of 4 frames"):
        measure(StyleGANV(frames=4, extractor=Colours()), count=1)


@pytest.mark.parametrize(("count", "few", "singular"), [(6, 1, 1), (7, 1, 0), (256, 0, 0)])
def test_too_few_clips_are_doubtful(count: int, few: int, singular: int) -> None:
    warnings = measure(StyleGANV(frames=4, extractor=Colours()), count=count).warnings
    assert sum("below 256" in w for w in warnings) == few
    assert (
        sum("too few for 6 features: the covariance is singular" in w for w in warnings)
        == singular
    )


def test_i3d_refuses_floats_that_a_protocol_prepared() -> None:
    with pytest.raises(ValueError, match=r"ript takes uint8 .*float32.*I3DPretrained400"):
        I3DTorchScript("none")(torch.zeros(1, 16, 3, 8, 8))


def test_random3d_takes_prepared_floats() -> None:
    video = torch.stack([content(0, i) for i in range(3)])
    network = Random3D(width=2)
    torch.testing.assert_close(network(video.float() / 127.5 - 1), network(video))


# Value, ends of the interval, and numbers of clips, as the first version of the protocols gave
# them; the MPEG-4 of one of them depends a little on FFmpeg's version.
EXACT, CODED = 1e-6, 1e-2
RECORDED: dict[str, tuple[Callable[[Random3D], Protocol], float, tuple[float, ...], float]] = {
    "StyleGANV": (
        lambda network: StyleGANV(frames=4, extractor=network),
        0.027158535066824918,
        (0.0, 0.26859486556074685, 20, 16),
        EXACT,
    ),
    "StyleGANV, stride 2": (
        lambda network: StyleGANV(frames=4, stride=2, seed=3, videos=9, extractor=network),
        0.011090200659499881,
        (0.0, 0.029977069990269507, 9, 9),
        EXACT,
    ),
    "ARDiffusion": (
        lambda network: OfficialARDiffusion(frames=4, videos=30, clip_stride=3, extractor=network),
        0.004195799397052745,
        (0.0, 0.05694436593353702, 30, 16),
        CODED,
    ),
    "EveryClip": (
        lambda network: EveryClip(frames=4, extractor=network),
        0.018798240753868045,
        (0.0, 0.15745515473085323, 56, 34),
        EXACT,
    ),
}


@pytest.mark.parametrize("name", RECORDED)
def test_scores_of_numbered_videos_are_those_on_record(name: str) -> None:
    make, value, rest, tolerance = RECORDED[name]
    protocol = make(Random3D(width=1))
    lengths = [[4 + 7 * i % 19 for i in range(20)], [4 + 5 * i % 13 for i in range(16)]]

    def side(number: int) -> Videos:
        def read(clip: Clip) -> Tensor:
            video = numbered(clip.video + 3 * number, frames=lengths[number][clip.video])
            return video[clip.start :: protocol.stride][:4]

        names = [str(i) for i in range(len(lengths[number]))]
        return Videos("ab"[number], names, lengths[number], stamp=str, read=read, identity={})

    score, _ = evaluate(protocol, side(0), side(1), split="train", bootstrap=Bootstrap(50))
    assert score.value == pytest.approx(value, rel=tolerance)
    assert score.interval is not None
    assert (*score.interval, score.real, score.fake) == pytest.approx(rest, rel=tolerance)
    assert score.protocol["name"] == name.split(",")[0]
