"""Files made to harm: nothing in them runs, nothing is written elsewhere, memory stays bounded."""

import json
import pickle
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hub_server import REPO, Hub
from safetensors.torch import save, save_file

from ardiffusion.hub import load_dit
from ardiffusion.tools.gallery import gallery
from ardiffusion.tools.videos import videos

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# Reads videos, says why it cannot, and at last by how many MB its memory has grown.
READER = """
import sys
from resource import RUSAGE_SELF, getrusage
from ardiffusion.data.video import read_frames

before = getrusage(RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_frames(path)
    except ValueError as error:
        print(error)
print((getrusage(RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


class Bait:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def write_bare(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("write", [torch.save, write_bare])
def test_a_pickle_runs_nothing_whatever_it_is_called(
    write: Callable[[object, Path], None], suffix: str, tmp_path: Path
) -> None:
    file, bait = tmp_path / f"model{suffix}", tmp_path / "pwned"
    write({"state_dict": Bait(bait)}, file)
    with pytest.raises(ValueError, match=f"model{suffix} is refused"):
        load_dit(file)
    assert not bait.exists()


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 10**15]}},
        {"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}},
    ],
)
def test_a_false_header_is_one_sentence(header: dict[str, Any], tmp_path: Path) -> None:
    text, file = json.dumps(header).encode(), tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(4))
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        load_dit(file)


@pytest.mark.parametrize(
    "entry",
    [
        {"diffusion_model.betas": torch.ones(())},
        {"diffusion_model.betas": torch.ones(0)},
        {"diffusion_model.model.x_embedder.weight": torch.ones(())},
        {"diffusion_model.model.blocks.0.attn.q_norm.weight": torch.ones(0)},
        {"diffusion_model.model.pos_embed": torch.ones(())},
        {"latent_tokens": torch.ones(0, 0)},
    ],
)
def test_published_entries_of_other_shapes_are_one_sentence(
    entry: dict[str, Any], tmp_path: Path
) -> None:
    named = {"x_embedder.weight": torch.ones(8, 4), "pos_embed": torch.ones(1, 512, 8)}
    state = {f"diffusion_model.model.{name}": value for name, value in named.items()}
    save_file({**state, "context_emb": torch.ones(2, 8), **entry}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        load_dit(tmp_path / "a.safetensors")


@pytest.mark.parametrize("path", ["../../../..", "dit/../../../../..", "arvae/a/.."])
def test_a_listing_of_the_hub_leads_to_no_other_folder(
    path: str, hub: Hub, tmp_path: Path
) -> None:
    hub.add({f"{path}/pwned.safetensors": save({"a": torch.ones(1)})})
    with pytest.raises(FileNotFoundError, match="one file of weights, not: none"):
        load_dit(f"hf://{REPO}")
    assert not hub.bodies() and not [*tmp_path.rglob("pwned*")]


@pytest.mark.parametrize(
    "said",
    [
        {"class": "os.system", "arguments": {"command": "touch pwned"}},
        {"class": "ARDiT", "arguments": {"width": 10**9}},
        {"class": "ARDiT", "arguments": {"depth": 10**5}},
        {"class": "Generator", "dit": {"class": "os.system", "arguments": {}}},
    ],
)
def test_a_description_calls_nothing_but_our_parts(
    said: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(said))
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_dit(tmp_path)
    assert not (tmp_path / "pwned").exists()


def png(width: int, height: int) -> bytes:
    """Make a PNG that claims a size and holds one line."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts += [(b"IDAT", zlib.compress(bytes(64))), (b"IEND", b"")]
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def little() -> None:
    """Allow this process 2 GB."""
    resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))


@pytest.mark.parametrize("side", [100_000, 13_000])  # the second is just below Pillow's limit
def test_pictures_of_absurd_sizes_take_no_memory(side: int, tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for i in range(2):
        (tmp_path / "clip" / f"{i}.png").write_bytes(png(side, side))

    code = "import sys; from ardiffusion.tools.command import main; main(sys.argv[1:])"
    folder = str(tmp_path)
    given = ["fvd", folder, folder, "--protocol=EveryClip", "--protocol.frames=2"]
    more = ["--protocol.extractor=Random3D", f"--cache={folder}/c", f"--output={folder}/s.json"]
    done = subprocess.run(
        [sys.executable, "-c", code, *given, *more],
        capture_output=True,
        text=True,
        preexec_fn=little,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("error: ")


def claim(video: bytes, box: bytes, at: int, *numbers: int) -> bytes:
    """Put numbers into a box of an MP4, behind its name and `at` bytes more."""
    start = video.index(box) + 4 + at
    told = struct.pack(f">{len(numbers)}I", *numbers)
    return video[:start] + told + video[start + len(told) :]


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", 8 + len(content)) + name + content


def test_videos_of_absurd_sizes_take_no_memory(tmp_path: Path) -> None:
    videos(str(tmp_path / "good"), videos=1, frames=4, resolution=16)
    (file,) = (tmp_path / "good").rglob("*.mp4")
    good, gif = file.read_bytes(), struct.pack("<2H3B", 16000, 16000, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<4HB", 0, 0, 16000, 16000, 0) + b"\x02\x02\x44\x01\x00"
    many = claim(claim(good, b"stsz", 4, 1, 3 * 10**7), b"stsc", 12, 3 * 10**7)
    traf = box(b"traf", box(b"trun", struct.pack(">2I", 0, 3 * 10**7)))
    hostile = {
        "fragments.mp4": good + box(b"moof", traf),
        "bomb.gif": b"GIF89a" + gif + frame * 50 + b"\x3b",
        "frames.mp4": many,
        "wide.y4m": b"YUV4MPEG2 W16000 H16000 F25:1 C420jpeg\nFRAME\n" + bytes(64),
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", READER, *(str(tmp_path / name) for name in hostile)],
        capture_output=True,
        text=True,
        preexec_fn=little,
    )
    *sentences, grown = done.stdout.splitlines()
    assert len(sentences) == len(hostile) and int(grown) < 300, done.stdout + done.stderr
    assert sum("it claims more frames than it has bytes" in s for s in sentences) == 2


@pytest.mark.browser
def test_a_gallery_of_hostile_names_runs_no_script(tmp_path: Path, browser: "Browser") -> None:
    evil = "<img src=x onerror=document.title='pwned'>"
    folder = tmp_path / "samples"
    videos(str(folder), videos=1, frames=4, resolution=16)
    (clip,) = folder.rglob("*.mp4")
    clip.rename(folder / f"{evil.replace('/', '')}.mp4")
    line = {"file": f"{evil}.mp4", "label": "</script><script>document.title='pwned'</script>"}
    (folder / "samples.jsonl").write_text(json.dumps({**line, "index": 0, evil: evil}) + "\n")
    out = tmp_path / "page.html"
    gallery(str(out), columns={evil: str(folder)}, title=evil, text=evil)
    page = browser.new_page()
    page.goto(out.as_uri())
    page.wait_for_timeout(300)
    assert page.title() == evil and page.locator("img[src=x]").count() == 0
    page.close()
