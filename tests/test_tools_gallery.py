import base64
import io
import json
import re
import warnings
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from av.video.frame import VideoFrame
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.data.video import read_frames, write_video
from ardiffusion.metrics.score import Score
from ardiffusion.tools import gallery
from ardiffusion.tools.command import main
from ardiffusion.tools.galleries import media
from ardiffusion.tools.gallery import Figure, Section, Table, write_gallery


def clip(seed: int, frames: int = 6, height: int = 16, width: int = 16) -> Tensor:
    """Smooth moving pictures, which compression keeps."""
    ramp = torch.linspace(0, 200, width)[None, None, None] + 8 * torch.arange(frames).view(
        -1, 1, 1, 1
    )
    video = (ramp + 9 * seed + torch.tensor([0, 15, 30]).view(1, 3, 1, 1)) % 256
    return video.expand(frames, 3, height, width).to(torch.uint8).contiguous()


def folder(root: Path, names: Sequence[str], frames: int = 6) -> Path:
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(root / name, clip(i, frames=frames))
    return root


class Page(HTMLParser):
    """What a page holds: elements with their attributes, texts, and the data of its videos."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.data: dict[str, str] = {}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag  # well-formed

    def handle_data(self, data: str) -> None:
        attributes = self.elements[-1][1] if self.elements else {}
        if self.open and self.open[-1] == "script" and attributes.get("type") == "text/plain":
            self.data[attributes["id"] or ""] = data
        elif data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and wanted.items() <= {**a}.items()]

    def texts_of(self, tag: str) -> list[str]:
        return [text for t, text in self.texts if t == tag]

    def bytes_of(self, id_: str | None) -> bytes:
        return base64.b64decode(self.data[id_ or ""])


def score(value: float = 10.0, **changes: object) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "metric": "fvd_16",
        "value": value,
        "interval": (value - 1, value + 1),
        "protocol": {"name": "StyleGANV", "frames": 16},
        "real": 2048,
        "fake": 2048,
        "split": "train",
        "stride": 1,
        "resolution": 64,
        "network": {"name": "I3D", "hash": "ab"},
        "data": {"fake": f"samples_{value:g}"},
    }
    return fields | changes


def test_playable_files_are_embedded_as_they_are_with_every_nth_frame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "CHUNK", 2)
    (tmp_path / "in").mkdir()
    write_video(tmp_path / "in" / "a.mp4", clip(0, frames=7), fps=8)
    out = tmp_path / "out.html"
    write_gallery(
        out, title="t", sections=[Section("s", columns={"real": tmp_path / "in"})], every=3
    )
    page = Page(out)
    (video,) = page.all("video")
    assert (video["data-frames"], video["data-fps"], video["width"]) == ("7", "8", "16")
    assert page.bytes_of(video["data-source"]) == (tmp_path / "in" / "a.mp4").read_bytes()
    (strip,) = [a for a in page.all("img") if a.get("data-source")]
    assert (strip["data-count"], strip["data-every"]) == ("3", "3")
    with Image.open(io.BytesIO(page.bytes_of(strip["data-source"]))) as picture:
        assert picture.size == (3 * 16 + 2 * 2, 16)
        pixels = torch.tensor(bytearray(picture.convert("RGB").tobytes())).view(16, 52, 3)
    frames = read_frames(tmp_path / "in" / "a.mp4")[::3]
    for i, frame in enumerate(frames):
        shown = pixels[:, 18 * i : 18 * i + 16].permute(2, 0, 1)
        assert (shown.double() - frame.double()).abs().mean() < 8  # WebP is lossy


def write_avi(path: Path, video: Tensor) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.height, stream.width = video.shape[2:]
        stream.bit_rate = 4_000_000
        for frame in video:
            picture = VideoFrame.from_ndarray(frame.permute(1, 2, 0).numpy(), format="rgb24")
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def test_what_browsers_cannot_play_becomes_even_h264(tmp_path: Path) -> None:
    root = tmp_path / "in"
    (root / "frames").mkdir(parents=True)
    odd, large = clip(1, height=15, width=17), clip(2, frames=40, height=64, width=512)
    write_video(root / "odd.mp4", odd)  # yuv444p
    write_avi(root / "other.avi", large)
    for i, frame in enumerate(clip(3, frames=3)):
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(root / "frames" / f"{i}.png")
    gif = [Image.fromarray(f.permute(1, 2, 0).numpy()) for f in clip(4, frames=5)]
    gif[0].save(root / "moving.gif", save_all=True, append_images=gif[1:], duration=100)
    out = tmp_path / "out.html"
    write_gallery(out, title="t", sections=[Section("s", columns={"real": root})])
    page = Page(out)
    found = {}
    for i, video in enumerate(page.all("video")):
        file = tmp_path / f"{i}.mp4"
        file.write_bytes(page.bytes_of(video["data-source"]))
        with av.open(str(file)) as opened:
            context = opened.streams.video[0].codec_context
            assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        read = read_frames(file)
        assert video["data-frames"] == str(len(read))
        assert (video["height"], video["width"]) == tuple(str(n) for n in read.shape[2:])
        found[(video["aria-label"] or "").split(": ")[1].split(",")[0]] = (read, video["data-fps"])
    assert {name: tuple(v.shape) for name, (v, _) in found.items()} == {
        "frames": (3, 3, 16, 16),
        "odd.mp4": (6, 3, 16, 18),
        "other.avi": (40, 3, 32, 256),
        "moving.gif": (5, 3, 16, 16),
    }
    assert found["other.avi"][1] == found["moving.gif"][1] == "10"
    read = found["odd.mp4"][0]
    assert (read[:, :, :15, :17].double() - odd.double()).abs().mean() < 8
    assert_close(read[:, :, 15].double(), read[:, :, 14].double(), atol=12, rtol=0)


def test_names_and_classes_are_text_and_never_markup(tmp_path: Path) -> None:
    evil = '<script>alert("&1")'
    root = folder(tmp_path / "in", [f"{evil}/a.mp4", "other/b'>.mp4"])
    out = tmp_path / "out.html"
    part = Section(
        evil,
        text=evil,
        columns={evil: root},
        tables=[Table(evil, [evil], [[evil], [0.125]], note=evil)],
        scores=[score(warnings=[evil], split=evil)],
    )
    write_gallery(out, title=evil, sections=[part], text=evil, settings={evil: [evil]})
    page = Page(out)
    scripts = [a for a in page.all("script") if a.get("type") != "text/plain"]
    assert len(scripts) == 1
    assert sorted(a["data-label"] or "" for a in page.all("article")) == [evil, "other"]
    assert page.texts_of("title") == page.texts_of("h1") == page.texts_of("h2")[:1] == [evil]
    assert page.texts_of("figcaption").count(evil) == 4  # two videos and their strips
    assert "other/b'>" in page.texts_of("h3")
    assert {evil} <= set(page.texts_of("p")) & set(page.texts_of("dd")) & set(page.texts_of("th"))


def test_nothing_on_the_page_points_outside(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", ["a.mp4"])
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    out = tmp_path / "out.html"
    part = Section("s", columns={"c": root}, figures=[Figure(tmp_path / "x.png", "A curve")])
    write_gallery(out, title="t", sections=[part])
    page = Page(out)
    links = [v for _, a in page.elements for k, v in a.items() if k in ("src", "href", "srcset")]
    assert links and all((link or "").startswith(("data:", "#")) for link in links)
    text = re.sub(r'<script type="text/plain".*?</script>', "", out.read_text(encoding="utf-8"))
    assert not re.search(r"https?:|@import|\burl\(|fetch\(|XMLHttp|WebSocket", text)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data: blob:;")
    (figure,) = [a for a in page.all("img") if a.get("src")]
    assert figure["alt"] == "A curve"


def test_scores_of_two_protocols_stand_in_two_tables(tmp_path: Path) -> None:
    other = score(3.0, protocol={"name": "StyleGANV", "frames": 128})
    few = score(4.0, fake=24, warnings=["Too few videos."])
    Score(**score(2.5)).save(tmp_path / "a.json")
    out = tmp_path / "out.html"
    records = [score(1.5), other, tmp_path / "a.json", few]
    write_gallery(out, title="t", sections=[Section("Scores", scores=records)])
    bodies = re.findall(r"<tbody>(.*?)</tbody>", out.read_text(encoding="utf-8"), re.DOTALL)
    values = [re.findall(r'<td class="number">(\d\.\d+)</td>', body) for body in bodies]
    assert values == [["1.50", "2.50"], ["3.00"], ["4.00"]]
    page = Page(out)
    assert "1.5 to 3.5" in page.texts_of("td") and "Too few videos." in page.texts_of("li")
    assert any("fvd_16 = 2.5000 (95 %: 1.5 to 3.5)" in text for text in page.texts_of("pre"))
    assert any("measured in 3 ways" in text for text in page.texts_of("p"))


def test_rows_are_found_by_words_in_small_letters_as_browsers_make_them(tmp_path: Path) -> None:
    videos = folder(tmp_path / "in", ["STRA\u1e9eE.mp4"])
    line = {"file": "STRA\u1e9eE.mp4", "index": 0, "prompt": "GR\u00dcN"}
    (videos / "samples.jsonl").write_text(json.dumps(line))
    out = tmp_path / "out.html"
    write_gallery(out, title="t", sections=[Section("s", columns={"real": videos})])
    page = Page(out)
    (row,) = page.all("article")
    text = row["data-text"] or ""
    assert "stra\u00dfe" in text and "gr\u00fcn" in text
    (slider,) = [a for a in page.all("input", type="range") if "aria-valuetext" in a]
    assert slider["aria-valuetext"] == "frame 1 of 6"


def test_page_says_what_was_paired_by_order_left_out_and_broken(tmp_path: Path) -> None:
    real = folder(tmp_path / "real", ["a.mp4", "b.mp4", "c.mp4"])
    (real / "b.mp4").write_bytes(b"no video")
    fake = folder(tmp_path / "fake", ["0.mp4", "1.mp4"])
    lines = ({"file": f"{i}.mp4", "index": i, "seed": 7, "steps": 5} for i in range(2))
    (fake / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "out.html"
    with pytest.warns(UserWarning, match=r"b\.mp4 is broken or not a video"):
        result = gallery.gallery(str(out), columns={"real": str(real), "ours": str(fake)}, limit=2)
    assert (result["rows"], result["videos"], result["left_out"]) == (2, 3, 1)
    assert result["bytes"] == out.stat().st_size and len(result["broken"]) == 1
    page = Page(out)
    notes = " ".join(page.texts_of("p"))
    assert "Videos of ours stand beside the others by their order alone" in notes
    assert "1 more row is not shown." in notes and "1 video is broken" in notes
    assert len(page.all("article")) == 2 and "no video" in page.texts_of("div")
    assert page.texts_of("dt")[:2] == ["seed", "steps"]  # common to all samples


def test_large_page_warns_and_names_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "in", ["a.mp4"])
    sections = [Section("s", columns={"c": root})]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_gallery(tmp_path / "out.html", title="t", sections=sections)
    monkeypatch.setattr(gallery, "LARGE", 1000)
    with pytest.warns(UserWarning, match="--limit, now 200"):
        write_gallery(tmp_path / "out.html", title="t", sections=sections)


def test_page_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = folder(tmp_path / "in", ["a.mp4"]), tmp_path / "new" / "out.html"
    sections = [Section("s", columns={"c": root})]
    write_gallery(out, title="first", sections=sections)
    assert [p.name for p in out.parent.iterdir()] == ["out.html"]

    def full(id_: str, data: bytes) -> str:
        assert len(list(out.parent.iterdir())) == 2  # written aside
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gallery, "block", full)
    with pytest.raises(OSError, match=r"Cannot write .*out\.html"):
        write_gallery(out, title="second", sections=sections)
    assert [p.name for p in out.parent.iterdir()] == ["out.html"]
    assert Page(out).texts_of("title") == ["first"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "There is nothing to show: give --columns, --scores or --figures."),
        (["--columns", "{real: nowhere}"], "Folder nowhere of column 'real' does not exist"),
        (["--columns", "{real: empty}"], "Folder empty of column 'real' holds no videos"),
        (["--columns", "{real: bad}"], "None of 1 videos can be shown. bad/a.mp4 is broken"),
        (["--scores", "[no.json]"], "Score no.json does not exist: correct --scores."),
        (["--scores", "[bad/a.mp4]"], "bad/a.mp4 holds no score"),
        (["--figures", "[no.png]"], "Figure no.png does not exist: correct --figures."),
        (["--figures", "[a.pdf]"], "a.pdf is no PNG, JPEG or WebP file: correct --figures."),
        (["--columns", "{real: bad}", "--every", "0"], "--every must be at least 1, got 0."),
    ],
)
def test_bad_input_ends_with_one_sentence(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("bad").mkdir()
    Path("bad/a.mp4").write_text("no video")
    with pytest.raises(SystemExit) as exit_:
        main(["gallery", "out.html", *arguments])
    assert exit_.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"error: {said}") and not Path("out.html").exists()


def test_command_line_prints_the_size_and_one_json_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = folder(tmp_path / "in", ["a.mp4"]), tmp_path / "out.html"
    columns = ["--columns", f"{{ours: {root}}}"]
    main(["gallery", str(out), *columns, "--title", "Skies", "--text", "Hello."])
    size, last = capsys.readouterr().out.splitlines()[-2:]
    assert size.endswith(" MB") and json.loads(last)["videos"] == 1
    assert Page(out).texts_of("title") == ["Skies"]
    assert "Hello." in Page(out).texts_of("p")
