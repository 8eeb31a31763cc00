import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ardiffusion.data.cache import ShardWriter, finish_cache
from ardiffusion.data.cache_index import INDEX, Origin, describe, read_index, write_index
from ardiffusion.data.catalog import Catalog
from ardiffusion.data.chunks import PLACE
from ardiffusion.data.latents import LatentCache, find_rows, join_clips
from ardiffusion.data.windows import BrokenData, EveryWindow, RandomWindows, every_start

VIDEOS = {"a.mp4": 10, "dir/b.mp4": 13, "c.mp4": 4}
CATALOG: Catalog = {
    "classes": ["x", "y"],
    "paths": [*VIDEOS],
    "labels": [0, 1, 1],
    "lengths": [*VIDEOS.values()],
    "splits": {"train": [0, 1], "val": [2], "test": []},
}


def latents(path: str, frames: int) -> Tensor:
    """The latents of frame f of a video say which video and frame they are of, (F, L, C)."""
    which = list(VIDEOS).index(path)
    return torch.tensor([[[which, f, 0.5]] * 2 for f in range(frames)])


def write_cache(folder: Path, stride: int = 1, frames: int = 4) -> Path:
    origin: Origin = {"fingerprint": "abc", "resolution": 16, "frames": frames, "stride": stride}
    index = describe(CATALOG, origin, stamp=str)
    write_index(folder / INDEX, index)
    writer, keys = ShardWriter(folder, index, clips=3), []
    for path, length in VIDEOS.items():
        video = latents(path, length)
        for start in every_start(length, frames=frames, stride=stride):
            keys.append(f"{path}:{start}")
            clip = video[start : start + frames * stride : stride]
            writer.write(clip[None], keys[-1:])
    writer.flush()
    finish_cache(folder, index, expected=keys)
    return folder


def every(folder: Path, frames: int, stride: int = 1, split: str = "train") -> EveryWindow:
    cache = LatentCache(folder)
    return EveryWindow(cache, cache.spans[split], frames=frames, stride=stride)


def check(sample: dict, stride: int) -> int:
    """Assert that a sample holds what its key says, and return its first frame."""
    path, start = sample["key"].rsplit(":")
    count = len(sample["latents"])
    whole = latents(path, VIDEOS[path])
    expected = whole[int(start) : int(start) + count * stride : stride]
    assert torch.equal(sample["latents"], expected)
    assert int(sample["label"]) == CATALOG["labels"][CATALOG["paths"].index(path)]
    return int(start)


@pytest.mark.parametrize("frames", [1, 3, 4, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_clips_of_any_length_are_cut_from_joined_ones(
    frames: int, stride: int, tmp_path: Path
) -> None:
    folder = write_cache(tmp_path / "cache")
    dataset = every(folder, frames=frames, stride=stride)
    starts = [check(dict(dataset[i]), stride) for i in range(len(dataset))]
    lengths = [10, 13]
    expected = [s for n in lengths for s in every_start(n, frames=frames, stride=stride)]
    assert starts == expected


def test_random_clips_start_at_every_frame(tmp_path: Path) -> None:
    dataset = RandomWindows(every(write_cache(tmp_path / "cache"), frames=6), clips_per_video=2)
    assert len(dataset) == 4
    drawn = [dict(dataset[epoch, i]) for epoch in range(40) for i in range(4)]
    starts = {sample["key"]: check(sample, stride=1) for sample in drawn}
    assert set(starts) == {f"a.mp4:{i}" for i in range(5)} | {f"dir/b.mp4:{i}" for i in range(8)}
    assert torch.equal(dataset[3, 1]["latents"], dataset[3, 1]["latents"])


def test_cache_with_a_stride_joins_on_its_grid(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", stride=2, frames=3)
    dataset = every(folder, frames=4, stride=2)
    keys = [dataset[i]["key"] for i in range(len(dataset))]
    assert keys == ["a.mp4:0", "a.mp4:2", "dir/b.mp4:0", "dir/b.mp4:6"]
    for i in range(len(dataset)):
        check(dict(dataset[i]), stride=2)
    with pytest.raises(ValueError, match="every 2th frame, which stride 3 is no multiple of"):
        every(folder, frames=2, stride=3)


def join(clips: list[tuple[int, int, int]], frames: int, stride: int) -> list[np.ndarray]:
    """Join clips of one video: first frame, shard, number."""
    places, firsts = join_clips(np.array([(0, *c) for c in clips], PLACE), frames, stride)
    return np.split(places, firsts[1:])


def test_gap_splits_a_video_into_spans() -> None:
    clips = [(8, 0, 2), (0, 0, 0), (4, 0, 1), (20, 1, 0), (22, 1, 1), (20, 2, 5)]
    first, second = join(clips, frames=4, stride=1)
    assert first["start"].tolist() == [0, 4, 8]
    assert second["start"].tolist() == [20, 20, 22]
    assert [*find_rows(first, 3, 6, frames=4, stride=1)] == [
        (0, 0, 3, 1),
        (0, 1, 0, 4),
        (0, 2, 0, 1),
    ]
    assert [*find_rows(second, 3, 3, frames=4, stride=1)] == [(1, 1, 1, 3)]
    assert [*find_rows(second, 1, 5, frames=4, stride=1)] == [(2, 5, 1, 3), (1, 1, 2, 2)]


def test_clips_on_other_grids_are_spans_of_their_own() -> None:
    spans = join([(start, 0, start) for start in (0, 6, 7, 12)], frames=3, stride=2)
    assert [span["start"].tolist() for span in spans] == [[0, 6, 12], [7]]
    assert [*find_rows(spans[0], 2, 5, frames=3, stride=2)] == [
        (0, 0, 2, 1),
        (0, 6, 0, 3),
        (0, 12, 0, 1),
    ]


def test_cache_in_which_no_clip_could_be_read_has_no_spans(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    write_index(folder / INDEX, {**read_index(folder), "shards": {}, "hashes": {}})
    assert not any(map(len, LatentCache(folder).spans.values()))


def test_splits_labels_and_workers(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    assert every(folder, frames=4, split="val")[0]["key"] == "c.mp4:0"
    assert len(every(folder, frames=4, split="test")) == 0
    dataset = pickle.loads(pickle.dumps(every(folder, frames=4)))
    batch = next(iter(DataLoader(dataset, batch_size=3, num_workers=1)))
    assert batch["latents"].shape == (3, 4, 2, 3) and batch["label"].tolist() == [0, 0, 0]


def edit(folder: Path, **changes: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, **changes}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / INDEX).unlink(), r"holds no latent cache \(index\.json is missing\)"),
        (lambda f: (f / INDEX).write_text("{"), r"index\.json is broken: delete it"),
        (lambda f: edit(f, complete=False), r"is half written \(8 clips so far\): run the same"),
        (
            lambda f: next(f.glob("0*1.*")).unlink(),
            r"000-000001\.safetensors .* missing or broken",
        ),
        (
            lambda f: next(f.glob("*1.*")).write_bytes(next(f.glob("*0.*")).read_bytes()[:-9]),
            r"000-000001\.safetensors of the latent cache is missing or broken",
        ),
        (
            lambda f: next(f.glob("*1.*")).write_bytes(next(f.glob("*0.*")).read_bytes()),
            r"000-000001\.safetensors .* is not the one its index describes",
        ),
    ],
)
def test_damaged_cache_is_refused_and_named(
    damage: Callable[[Path], None], sentence: str, tmp_path: Path
) -> None:
    folder = write_cache(tmp_path / "cache")
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        LatentCache(folder)


def test_cache_of_another_arvae_is_refused(tmp_path: Path) -> None:
    cache = LatentCache(write_cache(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"comes from another AR-VAE \(abc, and this .* xyz\)"):
        cache.check_fingerprint("xyz")
    cache.check_fingerprint("abc")


def test_shard_that_vanishes_while_it_is_used_ends_with_a_sentence(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    clips = every(folder, frames=4)
    next(folder.glob("*0.safetensors")).unlink()
    with pytest.raises(BrokenData, match=r"Shard 000-000000\.safetensors of latent .* any more"):
        list(DataLoader(clips, num_workers=1))
