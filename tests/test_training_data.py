import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from ardiffusion.data.synthetic import shapes
from ardiffusion.data.writer import write_video
from ardiffusion.training.data import VideoDataModule

CONFIGS = Path(__file__).parents[1] / "configs" / "data"
CLASSES = ("circle", "square")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    for number in range(12):
        label = number % 2
        (root / CLASSES[label]).mkdir(exist_ok=True)
        video = shapes(label, 9, 24, torch.Generator().manual_seed(number))
        write_video(root / CLASSES[label] / f"{number:02d}.mp4", frames=video)
    return root


def module(place: Path, **options: Any) -> VideoDataModule:  # noqa: ANN401
    return VideoDataModule(
        **{
            "root": str(place),
            "cache": str(place.parent / "index"),
            "resolution": 16,
            "frames": 4,
            "batch_size": 3,
            "workers": 0,
            "val_fraction": 0.25,
            "test_fraction": 0.1,
            **options,
        }
    )


def files(batches: Any) -> list[str]:  # noqa: ANN401
    return [key.rsplit(":", maxsplit=1)[0] for batch in batches for key in batch["key"]]


def test_batches_of_all_stages(root: Path) -> None:
    data = module(root)
    data.prepare_data()
    data.setup()
    assert data.classes == list(CLASSES)
    batch = next(iter(data.train_dataloader()))
    assert batch["video"].shape == (3, 3 + 1, 3, 16, 16) and batch["video"].dtype == torch.uint8
    assert batch["label"].tolist() == [CLASSES.index(k.split("/")[0]) for k in batch["key"]]
    train = set(files(data.train_dataloader()))
    val, test = files(data.val_dataloader()), files(data.test_dataloader())
    assert (len(train), len(val), len(test)) == (8, 3 * 3, 1 * 3)
    assert not train & set(val) and not set(val) & set(test)
    assert set(files(data.predict_dataloader()[0])) == {*train, *val, *test}
    assert len(data.main.every()) == 12 * 3


def test_videos_give_several_clips_per_epoch_and_small_sets_a_batch(root: Path) -> None:
    data = module(root, clips_per_video=5, batch_size=4, val_fraction=0, test_fraction=0)
    batches = list(data.train_dataloader())
    assert len(batches) == 15
    assert len(set(files(batches))) == 12
    small = module(root, batch_size=64).train_dataloader()
    assert [len(batch["key"]) for batch in small] == [8]


def test_lists_make_the_splits(root: Path, tmp_path: Path) -> None:
    (tmp_path / "val.txt").write_text("circle/00.mp4\n01")
    data = module(root, val_list=str(tmp_path / "val.txt"), test_fraction=0)
    assert [v.path for v in data.videos["val"]] == ["circle/00.mp4", "square/01.mp4"]
    assert len(data.videos["train"]) == 10
    (tmp_path / "val.txt").write_text("circle/99.mp4")
    with pytest.raises(ValueError, match=r"names 'circle/99\.mp4', which is not there"):
        module(root, val_list=str(tmp_path / "val.txt")).setup()


def test_a_split_without_a_clip_long_enough_is_named(root: Path) -> None:
    data = module(root, val_fraction=0.5)
    data.setup()
    data.main.frames = 10
    with pytest.raises(ValueError, match="has the 10 frames asked for"):
        data.val_dataloader()


def test_fractions_that_leave_nothing_are_refused_before_a_video_is_looked_at() -> None:
    with pytest.raises(ValueError, match=r"add up to more than 1: change --data\.val_fraction"):
        VideoDataModule(root="nowhere", val_fraction=0.75, test_fraction=0.5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"place": Path("nowhere")}, "Data folder nowhere does not exist: set --data.root"),
        ({"frames": 10}, "Every clip .* shorter than the 10 frames needed .* --data.frames"),
        ({"val_fraction": 1.0, "test_fraction": 0.0}, "left to train on: lower --data.val_fract"),
        (
            {"val_fraction": 0.75, "test_fraction": 0.5},
            "add up to more than 1: change --data.val_fraction",
        ),
        ({"stride": 0}, "--data.stride must be at least 1"),
        ({"latents": "nolatents"}, "nolatents holds no latent cache"),
    ],
)
def test_bad_settings_are_named(root: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        data = module(**{"place": root, **options})
        data.prepare_data()
        data.setup()
        data.train_dataloader()


def test_broken_files_are_skipped_and_do_not_move_the_split(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for path in root.rglob("*.mp4"):
        copy = tmp_path / path.relative_to(root)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "circle" / "02.mp4").write_text("broken")
    data = module(tmp_path, max_broken=0.1, cache=str(tmp_path / "index"))
    with caplog.at_level(logging.WARNING):
        data.setup()
    assert "Skipped 1 of the 12 clips" in caplog.text
    for name, videos in module(root).videos.items():
        kept = [v for v in videos if v.path != "circle/02.mp4"]
        assert data.videos[name] == kept
    with pytest.raises(ValueError, match=r"1 of the 12 clips .* raise --data\.max_broken"):
        module(tmp_path, cache=str(tmp_path / "index")).setup()


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_data_sets_are_settings_of_the_module(config: Path) -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(VideoDataModule, "data")
    parsed = parser.parse_args([f"--data={config}", "--data.workers=0"])
    settings = {k: v for k, v in vars(parsed.data).items() if k != "__path__"}
    data = VideoDataModule(**settings)
    assert (data.resolution, data.frames, data.stride) == (256, 16, 1)
    with pytest.raises(FileNotFoundError, match=r"Data folder data/.* does not exist"):
        data.prepare_data()


class Recorder(LightningModule):
    """Note the keys of all training batches, with their content."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, str]] = []

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        self.seen += [(self.current_epoch, key) for key in batch["key"]]
        return self.weight * batch["video"].float().mean()

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        assert batch["video"].dtype == torch.uint8

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(root: Path, folder: Path, steps: int, save: int, resume: str | None = None) -> Recorder:
    recorder = Recorder()
    Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=save)],
    ).fit(recorder, datamodule=module(root, clips_per_video=2), ckpt_path=resume)
    return recorder


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("killed", [3, 6, 7, 12])  # 6 batches per epoch
def test_killed_training_resumes_with_the_batches_that_would_have_come(
    root: Path, tmp_path: Path, killed: int
) -> None:
    whole = fit(root, tmp_path / "whole", steps=14, save=killed).seen
    first = fit(root, tmp_path, steps=killed, save=killed).seen
    checkpoint = str(tmp_path / f"step={killed}.ckpt")
    second = fit(root, tmp_path, steps=14, save=killed, resume=checkpoint).seen
    assert first + second == whole
    assert len(whole) == 16 + 16 + 6
