import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ardiffusion.data.cache import INDEX, Index, ShardWriter, finish_cache, write_index
from ardiffusion.data.latents import LatentDataset, RandomLatentDataset, join_clips
from ardiffusion.data.windows import every_start

VIDEOS = {"a.mp4": 10, "dir/b.mp4": 13, "c.mp4": 4}
LABELS = {"a.mp4": 0, "dir/b.mp4": 1, "c.mp4": 1}


def latents(path: str, frames: int) -> Tensor:
    """The latents of frame f of a video say which video and frame they are of, (F, L, C)."""
    which = list(VIDEOS).index(path)
    return torch.tensor([[[which, f, 0.5]] * 2 for f in range(frames)])


def write_cache(folder: Path, stride: int = 1, frames: int = 4) -> Path:
    index: Index = {
        "origin": {"fingerprint": "abc", "resolution": 16, "frames": frames, "stride": stride},
        "complete": False,
        "classes": ["x", "y"],
        "labels": LABELS,
        "splits": {"train": ["a.mp4", "dir/b.mp4"], "val": ["c.mp4"], "test": []},
        "missing": [],
        "shards": {},
    }
    folder.mkdir()
    write_index(folder, index)
    writer, keys = ShardWriter(folder, clips=3), []
    for path, length in VIDEOS.items():
        video = latents(path, length)
        for start in every_start(length, frames=frames, stride=stride):
            keys.append(f"{path}:{start}")
            clip = video[start : start + frames * stride : stride]
            writer.write(clip[None], keys[-1:])
    writer.flush()
    finish_cache(folder, index, expected=keys)
    return folder


def check(sample: dict, stride: int) -> int:
    """Assert that a sample holds what its key says, and return its first frame."""
    path, start = sample["key"].rsplit(":")
    count = len(sample["latents"])
    whole = latents(path, VIDEOS[path])
    expected = whole[int(start) : int(start) + count * stride : stride]
    assert torch.equal(sample["latents"], expected)
    assert int(sample["label"]) == LABELS[path]
    return int(start)


@pytest.mark.parametrize("frames", [1, 3, 4, 6])
@pytest.mark.parametrize("stride", [1, 2])
def test_clips_of_any_length_are_cut_from_joined_ones(
    frames: int, stride: int, tmp_path: Path
) -> None:
    folder = write_cache(tmp_path / "cache")
    dataset = LatentDataset(folder, frames=frames, stride=stride)
    starts = [check(dict(dataset[i]), stride) for i in range(len(dataset))]
    lengths = [10, 13]
    expected = [s for n in lengths for s in every_start(n, frames=frames, stride=stride)]
    assert starts == expected


def test_random_clips_start_at_every_frame(tmp_path: Path) -> None:
    dataset = RandomLatentDataset(write_cache(tmp_path / "cache"), frames=6, clips_per_video=2)
    assert len(dataset) == 4
    drawn = [dict(dataset[epoch, i]) for epoch in range(40) for i in range(4)]
    starts = {sample["key"]: check(sample, stride=1) for sample in drawn}
    assert set(starts) == {f"a.mp4:{i}" for i in range(5)} | {f"dir/b.mp4:{i}" for i in range(8)}
    assert torch.equal(dataset[3, 1]["latents"], dataset[3, 1]["latents"])


def test_cache_with_a_stride_joins_on_its_grid(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache", stride=2, frames=3)
    dataset = LatentDataset(folder, frames=4)
    keys = [dataset[i]["key"] for i in range(len(dataset))]
    assert keys == ["a.mp4:0", "a.mp4:2", "dir/b.mp4:0", "dir/b.mp4:6"]
    for i in range(len(dataset)):
        check(dict(dataset[i]), stride=2)
    with pytest.raises(ValueError, match="every 2th frame, which stride 3 is no multiple of"):
        LatentDataset(folder, frames=2, stride=3)


def test_gap_splits_a_video_into_runs() -> None:
    clips = [(8, "s", 2), (0, "s", 0), (4, "s", 1), (20, "t", 0), (22, "t", 1), (20, "u", 5)]
    first, second = join_clips("v", clips, frames=4, stride=1)
    assert (first.start, len(first)) == (0, 12)
    assert (second.start, len(second)) == (20, 6)
    assert [tuple(piece) for piece in first.pieces(3, 6)] == [
        ("s", 0, 3, 1),
        ("s", 1, 0, 4),
        ("s", 2, 0, 1),
    ]
    assert [tuple(piece) for piece in second.pieces(3, 3)] == [("t", 0, 3, 1), ("t", 1, 2, 2)]


def test_splits_labels_and_workers(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    assert [s["key"] for s in map(LatentDataset(folder, 4, split="val").__getitem__, [0])] == [
        "c.mp4:0"
    ]
    assert len(LatentDataset(folder, frames=4, split="test")) == 0
    dataset = pickle.loads(pickle.dumps(LatentDataset(folder, frames=4)))
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
        LatentDataset(folder, frames=4)


def test_cache_of_another_arvae_or_too_short_is_refused(tmp_path: Path) -> None:
    folder = write_cache(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"comes from another AR-VAE \(abc, and this .* xyz\)"):
        LatentDataset(folder, frames=4, fingerprint="xyz")
    assert len(LatentDataset(folder, frames=4, fingerprint="abc")) == 7
    with pytest.raises(ValueError, match=r"No video of the train split .* has 14 frames"):
        LatentDataset(folder, frames=14)
