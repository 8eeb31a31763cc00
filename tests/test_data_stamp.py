import os
from pathlib import Path

from ardiffusion.data.stamp import stamp


def test_any_change_of_a_picture_changes_the_stamp_of_its_folder(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"x" * (10 + i))
        os.utime(tmp_path / f"{i}.png", ns=(1000 * i, 1000 * i))
    (tmp_path / "note.txt").write_text("")
    first = stamp(tmp_path)
    (tmp_path / "note.txt").write_text("no picture")
    assert stamp(tmp_path) == first

    def exchange() -> None:  # sizes and times stay the same in sum and at most
        (tmp_path / "0.png").rename(tmp_path / "a")
        (tmp_path / "1.png").rename(tmp_path / "0.png")
        (tmp_path / "a").rename(tmp_path / "1.png")

    def touch() -> None:  # not the latest one
        os.utime(tmp_path / "1.png", ns=(500, 500))

    def rename() -> None:
        (tmp_path / "1.png").rename(tmp_path / "1.jpg")

    known = {first}
    for change in (exchange, touch, rename):
        change()
        found = stamp(tmp_path)
        assert found not in known
        known.add(found)


def test_the_stamp_of_a_file_tells_its_size_and_time(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"12345")
    os.utime(file, ns=(7, 7))
    assert stamp(file) == "1:5:7"
