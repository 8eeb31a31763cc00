from pathlib import Path

import pytest
import torch
from PIL import Image

from ardiffusion.data.writer import write_video
from experiments.moving_picture import moving_picture


def test_videos_move_side_by_side_as_long_as_the_shortest(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number, (frames, level) in enumerate([(5, 0), (3, 128), (4, 255)]):
        video = torch.full((frames, 3, 16, 16), level, dtype=torch.uint8)
        video[:, :, :8] = 40 * torch.arange(frames)[:, None, None, None]  # frames differ above
        write_video(tmp_path / "videos" / f"{number}.mp4", frames=video)
    out = tmp_path / "moving.webp"
    told = moving_picture(str(tmp_path / "videos"), str(out), limit=2, fps=10, scale=3)
    assert told == {"out": str(out), "bytes": out.stat().st_size, "frames": 3}
    with Image.open(out) as picture:
        assert (picture.size, picture.n_frames) == ((3 * 38, 3 * 20), 3)  # pyright: ignore[reportAttributeAccessIssue]
        for frame in range(3):
            picture.seek(frame)
            row = picture.convert("L").crop((0, 45, 114, 46))
            shown = [row.getpixel((x, 0)) for x in (0, 30, 57, 84, 113)]
            assert shown == pytest.approx([255, 0, 255, 128, 255], abs=3)
