from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import Record, make_data, make_dit, make_trainer, weights
from torch import Tensor
from torch.optim import SGD
from torch.testing import assert_close

from ardiffusion.generator import Generator
from ardiffusion.tools.export import export
from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.weights.profiles import Profile, average, combine, power

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Checkpoint directory|Found .* in eval mode|Detected call"
)
LENGTHS = [0.1, 0.25]


def naive(steps: int, length: float) -> Tensor:
    """Return how much every step counts in an average, from its update, step by step."""
    shares = torch.zeros(steps, dtype=torch.float64)
    for step in range(1, steps + 1):
        shares *= (1 - 1 / step) ** (power(length) + 1)
        shares[step - 1] += 1 - (1 - 1 / step) ** (power(length) + 1)
    return shares


@pytest.mark.parametrize("length", [0.002, 0.05, 0.1, 0.28])
def test_a_length_is_the_standard_deviation_of_its_profile(length: float) -> None:
    shares, steps = naive(20_000, length), torch.arange(20_000).double()
    assert_close(shares.sum(), torch.tensor(1.0).double())
    mean = (shares * steps).sum()
    deviation = (shares * (steps - mean).square()).sum().sqrt() / len(steps)
    assert deviation == pytest.approx(length, rel=2e-3)
    for wrong in (0.0, 0.29, float("nan")):
        with pytest.raises(ValueError, match=r"0\.001 to 0\.288 of the steps"):
            power(wrong)


def test_products_of_profiles_are_their_sums() -> None:
    one, other = naive(3000, 0.1), torch.cat([naive(2000, 0.05), torch.zeros(1000)])
    found = Profile(3000, power(0.1)).product(Profile(2000, power(0.05)))
    assert found == pytest.approx(float(one @ other), rel=3e-3)


@pytest.mark.parametrize("length", [0.06, 0.08, 0.2])
def test_averages_of_any_length_come_near_to_naive_ones(length: float) -> None:
    walk = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0)).double().cumsum(0)
    ends = range(500, 4001, 500)
    stored = {
        Profile(t, power(own)): naive(t, own) @ walk[:t] for t in ends for own in (0.05, 0.1)
    }
    shares = combine(list(stored), Profile(4000, power(length)))
    made = sum(share * x for share, x in zip(shares, stored.values(), strict=True))
    wanted = naive(4000, length) @ walk
    error = (made - wanted).norm() / (walk[-1] - wanted).norm()
    assert error < 0.05
    kept = combine(list(stored), Profile(3000, power(0.1)))
    assert_close(
        kept, [float(each == Profile(3000, power(0.1))) for each in stored], atol=1e-6, rtol=0
    )


def train(
    tokenizer: Path,
    skies: Path,
    folder: Path,
    lengths: list[float],
    **options: Any,  # noqa: ANN401
) -> tuple[list[dict[str, Tensor]], EMA]:
    """Train four steps; return the weights after each, and the callback."""
    torch.manual_seed(0)
    dit, optimizer = make_dit(classes=4), partial(SGD, lr=0.02)
    module = DiffusionModule(dit, arvae=str(tokenizer), optimizer=optimizer)
    ema = EMA(lengths=lengths)
    record = Record(lambda trainer: {f"dit.{n}": x.double() for n, x in weights(dit).items()})
    keep = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, save_last=True)
    trainer = make_trainer(max_steps=4, callbacks=[ema, record, keep], enable_checkpointing=True)
    trainer.fit(module, datamodule=make_data(skies), **options)
    return record.seen, ema


def test_stored_averages_equal_naive_ones_and_go_on_where_they_were(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    steps, ema = train(tokenizer, skies, tmp_path, LENGTHS)
    for length in LENGTHS:
        for name, found in ema.profiles[length].items():
            wanted = sum(share * w[name] for share, w in zip(naive(4, length), steps, strict=True))
            assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    half = tmp_path / "step=2.ckpt"
    _, resumed = train(tokenizer, skies, tmp_path / "again", LENGTHS, ckpt_path=half)
    assert_close(resumed.profiles, ema.profiles, rtol=0, atol=0)
    with pytest.raises(
        ValueError, match=r"averages of the lengths \[0\.1, 0\.25\], EMA was given"
    ):
        train(tokenizer, skies, tmp_path / "other", [0.1], ckpt_path=half)


def test_an_average_of_a_chosen_length_is_exported(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    _, ema = train(tokenizer, skies, tmp_path, LENGTHS)
    last = tmp_path / "last.ckpt"
    for length in (0.25, 0.15):
        export(str(last), str(tmp_path / "made"), ema_length=length)
        made = weights(Generator.from_pretrained(tmp_path / "made"))
        expected = {name: x.float() for name, x in average(last, length).items()}
        assert_close({n: x for n, x in made.items() if n.startswith("dit.")}, expected)
        assert (length == 0.25) == torch.allclose(
            made["dit.out.bias"], ema.profiles[0.25]["dit.out.bias"]
        )
    train(tokenizer, skies, tmp_path / "plain", [])
    with pytest.raises(ValueError, match="holds no averages to make others of"):
        export(str(tmp_path / "plain/last.ckpt"), str(tmp_path / "no"), ema_length=0.1)
