from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import make_data, make_dit, make_trainer, weights
from torch.optim import AdamW
from torch.testing import assert_close

from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.callbacks.finish import SaveFinish
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Checkpoint directory|Found .* in eval mode|Detected call"
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
    trainer = make_trainer(
        callbacks=[keep, EMA(decay=0.5), SaveFinish()], enable_checkpointing=True, **options
    )
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


def test_last_epoch_is_kept_to_its_end(tokenizer: Path, skies: Path, tmp_path: Path) -> None:
    run(tokenizer, skies, tmp_path, max_epochs=1, max_steps=-1)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 5
