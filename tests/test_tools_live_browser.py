"""The live page in a browser: frames arrive, sessions do not mix, and closed pages end."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ardiffusion.data.video import read_frames
from ardiffusion.data.writer import write_video
from ardiffusion.diffusion.noise import sample_seed
from ardiffusion.generator import Generator
from ardiffusion.tools.live import RECENT, Studio

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

pytest.importorskip("gradio", reason="gradio is not installed: the extra `live` brings it")

Visit = Callable[[], "Page"]


@pytest.fixture(scope="module")
def studio(generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    model = Generator.from_pretrained(generator).requires_grad_(False)
    return Studio(model, folder=tmp_path_factory.mktemp("studio"), fps=20)


@pytest.fixture(scope="module")
def url(studio: Studio) -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    patch.setenv("GRADIO_TEMP_DIR", str(studio.folder))
    from ardiffusion.tools.live_page import serve

    with serve(studio, host="127.0.0.1", port=None) as url:
        yield url
    patch.undo()


@pytest.fixture
def visit(browser: "Browser", url: str) -> Iterator[Visit]:
    """Open the page as another person; in the end nothing went wrong or to other machines."""
    requests: list[str] = []
    wrong: list[str] = []
    contexts = []

    def visit() -> "Page":
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        with page.expect_request(lambda request: "heartbeat" in request.url):  # it is alive then
            page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []
    assert requests and all(one.startswith((url, "data:", "blob:")) for one in requests)


def begin(page: "Page", seed: int = 0) -> None:
    page.get_by_label("Seed").fill(str(seed))
    page.get_by_label("Steps").fill("8")
    page.get_by_label("Difference").fill("2")
    page.get_by_role("button", name="Start").click()


def upload(page: "Page", path: Path) -> None:
    page.locator("input[type=file]").set_input_files(path)
    page.get_by_label(path.name, exact=True).wait_for()


def wait_for_frame(page: "Page", index: int) -> None:
    numbers = "[...document.querySelectorAll('.map figure')].filter(f => f.querySelector('img'))"
    page.wait_for_function(f"() => {numbers}.some(f => +f.dataset.frame >= {index})")


def until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def save(page: "Page", path: Path) -> Path:
    with page.expect_download() as download:
        page.get_by_role("link", name="Save as MP4").or_(
            page.get_by_role("button", name="Save as MP4")
        ).click()
    download.value.save_as(path)
    return path


def test_frames_arrive_while_later_ones_are_noise_until_one_stops(
    visit: Visit, studio: Studio, tmp_path: Path
) -> None:
    page = visit()
    begin(page)
    wait_for_frame(page, index=12)
    (video,) = studio.videos.values()
    assert video.thread.is_alive() and page.locator(".screen img").is_visible()
    grains = "[...document.querySelectorAll('.flying .grain')].map(g => +g.style.opacity)"
    noise = page.evaluate(grains)
    assert len(noise) >= 3 and noise == sorted(noise) and noise[-1] > noise[0]
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped after").wait_for()
    assert not video.thread.is_alive() and not studio.turn.locked()
    frames = read_frames(save(page, tmp_path / "a.mp4"))
    assert len(frames) == video.frames > 12


def test_two_people_see_their_own_videos(visit: Visit, studio: Studio) -> None:
    pages = {seed: visit() for seed in (3, 4)}
    for seed, page in pages.items():
        begin(page, seed=seed)
    for page in pages.values():
        wait_for_frame(page, index=8)
    shown = [page.locator(".screen img").get_attribute("src") for page in pages.values()]
    assert shown[0] != shown[1]
    for page in pages.values():
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped after").wait_for()
    model, videos = studio.generator, {v.wish.seed: v for v in studio.videos.values()}
    for seed in pages:
        wanted = model.generate(
            [sample_seed(seed, 0)],
            frames=videos[seed].frames,
            labels=[model.classes[0]],
            sampler=model.sampler(steps=8, difference=2),
        )
        assert torch.equal(torch.stack([*videos[seed].pictures]), wanted[0, -RECENT:])


def test_a_closed_page_ends_its_computation(visit: Visit, studio: Studio) -> None:
    page = visit()
    before = set(studio.videos)
    begin(page)
    wait_for_frame(page, index=1)
    (session,) = set(studio.videos) - before
    video = studio.videos[session]
    page.close()
    assert until(lambda: not video.thread.is_alive())
    assert until(lambda: session not in studio.videos and not video.file.exists())


def test_bad_input_is_a_sentence(visit: Visit, tmp_path: Path) -> None:
    fake = tmp_path / "sky.png"
    fake.write_text("not a picture")
    page = visit()
    upload(page, fake)
    begin(page)
    page.get_by_role("alert").filter(has_text="sky.png is broken or not a picture").wait_for()
    assert "/" not in page.locator(".problem").inner_text()
    assert page.get_by_role("button", name="Start").is_enabled()


def test_no_class_is_what_the_page_says_and_asks_for(visit: Visit, studio: Studio) -> None:
    page, before = visit(), set(studio.videos)
    page.get_by_label("Class").click()
    page.get_by_role("option", name="no class").click()
    begin(page)
    wait_for_frame(page, index=1)
    assert page.get_by_role("combobox", name="Class").input_value() == "no class"
    (session,) = set(studio.videos) - before
    assert studio.videos[session].wish.label == -1


def test_what_ends_before_its_first_frame_leaves_no_hope_for_one(
    visit: Visit, studio: Studio
) -> None:
    page = visit()
    with studio.turn:  # nobody computes
        begin(page)
        page.get_by_text("The first frame is still noise").wait_for()
        assert page.locator(".said").inner_text() == "0 frames"
        page.get_by_role("button", name="Stop").click()
        time.sleep(0.5)
    page.get_by_text("There is no video.").wait_for()
    assert page.get_by_role("button", name="Start").is_enabled()


def test_a_clip_is_continued_and_its_frames_are_marked(visit: Visit, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_video(clip, torch.full((3, 3, 16, 16), 90, dtype=torch.uint8))
    page = visit()
    upload(page, clip)
    begin(page)
    page.locator(".given[data-frame='2'] img").wait_for()
    wait_for_frame(page, index=4)
    assert page.locator(".given[data-frame='3']").count() == 0
