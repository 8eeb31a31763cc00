from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import (
    Record,
    make_arvae,
    make_batches,
    make_data,
    make_first_stage,
    make_loader,
    make_trainer,
    weights,
)
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.testing import assert_close

from ardiffusion.nn.perceptual import LPIPS
from ardiffusion.training.arvae import ARVAEModule

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|Using ModelCheckpoint with manual|Checkpoint directory|Detected call|You def"
)


def fit(module: ARVAEModule, batches: int, **options: Any) -> None:  # noqa: ANN401
    make_trainer(max_steps=batches, **options).fit(module, make_loader(batches))


def gradients(module: ARVAEModule, loss: Tensor) -> dict[str, Tensor]:
    parameters = dict(module.arvae.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, found, strict=True))


@pytest.mark.parametrize("adversarial", [0.0, 1.0])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_checkpoints_and_schedules_count_batches(
    accumulate: int, adversarial: float, tmp_path: Path
) -> None:
    schedule = partial(LambdaLR, lr_lambda=lambda step: 1 / (1 + step))
    module = make_first_stage(
        adversarial=adversarial, accumulate=accumulate, lr_scheduler=schedule
    )
    steps = Record(lambda trainer: trainer.global_step)
    rates = Record(lambda trainer: [o.param_groups[0]["lr"] for o in trainer.optimizers])
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    trainer = make_trainer(max_steps=4, callbacks=[steps, rates, keep], enable_checkpointing=True)
    trainer.fit(module, make_loader(10))
    assert steps.seen == [1, 2, 3, 4]
    optimizers = 2 if adversarial else 1
    assert_close(rates.seen, [[0.1 / (1 + step)] * optimizers for step in range(1, 5)])
    assert {path.name for path in tmp_path.iterdir()} == {"step=2.ckpt", "step=4.ckpt"}


def test_accumulated_step_equals_one_on_the_averaged_gradient() -> None:
    module = make_first_stage(accumulate=2)
    before, expected = weights(module.arvae), weights(module.arvae)
    for batch in make_batches(2):
        video = batch["video"].float() / 255
        loss = (module.arvae(video)[0] - video).abs().mean()
        for name, gradient in gradients(module, loss).items():
            expected[name] -= 0.1 * gradient / 2
    record = Record(lambda trainer: weights(module.arvae))
    fit(module, batches=2, callbacks=[record])
    assert_close(record.seen[0], before, rtol=0, atol=0)
    assert_close(record.seen[1], expected)


def test_gradients_are_clipped_to_their_norm() -> None:
    def change(clip: float) -> Tensor:
        module = make_first_stage(grad_clip=clip)
        before = weights(module.arvae)
        fit(module, batches=1)
        after = weights(module.arvae)
        return torch.stack([(after[n] - before[n]).norm() for n in after]).norm()

    assert_close(change(clip=1e-2), torch.tensor(0.1 * 1e-2), rtol=1e-3, atol=0)
    assert change(clip=0) > 0.1 * 2e-2


def test_discriminator_takes_part_from_its_start_on() -> None:
    module = make_first_stage(adversarial=1.0, adversarial_start=2)
    assert module.discriminator is not None
    record = Record(lambda trainer: weights(module)["discriminator.blocks.0.weight"])
    before = weights(module)["discriminator.blocks.0.weight"]
    fit(module, batches=4, callbacks=[record])
    moved = [
        not torch.equal(a, b) for a, b in zip([before, *record.seen[:3]], record.seen, strict=True)
    ]
    assert moved == [False, False, True, True]


def test_adversarial_step_gives_each_network_its_own_gradient() -> None:
    module = make_first_stage(adversarial=0.7)
    judge = module.discriminator
    assert judge is not None
    video = make_batches(1)[0]["video"].float() / 255
    fake = module.arvae(video)[0]
    loss = (fake - video).abs().mean()
    gan = -judge(fake.flatten(0, 1)).mean()
    last = "pixels.conv_out.weight"
    pull, push = (gradients(module, term)[last].norm() for term in (loss, gan))
    total = loss + 0.7 * (pull / (push + 1e-4)).detach() * gan
    expected = weights(module.arvae)
    for name, gradient in gradients(module, total).items():
        expected[name] -= 0.1 * gradient
    scores = (judge(video.flatten(0, 1)), judge(fake.detach().flatten(0, 1)))
    hinge = ((1 - scores[0]).relu().mean() + (1 + scores[1]).relu().mean()) / 2
    own = dict(judge.named_parameters())
    steps = torch.autograd.grad(hinge, list(own.values()))
    judged = {n: p.detach() - 0.1 * g for (n, p), g in zip(own.items(), steps, strict=True)}
    fit(module, batches=1)
    assert_close(weights(module.arvae), expected)
    assert_close({name: p.detach() for name, p in judge.named_parameters()}, judged)
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("adversarial", [0.0, 1.0])
def test_stage_1b_trains_only_temporal_blocks(adversarial: float) -> None:
    module = make_first_stage(
        arvae=make_arvae(temporal=True), temporal_only=True, adversarial=adversarial
    )
    before = weights(module.arvae)
    fit(module, batches=3)
    changed = {
        name for name, w in weights(module.arvae).items() if not torch.equal(w, before[name])
    }
    assert changed == {n for n in before if n.startswith("decoder.temporal.")}


def test_missing_perceptual_weights_stop_training_with_a_sentence() -> None:
    module = make_first_stage(perceptual=1.0, lpips=LPIPS(trunk="nowhere/vgg16.pth"))
    with pytest.raises(FileNotFoundError, match=r"LPIPS needs nowhere/vgg16\.pth"):
        fit(module, batches=1)


def test_half_precision_is_refused() -> None:
    with pytest.raises(ValueError, match=r"use --trainer\.precision bf16-mixed"):
        fit(make_first_stage(), batches=1, precision="16-true")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"l1": -1.0}, r"l1 must be at least 0, got -1\.0"),
        ({"kl": float("nan")}, "kl must be at least 0, got nan"),
        ({"adversarial": -0.1}, r"adversarial must be at least 0, got -0\.1"),
        ({"adversarial_start": -1}, "adversarial_start must be at least 0, got -1"),
        ({"grad_clip": -1.0}, r"grad_clip must be at least 0, got -1\.0"),
        ({"l1": 0.0}, "No loss: l1, mse, perceptual or adversarial must be above 0"),
        ({"temporal_only": True}, "temporal_only needs an AR-VAE with temporal: true"),
    ],
)
def test_bad_settings_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_first_stage(**options)


@pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")
def test_bfloat16_trains_weights_in_full_precision() -> None:
    module = make_first_stage(adversarial=1.0, sampled=True, kl=1e-3, mse=1.0)
    before = weights(module)
    fit(module, batches=2, precision="bf16-mixed")
    after = weights(module)
    assert all(value.dtype == before[name].dtype for name, value in after.items())
    assert all(value.isfinite().all() for value in after.values())
    name = "arvae.pixels.conv_out.weight"
    assert not torch.equal(before[name], after[name])


def test_compiled_network_keeps_the_names_of_its_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compile(function: Callable[..., Any], **options: object) -> Callable[..., Any]:
        return lambda *args, **given: (calls.append(1), function(*args, **given))[1]

    monkeypatch.setattr(torch, "compile", compile)
    plain, compiled = make_first_stage(), make_first_stage(compile=True)
    fit(plain, batches=2)
    trainer = make_trainer(max_steps=2)
    trainer.fit(compiled, make_loader(2))
    trainer.save_checkpoint(tmp_path / "compiled.ckpt")
    saved = torch.load(tmp_path / "compiled.ckpt", weights_only=True)["state_dict"]
    assert len(calls) == 2
    assert_close(saved, dict(plain.state_dict()), rtol=0, atol=0)


def draws(**options: Any) -> list[Tensor | None]:  # noqa: ANN401
    """List the noise of the posterior and of the latents in two batches."""
    noises: list[Tensor | None] = []

    class Listener(ARVAEModule):
        def draw_noise(self, video: Tensor) -> tuple[Tensor | None, Tensor | None]:
            noises.extend(drawn := super().draw_noise(video))
            return drawn

    torch.manual_seed(3)
    fit(Listener(make_arvae(), perceptual=0.0, adversarial=0.0, **options), batches=2)
    return noises


def test_batches_draw_noise_of_their_own() -> None:
    first, _, second, _ = draws()
    assert first is not None and second is not None
    assert first.shape == (2, 2, 2, 4)
    assert not torch.equal(first, second)


def test_noise_of_latents_is_the_same_with_and_without_that_of_the_posterior() -> None:
    (_, one, *_), (none, other, *_) = (draws(sampled=s, latent_noise=0.3) for s in (True, False))
    assert none is None and one is not None and other is not None
    assert torch.equal(one, other)


def test_what_was_learnt_is_validated_not_the_start(tokenizer: Path, skies: Path) -> None:
    module = make_first_stage(start=str(tokenizer))
    trainer, data = make_trainer(max_steps=2), make_data(skies)
    trainer.fit(module, datamodule=data)
    learnt = weights(module)
    trainer.validate(module, datamodule=data, verbose=False)
    assert_close(weights(module), learnt, rtol=0, atol=0)
