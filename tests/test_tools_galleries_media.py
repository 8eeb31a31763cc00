import io
from pathlib import Path

import av
import pytest
import torch
from av.video.frame import VideoFrame
from gallery_pages import Page, clip
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.data.video import read_frames
from ardiffusion.data.writer import write_video
from ardiffusion.tools.galleries import media
from ardiffusion.tools.gallery import Section, write_gallery


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
