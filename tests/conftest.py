import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from hub_server import Hub, serve_hub
from huggingface_hub import constants
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file
from torch import Tensor

if TYPE_CHECKING:
    from cli_runs import Runs
    from playwright.sync_api import Browser

FIXTURES = Path(__file__).parent / "fixtures"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

# Tiny tensors: a second thread only waits, and many processes share the machine under test.
torch.set_num_threads(1)
# A test is no benchmark: a busy machine makes examples slow, not wrong.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """Tables of the reference implementation: FoPP marginals, step tables, schedules."""
    return load_file(FIXTURES / "tables.safetensors")


@pytest.fixture(scope="session")
def skies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve videos of 20 frames in four class folders."""
    from ardiffusion.tools.videos import videos

    root = tmp_path_factory.mktemp("videos") / "skies"
    videos(str(root), kind="skies", videos=12, frames=20, resolution=16)
    return root


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a tiny AR-VAE."""
    from stages import save_tokenizer  # imports Lightning, which most tests need not wait for

    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "vae.ckpt")


@pytest.fixture(scope="session")
def generator(tokenizer: Path, skies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a tiny generator with the classes of the skies."""
    from stages import save_generator

    path = tmp_path_factory.mktemp("generator") / "dit.ckpt"
    return save_generator(path, tokenizer=tokenizer, skies=skies)


@pytest.fixture(scope="session")
def runs(skies: Path, tmp_path_factory: pytest.TempPathFactory) -> "Runs":
    """Both stages trained, clips encoded and videos generated from the command line."""
    from cli_runs import Runs

    runs = Runs(tmp_path_factory.mktemp("runs"), root=skies)
    runs.run("vae", "fit")
    runs.run("vae", "predict")
    runs.run("dit", "fit")
    runs.run("dit", "predict")
    return runs


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A Hub on this machine, with an empty cache."""
    with serve_hub() as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        quick = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
        monkeypatch.setattr("huggingface_hub.file_download.time", quick)
        monkeypatch.setenv("HF_TOKEN", "")
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """A Chromium that is there already; without one the tests that open a page are skipped."""
    reason = "playwright is not installed"
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    with sync_api.sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, BROWSERS)), None)
        own = playwright.chromium.executable_path
        if found is None and not Path(own).exists():
            pytest.skip("there is no Chromium")
        browser = playwright.chromium.launch(executable_path=found or own, args=QUIET)
        yield browser
        browser.close()
