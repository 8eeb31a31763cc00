import json
from pathlib import Path

import pytest
import torch
from goldens import load_golden
from hub_server import REPO, Hub
from safetensors.torch import save, save_file
from torch.testing import assert_close

from ardiffusion.generator import Generator
from ardiffusion.hub import load_arvae, load_dit
from ardiffusion.metrics.score import Score
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.tools.export import export

GOLDEN = Path(__file__).parent / "fixtures" / "goldens" / "dit_small_rope_qknorm.json"


def test_an_exported_checkpoint_is_the_same_generator(generator: Path, tmp_path: Path) -> None:
    done = export(str(generator), str(tmp_path / "ours"), license="mit", data="skies")
    first, second = (Generator.from_pretrained(s) for s in (generator, tmp_path / "ours"))
    assert done["class"] == "Generator" and first.describe() == second.describe()
    assert first.fingerprint() == second.fingerprint()
    assert_close(first.state_dict(), second.state_dict(), rtol=0, atol=0)
    card = (tmp_path / "ours" / "README.md").read_text()
    for line in ("data | skies", "optimiser steps | 1", "dit | ARDiT", "dit.width | 16"):
        assert f"| {line} |" in card
    assert "| classes | dawn, day, dusk, night |" in card and "license: mit" in card


def test_a_run_brings_its_data_and_scores(generator: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.write_bytes(generator.read_bytes())
    (tmp_path / "config.yaml").write_text("data: {root: somewhere/my_skies}")
    network = {"name": "random3d", "hash": "0"}
    score = Score(
        metric="frechet_random3d_16",
        value=3.5,
        protocol={"name": "EveryClip"},
        real=9,
        fake=8,
        split="val",
        stride=1,
        resolution=64,
        network=network,
    )
    score.save(tmp_path / "scores" / "a.json")
    export(str(checkpoint), str(tmp_path / "ours"))
    card = (tmp_path / "ours" / "README.md").read_text()
    assert "| data | my_skies |" in card
    assert "| frechet_random3d_16 | 3.5 | 9 real and 8 generated clips at stride 1" in card


def test_an_export_goes_to_the_hub(
    generator: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.add({})
    assert export(str(generator), f"hf://{REPO}")["target"] == f"hf://{REPO}"
    found = Generator.from_pretrained(REPO)
    assert found.fingerprint() == Generator.from_pretrained(generator).fingerprint()


def test_a_single_network_stays_one(tokenizer: Path, tmp_path: Path) -> None:
    assert export(str(tokenizer), str(tmp_path / "vae"))["class"] == "ARVAE"
    assert_close(load_arvae(tmp_path / "vae").state_dict(), load_arvae(tokenizer).state_dict())


@pytest.mark.parametrize(("suffix", "before"), [(".safetensors", ""), (".bin", "module.")])
def test_a_published_file_is_converted_once_and_for_all(
    tmp_path: Path, suffix: str, before: str
) -> None:
    path, state = tmp_path / f"published{suffix}", load_golden(GOLDEN).state_dict()
    weights = {f"{before}{name}": value.clone() for name, value in state.items()}
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    export(str(path), str(tmp_path / "ours"), frames=8, causal=False)
    ours = load_dit(tmp_path / "ours")
    assert isinstance(ours, PublishedDiT) and ours.frames == 8 and not ours.causal
    assert_close(ours.state_dict(), load_dit(path).state_dict(), rtol=0, atol=0)
    said = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert said["schedule"]["arguments"] == {
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "timesteps": 1000,
    }


def test_a_file_on_the_hub_is_told_of_too(hub: Hub, tmp_path: Path) -> None:
    state = {name: value.clone() for name, value in load_golden(GOLDEN).state_dict().items()}
    hub.add({"dit.safetensors": save(state)})
    export(f"hf://{REPO}/dit.safetensors", str(tmp_path / "ours"), frames=8)
    ours = load_dit(tmp_path / "ours")
    assert isinstance(ours, PublishedDiT) and ours.frames == 8


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*absent"):
        export(str(tmp_path / "absent.safetensors"), str(tmp_path / "ours"))
