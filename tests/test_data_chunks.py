import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from loaders import assert_same, kill_a_worker, read_epochs
from torch.utils.data import DataLoader

from ardiffusion.data import chunks, publishing, storage
from ardiffusion.data.cache import ShardWriter, finish_cache
from ardiffusion.data.cache_index import INDEX, Origin, describe, write_index
from ardiffusion.data.catalog import Catalog
from ardiffusion.data.chunks import LATENTS, LISTING
from ardiffusion.data.footage import Footage
from ardiffusion.data.latents import LatentCache, LatentChunks
from ardiffusion.data.loader import Batched, EpochBatches, ResumableLoader
from ardiffusion.data.publishing import publish, staging_folder
from ardiffusion.data.windows import BrokenData, EveryWindow, RandomWindows
from ardiffusion.training.data import VideoDataModule

pytest.importorskip("litdata", reason="litdata is not installed: the extra `stream` brings it")
VIDEOS = [f"{'ab'[i % 2]}/{i:02d}.mp4" for i in range(12)]
SIZE = 600  # bytes of a chunk, which then holds some five clips


def write_cache(folder: Path, scale: float = 1.0) -> Path:
    """Twelve videos of 20 frames, in shards that hold clips of many videos."""
    catalog: Catalog = {
        "classes": ["a", "b"],
        "paths": VIDEOS,
        "labels": ["ab".index(path[0]) for path in VIDEOS],
        "lengths": [20] * len(VIDEOS),
        "splits": {"train": [*range(2, len(VIDEOS))], "val": [0, 1], "test": []},
    }
    origin: Origin = {"fingerprint": "abc", "resolution": 16, "frames": 4, "stride": 1}
    index = describe(catalog, origin, stamp=str)
    write_index(folder / INDEX, index)
    writer, keys = ShardWriter(folder, index, clips=7), []
    for start in range(0, 20, 4):
        for number, path in enumerate(VIDEOS):
            frames = torch.arange(start, start + 4.0)
            clip = scale * torch.stack([torch.full((4,), number + 1.0), frames], dim=-1)
            keys.append(f"{path}:{start}")
            writer.write(clip[None, :, None].expand(1, 4, 2, 2), keys[-1:])
    writer.flush()
    finish_cache(folder, index, expected=keys)
    return folder


@pytest.fixture
def local(tmp_path: Path) -> Path:
    return write_cache(tmp_path / "cache")


@pytest.fixture
def url(local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(publishing, "CHUNK", SIZE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    publish(local, f"local:{tmp_path}/bucket/latents")
    return f"local:{tmp_path}/bucket/latents"


def batches(latents: object, tmp_path: Path, epochs: int = 2, **options: Any) -> list[Any]:  # noqa: ANN401
    data = VideoDataModule(
        root=str(tmp_path / "gone"),
        latents=str(latents),
        frames=6,
        batch_size=3,
        cache=str(tmp_path / "streams"),
        **{"workers": 0, **options},
    )
    return [*data.val_dataloader(), *read_epochs(data, epochs)]


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_gives_the_batches_of_the_cache_that_it_was_written_from(
    workers: int, local: Path, url: str, tmp_path: Path
) -> None:
    expected = batches(local, tmp_path)
    assert len({key for batch in expected for key in batch["key"]}) > 20
    assert_same(batches(url, tmp_path, workers=workers), expected, "latents")
    copy = tmp_path / "copy"  # as whoever fetches all of it has it
    shutil.copytree(url.removeprefix("local:"), copy)
    assert_same(batches(copy, tmp_path), expected, "latents")
    next(copy.glob("chunk-0-1*")).unlink()
    with pytest.raises(BrokenData, match=r"Chunk chunk-0-1\.bin of .*copy is missing: copy it"):
        batches(copy, tmp_path)


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")
def test_litdata_reads_the_stream_as_a_data_set_of_its_own(local: Path, url: str) -> None:
    streaming = import_module("litdata").StreamingDataset(url.removeprefix("local:"))
    cache = LatentCache(local)
    for number, (video, start, latents) in enumerate(cache.every_clip()):
        item, key = streaming[number], f"{VIDEOS[video]}:{start}"
        assert item["key"] == key and torch.equal(item["latents"], latents)
        assert item["label"] == "ab".index(key[0])
    assert len(streaming) == 12 * 5


def test_chunks_of_a_machine_fit_in_their_room_and_are_visited_together(
    local: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, fetch = list[str](), chunks.fetch

    def count(url: str, name: str, folder: Path) -> None:
        fetch(url, name, folder)
        held = sum(path.stat().st_size for path in folder.glob("chunk-*"))
        assert held <= 4.5 * SIZE
        fetched.append(name)

    monkeypatch.setattr(chunks, "fetch", count)
    options = {"epochs": 4, "clips_per_video": 20}
    found = batches(url, tmp_path, latents_room=4.5 * SIZE / 1e9, **options)
    assert 4 * 8 <= len(fetched) < 4 * 20  # twelve chunks, two of them for validation
    plain = batches(local, tmp_path, **options)  # the same clips in another order
    keys = [[key for batch in kind for key in batch["key"]] for kind in (found, plain)]
    assert keys[0] != keys[1] and sorted(keys[0]) == sorted(keys[1])
    fetched.clear()
    monkeypatch.setattr(Footage, "nearness", lambda *_: None)
    batches(url, tmp_path, latents_room=4.5 * SIZE / 1e9, **options)
    assert len(fetched) > 4 * 60


@pytest.mark.parametrize("together", [1, 3, 9])
def test_order_visits_chunks_together_and_is_else_that_of_all_samples(together: int) -> None:
    where = torch.arange(9).repeat_interleave(7)  # of 63 samples, twice
    samples: Any = range(126)
    plain, near = EpochBatches(samples), EpochBatches(samples, near=(where, together))
    for epoch in range(3):
        plain.set_epoch(epoch)
        near.set_epoch(epoch)
        order = near.order()
        assert sorted(order.tolist()) == [*samples]
        parts = where[order % 63].split(14 * together)
        seen = [set(part.tolist()) for part in parts]
        assert [len(part) for part in seen] == [together] * (9 // together)
        for part in seen:  # within it nothing is known of chunks
            own = [i for i in plain.order().tolist() if int(where[i % 63]) in part]
            assert [i for i in order.tolist() if int(where[i % 63]) in part] == own
    assert torch.equal(near.order(), plain.order()) == (together == 9)


def windows(url: str, tmp_path: Path, room: float = 50e9) -> RandomWindows:
    cache = LatentCache(url, tmp_path / "streams", room)
    return RandomWindows(EveryWindow(cache, cache.spans["train"], frames=4), clips_per_video=6)


def loader(clips: RandomWindows, size: int = 3, **options: Any) -> ResumableLoader[Any]:  # noqa: ANN401
    order = EpochBatches(clips, batch_size=size, **options)
    return ResumableLoader(Batched(clips), batch_size=None, sampler=order, num_workers=2)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_worker_ends_the_run_and_another_number_of_processes_goes_on(
    url: str, tmp_path: Path
) -> None:
    whole = [key for batch in loader(windows(url, tmp_path)) for key in batch["key"]]
    shutil.rmtree(tmp_path / "streams")
    clips = windows(url, tmp_path, room=4.5 * SIZE)
    state, seen = kill_a_worker(loader(clips))
    assert 12 <= state["samples"] == len(seen) < len(whole)
    for rank in range(2):
        resumed = loader(clips, size=2, replicas=2, rank=rank)
        resumed.load_state_dict(state)
        resumed.batches.set_epoch(0)
        seen += [key for batch in resumed for key in batch["key"]]
    assert sorted(seen) == sorted(whole)
    held = sum(path.stat().st_size for path in tmp_path.rglob("streams/*/chunk-*.bin"))
    assert 0 < held <= 4.5 * SIZE


def test_chunk_with_other_bytes_is_refused_and_fetched_again(url: str, tmp_path: Path) -> None:
    first = windows(url, tmp_path)
    list(DataLoader(first.every))
    (own,) = tmp_path.rglob("streams/*/chunk-0-5.bin")
    good = own.read_bytes()
    own.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(BrokenData, match=r"Chunk chunk-0-5\.bin of local:.* is not the one its"):
        list(DataLoader(windows(url, tmp_path).every))
    assert not own.exists()
    assert len(list(DataLoader(windows(url, tmp_path).every))) == 50
    assert own.read_bytes() == good


def test_chunk_that_vanished_from_the_storage_ends_with_a_sentence(
    url: str, tmp_path: Path
) -> None:
    next(Path(url.removeprefix("local:")).glob("chunk-0-2*")).unlink()
    with pytest.raises(BrokenData, match=r"Cannot read local:.*/chunk-0-2\.bin \(.*check the add"):
        list(DataLoader(windows(url, tmp_path).every, num_workers=1))


def test_latents_written_anew_to_the_same_address_are_read(
    local: Path, url: str, tmp_path: Path
) -> None:
    before = batches(url, tmp_path)
    shutil.rmtree(local)
    publish(write_cache(local, scale=2.0), url)
    after = batches(url, tmp_path)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(2 * a["latents"], b["latents"])


def test_writing_that_was_cut_short_goes_on_and_a_finished_one_does_nothing(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "CHUNK", SIZE)
    sent, send, url = list[str](), publishing.send, f"local:{tmp_path}/bucket"

    def lose(file: Path, target: str) -> None:
        if file.name == "chunk-0-3.bin" and sent.count(file.name) == 0:
            sent.append(file.name)
            raise ConnectionError("gone\nfor good.")
        send(file, target)
        sent.append(file.name)

    monkeypatch.setattr(publishing, "send", lose)
    with pytest.raises(OSError, match=r"Cannot write local:.* \(gone\): check .* which goes on"):
        publish(local, url)
    with pytest.raises(OSError, match=rf"Cannot read local:.*/bucket/{LISTING}"):
        LatentCache(url, tmp_path / "streams")
    assert sent == [f"chunk-0-{i}.bin" for i in range(4)]
    publish(local, url)
    assert sent[4] == "chunk-0-3.bin" and sent[-2:] == [LATENTS.catalog, LISTING]
    assert len(sent) == len(set(sent)) + 1
    done = len(sent)
    publish(local, url)
    assert len(sent) == done
    assert len(list(LatentCache(url, tmp_path / "streams").every_clip())) == 60


def test_place_without_latents_and_index_of_other_chunks_are_refused(
    url: str, tmp_path: Path
) -> None:
    folder = Path(url.removeprefix("local:"))
    listing = (folder / LISTING).read_text()
    for text in ("{", "[]", '{"chunks": [], "config": {}}'):
        (folder / LISTING).write_text(text)
        with pytest.raises(ValueError, match=r"local:.* holds no latents for streaming: write"):
            LatentCache(url, tmp_path / "streams")
    (folder / LISTING).write_text(listing)
    (folder / LATENTS.catalog).write_text("{}")
    with pytest.raises(ValueError, match=rf"{LATENTS.catalog} is not the one that was written"):
        LatentCache(url, tmp_path / "streams")
    (folder / LISTING).write_text(listing.replace("chunk-0-1.bin", "../chunk-0-1.bin"))
    shutil.copy(tmp_path / "cache" / INDEX, folder / LATENTS.catalog)
    with pytest.raises(ValueError, match=rf"lists other chunks than {LATENTS.catalog} describes"):
        LatentChunks(folder)


def test_repository_of_data_sets_on_the_hub_is_written_in_one_go(
    local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Hub:
        def create_repo(self, repo: str, **options: Any) -> None:  # noqa: ANN401
            asked["repo"] = (repo, options)

        def upload_folder(self, folder_path: Path, **options: Any) -> None:  # noqa: ANN401
            asked["files"] = sorted(path.name for path in folder_path.iterdir())
            asked["options"] = options

    monkeypatch.setattr(storage, "HfApi", Hub)
    with pytest.raises(OSError, match=r"Cannot write hf://me/latents \(the address is to be hf:/"):
        publish(local, "hf://me/latents")
    publish(local, "hf://datasets/me/latents/of/skies")
    assert asked["repo"] == ("me/latents", {"repo_type": "dataset", "exist_ok": True})
    assert asked["files"] == ["chunk-0-0.bin", LISTING, LATENTS.catalog]
    assert asked["options"]["path_in_repo"] == "of/skies"


def test_without_litdata_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(storage, "import_module", missing)
    storage.downloader.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'ardiffusion\[stream\]'"):
        LatentCache("s3://bucket/latents", tmp_path)


def test_staging_folder_differs_with_the_address() -> None:
    assert staging_folder("s3://a/b") != staging_folder("s3://a/c")
    assert staging_folder("s3://a/b").parts[-2] == "latents"
