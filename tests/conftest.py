from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

FIXTURES = Path(__file__).parent / "fixtures"

# Tiny tensors: a second thread only waits, and many processes share the machine under test.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> dict[str, Tensor]:
    """Tables of the reference implementation: FoPP marginals, step tables, schedules."""
    return load_file(FIXTURES / "tables.safetensors")
