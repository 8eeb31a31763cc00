from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import make_data, make_dit, make_trainer, weights
from torch.optim import AdamW
from torch.testing import assert_close

from ardiffusion.diffusion.history import OwnHistory
from ardiffusion.diffusion.weighting import LearnedVariance, Uniform, Weighting
from ardiffusion.generator import Generator
from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.callbacks.stability import Stability
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.memory import Sharded

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Checkpoint directory|Found .* in eval mode|Detected call"
)


def train(
    tokenizer: Path,
    skies: Path,
    weighting: Weighting,
    steps: int,
    folder: Path,
    start: Path | None = None,
    **options: Any,  # noqa: ANN401
) -> DiffusionModule:
    """Train so many steps, and leave a checkpoint of each."""
    torch.manual_seed(0)
    given = {"arvae": str(tokenizer), "weighting": weighting, **options}
    module = DiffusionModule(make_dit(classes=4), optimizer=partial(AdamW, lr=1e-2), **given)
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = make_trainer(
        max_steps=steps,
        callbacks=[EMA(decay=0.5), Stability(), keep],
        enable_checkpointing=True,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=make_data(skies), ckpt_path=start)
    return module


def test_variances_are_learned_beside_the_network(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    weighting, path = LearnedVariance(cosines=4), tmp_path / "step=3.ckpt"
    module = train(tokenizer, skies, weighting, steps=3, folder=tmp_path)
    assert (weighting.coefficients != 0).all()
    saved = torch.load(path, weights_only=True)
    assert_close(saved["weighting"], dict(weighting.state_dict()), rtol=0, atol=0)
    assert saved["state_dict"].keys() == saved["ema"]["raw"].keys() | {
        name for name in module.state_dict() if name.startswith("arvae.")
    }
    assert Generator.from_pretrained(path).state_dict().keys() == saved["state_dict"].keys()


def test_what_is_logged_does_not_depend_on_the_weights(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    logged = []
    for weighting in (Uniform(), LearnedVariance()):
        weighting.load_state_dict({n: x + 1 for n, x in weighting.state_dict().items()})
        module = train(tokenizer, skies, weighting, steps=1, folder=tmp_path / f"{weighting}")
        logged.append(module.trainer.callback_metrics)
    assert_close(logged[0]["train/loss"], logged[1]["train/loss"], rtol=0, atol=0)
    assert logged[0]["loss"] != logged[1]["loss"]


@pytest.mark.parametrize("history", [None, OwnHistory(share=0.5)])
def test_a_resumed_run_learns_the_same_variances(
    history: OwnHistory | None, tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    run = partial(train, tokenizer, skies, history=history)
    whole = run(LearnedVariance(), steps=4, folder=tmp_path)
    start = tmp_path / "step=2.ckpt"
    resumed = run(LearnedVariance(), steps=4, folder=tmp_path / "again", start=start)
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)
    assert_close(weights(resumed.weighting), weights(whole.weighting), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Uniform(), LearnedVariance()),
        (LearnedVariance(), Uniform()),
        (LearnedVariance(), LearnedVariance(cosines=3)),
    ],
)
def test_resuming_with_a_weighting_that_learns_otherwise_is_refused(
    before: Weighting, after: Weighting, tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    train(tokenizer, skies, before, steps=1, folder=tmp_path)
    with pytest.raises(ValueError, match=r"trained with another --model\.weighting"):
        train(tokenizer, skies, after, 2, folder=tmp_path, start=tmp_path / "step=1.ckpt")


def test_a_network_in_shares_takes_no_weights_that_learn(tokenizer: Path) -> None:
    strategy = Sharded()
    strategy._lightning_module = DiffusionModule(
        make_dit(), arvae=str(tokenizer), weighting=LearnedVariance()
    )
    with pytest.raises(ValueError, match="leave out LearnedVariance"):
        strategy.model_to_device()
