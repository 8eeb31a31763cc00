from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from published_models import published_tokenizer, published_transformer
from safetensors.torch import save_file
from stages import make_data, make_dit, make_trainer, weights
from torch.optim import SGD
from torch.testing import assert_close

from ardiffusion import cli
from ardiffusion.data.samples import read_samples
from ardiffusion.generator import Generator
from ardiffusion.nn.dit import ARDiT
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.tools.export import export
from ardiffusion.tools.videos import videos
from ardiffusion.training.checkpoint import fit_network
from ardiffusion.training.diffusion import DiffusionModule

SHORT = {
    "config": "finetune.yaml",
    "trainer.precision": "32-true",
    "trainer.accelerator": "cpu",
    "trainer.max_steps": 20,
    "trainer.val_check_interval": 10,
    "data.workers": 0,
    "data.batch_size": 2,
    "data.frames": 4,
}


def fit(**settings: Any) -> None:  # noqa: ANN401
    given = {name.replace("__", "."): value for name, value in settings.items()}
    cli.dit(["fit", *(f"--{name}={value}" for name, value in (SHORT | given).items())])


def test_published_weights_learn_three_classes(tmp_path: Path) -> None:
    videos(str(tmp_path / "clips"), kind="skies", videos=6, frames=8, resolution=32)
    (tmp_path / "clips" / "night").rename(tmp_path / "night")
    save_file(published_tokenizer(), tmp_path / "vae.safetensors")
    save_file(published_transformer(5), tmp_path / "dit.safetensors")
    fit(
        model__start=tmp_path / "dit.safetensors",
        model__arvae=tmp_path / "vae.safetensors",
        data__root=tmp_path / "clips",
        data__cache=tmp_path / "index",
        data__resolution=32,
        data__val_fraction=0.2,
        trainer__logger__init_args__save_dir=tmp_path / "run",
    )
    made = tmp_path / "run" / "checkpoints" / "last.ckpt"
    first, tuned = (
        Generator.from_pretrained(path, arvae=tmp_path / "vae.safetensors")
        for path in (tmp_path / "dit.safetensors", made)
    )
    assert isinstance(tuned.dit, PublishedDiT)
    assert tuned.classes == ["dawn", "day", "dusk"] and tuned.dit.classes == 3
    assert tuned.describe()["solver"] == first.describe()["solver"]
    assert not torch.equal(tuned.dit.embed.weight, first.dit.embed.weight)
    assert_close(tuned.dit.embed.weight, first.dit.embed.weight, rtol=0, atol=0.02)
    exported, samples = tmp_path / "ours", tmp_path / "samples"
    export(str(made), str(exported))
    options = "--samples=1 --frames=4 --steps=4 --difference=1 --labels=[dusk]".split()
    cli.dit(["predict", f"--ckpt_path={exported}", f"--output={samples}", *options])
    (entry,) = read_samples(samples).values()
    assert entry["label"] == "dusk"
    assert Generator.from_pretrained(exported).fingerprint() == tuned.fingerprint()


@pytest.mark.parametrize("after", [["dusk", "new"], ["new", "dawn", "dusk"], ["dawn", "day"]])
def test_rows_of_classes_are_kept_by_name(after: Sequence[str]) -> None:
    before = ["dawn", "day", "dusk"]
    network = make_dit(classes=3)
    fitted = fit_network(network, before=before, after=after, frames=4)
    assert isinstance(fitted, ARDiT) and fitted.classes == len(after)
    ours, theirs = fitted.class_table, network.class_table
    assert ours is not None and theirs is not None
    for row, name in enumerate(after):
        known = any(torch.equal(ours[row], theirs[i]) for i in range(4))
        assert known == (name in before)
        if known:
            assert torch.equal(ours[row], theirs[before.index(name)])
    x_t, t = torch.randn(2, 4, 2, 4), torch.randint(1000, (2, 4))
    old, new = torch.tensor([0, 2]), torch.tensor([-1, -1])
    if {"dawn", "dusk"} <= set(after):
        new = torch.tensor([after.index("dawn"), after.index("dusk")])
        assert_close(fitted(x_t, t, label=new), network(x_t, t, label=old), rtol=0, atol=0)
    assert_close(fitted(x_t, t), network(x_t, t), rtol=0, atol=0)


@pytest.mark.parametrize("rotary", [False, True])
def test_longer_clips_give_a_published_network_more_positions(rotary: bool) -> None:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "width": 16,
        "depth": 1,
        "heads": 2,
        "tokens": 2,
        "context": 2,
        "context_width": 8,
    }
    network = PublishedDiT(**sizes, frames=4, rotary=rotary)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    fitted = fit_network(network, before=[], after=[], frames=6)
    x_t, t = torch.randn(2, 4, 2, 4), torch.randint(1000, (2, 4))
    assert_close(fitted(x_t, t), network(x_t, t), rtol=0, atol=0)
    assert fitted.window == 6 and fitted(torch.randn(1, 6, 2, 4), t[:1, [0, 0, 1, 1, 2, 3]]).any()


def test_a_resumed_run_needs_no_start(generator: Path, skies: Path, tmp_path: Path) -> None:
    start = tmp_path / "start.ckpt"
    start.write_bytes(generator.read_bytes())
    data = {"data__root": skies, "data__cache": tmp_path / "index", "data__resolution": 16}
    run = {**data, "trainer__logger__init_args__save_dir": tmp_path / "run"}
    fit(**run, model__start=start, trainer__max_steps=2)
    start.unlink()
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    fit(**run, model__start=start, trainer__max_steps=4, ckpt_path=last)
    assert torch.load(last, weights_only=True)["global_step"] == 4


def test_what_was_learnt_is_validated_not_the_start(
    generator: Path, skies: Path, tmp_path: Path
) -> None:
    module = DiffusionModule(start=str(generator), optimizer=partial(SGD, lr=0.1))
    data, trainer = make_data(skies), make_trainer(max_steps=2)
    trainer.fit(module, datamodule=data)
    learnt = weights(module)
    trainer.validate(module, datamodule=data, verbose=False)
    assert_close(weights(module), learnt, rtol=0, atol=0)
    first = weights(Generator.from_pretrained(generator))
    assert not torch.equal(learnt["dit.out.weight"], first["dit.out.weight"])


def test_what_is_given_twice_is_refused(
    generator: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"brings its own dit: leave out --model\.dit"):
        DiffusionModule(dit=make_dit(), start=str(generator))
    videos(str(tmp_path / "one" / "flat"), kind="skies", videos=3, frames=8, resolution=16)
    with pytest.raises(SystemExit, match="2"):
        fit(model__start=tmp_path / "gone.ckpt", data__root=tmp_path / "one")
    assert "There is no file or folder" in capfd.readouterr().err
