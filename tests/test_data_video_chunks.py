import json
import re
import shutil
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import repeat
from hub_server import REPO, Hub
from loaders import assert_same, kill_a_worker, read_epochs, shuffled
from numbered import numbered, write_numbered
from PIL import Image

from ardiffusion.data import chunks, publishing, storage, video, video_chunks
from ardiffusion.data.cache_index import path_of
from ardiffusion.data.chunks import LISTING, VIDEOS, read_item
from ardiffusion.data.footage import Footage
from ardiffusion.data.latents import LatentCache
from ardiffusion.data.publishing import publish_videos
from ardiffusion.data.video import FAR
from ardiffusion.data.video_chunks import StreamedVideos, VideoChunks, write_files
from ardiffusion.data.windows import BrokenData
from ardiffusion.data.writer import write_video
from ardiffusion.files import host_name, partial_path
from ardiffusion.metrics.features import Random3D
from ardiffusion.metrics.protocol import Clip, EveryClip
from ardiffusion.tools.command import main
from ardiffusion.training.callbacks.sides import check_there, real_videos
from ardiffusion.training.data import VideoDataModule

pytest.importorskip("litdata", reason="litdata is not installed: the extra `stream` brings it")
SIZE = 2**13  # bytes of a chunk, which then holds some three videos


@pytest.fixture(autouse=True)
def small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "CHUNK", SIZE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty videos in two classes, one of them broken."""
    for name, lengths in {"a": [9, 12] * 5, "b": [20, 7] * 5}.items():
        write_numbered(tmp_path / "videos" / name, lengths)
    (tmp_path / "videos" / "b" / "003.mp4").write_text("broken")
    return tmp_path / "videos"


@pytest.fixture
def url(root: Path, tmp_path: Path) -> str:
    publish_videos(root, f"local:{tmp_path}/bucket/videos", max_broken=0.1)
    return f"local:{tmp_path}/bucket/videos"


def module(place: object, tmp_path: Path, **options: Any) -> VideoDataModule:  # noqa: ANN401
    settings = {"frames": 6, "resolution": 16, "batch_size": 3, "workers": 0, "max_broken": 0.1}
    cache = str(tmp_path / "cache")
    return VideoDataModule(root=str(place), cache=cache, **{**settings, **options})


def batches(place: object, tmp_path: Path, epochs: int = 2, **options: Any) -> list[Any]:  # noqa: ANN401
    data = module(place, tmp_path, **options)
    data.prepare_data()
    return [*data.val_dataloader(), *data.predict_dataloader()[0], *read_epochs(data, epochs)]


def copies(tmp_path: Path) -> list[Path]:
    return [*tmp_path.glob("cache/streams/.videos*.tmp")]


@pytest.mark.parametrize(
    "options",
    [{}, {"workers": 2, "clips_per_video": 2, "stride": 2, "frames": 3}, {"train_list": "b"}],
)
def test_stream_gives_the_batches_of_the_folder_that_it_was_written_from(
    options: dict[str, Any], root: Path, url: str, tmp_path: Path
) -> None:
    expected = batches(root, tmp_path, **options)
    assert len({key for batch in expected for key in batch["key"]}) > 10
    assert_same(batches(url, tmp_path, **options), expected, "video")
    copy = tmp_path / "copy"  # as whoever fetches all of it has it
    shutil.copytree(url.removeprefix("local:"), copy)
    assert_same(batches(copy, tmp_path, **options), expected, "video")
    assert copies(tmp_path) == []


def test_the_hub_is_written_and_streamed(hub: Hub, root: Path, tmp_path: Path) -> None:
    place = f"hf://datasets/{REPO}/of/skies"
    hub.add({"of/README.md": b"mine"})
    publish_videos(root, place, max_broken=0.1)
    assert_same(batches(place, tmp_path), batches(root, tmp_path), "video")
    first = {*hub.files}
    shutil.rmtree(root / "b")
    publish_videos(root, place)  # of which fewer chunks are needed
    assert_same(batches(place, tmp_path), batches(root, tmp_path), "video")
    listing = json.loads(hub.files[f"of/skies/{LISTING}"])
    chunks = {f"of/skies/{chunk['filename']}" for chunk in listing["chunks"]}
    assert {*hub.files} < first
    assert {*hub.files} - chunks == {
        "of/README.md",
        *(f"of/skies/{n}" for n in (LISTING, VIDEOS.catalog)),
    }


def test_folders_of_frames_and_far_frames_are_read_as_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, url = tmp_path / "videos", f"local:{tmp_path}/bucket"
    for number in range(12):
        (root / "frames.mp4").mkdir(parents=True, exist_ok=True)
        picture = numbered(number, frames=1)[0].permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(root / "frames.mp4" / f"{number}.png")
    grey = torch.arange(FAR + 30).remainder(200).to(torch.uint8)
    write_video(root / "long.mp4", repeat(grey, "f -> f 3 32 32"))
    publish_videos(root, url)
    options: dict[str, Any] = {"val_fraction": 0.0, "batch_size": 1}
    expected = batches(root, tmp_path, **options)

    def search(path: Path) -> None:
        raise AssertionError(f"{path} was looked at although its table is known")

    monkeypatch.setattr(video, "find_table", search)
    assert_same(batches(url, tmp_path, **options), expected, "video")
    assert any(FAR < int(b["key"][0].rsplit(":")[-1]) for b in expected)


def test_chunks_of_a_machine_fit_in_their_room_and_are_visited_together(
    root: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched, fetch = list[str](), chunks.fetch
    count = len([*Path(url.removeprefix("local:")).glob("chunk-*")])
    assert count > 5

    def note(url: str, name: str, folder: Path) -> None:
        fetch(url, name, folder)
        held = sum(path.stat().st_size for path in folder.glob("chunk-*"))
        assert held <= 3 * SIZE
        fetched.append(name)

    monkeypatch.setattr(chunks, "fetch", note)
    options: dict[str, Any] = {"epochs": 4, "clips_per_video": 8}
    found = batches(url, tmp_path, latents_room=3 * SIZE / 1e9, **options)
    few = len(fetched)
    plain = batches(root, tmp_path, **options)  # as many clips of each video in another order
    videos = [[path_of(k) for batch in kind for k in batch["key"]] for kind in (found, plain)]
    assert videos[0] != videos[1] and sorted(videos[0]) == sorted(videos[1])
    fetched.clear()
    encoded = module(url, tmp_path, latents_room=3 * SIZE / 1e9).predict_dataloader()[0]
    assert len({key for batch in encoded for key in batch["key"]}) > 30 and len(fetched) <= count
    fetched.clear()
    monkeypatch.setattr(Footage, "nearness", lambda *_: None)
    batches(url, tmp_path, latents_room=3 * SIZE / 1e9, **options)
    assert count < few < len(fetched) / 4


def test_a_chunk_that_has_no_room_is_read_all_the_same(url: str, tmp_path: Path) -> None:
    few: dict[str, Any] = {"epochs": 1, "latents_room": 100 / 1e9}
    keys = [
        [k for b in batches(url, tmp_path, **o) for k in b["key"]] for o in (few, {"epochs": 1})
    ]
    assert sorted(map(path_of, keys[0])) == sorted(map(path_of, keys[1]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_killed_worker_ends_the_run_and_another_number_of_processes_goes_on(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"workers": 2, "clips_per_video": 3, "latents_room": 3 * SIZE / 1e9}
    whole = [key for batch in shuffled(module(url, tmp_path, **options)) for key in batch["key"]]
    state, seen = kill_a_worker(shuffled(module(url, tmp_path, **options)))
    assert seen == whole[: state["samples"]] and 12 <= len(seen) < len(whole)
    assert len(copies(tmp_path)) <= 1  # of the one that was killed
    for rank in range(2):
        monkeypatch.setattr(VideoDataModule, "_processes", (2, rank))
        resumed = shuffled(module(url, tmp_path, **{**options, "batch_size": 2}))
        resumed.load_state_dict(state)
        resumed.batches.set_epoch(0)
        seen += [key for batch in resumed for key in batch["key"]]
        del resumed  # and its workers
    assert sorted(seen) == sorted(whole)
    assert copies(tmp_path) == []


def test_what_a_killed_process_copied_is_removed_by_the_next_one(tmp_path: Path) -> None:
    dead = tmp_path / f".videos-1.{host_name()}-{2**22 + 1}.tmp"  # beyond the largest number
    (dead / "a").mkdir(parents=True)
    (dead / "a" / "1.mp4").write_text("left")
    assert partial_path(tmp_path / "videos-2").parent == tmp_path
    assert not dead.exists()


def test_real_videos_of_a_score_and_stamps_of_latents_are_those_of_the_files(
    root: Path, url: str, tmp_path: Path
) -> None:
    protocol = EveryClip(frames=3, extractor=Random3D())
    sides = [
        real_videos(module(place, tmp_path, frames=4, stride=2), ["val", "train"], protocol)
        for place in (root, url)
    ]
    clips = [Clip(video, start) for video in range(len(sides[0].names)) for start in (0, 1)]
    for clip in clips:
        assert torch.equal(*(side.read(clip) for side in sides))
    assert sides[0].names == sides[1].names and sides[0].identity != sides[1].identity
    for number in range(len(sides[0].names)):
        assert sides[0].stamp(number) == sides[1].stamp(number)
    check_there(module(url, tmp_path), ["val"], protocol)
    with pytest.raises(ValueError, match=r"local:.*/videos holds no video b/003\.mp4: write"):
        StreamedVideos(VideoChunks(url, tmp_path / "cache")).open("b/003.mp4")


def test_litdata_reads_the_videos_as_a_data_set_of_its_own(root: Path, url: str) -> None:
    streaming = import_module("litdata").StreamingDataset(url.removeprefix("local:"))
    items = [{name: bytes(leaf) for name, leaf in streaming[n].items()} for n in range(19)]
    assert len(streaming) == len({item["path"] for item in items}) == 19
    for item in items:
        path = item["path"].decode()
        assert item["video"] == (root / path).read_bytes() and item["class"] == item["path"][:1]


def test_command_writes_what_changed_and_nothing_else(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, send, url = list[str](), publishing.send, f"local:{tmp_path}/bucket"

    def note(file: Path, target: str) -> None:
        if len(sent) == 2 and "lost" not in sent:
            sent.append("lost")
            raise ConnectionError("gone")
        send(file, target)
        sent.append(file.name)

    monkeypatch.setattr(publishing, "send", note)
    with pytest.raises(SystemExit):
        main(["publish", str(root), url, "--max_broken", "0.1"])
    assert "(gone): check the address" in capsys.readouterr().err
    main(["publish", str(root), url, "--max_broken", "0.1"])
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told == {"target": url, "classes": ["a", "b"], "videos": 19, "frames": 105 + 128}
    assert sent[-2:] == [VIDEOS.catalog, LISTING] and len(sent) == len({*sent})
    done = len(sent)
    main(["publish", str(root), url, "--max_broken", "0.1"])
    assert len(sent) == done
    before = batches(url, tmp_path)
    shutil.copy(root / "b" / "000.mp4", root / "b" / "003.mp4")
    main(["publish", str(root), url])
    assert len(batches(url, tmp_path, max_broken=0)) > len(before)
    assert_same(batches(url, tmp_path), batches(root, tmp_path), "video")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere", "s3://a/b"], "Data folder nowhere does not exist: set FOLDER to yours."),
        (["{root}", "s3:/a/b"], "TARGET is s3:/a/b, no address in object storage: give one"),
        (
            ["{root}", "s3://a/b", "--max_broken=0.01"],
            "1 of the 20 clips under .* raise --max_broken",
        ),
    ],
)
def test_command_refuses_what_cannot_be_written(
    arguments: list[str], sentence: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["publish", *(argument.format(root=root) for argument in arguments)])
    assert re.search(sentence, capsys.readouterr().err)


def test_places_of_another_kind_or_of_none_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"local:.* holds videos, no latents: name it in --data"):
        LatentCache(url, tmp_path / "cache")
    with pytest.raises(OSError, match=r"Cannot read local:.*/bucket/index\.json .*check the addr"):
        module(url.removesuffix("/videos"), tmp_path).setup()
    listing = Path(url.removeprefix("local:"), LISTING)
    for holds, sentence in {"latents": "holds latents, no videos: name it in --data.lat"}.items():
        listing.write_text(json.dumps({**json.loads(listing.read_text()), "holds": holds}))
        with pytest.raises(ValueError, match=sentence):
            module(url, tmp_path).setup()
    listing.write_text("{}")
    with pytest.raises(ValueError, match=r"holds no videos for streaming: write some there with"):
        module(url, tmp_path).setup()


def test_without_litdata_one_sentence_says_what_to_install(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(storage, "import_module", missing)
    storage.downloader.cache_clear()
    with pytest.raises(ValueError, match=r"pip install 'ardiffusion\[stream\]'"):
        module("s3://bucket/videos", tmp_path).setup()
    with pytest.raises(ValueError, match=r"pip install 'ardiffusion\[stream\]'"):
        publish_videos(root, "s3://bucket/videos", max_broken=0.1)


def test_video_too_large_for_a_chunk_and_one_that_is_no_file_below_its_folder_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("../b.png", "/b.png", ""):
        item = {"files": json.dumps({name: 1}).encode(), "video": b"x"}
        with pytest.raises(ValueError, match=r"a\.mp4 is not as it was written"):
            write_files(tmp_path / "a.mp4", item)
    monkeypatch.setattr(video_chunks, "LARGEST", 9)
    with pytest.raises(ValueError, match=r"\.mp4 is larger than 9 bytes: cut it into scenes"):
        publish_videos(root, f"local:{tmp_path}/bucket", max_broken=0.1)


def spoil(file: BufferedReader, number: int, leaves: tuple[str, ...]) -> dict[str, bytes]:
    item = read_item(file, number, leaves)
    return {**item, "video": b"broken"} if item["path"] == b"a/000.mp4" else item


def test_video_that_broke_is_named_by_its_address_and_a_lost_chunk_ends_the_run(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "read_item", spoil)
    assert len(batches(url, tmp_path, epochs=4)) > 10
    named = r"Skipped a video from now on: local:\S*/bucket/videos/a/000.mp4 is broken"
    assert re.search(named, caplog.text)
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "cache")
    next(Path(url.removeprefix("local:")).glob("chunk-0-2*")).unlink()
    with pytest.raises(BrokenData, match=r"Cannot read local:.*/chunk-0-2\.bin"):
        batches(url, tmp_path)
