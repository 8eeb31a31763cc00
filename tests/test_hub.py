import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import assert_equal, tiny

from ardiffusion.hub import (
    Card,
    load_arvae,
    load_dit,
    save_pretrained,
)
from ardiffusion.nn.dit import ARDiT
from ardiffusion.sources import from_checkpoint, load_source
from ardiffusion.weights.description import describe


def test_a_saved_model_reads_back(tmp_path: Path) -> None:
    net = tiny()
    save_pretrained(net, tmp_path / "a", card=Card(data="skies", license="mit", steps=5))
    assert sorted(os.listdir(tmp_path / "a")) == ["README.md", "config.json", "model.safetensors"]
    for source in (tmp_path / "a", str(tmp_path / "a"), tmp_path / "a" / "model.safetensors"):
        found = load_dit(source)
        assert_equal(found, net)
        assert describe(found) == describe(net)
    assert len({path.stat().st_mode for path in (tmp_path / "a").iterdir()}) == 1
    (tmp_path / "a" / "model.safetensors").rename(tmp_path / "moved.safetensors")
    assert_equal(load_dit(tmp_path / "moved.safetensors"), net)


def test_the_model_card_says_what_the_model_is(tmp_path: Path) -> None:
    card = Card(data="skies", license="mit", steps=5000, metrics={"FVD16": 12.5})
    save_pretrained(tiny(), tmp_path, card=card)
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: ardiffusion\nlicense: mit\n")
    for line in ("data | skies", "optimiser steps | 5,000", "FVD16 | 12.5", "width | 16"):
        assert f"| {line} |" in text


def test_weights_are_mapped_not_copied(tmp_path: Path) -> None:
    save_pretrained(ARDiT(width=256, depth=2, heads=4), tmp_path)
    net = load_dit(tmp_path)
    maps = Path("/proc/self/maps").read_text()
    assert str(tmp_path / "model.safetensors") in maps
    assert all(not value.is_meta for value in net.state_dict().values())


@pytest.mark.parametrize("missing", ["entry", "surplus", "shape"])
def test_weights_that_do_not_fit_are_named(tmp_path: Path, missing: str) -> None:
    net = tiny()
    save_pretrained(net, tmp_path)
    state = dict(net.state_dict())
    if missing == "entry":
        del state["out.bias"]
    elif missing == "surplus":
        state["extra.weight"] = torch.zeros(1)
    else:
        state["embed.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "model.safetensors")
    words = {
        "entry": "lacks out.bias",
        "surplus": "surplus extra.weight",
        "shape": "embed.bias of",
    }
    with pytest.raises(ValueError, match=words[missing]):
        load_dit(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "does not describe a network"),
        (
            '{"class": "os.system", "arguments": {"command": "true"}}',
            "os.system.: only ARVAE",
        ),
        ('{"class": "ARDiT", "arguments": {"wings": 2}}', "cannot be built.*wings"),
        ('{"class": "ARDiT", "arguments": {"width": 30, "heads": 4}}', "multiple of twice"),
    ],
)
def test_only_our_networks_are_built_from_a_config(
    tmp_path: Path, config: str, message: str
) -> None:
    save_pretrained(tiny(), tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load_dit(tmp_path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["BOMB"],)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_is_refused_unexploded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    monkeypatch.setenv("BOMB", str(tmp_path / "exploded"))
    path = tmp_path / "model.bin"
    torch.save({"weight": Bomb()}, path) if zipped else path.write_bytes(
        pickle.dumps(Bomb(), protocol=2)
    )
    with pytest.raises(ValueError, match=r"model\.bin is refused"):
        load_dit(path)
    assert not (tmp_path / "exploded").exists()


def test_sources_that_are_not_there_or_broken_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file or folder"):
        load_dit(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="must hold config"):
        load_dit(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x10" * 99)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_dit(tmp_path / "model.safetensors")
    (tmp_path / "weights.onnx").touch()
    with pytest.raises(ValueError, match=r"onnx holds no weights: give a file of safetensors"):
        load_dit(tmp_path / "weights.onnx")
    save_pretrained(tiny(), tmp_path)
    with pytest.raises(ValueError, match="holds no AR-VAE"):
        load_arvae(tmp_path)
    for source in ("hf://weights", "hf://a/b/../c@", "hf://a/b@"):
        with pytest.raises(ValueError, match="not of the form hf://user/repo"):
            load_dit(source)


def test_checkpoints_give_their_networks(tmp_path: Path) -> None:
    net = tiny()
    state = {f"dit.{name}": value for name, value in net.state_dict().items()}
    checkpoint = {"state_dict": state, "networks": {"dit": describe(net)}}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert_equal(load_dit(tmp_path / "last.ckpt"), net)
    assert_equal(from_checkpoint(checkpoint)["dit"], net)
    with pytest.raises(ValueError, match="no checkpoint of ours"):
        from_checkpoint({"state_dict": state})
    del state["dit.out.bias"]
    with pytest.raises(ValueError, match=r"does not fit ARDiT: it lacks dit\.out\.bias"):
        from_checkpoint(checkpoint)


def test_a_folder_of_both_stages_serves_both(tmp_path: Path) -> None:
    save_pretrained(tiny(), tmp_path / "dit")
    assert list(load_source(tmp_path)) == ["dit"]
    config = json.loads((tmp_path / "dit" / "config.json").read_text())
    assert config["class"] == "ARDiT" and config["arguments"]["classes"] == 2
