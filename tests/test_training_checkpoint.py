from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import (
    Crash,
    make_arvae,
    make_batches,
    make_data,
    make_first_stage,
    make_loader,
    make_trainer,
    weights,
)
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR
from torch.testing import assert_close

from ardiffusion.training.arvae import ARVAEModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|Using ModelCheckpoint with manual|Checkpoint directory|Detected call|You def"
)


def test_stage_1b_starts_where_stage_1a_ended(tmp_path: Path) -> None:
    first = make_first_stage()
    trainer = make_trainer(max_steps=1)
    trainer.fit(first, make_loader(1))
    trainer.save_checkpoint(tmp_path / "1a.ckpt")
    temporal = make_arvae(seed=5, temporal=True)
    second = make_first_stage(arvae=temporal, start=str(tmp_path / "1a.ckpt"), temporal_only=True)
    make_trainer().validate(second, make_loader(1, frames=5), verbose=False)
    video = make_batches(1, frames=5)[0]["video"].float() / 255
    with torch.no_grad():
        one, other = (m.arvae.eval()(video) for m in (first, second))
    assert_close(one, other, rtol=0, atol=0)
    wider = make_first_stage(arvae=make_arvae(width=32), start=str(tmp_path / "1a.ckpt"))
    with pytest.raises(ValueError, match=r"weights of .*1a\.ckpt do not fit the AR-VAE"):
        make_trainer().validate(wider, make_loader(1))


def test_checkpoint_of_other_sizes_is_refused(tmp_path: Path) -> None:
    trainer = make_trainer(max_steps=1)
    trainer.fit(make_first_stage(), make_loader(1))
    trainer.save_checkpoint(tmp_path / "small.ckpt")
    wider = make_first_stage(arvae=make_arvae(width=32))
    with pytest.raises(ValueError, match="checkpoint's arvae has width 16, the configured one 32"):
        make_trainer().fit(wider, make_loader(1), ckpt_path=tmp_path / "small.ckpt")


def run(skies: Path, folder: Path, callbacks: list[Callback], **options: Any) -> ARVAEModule:  # noqa: ANN401
    torch.manual_seed(0)
    adam = partial(AdamW, lr=1e-2)
    module = make_first_stage(
        adversarial=1.0,
        adversarial_start=2,
        sampled=True,
        accumulate=2,
        grad_clip=1.0,
        optimizer=adam,
        discriminator_optimizer=adam,
        lr_scheduler=partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step)),
    )
    torch.manual_seed(0)
    keep = ModelCheckpoint(folder, every_n_train_steps=2, save_last=True, save_top_k=0)
    trainer = make_trainer(max_steps=8, callbacks=[keep, *callbacks], enable_checkpointing=True)
    trainer.fit(module, datamodule=make_data(skies), **options)
    return module


@pytest.mark.parametrize("crash", [3, 7])
def test_crashed_run_resumes_to_the_same_weights(skies: Path, tmp_path: Path, crash: int) -> None:
    whole = run(skies, tmp_path / "whole", [])
    with pytest.raises(RuntimeError, match="crash"):
        run(skies, tmp_path, [Crash(crash)])
    resumed = run(skies, tmp_path, [], ckpt_path=tmp_path / "last.ckpt")
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
