"""The gallery in a browser: what its script does with videos, keys and filters."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import pytest
import torch

from ardiffusion.data.writer import write_video
from ardiffusion.files import append_json_lines
from ardiffusion.tools.gallery import Section, write_gallery

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

COUNT = """
  window.held = new Set();
  const {createObjectURL, revokeObjectURL} = URL;
  URL.createObjectURL = (blob) => {
    const url = createObjectURL(blob);
    held.add(url);
    return url;
  };
  URL.revokeObjectURL = (url) => revokeObjectURL(url, held.delete(url));
"""
LOADED = "v => v.readyState >= 2 && v.videoWidth === 32 && v.videoHeight === 32"

Motion = Literal["no-preference", "reduce"]


class Visit(Protocol):
    def __call__(self, file: Path, motion: Motion = "no-preference") -> "Page": ...


@pytest.fixture
def visit(browser: "Browser") -> Iterator[Visit]:
    """Open a page; in the end nothing may have gone wrong and no request may have left."""
    requests: list[str] = []
    wrong: list[str] = []
    contexts = []

    def visit(file: Path, motion: Motion = "no-preference") -> "Page":
        context = browser.new_context(
            viewport={"width": 1200, "height": 800}, reduced_motion=motion
        )
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(COUNT)
        page.set_default_timeout(10_000)
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.goto(file.as_uri())
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []
    assert requests and {url.split(":")[0] for url in requests} <= {"file", "data", "blob"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of six rows: two classes, videos of 12 frames beside others of 8 at another rate."""
    root = tmp_path_factory.mktemp("gallery")
    for column, frames, fps in (("real", 12, 10), ("ours", 8, 5)):
        for i in range(6):
            path = root / column / ("day", "night")[i % 2] / f"{i}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            # frame f has brightness 20 f, so that a picture tells its frame
            video = 20 * torch.arange(frames, dtype=torch.uint8).view(-1, 1, 1, 1)
            write_video(path, video.expand(frames, 3, 32, 32), fps=fps)
    columns = {name: root / name for name in ("real", "ours")}
    write_gallery(root / "out.html", title="Skies", sections=[Section("Videos", columns=columns)])
    return root / "out.html"


def wait_loaded(page: "Page", selector: str) -> None:
    found = f"[...document.querySelectorAll({selector!r})]"
    page.wait_for_function(f"() => {found}.length && {found}.every({LOADED})")


def shown_frames(page: "Page", row: int) -> list[int]:
    """Tell by their pictures which frames a row's videos show."""
    return page.evaluate(
        """async (row) => {
          const videos = document.querySelectorAll(".row")[row].querySelectorAll("video");
          const found = [];
          for (const video of videos) {
            while (video.seeking || video.readyState < 2) await new Promise(requestAnimationFrame);
            const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
            const context = canvas.getContext("2d");
            context.drawImage(video, 0, 0, 1, 1);
            found.push(Math.round(context.getImageData(0, 0, 1, 1).data[0] / 20));
          }
          return found;
        }""",
        row,
    )


def test_videos_load_and_play_while_visible(visit: Visit, file: Path) -> None:
    page = visit(file)
    wait_loaded(page, ".row:first-child video")
    page.wait_for_function("() => document.querySelector('.row output').value !== '1 / 12'")
    assert page.evaluate("[...document.querySelectorAll('video')].every(v => v.muted)")
    strips = ".row:first-child .film img"
    page.wait_for_function(f"() => document.querySelector('{strips}').naturalWidth === 3 * 32 + 4")
    page.get_by_role("button", name="Pause all").click()
    assert page.locator(".row.playing").count() == 0
    page.get_by_role("button", name="Play day/0").click()
    assert page.locator(".row.playing").count() == 1


def test_a_bar_stands_where_the_given_frames_end(visit: Visit, tmp_path: Path) -> None:
    for i in range(2):
        write_video(tmp_path / f"{i}.mp4", torch.zeros(12, 3, 32, 32, dtype=torch.uint8))
    prefixes = [{"file": "a.png", "frames": 5}, None]
    lines = [{"file": f"{i}.mp4", "index": i, "prefix": x} for i, x in enumerate(prefixes)]
    append_json_lines(tmp_path / "samples.jsonl", lines)
    section = Section("Videos", columns={"made": tmp_path})
    write_gallery(tmp_path / "out.html", title="Skies", sections=[section])
    page = visit(tmp_path / "out.html")
    page.get_by_text("Frames", exact=True).first.click()
    assert page.locator(".given").count() == 1
    assert "5 given" in page.locator(".strips figcaption").first.inner_text()
    bar, strip = (page.locator(x).first.bounding_box() for x in (".given", ".film img"))
    assert bar is not None and strip is not None
    # frames 0 and 4 of the strip's 0, 4 and 8 were given
    assert bar["x"] + bar["width"] / 2 == pytest.approx(strip["x"] + strip["width"] * 2 / 3, abs=2)


def test_keys_step_frames_and_rows(visit: Visit, file: Path) -> None:
    page = visit(file, motion="reduce")
    wait_loaded(page, ".row:first-child video")
    assert page.locator(".row.playing").count() == 0  # motion is for those who want it
    press, active = (
        page.keyboard.press,
        "() => document.activeElement.querySelector('h3')?.textContent",
    )
    assert shown_frames(page, row=0) == [0, 0]
    for _ in range(3):
        press("ArrowRight")
    press("ArrowLeft")
    assert shown_frames(page, row=0) == shown_frames(page, row=1) == [2, 2]
    press("j")
    assert page.evaluate(active) == "day/0"
    press("ArrowDown")
    assert page.evaluate(active) == "day/2"
    press("ArrowRight")
    assert shown_frames(page, row=1) == [3, 3] and shown_frames(page, row=0) == [2, 2]
    press("k")
    assert page.evaluate(active) == "day/0"
    for _ in range(7):
        press("ArrowRight")
    assert shown_frames(page, row=0) == [9, 7]  # the shorter one waits at its end
    assert page.locator(".row output").first.text_content() == "10 / 12"
    slider = page.locator(".row input[type=range]").first
    assert slider.get_attribute("aria-valuetext") == "frame 10 of 12"
    press(" ")
    assert page.locator(".row.playing").count() == 1
    press(" ")
    assert page.locator(".row.playing").count() == 0


def test_filters_hide_rows(visit: Visit, file: Path) -> None:
    page = visit(file)
    rows = page.locator(".row:visible")
    assert rows.count() == 6
    page.get_by_label("Class").select_option("night")
    assert rows.count() == 3 and page.locator("#count").text_content() == "3 of 6 rows"
    page.keyboard.press("Escape")
    page.keyboard.press("f")
    page.keyboard.type("night/3 j")
    assert rows.count() == 0 and page.get_by_text("No row matches the filter.").is_visible()
    page.get_by_label("Filter").fill("NIGHT/3")
    assert rows.count() == 1 and rows.locator("h3").text_content() == "night/3"
    assert page.locator("#count").text_content() == "1 of 6 rows"


def test_one_video_is_not_counted_as_many(visit: Visit, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", torch.zeros(3, 3, 32, 32, dtype=torch.uint8))
    out = tmp_path / "out.html"
    write_gallery(out, title="t", sections=[Section("s", columns={"real": tmp_path / "in"})])
    page = visit(out)
    assert page.locator("#count").text_content() == "1 row"
    assert page.locator("#summary").text_content() == "1 video in 1 row"


def test_help_and_views(visit: Visit, file: Path) -> None:
    page = visit(file)
    help_ = page.get_by_role("dialog")
    page.keyboard.press("?")
    assert help_.is_visible() and help_.get_by_text("filter by text").is_visible()
    page.keyboard.press("Escape")
    assert not help_.is_visible()
    tiles, strips = page.locator(".tiles:visible"), page.locator(".strips:visible")
    counts = {}
    for view in ("Videos", "Frames", "Both"):
        page.get_by_role("radio", name=view).check(force=True)
        counts[view] = (tiles.count(), strips.count())
    assert counts == {"Videos": (6, 0), "Frames": (0, 6), "Both": (6, 6)}
    page.get_by_role("button", name="Crisp pixels").click()
    style = "() => getComputedStyle(document.querySelector('video')).imageRendering"
    assert page.evaluate(style) == "pixelated"


def test_long_strips_follow_their_frame_together(visit: Visit, tmp_path: Path) -> None:
    for column, frames in (("long", 60), ("short", 40)):
        (tmp_path / column).mkdir()
        video = torch.zeros(frames, 3, 32, 32, dtype=torch.uint8)
        write_video(tmp_path / column / "a.mp4", video)
    columns = {name: tmp_path / name for name in ("long", "short")}
    out = tmp_path / "out.html"
    write_gallery(out, title="t", sections=[Section("s", columns=columns)], every=1)
    page = visit(out, motion="reduce")
    page.get_by_role("radio", name="Frames").check(force=True)
    wait_loaded(page, "video")
    page.locator(".controls input").fill("50")
    box, mark = (page.locator(f".strips {x}").first.bounding_box() for x in (".scroll", ".mark"))
    assert box and mark and box["x"] <= mark["x"] <= box["x"] + box["width"] - mark["width"] + 4
    places = "[...document.querySelectorAll('.strips .scroll')].map(s => Math.round(s.scrollLeft))"
    page.wait_for_function(f"() => {places}.every((x, i, all) => x === all[0] && x > 100)")
    assert page.locator(".row output").text_content() == "51 / 60"


def test_two_hundred_videos_load_where_they_are_seen(visit: Visit, tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    write_video(root / "000.mp4", torch.zeros(3, 3, 32, 32, dtype=torch.uint8))
    for i in range(1, 200):
        shutil.copy(root / "000.mp4", root / f"{i:03d}.mp4")
    write_gallery(tmp_path / "out.html", title="t", sections=[Section("s", columns={"c": root})])
    page = visit(tmp_path / "out.html")
    assert page.locator(".row").count() == 200
    wait_loaded(page, ".row:first-child video")
    held = "() => document.querySelectorAll('video[src]').length"
    blobs = "() => held.size"  # a video and a strip each
    assert 0 < page.evaluate(held) < 75 and page.evaluate(blobs) < 150
    page.evaluate(
        "document.querySelector('.row:last-child').scrollIntoView({behavior: 'instant'})"
    )
    wait_loaded(page, ".row:last-child video")
    page.wait_for_function("() => !document.querySelector('.row:first-child video').src")
    assert 0 < page.evaluate(held) < 75 and page.evaluate(blobs) < 150
    for row in range(40, 200, 60):
        show = (
            "row => document.querySelectorAll('.row')[row].scrollIntoView({behavior: 'instant'})"
        )
        page.evaluate(show, row)
        wait_loaded(page, f".row:nth-child({row + 1}) video")
    assert page.evaluate(blobs) == 2 * page.evaluate(held) < 150
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")
    wait_loaded(page, ".row:first-child video")
