from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from stages import (
    Crash,
    Record,
    make_data,
    make_dit,
    make_first_stage,
    make_loader,
    make_trainer,
    weights,
)
from torch.optim import AdamW
from torch.testing import assert_close

from ardiffusion.training.arvae import ARVAEModule
from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.callbacks.save_last import SaveLast, refuse_second_run
from ardiffusion.training.callbacks.stability import Stability
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Checkpoint directory|Found .*|Detected|Using Model"
)


def run(
    tokenizer: Path,
    skies: Path,
    folder: Path,
    every: int = 2,
    **options: Any,  # noqa: ANN401
) -> DiffusionModule:
    torch.manual_seed(0)
    module = DiffusionModule(
        dit=make_dit(), arvae=str(tokenizer), optimizer=partial(AdamW, lr=1e-2)
    )
    torch.manual_seed(0)
    keep = ModelCheckpoint(folder, every_n_train_steps=every, save_last=True, save_top_k=0)
    resume = options.pop("ckpt_path", None)
    callbacks = [keep, EMA(decay=0.5), SaveLast(), *options.pop("callbacks", [])]
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, **options)
    trainer.fit(module, datamodule=make_data(skies), ckpt_path=resume)
    return module


@pytest.mark.parametrize("every", [2, 100])
def test_run_of_any_length_can_be_made_longer(
    tokenizer: Path, skies: Path, tmp_path: Path, every: int
) -> None:
    whole = run(tokenizer, skies, tmp_path / "whole", every=every, max_steps=8)
    short = run(tokenizer, skies, tmp_path, every=every, max_steps=3)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 3
    assert_close(last["ema"]["raw"]["dit.out.weight"], short.state_dict()["dit.out.weight"])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    last_file = tmp_path / "last.ckpt"
    longer = run(tokenizer, skies, tmp_path, every=every, max_steps=8, ckpt_path=last_file)
    assert_close(weights(longer), weights(whole), rtol=0, atol=0)
    saved = [
        torch.load(p / "last.ckpt", weights_only=True) for p in (tmp_path, tmp_path / "whole")
    ]
    assert_close(saved[0]["state_dict"], saved[1]["state_dict"], rtol=0, atol=0)


@pytest.mark.parametrize("steps", [3, 5])
def test_what_is_saved_after_a_run_goes_on_as_well(
    tokenizer: Path, skies: Path, tmp_path: Path, steps: int
) -> None:
    whole = run(tokenizer, skies, tmp_path / "whole", max_steps=8)
    short, own = run(tokenizer, skies, tmp_path, max_steps=steps), tmp_path / "own.ckpt"
    short.trainer.validate(short, datamodule=make_data(skies), verbose=False)
    short.trainer.save_checkpoint(own)
    longer = run(tokenizer, skies, tmp_path, max_steps=8, ckpt_path=own)
    assert_close(weights(longer), weights(whole), rtol=0, atol=0)


def test_last_epoch_is_kept_to_its_end(tokenizer: Path, skies: Path, tmp_path: Path) -> None:
    run(tokenizer, skies, tmp_path, max_epochs=1, max_steps=-1)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5


def stop_after(step: int) -> Record:
    """Ask the trainer to stop after a step, as a timer does."""

    def look(trainer: Trainer) -> None:
        trainer.should_stop = trainer.should_stop or trainer.global_step == step

    return Record(look)


def stop_after_batches(count: int) -> Record:
    """Ask the trainer to stop after so many batches, and once only."""

    def look(trainer: Trainer) -> None:
        trainer.should_stop = trainer.should_stop or trainer.fit_loop.total_batch_idx + 1 == count

    return Record(look)


class Flat(Callback):
    """Logs a score that never gets better, with which early stopping ends the run."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log("flat", torch.tensor(1.0))


def test_timed_run_ends_with_a_fresh_checkpoint(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    short = run(tokenizer, skies, tmp_path, every=100, max_steps=8, max_time={"microseconds": 1})
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 1
    assert_close(last["ema"]["raw"]["dit.out.weight"], short.state_dict()["dit.out.weight"])


@pytest.mark.parametrize("every", [2, 100])
def test_stopped_run_can_be_made_longer(
    tokenizer: Path, skies: Path, tmp_path: Path, every: int
) -> None:
    whole = run(tokenizer, skies, tmp_path / "whole", every=every, max_steps=8)
    run(tokenizer, skies, tmp_path, every=every, max_steps=8, callbacks=[stop_after(3)])
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 3
    longer = run(tokenizer, skies, tmp_path, every=every, max_steps=8, ckpt_path=last)
    assert_close(weights(longer), weights(whole), rtol=0, atol=0)


def test_run_that_early_stopping_ends_is_kept(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    stop = EarlyStopping("flat", patience=1, check_on_train_epoch_end=False)
    options = {"val_check_interval": 3, "check_val_every_n_epoch": None, "max_steps": 20}
    short = run(tokenizer, skies, tmp_path, every=100, callbacks=[Flat(), stop], **options)
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == 6 == short.trainer.global_step
    options["max_steps"] = 8
    whole = run(tokenizer, skies, tmp_path / "whole", every=100, callbacks=[Flat()], **options)
    longer = run(
        tokenizer,
        skies,
        tmp_path,
        every=100,
        callbacks=[Flat()],
        ckpt_path=tmp_path / "last.ckpt",
        **options,
    )
    assert_close(weights(longer), weights(whole), rtol=0, atol=0)


# The epoch has 5 batches, of which the last one is a step by itself.
@pytest.mark.parametrize(("batches", "step"), [(3, 2), (4, 2), (5, 3), (6, 4)])
def test_a_stop_waits_for_the_gradients_gathered_so_far(
    tokenizer: Path, skies: Path, tmp_path: Path, batches: int, step: int
) -> None:
    given: dict[str, Any] = {"every": 100, "max_steps": 6, "accumulate_grad_batches": 2}
    whole = run(tokenizer, skies, tmp_path / "whole", **given)
    run(tokenizer, skies, tmp_path, callbacks=[stop_after_batches(batches)], **given)
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    longer = run(tokenizer, skies, tmp_path, ckpt_path=last, **given)
    assert_close(weights(longer), weights(whole), rtol=0, atol=0)


def first_stage(skies: Path, folder: Path, **options: Any) -> ARVAEModule:  # noqa: ANN401
    module = make_first_stage(accumulate=2)
    torch.manual_seed(0)
    keep = ModelCheckpoint(folder, every_n_train_steps=100, save_last=True, save_top_k=0)
    callbacks = [keep, SaveLast(), *options.pop("callbacks", [])]
    resume = options.pop("ckpt_path", None)
    trainer = make_trainer(callbacks=callbacks, enable_checkpointing=True, max_steps=8, **options)
    trainer.fit(module, datamodule=make_data(skies), ckpt_path=resume)
    return module


@pytest.mark.parametrize(("batches", "step"), [(3, 4), (4, 4), (5, 6)])
def test_a_stop_of_stage_1_waits_too(skies: Path, tmp_path: Path, batches: int, step: int) -> None:
    whole = first_stage(skies, tmp_path / "whole")
    first_stage(skies, tmp_path, callbacks=[stop_after_batches(batches)])
    last = tmp_path / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == step
    longer = first_stage(skies, tmp_path, ckpt_path=last)
    assert_close(weights(longer), weights(whole), rtol=0, atol=0)


def test_a_stop_put_off_in_one_run_does_not_end_the_next(tmp_path: Path) -> None:
    finish, module = SaveLast(), make_first_stage(accumulate=2)
    stopped = make_trainer(callbacks=[finish, stop_after_batches(1)], max_steps=1)
    stopped.fit(module, make_loader(4))
    make_trainer(callbacks=[finish], max_steps=4).fit(module, make_loader(4))
    assert module.trainer.global_step == 4


def test_stop_that_is_put_off_saves_nothing_yet(
    tokenizer: Path, skies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(
        SaveLast, "save_last", lambda _, trainer, __: saved.append(trainer.global_step)
    )
    run(tokenizer, skies, tmp_path, every=100, max_steps=8, min_steps=5, callbacks=[stop_after(2)])
    assert saved == [5]


def test_clips_of_a_step_are_told_and_when_they_change(
    tokenizer: Path, skies: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    run(tokenizer, skies, tmp_path, max_steps=1, accumulate_grad_batches=3)
    assert "A step sees 6 clips: 2 a batch x 1 processes x 3 batches gathered." in caplog.text
    sentence = r"saw 6 clips before, and sees 2 now: .* x --trainer\.accumulate.* must be 6\."
    with pytest.warns(UserWarning, match=sentence):
        run(tokenizer, skies, tmp_path, max_steps=2, ckpt_path=tmp_path / "last.ckpt")


LENGTHS = {"epochs": {"max_epochs": 4, "max_steps": -1}, "steps": {"max_steps": 20}}


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("stops", [(5,), (5, 10), (5, 10, 15), (5, 7), (3, 10, 12)])
def test_run_stopped_at_ends_of_epochs_is_as_long_as_asked_for(
    tokenizer: Path, skies: Path, tmp_path: Path, length: str, stops: tuple[int, ...]
) -> None:
    options: dict[str, Any] = {"every": 100, **LENGTHS[length]}
    whole = run(tokenizer, skies, tmp_path / "whole", **options)
    last = None
    for step in stops:
        callbacks = [stop_after(step)]
        run(tokenizer, skies, tmp_path, ckpt_path=last, callbacks=callbacks, **options)
        last = tmp_path / "last.ckpt"
        progress = torch.load(last, weights_only=True)["loops"]["fit_loop"]["epoch_progress"]
        assert progress["current"]["ready"] == progress["total"]["ready"] == -(-step // 5)
    resumed = run(tokenizer, skies, tmp_path, ckpt_path=last, **options)
    assert resumed.trainer.global_step == 20 == whole.trainer.global_step
    assert resumed.trainer.current_epoch == 4
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_lightning_still_forgets_the_epoch_after_such_a_stop(skies: Path, tmp_path: Path) -> None:
    """Once this fails, `SaveLast.on_train_start` can go."""
    last = None
    for stop in (5, 10, None):
        keep = ModelCheckpoint(tmp_path, every_n_train_steps=5, save_last=True, save_top_k=0)
        callbacks = [keep] if stop is None else [keep, stop_after(stop)]
        given: dict[str, Any] = {"max_epochs": 3, "max_steps": -1, "callbacks": callbacks}
        trainer = make_trainer(enable_checkpointing=True, **given)
        trainer.fit(make_first_stage(), datamodule=make_data(skies), ckpt_path=last)
        last = tmp_path / "last.ckpt"
    assert trainer.global_step == 20  # instead of 15


def logged(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:  # noqa: ANN401
    """Make a trainer whose run has a folder of its own."""
    logger = CSVLogger(folder.parent, name=folder.name, version="")
    keep = ModelCheckpoint(filename="{step}", every_n_train_steps=1)
    kept = [SaveLast(), *([keep] if options.get("enable_checkpointing") else []), *callbacks]
    return make_trainer(logger=logger, callbacks=kept, **options)


def test_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    first = logged(tmp_path / "run", enable_checkpointing=True)
    refuse_second_run(first, ckpt_path=None)
    first.fit(make_first_stage(), make_loader(1))
    refused = r"run holds a run already: go on with it by --ckpt_path .*run/checkpoints/step=1\.c"
    for keeps in (True, False):
        second = logged(tmp_path / "run", enable_checkpointing=keeps)
        with pytest.raises(ValueError, match=refused):
            refuse_second_run(second, ckpt_path=None)
    refuse_second_run(second, ckpt_path=str(tmp_path / "run/checkpoints/step=1.ckpt"))
    with pytest.raises(ValueError, match=refused):
        refuse_second_run(second, ckpt_path="last")
    refuse_second_run(logged(tmp_path / "other"), ckpt_path=None)
    refuse_second_run(logged(tmp_path / "run", fast_dev_run=True), ckpt_path=None)
    without_log = make_trainer(default_root_dir=tmp_path / "run")
    with pytest.raises(ValueError, match=f"{refused}.* elsewhere by --trainer.default_root_dir"):
        refuse_second_run(without_log, ckpt_path=None)


def test_run_without_checkpoints_is_not_written_over_either(tmp_path: Path) -> None:
    first = logged(tmp_path / "run", Stability())
    first.fit(make_first_stage(), make_loader(1))
    second = logged(tmp_path / "run", Stability())
    with pytest.raises(ValueError, match=r"remove .*run/stability\.jsonl, its log, or keep this"):
        refuse_second_run(second, ckpt_path=None)
    refuse_second_run(second, ckpt_path="last")
    (tmp_path / "run/stability.jsonl").write_text("")
    refuse_second_run(second, ckpt_path=None)


def test_own_folder_of_checkpoints_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/last.ckpt").write_text("weights")
    trainer = logged(
        tmp_path / "run", ModelCheckpoint(tmp_path / "kept"), enable_checkpointing=True
    )
    with pytest.raises(
        ValueError, match=r"go on with it by --ckpt_path .*kept/last\.ckpt, or keep"
    ):
        refuse_second_run(trainer, ckpt_path=None)


def test_folder_of_a_run_has_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def try_another(_: Trainer) -> str:
        with pytest.raises(OSError, match=r"Another process is writing into .*run: wait") as error:
            logged(folder).fit(make_first_stage(), make_loader(1))
        without_log = make_trainer(default_root_dir=folder, callbacks=[SaveLast()])
        with pytest.raises(OSError, match="Another process is writing"):
            without_log.fit(make_first_stage(), make_loader(1))
        return str(error.value)

    seen = Record(try_another)
    logged(folder, seen).fit(make_first_stage(), make_loader(1))
    assert len(seen.seen) == 1
    with pytest.raises(RuntimeError, match="crash"):
        logged(folder, Crash(0)).fit(make_first_stage(), make_loader(1))
    logged(folder).fit(make_first_stage(), make_loader(1))
    make_trainer(default_root_dir=folder, callbacks=[SaveLast()]).fit(
        make_first_stage(), make_loader(1)
    )
