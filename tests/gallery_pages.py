"""Small videos for galleries, and what a gallery's page holds."""

import base64
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ardiffusion.data.writer import write_video
from ardiffusion.metrics.score import Score


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


def score(value: float = 10.0, **changes: Any) -> Score:  # noqa: ANN401
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
    return Score(**fields | changes)
