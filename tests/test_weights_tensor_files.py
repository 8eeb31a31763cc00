import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from ardiffusion.generator import Generator
from ardiffusion.weights.tensor_files import check_intact


def content() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    weights = {f"layer.{i}": torch.randn(9, 7, generator=generator) for i in range(5)}
    return {"state_dict": weights, "step": 12}


def loaded(path: Path) -> object:
    """Load a file that is taken for intact; None if it is refused."""
    try:
        check_intact(path)
        return torch.load(path, weights_only=True)
    except Exception:
        return None


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "one.ckpt"
    torch.save(content(), path)
    whole, draw = path.read_bytes(), random.Random(seed)
    refused = 0
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        found = loaded(path)
        refused += found is None
        if found is not None:
            assert_close(found, content(), rtol=0, atol=0)
    assert refused > 20


def test_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save(content(), path)
    check_intact(path)
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("data/3"))
    damaged = bytearray(path.read_bytes())
    damaged[entry.header_offset + 200] ^= 8
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged \(.*data/3 is not what was wr"):
        check_intact(path)


def test_other_files_are_left_to_whoever_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(content(), path, _use_new_zipfile_serialization=False)
    check_intact(path)
    path.write_bytes(b"")
    check_intact(path)


def test_no_generator_comes_of_a_damaged_checkpoint(generator: Path, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    damaged = bytearray(generator.read_bytes())
    with zipfile.ZipFile(generator) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    damaged[largest.header_offset + largest.file_size // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged"):
        Generator.from_pretrained(path)
