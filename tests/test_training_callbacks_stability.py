import json
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file
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
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import SGD, AdamW
from torch.testing import assert_close
from torch.utils.data import DataLoader

from ardiffusion.training.callbacks.ema import EMA
from ardiffusion.training.callbacks.save_last import SaveLast
from ardiffusion.training.callbacks.stability import Stability, Step, batch_sums
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|You defined a|Checkpoint directory|Found .*|Detected|Mismatch|.*fork"
)
BAD = 99


class Fixed(DiffusionModule):
    """Draws timesteps and noise from the names of the clips, so that batches may be left out."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        x = self.latents(batch)
        generator = torch.Generator().manual_seed(zlib.crc32(batch["key"][0].encode()))
        noise = torch.randn(x.shape, generator=generator)
        t = self.timesteps(*x.shape[:2], generator=generator)
        losses = self.loss(x, label=batch["label"], t=t, noise=noise, null=None, seen=x)
        return {"loss": losses.mean(), "losses": losses.detach(), "t": t}


def make_batch(index: int) -> dict[str, Any]:
    """Make a batch of latents that depends on a number; some have one that is not finite."""
    generator = torch.Generator().manual_seed(index)
    latents = torch.randn(2, 3, 2, 4, generator=generator)
    if index >= BAD:
        latents[1, 2, 0, 1] = torch.nan
    return {"latents": latents, "label": torch.zeros(2).long(), "key": [f"{index}.mp4:0"] * 2}


def fit(
    tokenizer: Path,
    folder: Path,
    batches: Sequence[int],
    kind: type[DiffusionModule] = Fixed,
    **options: Any,  # noqa: ANN401
) -> tuple[Trainer, DiffusionModule, EMA]:
    module = kind(
        dit=make_dit(),
        arvae=str(tokenizer),
        optimizer=options.pop("optimizer", partial(AdamW, lr=1e-2, fused=True)),
    )
    ema = EMA(decay=0.5)
    stability = Stability(window=4, bins=options.pop("bins", 5), **options.pop("stability", {}))
    guards = [stability] if options.pop("guarded", True) else []
    callbacks = [ema, *guards, *options.pop("callbacks", [])]
    trainer = make_trainer(
        max_epochs=1, max_steps=-1, default_root_dir=folder, callbacks=callbacks, **options
    )
    loader: Any = DataLoader([make_batch(i) for i in batches], batch_size=None)  # pyright: ignore[reportArgumentType]
    trainer.fit(module, loader)
    return trainer, module, ema


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "stability.jsonl").read_text().splitlines()]


RUNS = {
    "fused": {"precision": "bf16-mixed", "gradient_clip_val": 0.5},
    "plain": {"optimizer": partial(AdamW, lr=1e-2, fused=False)},
    "momentum": {"optimizer": partial(SGD, lr=0.1, momentum=0.9), "gradient_clip_val": 0.5},
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
@pytest.mark.parametrize("gathered", [1, 2])
def test_bad_batch_leaves_everything_as_if_it_was_not_there(
    tokenizer: Path, tmp_path: Path, options: dict[str, Any], gathered: int
) -> None:
    runs = []
    for batches in ([1, 2, 5, BAD, 3, 4], [1, 2, 3, 4]):
        steps = [i for i in batches if gathered == 2 or i != 5]
        options = {"accumulate_grad_batches": gathered, **options}
        runs.append(fit(tokenizer, tmp_path, steps, **options))
        skipped = [line["step"] for line in lines(tmp_path) if line["skipped"]]
        assert skipped == ([] if len(runs) == 2 else [2] if gathered == 2 else [3])
    (trainer, module, ema), (other_trainer, other_module, other_ema) = runs
    assert_close(weights(module), weights(other_module), rtol=0, atol=0)
    assert_close(ema.shadow, other_ema.shadow, rtol=0, atol=0)
    assert ema.updates == other_ema.updates == 4 / gathered
    states = [t.optimizers[0].state_dict() for t in (trainer, other_trainer)]
    assert states[0]["state"] and states[0]["param_groups"] == states[1]["param_groups"]
    assert_close(states[0]["state"], states[1]["state"], rtol=0, atol=0)


@pytest.mark.parametrize("fused", [True, False])
def test_scaled_gradients_are_left_to_their_scaler(
    tokenizer: Path, tmp_path: Path, fused: bool
) -> None:
    runs = []
    for guarded in (True, False):
        scaler = GradScaler("cpu", init_scale=2.0**40, backoff_factor=2.0**-30)
        given: dict[str, Any] = {"guarded": guarded, "stability": {"patience": 1}}
        given["plugins"] = [MixedPrecision("16-mixed", device="cpu", scaler=scaler)]
        given["optimizer"] = partial(AdamW, lr=1e-2, fused=fused)
        _, module, _ = fit(tokenizer, tmp_path, range(4), **given)
        assert scaler.get_scale() == 2.0**10  # the first step overflowed
        runs.append(weights(module))
    assert_close(runs[0], runs[1], rtol=0, atol=0)
    assert not torch.equal(runs[0]["dit.out.weight"], make_dit().out.weight)
    found = lines(tmp_path)
    assert [line["skipped"] for line in found] == [False] * 4
    assert [line["grad_norm"] for line in found] == [None] * 4
    assert all(line["loss"] > 0 for line in found)


def test_bad_batch_is_kept(tokenizer: Path, tmp_path: Path) -> None:
    fit(tokenizer, tmp_path, [1, 2, 3, BAD, 4, 5], accumulate_grad_batches=2)
    folder = tmp_path / "nonfinite"
    assert {p.name for p in folder.iterdir()} == {"step_000002.json", "step_000002.safetensors"}
    note = json.loads((folder / "step_000002.json").read_text())
    tensors = load_file(folder / "step_000002.safetensors")
    assert (note["step"], note["key"]) == (2, [f"{BAD}.mp4:0"] * 2)
    assert note["t"] == tensors["t"].tolist()
    assert_close(tensors["latents"], make_batch(BAD)["latents"], equal_nan=True)
    assert tensors["losses"].shape == (2, 3) and not tensors["losses"].isfinite().all()


class Steep(Fixed):
    """Has finite losses whose gradients are not, in one batch."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        found = super().training_step(batch, batch_idx)
        if batch["key"][0].startswith("7."):
            zero = (found["loss"] * 0).sqrt()  # its derivative is 1 / 0 times 0
            return {**found, "loss": found["loss"] + zero}
        return found


def test_finite_loss_with_an_infinite_gradient_is_skipped(tokenizer: Path, tmp_path: Path) -> None:
    _, module, _ = fit(tokenizer, tmp_path, [1, 7, 2], kind=Steep)
    _, other, _ = fit(tokenizer, tmp_path / "other", [1, 2], kind=Steep)
    assert_close(weights(module), weights(other), rtol=0, atol=0)
    second = lines(tmp_path)[1]
    assert second["skipped"] and second["loss"] > 0 and second["grad_norm"] is None
    assert (tmp_path / "nonfinite/step_000002.safetensors").exists()


def test_run_stops_after_too_many_skipped_steps(tokenizer: Path, tmp_path: Path) -> None:
    seen = Record(lambda trainer: weights(trainer.lightning_module))
    given = {"callbacks": [seen], "stability": {"patience": 3, "keep": 2}}
    bad = [BAD + i for i in range(4)]
    with pytest.raises(ValueError, match=r"3 steps in a row, up to step 6, had a loss.*nonfinite"):
        fit(tokenizer, tmp_path, [1, bad[0], 2, *bad[1:], 3], **given)
    for state in seen.seen[3:]:
        assert_close(state, seen.seen[2], rtol=0, atol=0)
    kept = sorted(p.stem for p in (tmp_path / "nonfinite").glob("*.safetensors"))
    assert kept == ["step_000002", "step_000004", "step_000005"]
    assert [line["skipped"] for line in lines(tmp_path)] == [False, True, False, True, True, True]


def test_batches_that_are_not_kept_are_not_pointed_to(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not finite: lower the learning rate\.$"):
        fit(tokenizer, tmp_path, [1, BAD, BAD], stability={"patience": 2, "keep": 0})
    assert not (tmp_path / "nonfinite").exists()


class Listener(Fixed):
    """Keeps what it returned."""

    heard: list[dict[str, Tensor]]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        found = super().training_step(batch, batch_idx)
        self.heard = [*getattr(self, "heard", []), found]
        return found


def naive_means(heard: list[dict[str, Tensor]], bins: int) -> tuple[float, list[Any], list[float]]:
    """Average the losses of a step in double precision, one after the other."""
    by_bin, by_frame, everything = [[] for _ in range(bins)], [[] for _ in range(3)], []
    for found in heard:
        for b in range(2):
            for f in range(3):
                loss, t = float(found["losses"][b, f]), int(found["t"][b, f])
                by_bin[int(t / 1000 * bins)].append(loss)
                by_frame[f].append(loss)
                everything.append(loss)
    average = [sum(x) / len(x) if x else None for x in (*by_bin, *by_frame, everything)]
    return average[-1], average[:bins], average[bins:-1]  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(("bins", "gathered"), [(5, 1), (3, 2), (1000, 2)])
def test_losses_by_timestep_and_frame_equal_naive_sums(
    tokenizer: Path, tmp_path: Path, bins: int, gathered: int
) -> None:
    given = {"kind": Listener, "bins": bins, "accumulate_grad_batches": gathered}
    _, module, _ = fit(tokenizer, tmp_path, range(8), **given)
    assert isinstance(module, Listener)
    found = lines(tmp_path)
    assert [line["step"] for line in found] == list(range(1, 8 // gathered + 1))
    for i, line in enumerate(found):
        heard = module.heard[i * gathered : (i + 1) * gathered]
        loss, by_bin, by_frame = naive_means(heard, bins=bins)
        assert line["loss"] == pytest.approx(loss, rel=1e-5)
        assert [b is None for b in line["bins"]] == [b is None for b in by_bin]
        filled = [(x, y) for x, y in zip(line["bins"], by_bin, strict=True) if y is not None]
        assert [x for x, _ in filled] == pytest.approx([y for _, y in filled], rel=1e-5)
        assert line["frames"] == pytest.approx(by_frame, rel=1e-5)


def test_gradient_norm_is_the_one_before_clipping(tokenizer: Path, tmp_path: Path) -> None:
    _, module, _ = fit(tokenizer, tmp_path, [1], optimizer=partial(SGD, lr=1.0))
    moved = [w - weights(make_dit())[n] for n, w in weights(module.dit).items()]
    norm = sum(float(m.double().square().sum()) for m in moved) ** 0.5
    fit(tokenizer, tmp_path / "clipped", [1], gradient_clip_val=1e-3)
    for folder in (tmp_path, tmp_path / "clipped"):
        assert lines(folder)[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_scalars_are_means_since_the_last_ones(tokenizer: Path, tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, name="", version="")
    batches = [1, 2, 3, 4, BAD, 5]
    fit(tokenizer, tmp_path, batches, logger=logger, log_every_n_steps=3, bins=2)
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    table = [dict(zip(rows[0].split(","), row.split(","), strict=True)) for row in rows[1:]]
    assert [row["stability/skipped"] for row in table] == ["0.0", "1.0"]
    steps = [line for line in lines(tmp_path) if not line["skipped"]]
    for row, of in zip(table, (steps[:3], steps[3:]), strict=True):
        for f in range(3):
            mean = sum(line["frames"][f] for line in of) / len(of)
            assert float(row[f"train/loss_by_frame/{f:02d}"]) == pytest.approx(mean, rel=1e-4)
        assert {"train/loss_by_bin/t000-499", "train/loss_by_bin/t500-999"} <= set(row)
        assert float(row["stability/spikes"]) == sum(
            line["spike"] for line in lines(tmp_path)[: int(row["step"]) + 1]
        )


def test_frames_are_averaged_over_the_batches_that_have_them() -> None:
    stability = Stability(bins=1)
    stability.timesteps = 1000
    rows = [torch.ones(2, 3) * 6.0, torch.ones(4, 1) * 3.0]
    for losses in rows:
        given = {"losses": losses, "t": torch.zeros_like(losses, dtype=torch.long)}
        sums = batch_sums(given, 1, timesteps=1000, gathered=1)
        step = Step(1, sums, norm=torch.ones(()), skipped=False)
        line = stability.line(step, sums.tolist(), norm=1.0)
        assert line["frames"] == losses[0].tolist()
    told = {name: float(x) for name, x in stability.scalars().items() if "frame" in name}
    assert list(told.values()) == [(2 * 6 + 4 * 3) / 6, 6, 6]


@pytest.mark.parametrize(("bins", "timesteps"), [(3, 1000), (7, 50), (10, 1000), (9, 5)])
def test_bins_are_named_after_their_timesteps(bins: int, timesteps: int) -> None:
    stability = Stability(bins=bins)
    stability.timesteps = timesteps
    t = torch.arange(timesteps)[None]  # (1, F)
    outputs = {"losses": t.double() ** 2, "t": t}
    stability.totals = batch_sums(outputs, bins, timesteps=timesteps, gathered=1).tolist()
    told = {n: x for n, x in stability.scalars().items() if n.startswith("train/loss_by_bin/t")}
    seen = []
    for name, loss in told.items():
        first, last = (int(edge) for edge in name.removeprefix("train/loss_by_bin/t").split("-"))
        within = range(first, last + 1)
        assert float(loss) == pytest.approx(sum(i**2 for i in within) / len(within), rel=1e-5)
        seen += within
    assert seen == list(range(timesteps))


def train(
    tokenizer: Path,
    skies: Path,
    folder: Path,
    crash: int = -1,
    **options: Any,  # noqa: ANN401
) -> Stability:
    torch.manual_seed(0)
    module = DiffusionModule(
        dit=make_dit(), arvae=str(tokenizer), optimizer=partial(AdamW, lr=1e-5)
    )
    stability = Stability(window=4, height=0.1)
    keep = ModelCheckpoint(folder, every_n_train_steps=3, save_last=True)
    torch.manual_seed(0)
    trainer = make_trainer(
        max_steps=11,
        callbacks=[keep, stability, SaveLast(), Crash(crash)],
        enable_checkpointing=True,
        default_root_dir=folder,
        log_every_n_steps=4,
    )
    trainer.fit(module, datamodule=make_data(skies), **options)
    return stability


def test_resumed_log_equals_the_uninterrupted_one(
    tokenizer: Path, skies: Path, tmp_path: Path
) -> None:
    whole = train(tokenizer, skies, tmp_path / "whole")
    with pytest.raises(RuntimeError, match="crash"):
        train(tokenizer, skies, tmp_path, crash=7)
    assert len(lines(tmp_path)) == 7  # one of which the last checkpoint does not know
    log = tmp_path / "stability.jsonl"
    log.write_text(log.read_text() + '{"step": 8, "lo')  # cut short
    resumed = train(tokenizer, skies, tmp_path, ckpt_path=tmp_path / "last.ckpt")
    assert lines(tmp_path) == lines(tmp_path / "whole")
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 12))
    assert resumed.spikes == whole.spikes == sum(line["spike"] for line in lines(tmp_path)) > 0
    assert resumed.spike_detector.recent == whole.spike_detector.recent


def test_new_run_replaces_the_log_of_an_old_one(tokenizer: Path, tmp_path: Path) -> None:
    fit(tokenizer, tmp_path, [1, 2, 3])
    fit(tokenizer, tmp_path, [4])
    assert [line["step"] for line in lines(tmp_path)] == [1]


class Uneven(Fixed):
    """Has a bad batch in the second process alone."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        if self.global_rank == 1 and batch_idx == 1:
            batch["latents"][:] = torch.nan
        found = super().training_step(batch, batch_idx)
        torch.save(found["losses"], Path(self.trainer.default_root_dir, f"{self.told}.pt"))
        return found

    @property
    def told(self) -> str:
        return f"{self.trainer.global_step}_{self.global_rank}"

    def on_train_end(self) -> None:
        torch.save(weights(self.dit), Path(self.trainer.default_root_dir, f"{self.told}_end.pt"))


def test_two_processes_agree(tokenizer: Path, tmp_path: Path) -> None:
    given = {"kind": Uneven, "devices": 2, "strategy": "ddp_fork"}
    fit(tokenizer, tmp_path, range(8), **given)
    ends = [torch.load(tmp_path / f"4_{rank}_end.pt") for rank in range(2)]
    assert_close(ends[0], ends[1], rtol=0, atol=0)
    assert all(w.isfinite().all() for w in ends[0].values())
    found = lines(tmp_path)
    assert [line["skipped"] for line in found] == [False, True, False, False]
    for i in (0, 2, 3):
        losses = torch.stack([torch.load(tmp_path / f"{i}_{rank}.pt") for rank in range(2)])
        assert found[i]["loss"] == pytest.approx(float(losses.double().mean()), rel=1e-5)
        frames = losses.double().mean(dim=(0, 1)).tolist()
        assert found[i]["frames"] == pytest.approx(frames, rel=1e-5)
    kept = [p.name for p in (tmp_path / "nonfinite").glob("*.safetensors")]
    assert kept == ["step_000002_rank_1.safetensors"]


@pytest.mark.parametrize("adversarial", [0.0, 1.0])
@pytest.mark.parametrize("gathered", [1, 2])
def test_first_stage_skips_bad_steps(tmp_path: Path, adversarial: float, gathered: int) -> None:
    module = make_first_stage(
        adversarial=adversarial,
        accumulate=gathered,
        grad_clip=0.1,
        sampled=True,
        optimizer=partial(AdamW, lr=1e-2, fused=True),
    )
    draw = module.draw_noise
    module.draw_noise = lambda video: tuple(  # pyright: ignore[reportAttributeAccessIssue]
        x if x is None or module.global_step != 2 else x * torch.nan for x in draw(video)
    )
    module.arvae.register_buffer("followed", torch.zeros(4))
    module.arvae.update_statistics = lambda latents: module.arvae.followed.add_(  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        latents.mean((0, 1, 2))
    )
    log, norms = module.log, list[int]()

    def listen(name: str, *args: Any, **options: Any) -> None:  # noqa: ANN401
        if name == "train/grad_norm":
            norms.append(module.global_step + 1)
        log(name, *args, **options)

    module.log = listen
    seen = Record(lambda trainer: weights(trainer.lightning_module))
    trainer = make_trainer(
        max_steps=6, default_root_dir=tmp_path, callbacks=[Stability(window=4), seen]
    )
    trainer.fit(module, make_loader(6))
    skipped = 3 if gathered == 1 else 4
    assert [line["step"] for line in lines(tmp_path) if line["skipped"]] == [skipped]
    assert [line["step"] for line in lines(tmp_path)] == list(range(gathered, 7, gathered))
    assert norms == [step for step in range(gathered, 7, gathered) if step != skipped]
    assert_close(seen.seen[skipped - 1], seen.seen[1], rtol=0, atol=0)
    assert all(w.isfinite().all() for w in seen.seen[-1].values())
    name = "arvae.pixels.conv_out.bias"
    assert not torch.equal(seen.seen[-1][name], seen.seen[1][name])
    assert (tmp_path / f"nonfinite/step_{skipped:06d}.safetensors").exists()


@pytest.mark.parametrize("options", [{"bins": 0}, {"patience": 0}, {"keep": -1}])
def test_bad_settings_are_named(options: dict[str, int]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name} must be at least {value + 1}, got {value}"):
        Stability(**options)
