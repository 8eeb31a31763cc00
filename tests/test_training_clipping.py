from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import MixedPrecision
from stages import make_dit, make_first_stage, make_loader, make_trainer, weights
from torch import Tensor
from torch.optim import SGD, AdamW
from torch.testing import assert_close

from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Detected call|Found .*|Mismatch dtype"
)


def fit(tokenizer: Path, optimizer: Any, **options: Any) -> tuple[dict[str, Tensor], EMA]:  # noqa: ANN401
    torch.manual_seed(0)
    ema = EMA(decay=0.5)
    module = DiffusionModule(dit=make_dit(), arvae=str(tokenizer), optimizer=optimizer)
    settings = {"max_steps": 3, "gradient_clip_val": 0.01, "callbacks": [ema], **options}
    make_trainer(**settings).fit(module, make_loader(3))
    return weights(module.dit), ema


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_fused_adamw_trains_as_the_plain_one(tokenizer: Path, precision: str) -> None:
    start = weights(make_dit())
    runs = [
        fit(tokenizer, partial(AdamW, lr=1e-2, fused=fused), precision=precision)
        for fused in (False, True)
    ]
    assert_close(runs[1][0], runs[0][0], rtol=1e-5, atol=1e-6)
    assert_close(runs[1][1].shadow, runs[0][1].shadow, rtol=1e-5, atol=1e-6)
    assert (runs[1][0]["out.weight"] - start["out.weight"]).abs().mean() > 1e-2


@pytest.mark.parametrize(("accumulate", "precision"), [(1, "32-true"), (2, "bf16-mixed")])
def test_first_stage_takes_fused_adamw(accumulate: int, precision: str) -> None:
    trained = []
    for fused in (False, True):
        optimizer = partial(AdamW, lr=1e-2, fused=fused)
        module = make_first_stage(
            adversarial=1.0,
            grad_clip=0.01,
            accumulate=accumulate,
            optimizer=optimizer,
            discriminator_optimizer=optimizer,
        )
        make_trainer(max_steps=3, precision=precision).fit(module, make_loader(3))
        trained.append(weights(module))
    assert_close(trained[1], trained[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_step_is_no_larger_than_the_clipped_gradient(
    tokenizer: Path, precision: str, algorithm: str
) -> None:
    start = torch.cat([w.flatten() for w in weights(make_dit()).values()])
    options = {"gradient_clip_val": 0.01, "gradient_clip_algorithm": algorithm, "max_steps": 1}
    trained, _ = fit(tokenizer, partial(SGD, lr=1.0), precision=precision, **options)
    moved = torch.cat([w.flatten() for w in trained.values()]) - start
    limits = {"norm": moved.norm(), "value": moved.abs().max()}
    assert float(limits[algorithm]) == pytest.approx(0.01, rel=1e-3)


def test_scaled_gradients_are_not_clipped_for_a_fused_optimiser(tokenizer: Path) -> None:
    scaling = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))  # pyright: ignore[reportPrivateImportUsage]
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        fit(tokenizer, partial(AdamW, fused=True), plugins=scaling)
