import base64
import io
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from gallery_pages import Page, folder, score
from PIL import Image

from ardiffusion.data.writer import write_video
from ardiffusion.tools.galleries import page as page_module
from ardiffusion.tools.gallery import Figure, Section, Table, write_gallery

EVIL = (
    '<script>alert("&1")',
    "{{ 7 * 7 }}{% raw %}{# gone #}",
    "\"' onload='alert(1)' x=\"",
    "</title><img src=x onerror=alert(1)>",
    "&lt;b&gt;]]>--!><!--",
)


@pytest.mark.parametrize("evil", EVIL)
def test_names_and_classes_are_text_and_never_markup(tmp_path: Path, evil: str) -> None:
    name = evil.replace("/", "\u2215")  # no file's name holds a slash
    root = folder(tmp_path / "in", [f"{name}/a.mp4", "other/b'>.mp4"])
    Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    out = tmp_path / "out.html"
    part = Section(
        evil,
        text=evil,
        columns={evil: root},
        tables=[Table(evil, [evil], [[evil], [0.125]], note=evil)],
        figures=[Figure(tmp_path / f"{name}.png", evil), Figure(tmp_path / f"{name}.png")],
        scores=[score(warnings=[evil], split=evil)],
    )
    write_gallery(out, title=evil, sections=[part], text=evil, settings={evil: [evil]})
    page = Page(out)
    scripts = [a for a in page.all("script") if a.get("type") != "text/plain"]
    assert len(scripts) == 1
    assert sorted(a["data-label"] or "" for a in page.all("article")) == sorted([name, "other"])
    assert page.texts_of("title") == page.texts_of("h1") == page.texts_of("h2")[:1] == [evil]
    assert page.texts_of("figcaption").count(evil) == 5  # a figure, two videos and their strips
    assert [a["alt"] for a in page.all("img") if a.get("src")] == [evil, name]
    assert {f"{name}/a", "other/b'>"} <= set(page.texts_of("h3"))
    assert {evil} <= set(page.texts_of("p")) & set(page.texts_of("dd")) & set(page.texts_of("th"))
    assert not any(key.startswith("on") for _, a in page.elements for key in a)


@pytest.mark.parametrize("evil", [*EVIL, "</script></article></main>"])
def test_what_samples_and_scores_say_is_text_and_never_markup(tmp_path: Path, evil: str) -> None:
    root, out = folder(tmp_path / "in", ["a.mp4"]), tmp_path / "out.html"
    line = {"file": "a.mp4", "index": 0, "label": evil, "model": {evil: [evil]}, evil: evil}
    (root / "samples.jsonl").write_text(json.dumps(line))
    told = {"protocol": {"name": evil, evil: evil}, "network": {"name": evil}, "weights": evil}
    record = score(metric=evil, data={"fake": evil}, warnings=[evil], **told)
    part = Section("s", columns={"c": root}, scores=[record])
    write_gallery(out, title="t", sections=[part])
    plain = Page(out)
    assert len([a for a in plain.all("script") if a.get("type") != "text/plain"]) == 1
    assert not any(key.startswith("on") for _, a in plain.elements for key in a)
    (row,), (code,) = plain.all("article"), plain.all("code")
    assert row["data-label"] == code["title"] == evil and evil.lower() in (row["data-text"] or "")
    assert plain.texts_of("code") == [evil[:8]]
    assert plain.texts_of("dd").count(f"{evil} {evil}") == 2  # the sample's and all samples' model
    assert plain.texts_of("dd").count(evil) == 4  # the label, twice the sample's own, the protocol
    assert evil in plain.texts_of("li") and evil in plain.texts_of("th")
    assert plain.texts_of("strong") == [f"{evil} of {evil}:"]


def test_samples_of_other_places_and_of_wrong_types_are_no_videos(tmp_path: Path) -> None:
    outside = folder(tmp_path, ["x.mp4", "in/a.mp4", "in/b.mp4"]) / "in"
    other = str(tmp_path / "x.mp4")
    named = [{"file": "../x.mp4", "seed": 666}, {"file": other, "seed": 666}, {"file": 5}, [1], 2]
    odd = {"file": "a.mp4", "index": "no", "label": [1, "\ud800"], "plan": {"a": None}}
    lines = [*named, {"seed": 666}, {"file": "b.mp4/../../x.mp4", "seed": 666}, odd]
    (outside / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)))
    out = tmp_path / "out.html"
    result = write_gallery(out, title="t", sections=[Section("s", columns={"c": outside})])
    page = Page(out)
    assert result["videos"] == 2 and page.texts_of("h3")[-2:] == ["a", "b"]
    told = out.read_text(encoding="utf-8").split("<main", 1)[1].split('type="text/plain"')[0]
    assert "x.mp4" not in told and "666" not in told
    assert "a –" in page.texts_of("dd") and any("\\ud800" in x for x in page.texts_of("dd"))


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
    score(2.5).save(tmp_path / "a.json")
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


def test_page_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = folder(tmp_path / "in", ["a.mp4"]), tmp_path / "new" / "out.html"
    sections = [Section("s", columns={"c": root})]
    write_gallery(out, title="first", sections=sections)
    assert [p.name for p in out.parent.iterdir()] == ["out.html"]

    def full(data: bytes) -> bytes:
        if len(data) == 32:  # the hash of a script or a style
            return base64.b64encode(data)
        assert len(list(out.parent.iterdir())) == 2  # written aside
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(page_module, "b64encode", full)
    with pytest.raises(OSError, match=r"Cannot write .*out\.html"):
        write_gallery(out, title="second", sections=sections)
    assert [p.name for p in out.parent.iterdir()] == ["out.html"]
    assert Page(out).texts_of("title") == ["first"]


def test_one_video_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, out = tmp_path / "in", tmp_path / "new" / "out.html"
    root.mkdir()
    noise = torch.randint(256, (16, 3, 128, 128), dtype=torch.uint8)
    write_video(root / "0.mp4", noise)
    for i in range(1, 8):
        shutil.copy(root / "0.mp4", root / f"{i}.mp4")
    read, unwritten = 0, []

    def watch(data: bytes) -> bytes:
        nonlocal read
        (partial,) = out.parent.iterdir()
        unwritten.append(read - partial.stat().st_size)
        read += len(data) * 4 // 3
        return base64.b64encode(data)

    monkeypatch.setattr(page_module, "b64encode", watch)
    write_gallery(out, title="t", sections=[Section("s", columns={"c": root})])
    one = (root / "0.mp4").stat().st_size * 4 // 3
    assert one > io.DEFAULT_BUFFER_SIZE and read > 8 * one
    assert max(unwritten) < one + io.DEFAULT_BUFFER_SIZE
