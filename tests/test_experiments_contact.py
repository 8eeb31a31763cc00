import torch
from torch.testing import assert_close

from experiments.contact import contact_sheet


def test_every_shown_frame_lies_in_its_row_and_column() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = [
        torch.randint(0, 255, (frames, 3, 4, width), generator=generator, dtype=torch.uint8)
        for frames, width in [(7, 5), (3, 5), (1, 8)]
    ]
    picture = contact_sheet(rows, every=3)
    assert picture.mode == "RGB" and picture.size == (2 + 3 * 7, 2 + 3 * 6)
    sheet = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(20, 23, 3)
    for i, video in enumerate(rows):
        width = video.shape[-1]
        for j, frame in enumerate(video[::3]):
            top, left = 2 + 6 * i, 2 + (width + 2) * j
            cell = sheet[top : top + 4, left : left + width]
            assert_close(cell.permute(2, 0, 1), frame)
            sheet[top : top + 4, left : left + width] = 255
    assert (sheet == 255).all()
