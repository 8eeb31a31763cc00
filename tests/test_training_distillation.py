"""Stage 3: what a student learns from its teacher, compared with a naive loop in float64."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from stages import Crash, make_data, make_dit, make_loader, make_trainer, weights
from torch import Tensor
from torch.optim import SGD
from torch.testing import assert_close

from ardiffusion import cli
from ardiffusion.data.samples import read_samples
from ardiffusion.diffusion.ad import ad_plan
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DDIM
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.diffusion.timesteps import Mixture, StepRows
from ardiffusion.generator import Generator
from ardiffusion.tools.export import export
from ardiffusion.training.diffusion import DiffusionModule
from ardiffusion.training.distillation import Distillation, in_flight, ode_end

pytestmark = pytest.mark.filterwarnings(
    "ignore:Attribute|Checkpoint directory|You defined a|Found .* in eval mode|Detected|The noise"
)
SCHEDULE = NoiseSchedule(beta_end=0.7, timesteps=12)
ROWS = Mixture([StepRows(steps=steps) for steps in (1, 2, 4)], weights=[1, 1, 1])


@pytest.fixture(scope="module")
def teacher(tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator without classes, after a batch."""
    path = tmp_path_factory.mktemp("teacher") / "dit.ckpt"
    module = DiffusionModule(dit=make_dit(), arvae=str(tokenizer), guidance=1.0, steps=30)
    trainer = make_trainer()
    trainer.fit(module, make_loader(1))
    trainer.save_checkpoint(path)
    return path


def make_student(teacher: Path, **options: Any) -> DiffusionModule:  # noqa: ANN401
    parts = {"timesteps": ROWS, "distillation": Distillation(steps=4), "steps": 4, "difference": 1}
    sgd = partial(SGD, lr=1e-3)
    return DiffusionModule(start=str(teacher), optimizer=sgd, **{**parts, **options})


@pytest.mark.parametrize(("steps", "difference"), [(1, 1), (2, 1), (2, 2), (4, 1), (4, 2), (4, 3)])
def test_frames_in_flight_are_those_that_the_plan_moves(steps: int, difference: int) -> None:
    plan = ad_plan(6, steps=steps, difference=difference)
    before = torch.cat([torch.zeros(1, 6).long(), plan[:-1]])
    times = DDIM().times(NoiseSchedule(), steps)
    t = torch.where(before == steps, 0, times.leaving[before.clamp(max=steps - 1)])
    moves, found = plan > before, in_flight(t, timesteps=1000)
    assert not (moves & ~found).any()
    # A frame that waits for more than one step looks like one that begins in another plan.
    others = found & ~moves
    assert torch.equal(others.any(), torch.tensor(difference > 1))
    assert (before[others] == 0).all() and (before[:, :-1][others[:, 1:]] > 0).all()


def naive_end(net: torch.nn.Module, target: Target, x: Tensor, t: list[int], steps: int) -> Tensor:
    """Take one clip (F, L, C) to the end of its ODE, frame by frame."""
    abar, level = [], 1.0
    for u in range(12):
        level *= 1 - (1e-4**0.5 + u / 11 * (0.7**0.5 - 1e-4**0.5)) ** 2
        abar.append(level)
    x, t, moves = x.clone(), list(t), [True] * len(t)
    while any(moves):
        output = net(x[None], torch.tensor([t]), label=torch.tensor([1]))[0]
        for f in [f for f in range(len(t)) if moves[f]]:
            a, s = abar[t[f]] ** 0.5, (1 - abar[t[f]]) ** 0.5
            if isinstance(target, Velocity):
                x_0, eps = a * x[f] - s * output[f], s * x[f] + a * output[f]
            elif isinstance(target, Epsilon):
                x_0, eps = (x[f] - s * output[f]) / a, output[f]
            else:
                x_0, eps = output[f], (x[f] - a * output[f]) / s
            t[f] -= -(-12 // steps)
            moves[f] = t[f] >= 0
            x[f] = abar[t[f]] ** 0.5 * x_0 + (1 - abar[t[f]]) ** 0.5 * eps if moves[f] else x_0
            t[f] = max(t[f], 0)
    return x


@pytest.mark.parametrize("steps", [4, 5, 12])
@pytest.mark.parametrize("target", [X0(), Epsilon(), Velocity()])
def test_ode_ends_where_a_naive_loop_ends(target: Target, steps: int) -> None:
    net = make_dit(classes=2).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 2, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([[0, 2, 5, 8], [0, 5, 11, 11], [11, 11, 11, 11]])
    network = partial(net, label=torch.ones(3).long())
    end = ode_end(network, x, t, SCHEDULE, target, steps=steps)
    for b in range(3):
        naive = naive_end(net, target, x[b], t[b].tolist(), steps=steps)
        assert_close(end[b], naive, rtol=1e-6, atol=1e-6)
    assert not end.requires_grad


@pytest.mark.parametrize("target", [X0(), Epsilon(), Velocity()])
def test_the_loss_of_other_latents_than_those_shown_equals_a_naive_one(
    target: Target, tokenizer: Path
) -> None:
    module = DiffusionModule(
        dit=make_dit(), arvae=str(tokenizer), target=target, schedule=SCHEDULE
    ).double()
    generator = torch.Generator().manual_seed(0)
    seen, end, noise = torch.randn(3, 1, 2, 2, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor([[5, 11]])
    loss = module.loss(end, label=torch.zeros(1), t=t, noise=noise, null=None, seen=seen)
    a, s = SCHEDULE.alphas_cumprod[t[0], None, None].sqrt(), 1.0
    s = (1 - a**2).sqrt()
    x_t = a * seen + s * noise
    output = module.dit(x_t, t)
    predicted = {
        X0: output,
        Epsilon: (x_t - s * output) / a,
        Velocity: a * x_t - s * output,
    }[type(target)]
    scale = {X0: 1.0, Epsilon: (a / s) ** 2, Velocity: 1 / s**2}[type(target)]
    expected = (scale * (predicted - end) ** 2).mean(dim=(-2, -1))
    assert_close(loss, expected, rtol=1e-5, atol=1e-6)  # the output is compared in float32


def test_a_student_learns_from_a_teacher_that_stays_as_it_is(
    teacher: Path, tmp_path: Path
) -> None:
    module = make_student(teacher)
    trainer = make_trainer(max_steps=3)
    trainer.fit(module, make_loader(3, frames=4))
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    made, learnt = Generator.from_pretrained(teacher), weights(module)
    assert module.distillation is not None
    assert_close(weights(module.distillation.teacher), weights(made.dit), rtol=0, atol=0)
    assert not torch.equal(learnt["dit.out.weight"], made.dit.out.weight)
    checkpoint = torch.load(tmp_path / "student.ckpt", weights_only=True)
    assert checkpoint["state_dict"].keys() == made.state_dict().keys()
    optimised = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert optimised == {id(p) for p in module.dit.parameters()}
    assert not any(p.requires_grad for p in module.distillation.parameters())
    student = Generator.from_pretrained(tmp_path / "student.ckpt")
    assert (student.steps, student.difference, type(student.solver)) == (4, 1, DDIM)


def test_loss_is_the_distance_to_the_teacher_s_end(teacher: Path) -> None:
    module = make_student(teacher, class_dropout=0.0)
    make_trainer().fit(module, make_loader(1, frames=4))
    heard: dict[str, Any] = {}
    module.log = lambda *_, **__: None  # pyright: ignore[reportAttributeAccessIssue]
    lesson, loss = module.distillation, module.loss
    assert lesson is not None
    module.loss = lambda x, **given: heard.update(x=x, **given) or loss(x, **given)  # pyright: ignore[reportAttributeAccessIssue]
    batch = next(iter(make_loader(1, frames=4)))
    out: Any = module.training_step(batch, 0)
    x, t = module.latents(batch), out["t"]
    assert_close(heard["seen"], x, rtol=0, atol=0)
    alpha, sigma = module.schedule.alpha_sigma(t, dtype=x.dtype)
    x_t = alpha * x + sigma * heard["noise"]
    end = ode_end(lesson.teacher, x_t, t, module.schedule, X0(), steps=4)
    assert_close(heard["x"], end)
    errors, flying = (module.dit(x_t, t) - end).square().mean(dim=(-2, -1)), in_flight(t, 1000)
    assert not out["losses"][~flying].any() and 0 < flying.sum() < flying.numel()
    assert_close(out["loss"], errors[flying].mean())
    assert_close(out["losses"].mean(), out["loss"])


class Named(NamedTuple):
    """Data of which nothing but the classes is asked."""

    classes: list[str]


def test_guidance_of_the_teacher_is_learnt(generator: Path, tmp_path: Path) -> None:
    made = Generator.from_pretrained(generator)
    made.guidance = 2.0
    made.save_pretrained(tmp_path / "guided")
    lesson = Distillation(steps=3)
    lesson.load(str(tmp_path / "guided"), arvae=None, data=Named(made.classes))
    x, noise = torch.randn(2, 2, 3, 2, 4)
    t = torch.tensor([[0, 500, 999], [999, 999, 999]])
    label, null = torch.tensor([2, 1]), torch.tensor([False, True])
    end, _ = lesson(x, noise, t, label=label, null=null)
    x_t = made.schedule.add_noise(x, noise, t)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        none = made.dit(x, t, label=torch.tensor([-1, -1]))
        return none + 2 * (made.dit(x, t, label=torch.tensor([2, -1])) - none)

    expected = ode_end(guided, x_t, t, made.schedule, made.target, steps=3)
    assert_close(end, expected, rtol=1e-4, atol=1e-4)


def test_students_of_guided_teachers_are_not_guided_again(
    generator: Path, skies: Path, tmp_path: Path
) -> None:
    made = Generator.from_pretrained(generator)
    made.guidance = 2.0
    made.save_pretrained(tmp_path / "guided")
    module = make_student(tmp_path / "guided")
    make_trainer().fit(module, datamodule=make_data(skies))
    assert module.generator.guidance == 1.0


def test_a_student_that_crashed_resumes_to_the_same_weights(
    generator: Path, skies: Path, tmp_path: Path
) -> None:
    def run(*callbacks: Callback, start: Path | None = None) -> DiffusionModule:
        torch.manual_seed(0)
        keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
        module = make_student(generator)
        trainer = make_trainer(
            max_steps=4, enable_checkpointing=True, callbacks=[keep, *callbacks]
        )
        trainer.fit(module, datamodule=make_data(skies), ckpt_path=start)
        return module

    with pytest.raises(RuntimeError, match="crash"):
        run(Crash(3))
    resumed, whole = run(start=tmp_path / "step=2.ckpt"), run()
    assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


def test_what_cannot_teach_is_named(tokenizer: Path, generator: Path) -> None:
    for classes in (["dawn", "day", "dusk"], ["night", "dawn", "day", "dusk"]):
        with pytest.raises(ValueError, match="teacher knows the classes dawn, day, dusk, night"):
            Distillation().load(str(generator), arvae=None, data=Named(classes))
    with pytest.raises(ValueError, match="steps of the teacher must be at least 1, got 0"):
        Distillation(steps=0)
    module = DiffusionModule(dit=make_dit(), arvae=str(tokenizer), distillation=Distillation())
    with pytest.raises(ValueError, match=r"needs a teacher: name it by --model\.start"):
        make_trainer().fit(module, make_loader(1))


def test_the_shipped_configuration_makes_a_student_that_knows_its_steps(
    generator: Path, skies: Path, tmp_path: Path
) -> None:
    student = tmp_path / "run/checkpoints/last.ckpt"
    options = "--trainer.accelerator=cpu --trainer.precision=32-true --data.resolution=16"
    options += f" --data.batch_size=2 --data.workers=0 --data.root={skies} --data.frames=4"
    options += f" --data.cache={tmp_path / 'index'}"
    fit = f"--model.start={generator} --trainer.max_steps=2 --trainer.val_check_interval=2"
    fit += f" --trainer.logger.init_args.save_dir={tmp_path / 'run'}"
    config = ["--config=distill_tiny.yaml", *options.split()]
    cli.dit(["fit", *config, *fit.split()])
    cli.dit(["validate", *config, f"--ckpt_path={student}"])  # the teacher is not asked for
    exported = tmp_path / "student"
    export(str(student), str(exported))
    made = Generator.from_pretrained(exported)
    assert (made.steps, made.difference, type(made.solver)) == (4, 1, DDIM)
    for steps in ([], ["--steps=2"]):
        output = tmp_path / f"samples{len(steps)}"
        predict = ["predict", f"--ckpt_path={exported}", "--frames=4", "--samples=1", *steps]
        cli.dit([*predict, f"--output={output}", "--trainer.accelerator=cpu"])
        (entry,) = read_samples(output).values()
        assert entry["steps"] == (2 if steps else 4) and entry["difference"] == 1
