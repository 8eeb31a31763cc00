import json
import warnings
from pathlib import Path

import pytest
from gallery_pages import Page, folder

from ardiffusion.tools import gallery
from ardiffusion.tools.command import main
from ardiffusion.tools.gallery import Section, write_gallery


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


def test_videos_that_are_gone_are_left_out_and_listed(tmp_path: Path) -> None:
    root = folder(tmp_path / "in", ["a.mp4"])
    (root / "b.mp4").symlink_to("nowhere.mp4")
    (root / "empty.mp4").touch()
    sections = [Section("s", columns={"c": root})]
    with pytest.warns(UserWarning, match="Left out of the gallery"):
        result = write_gallery(tmp_path / "out.html", title="t", sections=sections)
    assert result["videos"] == 1 and len(result["broken"]) == 2
    assert result["broken"][0].startswith(f"{root / 'b.mp4'} does not exist")
    notes = Page(tmp_path / "out.html").texts_of("p")
    assert "2 videos are broken and not shown." in notes


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


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "There is nothing to show: give --columns, --scores or --figures."),
        (
            ["--columns", "{real: nowhere}"],
            "Data folder nowhere does not exist: set column",
        ),
        (["--columns", "{real: empty}"], "Data folder empty holds no videos and no folders"),
        (["--columns", "{real: bad}"], "None of 1 videos can be shown. bad/a.mp4 is broken"),
        (["--scores", "[no.json]"], "Score no.json does not exist: correct --scores."),
        (["--scores", "[bad/a.mp4]"], "bad/a.mp4 holds no score"),
        (["--figures", "[no.png]"], "Figure no.png does not exist: correct --figures."),
        (
            ["--figures", "[bad/a.mp4]"],
            "bad/a.mp4 is no PNG, JPEG or WebP file: correct --figures.",
        ),
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
