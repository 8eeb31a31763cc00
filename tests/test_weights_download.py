import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import REPO, Hub
from huggingface_hub import constants
from safetensors.torch import save
from tiny_models import assert_equal, files, tiny

from ardiffusion.hub import Card, load_dit, published_files, push_to_hub

SOURCE = f"hf://{REPO}"


def test_download_then_cache_hit_without_body(hub: Hub, tmp_path: Path) -> None:
    net = tiny()
    hub.add(files(net, tmp_path / "a"))
    assert_equal(load_dit(SOURCE), net)
    assert len(hub.bodies()) == 2
    assert_equal(load_dit(SOURCE), net)
    assert_equal(load_dit(f"{SOURCE}/model.safetensors"), net)
    assert len(hub.bodies()) == 2


def test_a_download_is_announced_with_its_size(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = files(tiny(), tmp_path / "a")
    hub.add(content)
    load_dit(SOURCE)
    said = capsys.readouterr().err
    assert f"Downloading {SOURCE}/model.safetensors" in said.replace("\n", "")
    assert f"{len(content['model.safetensors']) / 1000:.1f} kB" in said


def test_a_revision_is_pinned(hub: Hub, tmp_path: Path) -> None:
    old = hub.add(files(tiny(seed=0), tmp_path / "a"))
    hub.add(files(tiny(seed=1), tmp_path / "b"))
    assert_equal(load_dit(f"{SOURCE}@{old}"), tiny(seed=0))
    assert_equal(load_dit(SOURCE), tiny(seed=1))
    with pytest.raises(FileNotFoundError, match="check its name and revision"):
        load_dit(f"{SOURCE}@v9")


def test_a_download_goes_on_after_the_connection_broke(hub: Hub, tmp_path: Path) -> None:
    net = tiny()
    hub.add(files(net, tmp_path / "a"))
    hub.break_after = [1000, 500]
    assert_equal(load_dit(f"{SOURCE}/model.safetensors"), net)
    assert len(hub.bodies()) == 3


def test_a_download_that_broke_off_leaves_nothing_that_the_next_run_takes_for_whole(
    hub: Hub, tmp_path: Path
) -> None:
    net = tiny()
    hub.add(files(net, tmp_path / "a"))
    hub.break_after = [700] + [0] * 20
    with pytest.raises(ConnectionError, match=r"cannot be reached, and hf://.*model"):
        load_dit(f"{SOURCE}/model.safetensors")
    hub.break_after = []
    assert_equal(load_dit(f"{SOURCE}/model.safetensors"), net)


def test_what_arrives_corrupt_is_discarded(hub: Hub, tmp_path: Path) -> None:
    net = tiny()
    hub.add(files(net, tmp_path / "a"))
    hub.corrupt = True
    with pytest.raises(ValueError, match=r"instead of .* it was discarded"):
        load_dit(f"{SOURCE}/model.safetensors")
    hub.corrupt = False
    assert_equal(load_dit(f"{SOURCE}/model.safetensors"), net)


def test_a_private_repository_wants_the_right_token(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(files(tiny(), tmp_path / "a"))
    hub.token = "hf_secret"
    with pytest.raises(ConnectionError, match=r"refuses access .*\(401\).* set HF_TOKEN"):
        load_dit(SOURCE)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert_equal(load_dit(SOURCE), tiny())


def test_what_is_not_on_the_hub_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.add({"notes.txt": b"none"})
    with pytest.raises(FileNotFoundError, match=r"no hf://someone/else on .*\(404\)"):
        load_dit("hf://someone/else")
    with pytest.raises(FileNotFoundError, match=r"lost\.safetensors"):
        load_dit(f"{SOURCE}/lost.safetensors")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_dit(SOURCE)


def test_offline_the_cache_serves_and_a_miss_is_one_sentence(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = tiny()
    hub.add(files(net, tmp_path / "a"))
    load_dit(SOURCE)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.requests.clear()
    assert_equal(load_dit(SOURCE), net)
    for source in (f"{SOURCE}/other.safetensors", "hf://someone/else"):
        with pytest.raises(FileNotFoundError, match=r"is not in the cache .*HF_HUB_OFFLINE"):
            load_dit(source)
    assert not hub.requests


def test_the_cache_serves_while_the_hub_is_down(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(files(tiny(), tmp_path / "a"))
    load_dit(SOURCE)
    hub.token = "nobody has it"
    assert_equal(load_dit(SOURCE), tiny())
    closed = "http://127.0.0.1:9"
    template = closed + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", closed)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    assert_equal(load_dit(SOURCE), tiny())


def test_a_pushed_model_reads_back(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    net = tiny()
    hub.add({})
    assert push_to_hub(net, REPO, card=Card(data="skies")) == SOURCE
    assert_equal(load_dit(SOURCE), net)
    assert push_to_hub(tiny(seed=3), f"{REPO}/small") == f"{SOURCE}/small"
    assert_equal(load_dit(f"{SOURCE}/small"), tiny(seed=3))


@pytest.mark.parametrize("offline", [False, True])
def test_an_upload_without_a_hub_says_what_to_do(
    offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    why = "HF_HUB_OFFLINE is set" if offline else "no connection"
    with pytest.raises(ConnectionError, match=rf"cannot be written \({why}\): write to a folder"):
        push_to_hub(tiny(), REPO)


def published_listing() -> dict[str, bytes]:
    dit = save({"diffusion_model.betas": torch.zeros(3), "context_emb": torch.zeros(1)})
    vae = save({"module.encoder.a": torch.zeros(3), "module.decoder.a": torch.zeros(1)})
    loss = save({"discriminator.main": torch.zeros(3)})
    return {
        "SkyTimelapse/nvae_midt/checkpoint-50000/model.safetensors": dit,
        "SkyTimelapse/nvae_midt/checkpoint-100000/model.safetensors": dit,
        "SkyTimelapse/vae_4ch/model.safetensors": vae,
        "SkyTimelapse/vae_4ch/model_1.safetensors": loss,
        "ucf101/midt/checkpoint-2/model.safetensors": dit,
        "ucf101/midt_class/checkpoint-1/model.safetensors": dit,
        "taichi/a/model.safetensors": dit,
        "taichi/b/model.safetensors": dit,
        "face/dit.bin": b"",
        "face/optimizer.bin": b"",
        "tokenizer_titok_l32.bin": b"",
    }


def test_published_files_are_found_by_data_set_and_content(hub: Hub) -> None:
    commit = hub.add(published_listing())
    assert published_files(REPO, "sky") == {
        "arvae": f"{SOURCE}/SkyTimelapse/vae_4ch/model.safetensors@{commit}",
        "dit": f"{SOURCE}/SkyTimelapse/nvae_midt/checkpoint-100000/model.safetensors@{commit}",
    }
    assert published_files(REPO, "ffs") == {"dit": f"{SOURCE}/face/dit.bin@{commit}"}
    classes = f"{SOURCE}/ucf101/midt_class/checkpoint-1/model.safetensors@{commit}"
    assert published_files(REPO, "ucf101") == {"dit": classes}
    with pytest.raises(ValueError, match=r"several published files for taichi.*a/.*taichi/b/"):
        published_files(REPO, "taichi")
    hub.commits.clear()
    hub.add({"notes.txt": b"none"})
    with pytest.raises(ValueError, match=r"no published weights for ffs; it holds: notes\.txt"):
        published_files(REPO, "ffs")
    with pytest.raises(ValueError, match="only for sky, taichi, ucf101, ffs"):
        published_files(REPO, "cats")


def test_the_environment_says_where_the_hub_and_the_cache_are(hub: Hub, tmp_path: Path) -> None:
    hub.add(files(tiny(), tmp_path / "a"))
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    code = f"from ardiffusion.hub import load_dit; print(load_dit({SOURCE!r}).width)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "16\n"
    assert list((tmp_path / "home" / "hub").glob("models--someone--weights/snapshots/*/*.json"))
