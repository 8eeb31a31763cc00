import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import REPO, Hub
from safetensors.torch import load_file, save_file
from stages import make_first_stage
from tiny_models import assert_equal
from torch import nn

from ardiffusion.convert import DIFFUSERS_WEIGHTS as WEIGHTS
from ardiffusion.convert import from_diffusers
from ardiffusion.hub import load_arvae, save_pretrained
from ardiffusion.nn.fingerprint import fingerprint
from ardiffusion.nn.grid import GridVAE
from ardiffusion.training.checkpoint import init_from
from ardiffusion.weights.description import describe

diffusers = pytest.importorskip("diffusers", reason="GridVAE needs diffusers")
SIZES = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "latent_channels": 3,
    "sample_size": 16,
    "scaling_factor": 0.25,
}


def make_folder(folder: Path, **options: Any) -> Any:  # noqa: ANN401
    """Let diffusers save a random autoencoder."""
    torch.manual_seed(0)
    network = diffusers.AutoencoderKL(**{**SIZES, **options})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    return network.eval()


@torch.no_grad()
def test_a_folder_of_diffusers_gives_the_same_latents_and_video(tmp_path: Path) -> None:
    network, video = make_folder(tmp_path), torch.rand(1, 1, 3, 16, 16)
    arvae = load_arvae(tmp_path)
    assert isinstance(arvae, GridVAE)
    assert (arvae.resolution, arvae.tokens, arvae.channels) == (16, 64, 3)
    latents = network.encode(2 * video[0] - 1).latent_dist.mode() * 0.25  # (1, C, 8, 8)
    torch.testing.assert_close(arvae.encode(video)[0, 0].T.reshape(1, 3, 8, 8), latents)
    frame = (network.decode(latents / 0.25).sample + 1) / 2
    torch.testing.assert_close(arvae.decode(arvae.encode(video))[0], frame)


def test_means_and_deviations_of_the_configuration_are_taken(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", shift_factor=0.5)
    one = from_diffusers(tmp_path / "one")
    assert one.shift.tolist() == 3 * [0.5] and one.scale.tolist() == 3 * [4.0]
    make_folder(tmp_path / "each", latents_mean=[0.0, 1.0, 2.0], latents_std=[1.0, 0.5, 2.0])
    each = from_diffusers(tmp_path / "each")
    assert each.shift.tolist() == [0.0, 1.0, 2.0] and each.scale.tolist() == [1.0, 0.5, 2.0]


def test_names_of_older_files_are_known(tmp_path: Path) -> None:
    make_folder(tmp_path)
    new = from_diffusers(tmp_path)
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = load_file(tmp_path / WEIGHTS)
    renamed = 0
    for name in list(state):
        for now, then in names.items():
            if f".{now}." in name:
                state[name.replace(now, then)] = state.pop(name)
                renamed += 1
    assert renamed == 16
    (tmp_path / WEIGHTS).unlink()  # not written over: `new` is mapped from it
    save_file(state, tmp_path / WEIGHTS)
    assert_equal(from_diffusers(tmp_path), new)


def test_another_resolution_can_be_asked_for(tmp_path: Path) -> None:
    make_folder(tmp_path)
    arvae = from_diffusers(tmp_path, resolution=32)
    assert (arvae.resolution, arvae.tokens) == (32, 256)
    assert_equal(arvae, from_diffusers(tmp_path))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"use_quant_conv": False}, r"config\.json: The file has use_quant_conv False"),
        ({"act_fn": "relu"}, "has act_fn relu, GridVAE is built with silu only: choose another"),
        ({"scaling_factor": 0}, r"config\.json: .* by .*'scaling_factor': 0.* must be numbers"),
        ({"latents_mean": ["a"]}, "must be numbers"),
        ({"sample_size": 17}, r"config\.json: GridVAE cannot be built: resolution 17"),
    ],
)
def test_other_networks_are_refused(
    tmp_path: Path, options: dict[str, object], sentence: str
) -> None:
    make_folder(tmp_path, **options)
    with pytest.raises(ValueError, match=sentence):
        load_arvae(tmp_path)


def test_sizes_beyond_reason_are_refused_before_they_take_memory(tmp_path: Path) -> None:
    make_folder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"block_out_channels": [1 << 40]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match=r"GridVAE cannot be built: widths \d+ is beyond all reason"
    ):
        load_arvae(tmp_path)


def test_missing_or_broken_files_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    state.pop("decoder.conv_out.bias")
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"lacks network\.decoder\.conv_out\.bias"):
        load_arvae(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds config.json but no {WEIGHTS}: add it"):
        load_arvae(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises((ValueError, FileNotFoundError), match=str(tmp_path)):
        load_arvae(tmp_path)


def test_a_repository_of_diffusers_is_recognised(hub: Hub, tmp_path: Path) -> None:
    make_folder(tmp_path)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    hub.add(files | {f"vae/{name}": content for name, content in files.items()})
    for source in (f"hf://{REPO}", f"hf://{REPO}/vae"):
        assert_equal(load_arvae(source), from_diffusers(tmp_path))


def test_a_saved_grid_reads_back_with_its_scale(tmp_path: Path) -> None:
    make_folder(tmp_path / "theirs")
    arvae = load_arvae(tmp_path / "theirs")
    save_pretrained(arvae, tmp_path / "ours")
    found = load_arvae(tmp_path / "ours")
    assert_equal(found, arvae)
    assert describe(found) == describe(arvae)
    assert json.loads((tmp_path / "ours/config.json").read_text())["class"] == "GridVAE"
    assert "import load_arvae" in (tmp_path / "ours/README.md").read_text()
    assert fingerprint(found) == fingerprint(arvae)
    found.get_buffer("scale").mul_(2)
    assert fingerprint(found) != fingerprint(arvae)


def test_stage_1_starts_from_diffusers(tmp_path: Path) -> None:
    make_folder(tmp_path)
    arvae = GridVAE(resolution=32, channels=3, widths=(4, 8), layers=1, groups=2)
    init_from(arvae, str(tmp_path))
    assert_equal(arvae, from_diffusers(tmp_path))
    with pytest.raises(ValueError, match=r"set --model\.arvae to ardiffusion\.nn\.grid\.GridVAE"):
        init_from(make_first_stage().arvae, str(tmp_path))
