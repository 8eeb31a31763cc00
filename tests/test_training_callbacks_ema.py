from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import Crash, Record, make_data, make_dit, make_loader, make_trainer, weights
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.testing import assert_close

from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Checkpoint directory|Found .* in eval mode|Detected call"
)


class Module(DiffusionModule):
    """Keeps the weights that it is validated with."""

    validated: list[dict[str, Tensor]]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.validated = [*getattr(self, "validated", []), of_dit(weights(self))]
        super().validation_step(batch, batch_idx)


def make_module(tokenizer: Path) -> Module:
    return Module(dit=make_dit(), arvae=str(tokenizer), optimizer=partial(SGD, lr=0.02))


def of_dit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name.startswith("dit.")}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_average_equals_a_naive_loop(tokenizer: Path, accumulate: int) -> None:
    module, ema = make_module(tokenizer), EMA(decay=0.25)
    average = {name: value.double() for name, value in of_dit(weights(module)).items()}
    record = Record(lambda trainer: of_dit(weights(module)))
    trainer = make_trainer(
        max_steps=5, callbacks=[record, ema], accumulate_grad_batches=accumulate
    )
    trainer.fit(module, make_loader(10))
    steps = record.seen[accumulate - 1 :: accumulate]
    assert ema.updates == len(steps) == 5
    for n, raw in enumerate(steps, start=1):
        decay = min(0.25, (1 + n) / (10 + n))
        average = {k: decay * average[k] + (1 - decay) * raw[k] for k in average}
    assert_close({k: v.double() for k, v in ema.shadow.items()}, average, rtol=1e-5, atol=1e-6)


def test_average_touches_only_the_network(tokenizer: Path, tmp_path: Path) -> None:
    module, ema = make_module(tokenizer), EMA(decay=0.5)
    trainer = make_trainer(max_steps=3, callbacks=[ema])
    trainer.fit(module, make_loader(3))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    raw, saved = weights(module), checkpoint["state_dict"]
    assert saved.keys() == raw.keys()
    assert_close({**raw, **of_dit(saved)}, saved, rtol=0, atol=0)
    assert_close(of_dit(saved), ema.shadow, rtol=0, atol=0)
    assert_close(checkpoint["ema"]["raw"], of_dit(raw), rtol=0, atol=0)
    assert all(not torch.equal(raw[name], value) for name, value in of_dit(saved).items())


def run(
    tokenizer: Path,
    skies: Path,
    folder: Path,
    callbacks: list[Callback],
    **options: Any,  # noqa: ANN401
) -> tuple[Module, EMA]:
    torch.manual_seed(0)
    module, ema = make_module(tokenizer), EMA(decay=0.9)
    module.optimizer = partial(AdamW, lr=1e-2)
    keep = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)
    resume = options.pop("ckpt_path", None)
    settings = {"max_steps": 8, "callbacks": [ema, keep, *callbacks], "val_check_interval": 3}
    trainer = make_trainer(
        enable_checkpointing=True, check_val_every_n_epoch=None, **settings, **options
    )
    trainer.fit(module, datamodule=make_data(skies), ckpt_path=resume)
    return module, ema


@pytest.mark.parametrize(("accumulate", "crash"), [(1, 4), (1, 7), (2, 8), (2, 5)])
def test_crashed_run_resumes_to_the_same_weights(
    tokenizer: Path, skies: Path, tmp_path: Path, accumulate: int, crash: int
) -> None:
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate}
    whole, average = run(tokenizer, skies, tmp_path / "whole", [], **options)
    with pytest.raises(RuntimeError, match="crash"):
        run(tokenizer, skies, tmp_path, [Crash(crash)], **options)
    last = str(tmp_path / "last.ckpt")
    resumed, averaged = run(tokenizer, skies, tmp_path, [], ckpt_path=last, **options)
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert_close(averaged.shadow, average.shadow, rtol=0, atol=0)
    assert averaged.updates == average.updates == 8


def test_averages_are_validated_and_raw_weights_trained(tokenizer: Path, tmp_path: Path) -> None:
    module, ema = make_module(tokenizer), EMA(decay=0.5)
    plain = make_module(tokenizer)
    torch.manual_seed(0)
    make_trainer(max_steps=4).fit(plain, make_loader(4))
    shadows = Record(lambda trainer: {k: v.clone() for k, v in ema.shadow.items()})
    keep = ModelCheckpoint(tmp_path, filename="{step}", monitor="val/loss", save_top_k=-1)
    trainer = make_trainer(
        max_steps=4,
        callbacks=[ema, shadows, keep],
        val_check_interval=2,
        enable_checkpointing=True,
    )
    torch.manual_seed(0)
    trainer.fit(module, make_loader(4), make_loader(1))
    assert_close(module.validated, [shadows.seen[1], shadows.seen[3]], rtol=0, atol=0)
    assert_close(weights(module), weights(plain), rtol=0, atol=0)
    for step, shadow in ((2, shadows.seen[1]), (4, shadows.seen[3])):
        saved = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)
        assert_close(of_dit(saved["state_dict"]), shadow, rtol=0, atol=0)


def test_failed_validation_leaves_the_raw_weights(tokenizer: Path) -> None:
    class Broken(Module):
        def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
            raise RuntimeError("broken")

    module = Broken(dit=make_dit(), arvae=str(tokenizer), optimizer=partial(SGD, lr=0.02))
    record = Record(lambda trainer: of_dit(weights(module)))
    with pytest.raises(RuntimeError, match="broken"):
        make_trainer(max_steps=1, callbacks=[EMA(), record]).fit(
            module, make_loader(1), make_loader(1)
        )
    assert_close(of_dit(weights(module)), record.seen[0], rtol=0, atol=0)


def test_saved_average_is_tested_as_it_is(tokenizer: Path, tmp_path: Path) -> None:
    module, ema = make_module(tokenizer), EMA(decay=0.5)
    trainer = make_trainer(max_steps=2, callbacks=[ema])
    trainer.fit(module, make_loader(2))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    other = make_module(tokenizer)
    make_trainer(callbacks=[EMA(decay=0.5)]).validate(
        other, make_loader(1), ckpt_path=tmp_path / "one.ckpt", verbose=False
    )
    assert_close(other.validated, [ema.shadow], rtol=0, atol=0)


def test_impossible_decay_is_named() -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\), got 1\.0"):
        EMA(decay=1.0)


def spoil(after: int) -> Record:
    """Put a NaN into the network after a step."""

    def look(trainer: Trainer) -> None:
        if trainer.global_step == after:
            trainer.lightning_module.dit.out.weight.data[0, 0] = torch.nan  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue, reportArgumentType]

    return Record(look)


SPOILT = r"averaged weights are not finite at step 2, dit\.out\.weight first: resume from an"


def test_averages_that_are_not_finite_are_not_saved(tokenizer: Path, tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=2, callbacks=[spoil(after=2), EMA()])
    trainer.fit(make_module(tokenizer), make_loader(2))
    with pytest.raises(ValueError, match=SPOILT):
        trainer.save_checkpoint(tmp_path / "one.ckpt")
    assert not list(tmp_path.iterdir())


def test_averages_that_are_not_finite_are_not_validated(tokenizer: Path) -> None:
    module = make_module(tokenizer)
    trainer = make_trainer(max_steps=2, callbacks=[spoil(after=2), EMA()], val_check_interval=2)
    with pytest.raises(ValueError, match=SPOILT):
        trainer.fit(module, make_loader(2), make_loader(1))
    assert not hasattr(module, "validated")


def test_run_does_not_go_on_from_averages_that_are_not_finite(
    tokenizer: Path, tmp_path: Path
) -> None:
    trainer = make_trainer(max_steps=2, callbacks=[EMA()])
    trainer.fit(make_module(tokenizer), make_loader(2))
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    checkpoint = torch.load(tmp_path / "one.ckpt", weights_only=True)
    checkpoint["state_dict"]["dit.out.weight"][1, 2] = torch.inf
    torch.save(checkpoint, tmp_path / "one.ckpt")
    longer = make_trainer(max_steps=3, callbacks=[EMA()])
    with pytest.raises(ValueError, match=SPOILT):
        longer.fit(make_module(tokenizer), make_loader(3), ckpt_path=tmp_path / "one.ckpt")


def test_network_that_is_not_there_is_named(tokenizer: Path) -> None:
    trainer = make_trainer(callbacks=[EMA(network="unet")])
    with pytest.raises(ValueError, match=r"no 'unet' to average: set EMA's network to arvae in"):
        trainer.fit(make_module(tokenizer), make_loader(1))
