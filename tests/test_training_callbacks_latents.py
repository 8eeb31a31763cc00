import os
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from ardiffusion.data.cache import read_index
from ardiffusion.data.latents import LatentDataset
from ardiffusion.data.video import write_video
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
    assert index["splits"] == {n: [v.path for v in vs] for n, vs in data.videos.items()}
    read = {}
    for split in ("train", "val"):
        dataset = LatentDataset(root / "latents", frames=3, split=split)
        read |= {dataset[i]["key"]: dataset[i] for i in range(len(dataset))}
    assert {key.split(":")[0] for key in read} == set(LENGTHS)
    for key, sample in read.items():
        levels = 10.0 * (int(key.split(":")[1]) + torch.arange(3))
        assert (sample["latents"][:, 0].mean(-1) - levels).abs().max() < 3
        assert int(sample["label"]) == ("a", "b").index(key[0])


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


def test_interrupted_run_resumes_and_a_finished_one_does_nothing(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clips = 3 + 2 + 1 + 3
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        predict(root, Encoder(fail_at=2))
    with pytest.raises(ValueError, match=r"is half written \(4 clips so far\)"):
        LatentDataset(root / "latents", frames=4)
    resumed = Encoder()
    predict(root, resumed)
    assert resumed.encoded == clips - 4
    assert len(LatentDataset(root / "latents", frames=4)) > 0
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
        LatentDataset(root / "latents", frames=4)
    predict(root, Encoder())
    assert read_index(root / "latents")["complete"]


def test_other_weights_are_refused(root: Path) -> None:
    predict(root, Encoder())
    with pytest.raises(ValueError, match="choose another output folder or delete this one"):
        predict(root, Encoder(scale=2.0))


def test_video_that_breaks_while_encoding_is_noted_and_not_tried_again(root: Path) -> None:
    data = VideoDataModule(root=str(root), cache=str(root / "index"), frames=4)
    data.prepare_data()
    broken = root / "a" / "0.mp4"
    stamp = broken.stat()
    broken.write_bytes(b"x" * stamp.st_size)
    os.utime(broken, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # the index does not notice
    predict(root, Encoder())
    index = read_index(root / "latents")
    assert index["complete"]
    assert index["missing"] == ["a/0.mp4:0", "a/0.mp4:4", "a/0.mp4:5"]
    idle = Encoder()
    predict(root, idle)
    assert idle.encoded == 0
