"""A generator is the same thing wherever it is kept: its videos do not depend on the source."""

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import REPO, Hub
from safetensors.torch import load_file
from stages import make_arvae, make_dit, make_lively_arvae, make_loader, make_trainer
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import DPMSolver2M
from ardiffusion.diffusion.target import X0, Epsilon, Target, Velocity
from ardiffusion.generator import Generator
from ardiffusion.hub import save_pretrained
from ardiffusion.training.diffusion import DiffusionModule

pytestmark = pytest.mark.filterwarnings("ignore:You defined a|Found .* in eval mode")
CLASSES = ["dawn", "1e3"]
KINDS = [
    (target, beta_end, classes)
    for target in (X0, Epsilon, Velocity)
    for beta_end in (0.02, 0.03)
    for classes in (0, 2)
]


def write_checkpoint(generator: Generator, path: Path, tokenizer: Path) -> Path:
    """Write a Lightning checkpoint that holds a generator."""
    module = DiffusionModule(generator.dit, str(tokenizer), optimizer=torch.optim.SGD)
    module.generator = generator
    trainer = make_trainer(max_steps=0)
    trainer.fit(module, make_loader(1))
    generator.classes = CLASSES if generator.conditional else []
    trainer.save_checkpoint(path)
    return path


@pytest.mark.parametrize(("target", "beta_end", "classes"), KINDS)
def test_every_source_gives_the_same_frames(
    target: type[Target],
    beta_end: float,
    classes: int,
    tokenizer: Path,
    hub: Hub,
    tmp_path: Path,
) -> None:
    generator = Generator(
        make_dit(classes=classes),
        make_lively_arvae(),
        schedule=NoiseSchedule(beta_end=beta_end),
        target=target(),
        solver=DPMSolver2M(),
        classes=CLASSES[:classes],
        steps=5,
        difference=2,
        guidance=1.5 if classes else 1.0,
    ).eval()
    checkpoint = write_checkpoint(generator, tmp_path / "last.ckpt", tokenizer)
    generator.save_pretrained(tmp_path / "ours")
    (tmp_path / "alone").mkdir()
    (tmp_path / "folder").mkdir()
    whole = tmp_path / "ours" / "model.safetensors"
    copies = {"renamed.pt": checkpoint, "folder/x.ckpt": checkpoint, "alone/m.safetensors": whole}
    for name, source in copies.items():
        shutil.copy(source, tmp_path / name)
    content = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    commit = hub.add(content | {"run/last.ckpt": checkpoint.read_bytes()})
    local = ("last.ckpt", "ours", "renamed.pt", "folder", "alone", "alone/m.safetensors")
    sources = [str(tmp_path / name) for name in local]
    sources += [REPO, f"hf://{REPO}", f"hf://{REPO}/run/last.ckpt@{commit}"]
    labels = [1, 0] if classes else None
    expected = generator.generate([7, 8], frames=4, labels=labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in sources:
            found = Generator.from_pretrained(source)
            assert found.describe() == generator.describe()
            assert found.fingerprint() == generator.fingerprint()
            frames = found.generate([7, 8], frames=4, labels=labels)
            assert_close(frames, expected, rtol=0, atol=0)


def test_the_fingerprint_is_of_all_that_videos_depend_on() -> None:
    dit, arvae = make_dit(classes=2), make_arvae()
    made = {
        "plain": Generator(dit, arvae, classes=CLASSES),
        "target": Generator(dit, arvae, classes=CLASSES, target=Velocity()),
        "schedule": Generator(dit, arvae, classes=CLASSES, schedule=NoiseSchedule(beta_end=0.03)),
        "classes": Generator(dit, arvae, classes=CLASSES[::-1]),
        "dit": Generator(make_dit(seed=1, classes=2), arvae, classes=CLASSES),
        "arvae": Generator(dit, make_arvae(seed=1), classes=CLASSES),
    }
    assert len({generator.fingerprint() for generator in made.values()}) == len(made)
    again = Generator(dit, arvae, classes=CLASSES, steps=9, solver=DPMSolver2M())
    assert again.fingerprint() == made["plain"].fingerprint()


def test_what_a_source_does_not_say_is_said(tmp_path: Path) -> None:
    generator = Generator(make_dit(), make_lively_arvae())
    save_pretrained(generator.dit, tmp_path / "dit")
    save_pretrained(generator.arvae, tmp_path / "arvae")
    with pytest.warns(UserWarning, match=r"does not say what its network predicts .*schedule"):
        found = Generator.from_pretrained(tmp_path)
    assert_close(found.generate([1], frames=2), generator.eval().generate([1], frames=2))


def as_an_earlier_version_wrote_it(path: Path) -> dict[str, Any]:
    """Turn a checkpoint into one from before generators described themselves."""
    checkpoint = torch.load(path, weights_only=True)
    parts = checkpoint.pop("parts")
    checkpoint["networks"] = {name: parts[name] for name in ("dit", "arvae")}
    said = {"target": parts["target"]["class"], "classes": parts["classes"]}
    checkpoint["diffusion"] = parts["schedule"]["arguments"] | said
    checkpoint["hyper_parameters"] = {"optimizer": {"class_path": "os.system"}}
    torch.save(checkpoint, path)
    return checkpoint


def test_checkpoints_of_earlier_versions_load(tokenizer: Path, tmp_path: Path) -> None:
    schedule = NoiseSchedule(beta_end=0.03)
    generator = Generator(make_dit(), make_lively_arvae(), schedule=schedule, target=Velocity())
    path = write_checkpoint(generator, tmp_path / "old.ckpt", tokenizer)
    as_an_earlier_version_wrote_it(path)
    assert Generator.from_pretrained(path).describe() == generator.describe()


def break_config(change: Callable[[dict[str, Any]], object], path: Path) -> None:
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c["dit"].update({"class": "os.system"}), "asks for 'os.system': only ARVAE"),
        (lambda c: c["target"].update({"class": ["X0"]}), "asks for \\['X0'\\]: only ARVAE"),
        (lambda c: c["dit"]["arguments"].update(depth=10**9), "depth 1000000000 is beyond all"),
        (lambda c: c["dit"]["arguments"].update(width=10**12), "width 1000000000000 is beyond"),
        (lambda c: c["dit"]["arguments"].update(width=1 << 20), "cannot be built|does not fit"),
        (lambda c: c["dit"]["arguments"].update(heads=0), "ARDiT cannot be built"),
        (lambda c: c["dit"]["arguments"].update(width="16"), "ARDiT cannot be built"),
        (lambda c: c["dit"].update(arguments=None), "ARDiT cannot be built"),
        (lambda c: c["schedule"]["arguments"].update(timesteps=10**9), "beyond all reason"),
        (lambda c: c["schedule"]["arguments"].update(beta_end=float("nan")), "beyond all reason"),
        (lambda c: c.update(dit=5), "does not describe a network"),
        (lambda c: c.update(classes=[1]), r"classes \[1\], which is no list\[str\]"),
        (lambda c: c.update(classes=["a"]), "2 classes, but 1 names"),
        (lambda c: c.update(steps=-1), "steps must be at least 1"),
        (lambda c: c.update(steps="many"), "steps 'many', which is no int"),
        (lambda c: c.update(steps=2.5), "steps 2.5, which is no int"),
        (lambda c: c.update(guidance=None), "guidance None, which is no float"),
        (lambda c: c.update(schedule=c["solver"]), "gives DDIM as its schedule"),
        (lambda c: c.update(target=c["solver"]), "gives DDIM as its target"),
        (lambda c: c.update(dit=c["schedule"]), "gives NoiseSchedule as its dit"),
    ],
)
def test_a_config_is_data(
    change: Callable[[dict[str, Any]], object], sentence: str, tmp_path: Path
) -> None:
    Generator(make_dit(classes=2), make_arvae()).save_pretrained(tmp_path)
    break_config(change, tmp_path / "config.json")
    with pytest.raises(ValueError, match=sentence):
        Generator.from_pretrained(tmp_path)


def test_a_frame_that_is_not_finite_is_an_error() -> None:
    generator = Generator(make_dit(), make_lively_arvae()).eval()
    torch.nn.init.constant_(generator.dit.out.bias, torch.nan)
    with pytest.raises(ValueError, match="A frame is not finite: the weights are"):
        generator.generate([1], frames=2)


def test_weights_are_the_generator_s_and_mapped_to_the_file(tmp_path: Path) -> None:
    generator = Generator(make_dit(), make_arvae())
    generator.save_pretrained(tmp_path)
    names = {name.split(".")[0] for name in load_file(tmp_path / "model.safetensors")}
    assert names == {"dit", "arvae"}
    found = Generator.from_pretrained(tmp_path)
    assert str(tmp_path / "model.safetensors") in Path("/proc/self/maps").read_text()
    assert not found.training and not any(p.requires_grad for p in found.arvae.parameters())
    assert found.train().dit.training and not found.arvae.training


@pytest.mark.parametrize(("frames", "given"), [(6, 2), (9, 5), (5, 1)])
def test_a_prefix_of_its_own_first_frames_continues_to_the_same_video(
    frames: int, given: int
) -> None:
    # Frame after frame: at a smaller difference frames were denoised beside noisier ones.
    generator = Generator(make_dit(window=3), make_lively_arvae(), steps=4, difference=4).eval()
    sampler = generator.sampler()
    latents = sample_latents(generator, frames, sampler)
    again = sample_latents(generator, frames, sampler, prefix=latents[:, :given])
    assert torch.equal(again[:, :given], latents[:, :given])
    assert_close(again, latents, rtol=1e-4, atol=1e-5)


def sample_latents(
    generator: Generator,
    frames: int,
    sampler: Sampler,
    prefix: Tensor | None = None,
) -> Tensor:
    noise = torch.randn(1, frames, 2, 4, generator=torch.Generator().manual_seed(0))
    return sampler.sample(generator.dit, noise, prefix=prefix)


def test_given_frames_come_out_as_their_reconstructions() -> None:
    generator = Generator(make_dit(), make_lively_arvae(), steps=3, difference=1).eval()
    given = torch.randint(0, 256, (1, 2, 3, 16, 16), dtype=torch.uint8)
    video = generator.generate([3, 4], frames=5, prefix=given)
    assert video.shape == (2, 5, 3, 16, 16)
    rebuilt = generator.arvae.decode(generator.encode(given))
    for sample in video:
        assert_close(sample[:2].float() / 255, rebuilt[0].clamp(0, 1), rtol=0, atol=0.51 / 255)
    assert not torch.equal(video[0, 2:], video[1, 2:])
    streamed = generator.stream([3, 4], frames=5, prefix=given, together=2)
    assert_close(torch.stack([*streamed], dim=1), video, rtol=0, atol=1)


def test_labels_and_prefixes_that_no_video_can_have_are_refused() -> None:
    generator = Generator(make_dit(classes=2), make_arvae())
    found = generator.label_indices([-1, "1", 0])
    assert found is not None and found.tolist() == [-1, 1, 0]
    with pytest.raises(ValueError, match="There is no class 2, only 0, 1, counted from 0"):
        generator.generate([0], frames=1, labels=[2])
    with pytest.raises(ValueError, match="3 videos take as many labels or one: 2"):
        generator.generate([0, 1, 2], frames=1, labels=[0, 1])
    side = generator.arvae.resolution
    with pytest.raises(ValueError, match="4 videos take as many prefixes or one: 2"):
        prefix = torch.zeros(2, 1, 3, side, side, dtype=torch.uint8)
        generator.generate([0, 1, 2, 3], frames=1, prefix=prefix)
