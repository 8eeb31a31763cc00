import hashlib
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


def test_the_stamp_of_a_file_tells_its_size_time_and_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"

    def write(content: bytes) -> str:
        file.write_bytes(content)
        os.utime(file, ns=(7, 7))
        return stamp(file)

    first = write(b"12345")
    assert first.startswith("1:5:7:") and write(b"12345") == first
    content = bytes(100_000)
    known = {first, write(content), write(b"12346")}
    for place in (0, 50_000, 99_999):  # of one size and time
        known.add(write(content[:place] + b"x" + content[place + 1 :]))
    assert len(known) == 6


def test_a_picture_of_the_same_size_and_time_changes_the_stamp_of_its_folder(
    tmp_path: Path,
) -> None:
    known = set()
    for content in (b"123", b"124"):
        (tmp_path / "0.bmp").write_bytes(content)
        os.utime(tmp_path / "0.bmp", ns=(7, 7))
        known.add(stamp(tmp_path))
    assert len(known) == 2


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")  # nobody writes: opening it would wait for ever
    assert stamp(tmp_path / "pipe.mp4").startswith("1:0:")


def test_a_dead_link_among_the_pictures_of_a_folder_is_known_by_its_name(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    whole = stamp(tmp_path)
    known = {whole}
    for i in (0, 1, 2, 3):
        link = tmp_path / f"{i}.png"
        link.unlink(missing_ok=True)
        link.symlink_to("nowhere")
        known.add(stamp(tmp_path))
        link.unlink()
        link.write_bytes(b"x")
    assert len(known) == 5


def test_stamps_of_good_folders_stay_what_they_were(tmp_path: Path) -> None:
    text = b""
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(b"12345")
        os.utime(tmp_path / f"{i}.png", ns=(7, 7))
        parts = hashlib.sha256(b"12345" * 3).hexdigest()[:16]
        text += f"{i}.png/5/7/5:7:{parts}".encode()
    assert stamp(tmp_path) == f"2:{hashlib.sha256(text).hexdigest()}"


def test_pictures_whose_names_are_not_utf8_have_a_stamp(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9 1.png")).write_bytes(b"1")
    first = stamp(tmp_path)
    (tmp_path / os.fsdecode(b"caf\xe9 1.png")).rename(tmp_path / os.fsdecode(b"caf\xe8 1.png"))
    assert stamp(tmp_path) != first
