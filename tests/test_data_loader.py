from typing import Any

import pytest
from torch.utils.data import Dataset

from ardiffusion.data.loader import EpochSampler, ResumableLoader


class Echo(Dataset[Any]):
    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: tuple[int, int]) -> str:
        return f"{index[0]}/{index[1]}"


def loader(workers: int = 0, seed: int = 0) -> ResumableLoader[Any]:
    sampler = EpochSampler(Echo(), seed=seed)
    return ResumableLoader(
        Echo(),
        batch_size=4,
        sampler=sampler,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )


def epoch(loading: ResumableLoader[Any], number: int) -> list[list[str]]:
    assert isinstance(loading.sampler, EpochSampler)
    loading.sampler.set_epoch(number)
    return list(loading)


def test_epochs_differ_in_order_and_index_and_repeat_with_the_seed() -> None:
    first, second = epoch(loader(), 0), epoch(loader(), 1)
    assert len(first) == 5
    assert {item.split("/")[0] for batch in second for item in batch} == {"1"}
    orders = [[i.split("/")[1] for b in batches for i in b] for batches in (first, second)]
    assert orders[0] != orders[1]
    assert len(set(orders[0])) == 20
    assert epoch(loader(), 1) == second
    assert epoch(loader(seed=1), 1) != second


def test_processes_share_an_epoch_without_repeats() -> None:
    parts = [list(EpochSampler(Echo(), replicas=2, rank=rank)) for rank in range(2)]
    assert [len(part) for part in parts] == [12, 12]
    assert len({*parts[0], *parts[1]}) == 23


@pytest.mark.parametrize("workers", [0, 1])
def test_loader_resumes_in_the_middle_of_an_epoch(workers: int) -> None:
    whole = epoch(loader(), 3)
    killed = loader(workers)
    assert isinstance(killed.sampler, EpochSampler)
    killed.sampler.set_epoch(3)
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
