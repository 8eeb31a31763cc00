"""Contact sheets: videos as rows of pictures, to compare them at a glance or in print."""

from collections.abc import Sequence

from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

GAP = 2


def contact_sheet(rows: Sequence[Tensor], every: int = 1) -> Image.Image:
    """Lay out videos, one per row, on white.

    Args:
        rows: Videos, uint8 (F, 3, H, W), of one height; lengths and widths may differ.
        every: Step between two frames that are shown; the first one is.

    Returns:
        The picture, with two white pixels around every frame.
    """
    strips = []
    for video in rows:
        frames = pad(video[::every], (GAP, 0, GAP, 0), value=255)
        strips.append(rearrange(frames, "f c h w -> h (f w) c"))
    width = max(strip.shape[1] for strip in strips) + GAP
    # Widths that differ end in white.
    filled = [pad(strip, (0, 0, 0, width - strip.shape[1]), value=255) for strip in strips]
    sheet = rearrange(filled, "row h w c -> (row h) w c")
    return Image.fromarray(pad(sheet, (0, 0, 0, 0, 0, GAP), value=255).cpu().numpy())
