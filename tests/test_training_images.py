"""Pictures beside videos: one-frame clips in both stages, from files and from a latent cache."""

import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from stages import make_data, make_dit, make_first_stage, make_trainer
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.data.writer import write_video
from ardiffusion.diffusion.timesteps import FoPP, Mixture, PlanRows
from ardiffusion.nn.autoencoder import to_unit
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.callbacks.latents import LatentWriter
from ardiffusion.training.callbacks.stability import Stability
from ardiffusion.training.callbacks.throughput import Throughput
from ardiffusion.training.callbacks.videos import VideoLogger
from ardiffusion.training.data import VideoDataModule
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings("ignore:You defined a|.*fork|Found .* in eval mode")
VIDEOS, PICTURES = 12, 10


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of two classes, ten pictures of one of them."""
    root = tmp_path_factory.mktemp("scarce")
    for number in range(VIDEOS):
        folder = root / "videos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        video = torch.full((6, 3, 16, 16), 10 * number, dtype=torch.uint8)
        write_video(folder / f"{number}.mp4", frames=video)
    (root / "pictures" / "a").mkdir(parents=True)
    (root / "pictures" / "b").mkdir()
    for number in range(PICTURES):
        name = root / "pictures" / "b" / f"{number}.png"
        Image.new("RGB", (20, 16), color=(200, 20 * number, 0)).save(name)
    return root


def both(root: Path, **options: Any) -> VideoDataModule:  # noqa: ANN401
    return make_data(root / "videos", **{"images": str(root / "pictures"), **options})


class Recorder(LightningModule):
    """Note the keys and the size of all training batches."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[str]]] = []

    def validation_step(self, batch: dict[str, Any], index: int) -> None:
        assert batch["video"].shape[1] == 4

    def training_step(self, batch: dict[str, Any], index: int) -> Tensor:
        self.seen.append((batch["video"].shape[1], batch["key"]))
        return self.weight * batch["video"].float().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    data: VideoDataModule,
    steps: int,
    module: LightningModule | None = None,
    resume: Path | None = None,
    **options: Any,  # noqa: ANN401
) -> Any:  # noqa: ANN401
    module = module or Recorder()
    trainer = make_trainer(max_steps=steps, **options)
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return module


@pytest.mark.parametrize(
    ("share", "kinds"),
    [(0.0, [4] * 6), (0.25, [4, 1, 4, 4, 4, 1, 4, 4]), (0.5, [4, 1] * 6), (1.0, [1] * 5)],
)
def test_an_epoch_holds_every_clip_and_pictures_by_their_share(
    root: Path, share: float, kinds: list[int]
) -> None:
    loader = both(root, val_fraction=0.0, image_share=share).train_dataloader()
    found = list(loader)
    assert [batch["video"].shape[1] for batch in found] == kinds and len(loader) == len(kinds)
    assert all(batch["video"].shape[0] == 2 for batch in found)
    clips = [key for batch in found if batch["video"].shape[1] == 4 for key in batch["key"]]
    assert len({key.split(":")[0] for key in clips}) == (VIDEOS if share < 1 else 0)
    assert {int(x) for b in found if b["video"].shape[1] == 1 for x in b["label"]} <= {1}


def test_pictures_come_equally_often_over_the_epochs(root: Path) -> None:
    seen = fit(
        both(root, val_fraction=0.0), steps=2 * 6 * 5
    ).seen  # 12 pictures an epoch, 60 in all, ten to choose from
    counts = Counter(key for frames, keys in seen if frames == 1 for key in keys)
    assert len(counts) == PICTURES and {*counts.values()} == {6}


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("killed", [2, 3, 13, 24])  # 12 batches an epoch
def test_killed_training_resumes_with_the_batches_that_would_have_come(
    root: Path, tmp_path: Path, killed: int, workers: int
) -> None:
    data = {"val_fraction": 0.0, "workers": workers}
    whole = fit(both(root, **data), steps=27).seen
    saving = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=killed)
    first = fit(both(root, **data), killed, callbacks=[saving], enable_checkpointing=True)
    second = fit(both(root, **data), 27, resume=tmp_path / f"step={killed}.ckpt")
    assert first.seen + second.seen == whole


def test_processes_read_the_same_kind_at_a_time_and_nothing_twice(root: Path) -> None:
    ranks = []
    for rank in range(2):
        data = both(root, val_fraction=0.0)
        data.trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
            world_size=2, global_rank=rank, fit_loop=SimpleNamespace(restarting=False)
        )
        ranks.append([(b["video"].shape[1], b["key"]) for b in data.train_dataloader()])
    assert [frames for frames, _ in ranks[0]] == [frames for frames, _ in ranks[1]] == [4, 1] * 3
    clips = [key.split(":")[0] for rank in ranks for n, keys in rank if n == 4 for key in keys]
    assert len(clips) == len({*clips}) == VIDEOS


def test_batches_of_another_size_go_on_with_both(root: Path) -> None:
    data = {"val_fraction": 0.0, "image_share": 0.6}
    whole = Counter(key for batch in both(root, **data).train_dataloader() for key in batch["key"])
    seen, state = Counter(), None
    for size, batches in ((2, 8), (5, 3), (1, 99)):
        loader = both(root, batch_size=size, **data).train_dataloader()
        if state is not None:
            loader.load_state_dict(state)
        assert loader.batches_over() < len(loader)
        for _, batch in zip(range(batches), loader, strict=False):
            seen.update(batch["key"])
        state = loader.state_dict()
    assert seen == whole


def alone(root: Path) -> VideoDataModule:
    return make_data(None, images=str(root / "pictures"), cache=str(root / "index"))


def test_pictures_alone_are_split_and_labelled_as_videos_are(root: Path) -> None:
    data = alone(root)
    assert data.classes == ["b"] and data.root == root / "pictures"
    train = [key for batch in data.train_dataloader() for key in batch["key"]]
    val = [batch for batch in data.val_dataloader()]
    assert len({*train}) == 8 and [b["video"].shape for b in val] == [(2, 1, 3, 16, 16)]
    assert not {*train} & {*val[0]["key"]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"image_share": 1.5}, "--data.image_share must be at most 1, got 1.5"),
        ({"images": None, "image_share": 0.5}, "there are no pictures: give --data.images"),
        ({"images": "nowhere"}, "Folder nowhere does not exist: set --data.images"),
        ({"images": "{root}/videos"}, "Folder .*/videos holds no pictures: set --data.images"),
        ({"images": "{root}"}, "Pictures under .* have class c, which no video has: .* a, b"),
    ],
)
def test_bad_settings_are_named(root: Path, options: dict[str, Any], sentence: str) -> None:
    (root / "c").mkdir(exist_ok=True)
    Image.new("RGB", (16, 16)).save(root / "c" / "0.png")
    given = {k: v.format(root=root) if isinstance(v, str) else v for k, v in options.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        both(root, **given).setup()


def test_broken_pictures_are_left_out_and_any_frame_of_an_animation_is_one(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(root / "pictures", tmp_path / "pictures")
    (tmp_path / "pictures" / "b" / "text.png").write_text("no picture")
    moving = [Image.new("RGB", (16, 16), color=(50 * i, 0, 0)) for i in range(3)]
    moving[0].save(tmp_path / "pictures" / "moving.webp", save_all=True, append_images=moving[1:])
    data = both(root, images=str(tmp_path / "pictures"), max_broken=0.1)
    keys = [key for batch in data.predict_dataloader()[1] for key in batch["key"]]
    assert len(keys) == PICTURES + 3 and {f"moving.webp:{i}" for i in range(3)} <= {*keys}
    catalog = data.pictures.catalog
    place = catalog["paths"].index("moving.webp")
    assert catalog["labels"][place] == -1  # it stands in no class folder
    assert "text.png is broken or not a picture (unknown format)" in caplog.text


def encode(data: VideoDataModule, folder: Path, **options: Any) -> ARVAEModule:  # noqa: ANN401
    module = make_first_stage(**options)
    trainer = make_trainer(callbacks=[LatentWriter(str(folder))])
    trainer.predict(module, datamodule=data, return_predictions=False)
    return module


def test_a_latent_cache_holds_both_and_serves_them_to_stage_2(root: Path, tmp_path: Path) -> None:
    module = encode(both(root), tmp_path / "latents")
    data = make_data(Path("gone"), latents=str(tmp_path / "latents"), val_fraction=0.05)
    data.check_latents(fingerprint(module.arvae))
    found = list(data.train_dataloader())
    assert {tuple(batch["latents"].shape[1:]) for batch in found} == {(4, 2, 4), (1, 2, 4)}
    pictures = [batch for batch in found if batch["latents"].shape[1] == 1]
    real = {b["key"][0]: b["video"] for b in both(root, batch_size=1).predict_dataloader()[1]}
    for batch in pictures:
        assert batch["label"].tolist() == [1, 1]
        video = torch.cat([real[key] for key in batch["key"]])
        assert_close(module.arvae.encode(to_unit(video)), batch["latents"])
    assert make_data(Path("gone"), latents=str(tmp_path / "latents"), image_share=0.0)


def test_stage_1_trains_on_both(root: Path) -> None:
    fit(both(root), 4, make_first_stage())


@pytest.mark.parametrize("classes", [0, 1])
def test_first_frames_are_learnt_and_videos_follow_from_the_same_checkpoint(
    root: Path, tokenizer: Path, tmp_path: Path, classes: int
) -> None:
    def callbacks() -> list[Callback]:
        return [Stability(bins=2), Throughput(), EMA(decay=0.5), VideoLogger(frames=2)]

    given = {"arvae": str(tokenizer), "timesteps": Mixture([FoPP(), PlanRows()], [0.5, 0.5])}
    run = {"default_root_dir": tmp_path, "log_every_n_steps": 1}
    first = DiffusionModule(dit=make_dit(classes=classes), **given)
    trainer = make_trainer(max_steps=3, callbacks=callbacks(), **run)
    trainer.fit(first, datamodule=alone(root))
    trainer.save_checkpoint(checkpoint := tmp_path / "first.ckpt")
    if classes:
        second = DiffusionModule(start=str(checkpoint))
        fit(both(root), 4, second, callbacks=callbacks(), **run)
    else:
        second = DiffusionModule(dit=make_dit(), **given)
        fit(both(root), 9, second, resume=checkpoint, callbacks=callbacks(), **run)
    assert second.generator.classes == (["a", "b"] if classes else [])
    assert second.generator.generate([0], frames=3).shape == (1, 3, 3, 16, 16)
