import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from torch.utils.data import Dataset

from ardiffusion.data.loader import Batched, EpochBatches, ResumableLoader


class Echo(Dataset[Any]):
    def __init__(self, samples: int) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: tuple[int, int]) -> str:
        return f"{index[0]}/{index[1]}"


def loader(workers: int = 0, samples: int = 23, **options: Any) -> ResumableLoader[Any]:  # noqa: ANN401
    batches = EpochBatches(Echo(samples), **{"batch_size": 4, **options})
    return ResumableLoader(
        Batched(Echo(samples)),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def epoch(loading: ResumableLoader[Any], number: int) -> list[list[str]]:
    loading.batches.set_epoch(number)
    return list(loading)


def test_epochs_differ_in_order_and_index_and_repeat_with_the_seed() -> None:
    first, second = epoch(loader(), 0), epoch(loader(), 1)
    assert [len(batch) for batch in first] == [4, 4, 4, 4, 4, 3]
    assert {item.split("/")[0] for batch in second for item in batch} == {"1"}
    orders = [[i.split("/")[1] for b in batches for i in b] for batches in (first, second)]
    assert orders[0] != orders[1]
    assert len(set(orders[0])) == 23
    assert epoch(loader(), 1) == second
    assert epoch(loader(seed=1), 1) != second


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_resumes_in_the_middle_of_an_epoch(workers: int) -> None:
    whole = epoch(loader(), 3)
    killed = loader(workers)
    killed.batches.set_epoch(3)
    batches = iter(killed)
    seen = [next(batches), next(batches)]
    state = killed.state_dict()
    resumed = loader(workers)
    resumed.load_state_dict(state)
    assert seen + epoch(resumed, 3) == whole
    assert epoch(resumed, 4) == epoch(loader(), 4)


def test_resuming_after_an_epoch_that_was_cut_short_starts_the_next_at_its_beginning() -> None:
    killed = loader()
    next(iter(killed))
    resumed = loader()
    resumed.load_state_dict(killed.state_dict())
    assert epoch(resumed, 1) == epoch(loader(), 1)


def test_state_that_counts_batches_is_understood() -> None:
    resumed = loader()
    resumed.load_state_dict({"epoch": 3, "seen": 2})
    assert epoch(resumed, 3) == epoch(loader(), 3)[2:]


LEGS = some.lists(some.tuples(some.integers(1, 4), some.integers(1, 5), some.integers(1, 3)))


@given(samples=some.integers(1, 60), legs=LEGS)
def test_every_sample_comes_once_whatever_processes_and_batch_sizes(
    samples: int, legs: Sequence[tuple[int, int, int]]
) -> None:
    """Each leg has its own processes and batch size, and is killed after some batches."""
    state, seen, repeats = loader(samples=samples).state_dict(), [], 0
    for replicas, size, most in [*legs, (2, 3, 60)]:
        given_sizes = {"samples": samples, "batch_size": size, "replicas": replicas}
        ranks = [loader(rank=rank, **given_sizes) for rank in range(replicas)]
        left = samples - state["samples"]
        repeats += replicas if left < replicas or size == 1 else 0
        for rank in ranks:
            rank.load_state_dict(state)
        assert ranks[0].batches_over() + -(-left // (size * replicas)) == len(ranks[0])
        for _, shares in zip(range(most), zip(*ranks, strict=True), strict=False):
            assert all(0 < len(share) <= size for share in shares)
            seen += [item for share in shares for item in share]
        (state,) = {json.dumps(rank.state_dict()): rank.state_dict() for rank in ranks}.values()
    assert len(set(seen)) == samples and len(seen) <= samples + repeats
