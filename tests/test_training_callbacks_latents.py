import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from einops import rearrange
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from ardiffusion.data.cache_index import keys_of, read_index
from ardiffusion.data.latents import LatentCache
from ardiffusion.data.windows import EveryWindow
from ardiffusion.data.writer import write_video
from ardiffusion.files import only_writer
from ardiffusion.training.callbacks.latents import LatentWriter
from ardiffusion.training.data import VideoDataModule

pytestmark = pytest.mark.filterwarnings("ignore:Total length of `DataLoader`")  # nothing to do
LENGTHS = {"a/0.mp4": 9, "a/1.mp4": 6, "b/2.mp4": 4, "b/3.mp4": 11}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, frames in LENGTHS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        levels = (torch.arange(frames) * 10).to(torch.uint8)
        write_video(tmp_path / name, frames=levels.expand(3, 16, 16, frames).moveaxis(3, 0))
    return tmp_path


class Encoder(LightningModule):
    """Stand-in for the AR-VAE's module: one token with the mean of each channel."""

    def __init__(self, scale: float = 1.0, fail_at: int = -1) -> None:
        super().__init__()
        self.arvae = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.arvae.weight, scale)
        self.fail_at, self.encoded = fail_at, 0

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        if batch_idx == self.fail_at:
            raise KeyboardInterrupt
        self.encoded += len(batch["key"])
        means: Tensor = batch["video"].float().mean((-1, -2)) * self.arvae.weight[0]
        latents = rearrange(means, "b f c -> b f 1 c")  # (B, F, L, C)
        return {"latents": latents, "label": batch["label"], "key": batch["key"]}


def predict(root: Path, encoder: Encoder, shard: int = 2, **options: Any) -> VideoDataModule:  # noqa: ANN401
    data = VideoDataModule(
        root=str(root),
        cache=str(root / "index"),
        resolution=16,
        frames=4,
        batch_size=2,
        workers=0,
        val_fraction=0.25,
        max_broken=0.5,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[LatentWriter(str(root / "latents"), clips_per_shard=shard)],
        **options,
    )
    trainer.predict(encoder, datamodule=data, return_predictions=False)
    return data


def test_cache_round_trip_equals_encode(root: Path) -> None:
    data = predict(root, Encoder())
    index = read_index(root / "latents")
    assert index["complete"] and index["classes"] == ["a", "b"]
    for name, videos in data.videos.items():
        numbers = index["splits"][name]
        assert [index["paths"][number] for number in numbers] == [video.path for video in videos]
    read, cache = {}, LatentCache(root / "latents")
    for split in ("train", "val"):
        dataset = EveryWindow(cache, cache.spans[split], frames=3)
        read |= {dataset[i]["key"]: dataset[i] for i in range(len(dataset))}
    assert {key.split(":")[0] for key in read} == set(LENGTHS)
    for key, sample in read.items():
        levels = 10.0 * (int(key.split(":")[1]) + torch.arange(3))
        assert (sample["latents"][:, 0].mean(-1) - levels).abs().max() < 3
        assert int(sample["label"]) == ("a", "b").index(key[0])


def test_one_process_of_a_machine_compares_latents_with_their_hashes(root: Path) -> None:
    predict(root, Encoder())
    shard = next((root / "latents").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)

    def open_as(rank: int | None) -> None:
        data = VideoDataModule(root="gone", latents=str(root / "latents"), frames=4, workers=0)
        data.trainer = None if rank is None else cast(Trainer, SimpleNamespace(local_rank=rank))
        data.setup()

    open_as(1)
    for rank in (0, None):
        with pytest.raises(ValueError, match="is missing or broken"):
            open_as(rank)


def test_data_module_serves_latents_to_the_second_stage(root: Path) -> None:
    predict(root, Encoder())
    data = VideoDataModule(
        root="gone", latents=str(root / "latents"), frames=4, batch_size=2, workers=0
    )
    data.prepare_data()
    data.setup()
    assert data.classes == ["a", "b"]
    batch = next(iter(data.train_dataloader()))
    assert batch["latents"].shape == (2, 4, 1, 3) and batch["latents"].dtype == torch.float32
    assert set(batch) == {"latents", "label", "key"}
    assert len(list(data.val_dataloader())) > 0
    data.check_latents(read_index(root / "latents")["origin"]["fingerprint"])
    with pytest.raises(ValueError, match="comes from another AR-VAE"):
        data.check_latents("0123")


def served(root: Path, **options: Any) -> VideoDataModule:  # noqa: ANN401
    settings = {"root": str(root), "latents": str(root / "latents"), "frames": 4, "workers": 0}
    return VideoDataModule(**{**settings, "cache": str(root / "index"), **options})


def keys(batches: Any) -> list[str]:  # noqa: ANN401
    return [key.split(":")[0] for batch in batches for key in batch["key"]]


def test_the_split_of_the_cache_is_the_only_one(root: Path) -> None:
    encoded = predict(root, Encoder())
    data = served(root)
    data.setup()
    assert data.resolution == 16
    assert (
        data.videos == encoded.videos
        and data.main.catalog["splits"] == encoded.main.catalog["splits"]
    )
    (val,) = {*keys(data.val_dataloader())}
    assert "video" in data.main.cut(data.main.files, data.videos["val"])[0]
    train = {*keys(data.train_dataloader())}
    assert train == {video.path for video in data.videos["train"]} == {*LENGTHS} - {val}
    (root / "val.txt").write_text(val)
    for same in ({"val_fraction": 0.25}, {"val_list": "val.txt"}, {"resolution": 16}):
        assert served(root, **same).videos == encoded.videos


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"val_list": "other.txt"}, r"give another (train|val) split than that of latent cache"),
        ({"val_list": "none.txt"}, r"List .*none\.txt does not exist"),
        ({"train_list": "other.txt", "val_fraction": 0.0}, "another train split than that of lat"),
        ({"seed": 3}, r"give another (train|val) split .*: leave them out, give those it was enc"),
        ({"val_fraction": 0.5}, "give another train split than that of latent cache"),
        ({"test_fraction": 0.25}, "give another train split than that of latent cache"),
        ({"resolution": 64}, "resolution is 64, but latent cache .* holds videos of 16 x 16"),
    ],
)
def test_options_that_contradict_the_cache_are_refused_before_training(
    root: Path, options: dict[str, Any], sentence: str
) -> None:
    val = predict(root, Encoder()).videos["val"][0].path
    (root / "other.txt").write_text(min({*LENGTHS} - {val}))
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        served(root, **options).setup()


def test_options_are_held_against_the_names_in_the_cache_where_the_videos_are_gone(
    root: Path,
) -> None:
    encoded = predict(root, Encoder())
    assert served(Path("gone"), latents=str(root / "latents"), val_fraction=0.25).videos == (
        encoded.videos
    )
    with pytest.raises(ValueError, match="give another"):
        served(Path("gone"), latents=str(root / "latents"), val_fraction=0.5).setup()
    lists = served(Path("gone"), latents=str(root / "latents"), val_list="below_the_root.txt")
    assert lists.videos == encoded.videos  # nobody can read it, and only the cache is used


def test_broken_videos_do_not_move_the_split_that_options_are_held_against(root: Path) -> None:
    (root / "a" / "1.mp4").write_text("broken")
    encoded = predict(root, Encoder())
    broken = encoded.main.catalog["paths"].index("a/1.mp4")
    assert broken in sum(read_index(root / "latents")["splits"].values(), [])  # noqa: RUF017
    data = served(root, val_fraction=0.25, max_broken=0.5)
    assert (
        data.videos == encoded.videos
        and data.main.catalog["lengths"] == encoded.main.catalog["lengths"]
    )
    assert data.main.catalog["lengths"][broken] == 0


def test_interrupted_run_resumes_and_a_finished_one_does_nothing(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = 3 + 2 + 1 + 3
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        predict(root, Encoder(fail_at=2))
    with pytest.raises(ValueError, match=r"is half written \(4 clips so far\)"):
        LatentCache(root / "latents")
    resumed = Encoder()
    predict(root, resumed)
    assert resumed.encoded == clips - 4
    assert LatentCache(root / "latents").spans["train"]
    files = {p.name: p.stat().st_mtime_ns for p in (root / "latents").glob("*.safetensors")}
    idle = Encoder()
    with caplog.at_level("INFO"):
        predict(root, idle)
    assert idle.encoded == 0
    assert "is finished: nothing to encode" in caplog.text
    again = {p.name: p.stat().st_mtime_ns for p in (root / "latents").glob("*.safetensors")}
    assert again == files


def test_limited_run_is_not_taken_for_a_finished_one(root: Path) -> None:
    predict(root, Encoder(), limit_predict_batches=2)
    with pytest.raises(ValueError, match="is half written"):
        LatentCache(root / "latents")
    predict(root, Encoder())
    assert read_index(root / "latents")["complete"]


def test_other_weights_are_refused(root: Path) -> None:
    predict(root, Encoder())
    with pytest.raises(ValueError, match="choose another output folder or delete this one"):
        predict(root, Encoder(scale=2.0))


class Mover(Encoder):
    """Takes a video away while the others are encoded."""

    def __init__(self, video: Path) -> None:
        super().__init__()
        self.video = video

    def on_predict_start(self) -> None:
        self.video.rename(self.video.with_suffix(".away"))

    def on_predict_end(self) -> None:
        self.video.with_suffix(".away").rename(self.video)


def test_video_that_breaks_while_encoding_is_noted_and_tried_again_when_it_changed(
    root: Path,
) -> None:
    predict(root, Mover(root / "a" / "0.mp4"))
    index = read_index(root / "latents")
    assert index["complete"]
    keys = ["a/0.mp4:0", "a/0.mp4:4", "a/0.mp4:5"]
    assert keys_of(index["missing"], index["paths"]) == keys
    idle, again = Encoder(), Encoder()
    predict(root, idle)
    assert idle.encoded == 0
    os.utime(root / "a" / "0.mp4", ns=(7, 7))
    predict(root, again)
    assert again.encoded == 3 and read_index(root / "latents")["missing"]["videos"] == []


def means(root: Path) -> dict[str, float]:
    """The mean latent of each video in a cache."""
    cache = LatentCache(root / "latents")
    spans = [span for spans in cache.spans.values() for span in spans]
    return {s.path: float(cache.read(s, 0, s.frames, step=1).mean()) for s in spans}


def repaint(video: Path, level: int, frames: int) -> None:
    """Write a plain video in the place of another, of the same size and time if that is larger."""
    before = video.stat()
    write_video(video, frames=torch.full((frames, 3, 16, 16), level, dtype=torch.uint8))
    spare = before.st_size - video.stat().st_size
    if spare > 8:  # a box that players pass over
        with video.open("ab") as file:
            file.write(spare.to_bytes(4, "big") + b"free" + bytes(spare - 8))
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_latents_of_a_video_that_was_replaced_are_made_anew(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predict(root, Encoder())
    before, size = means(root), (root / "b" / "3.mp4").stat().st_size
    repaint(root / "b" / "3.mp4", level=200, frames=11)
    assert (root / "b" / "3.mp4").stat().st_size == size
    again = Encoder()
    with caplog.at_level("INFO"):
        predict(root, again)
    assert again.encoded == 3 and "is resumed: 3 clips to encode" in caplog.text
    assert "Dropped 3 clips" in caplog.text and "whose videos changed since" in caplog.text
    after = means(root)
    assert after.pop("b/3.mp4") == pytest.approx(200, abs=3)
    before.pop("b/3.mp4")
    assert after == before


def test_latents_of_another_root_are_made_anew(root: Path, tmp_path_factory: Any) -> None:  # noqa: ANN401
    predict(root, Encoder())
    other = tmp_path_factory.mktemp("other")
    (root / "latents").rename(other / "latents")
    for name, frames in LENGTHS.items():
        (other / name).parent.mkdir(exist_ok=True)
        levels = torch.full((frames, 3, 16, 16), 150, dtype=torch.uint8)
        write_video(other / name, frames=levels)
    predict(other, Encoder())
    assert all(mean == pytest.approx(150, abs=3) for mean in means(other).values())


def test_moved_videos_are_not_encoded_again(root: Path, tmp_path: Path) -> None:
    predict(root, Encoder())
    for name in LENGTHS:
        (root / "elsewhere" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / "elsewhere" / name)
    (root / "latents").rename(root / "elsewhere" / "latents")
    idle = Encoder()
    predict(root / "elsewhere", idle)
    assert idle.encoded == 0


def test_a_cache_has_one_writer(root: Path) -> None:
    with only_writer(root / "latents"), pytest.raises(OSError, match="Another process is writing"):
        predict(root, Encoder())
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        predict(root, Encoder(fail_at=1))
    predict(root, Encoder())  # whoever was interrupted holds it no longer
    assert read_index(root / "latents")["complete"]


def test_latents_that_are_not_finite_are_refused(root: Path) -> None:
    with pytest.raises(ValueError, match=r"latents of a/0\.mp4:0 are not finite: the weights of"):
        predict(root, Encoder(scale=float("nan")))
    assert not list((root / "latents").glob("*.safetensors"))
