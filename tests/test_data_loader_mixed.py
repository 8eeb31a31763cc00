from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as some
from torch.utils.data import Dataset

from ardiffusion.data.loader import Batched, EpochBatches, MixedLoader, ResumableLoader


class Echo(Dataset[Any]):
    def __init__(self, name: str, samples: int) -> None:
        self.name, self.samples = name, samples

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: tuple[int, int]) -> str:
        return f"{self.name}{index[1]}"


def mixed(
    clips: int, batches: int, size: int = 1, replicas: int = 1, rank: int = 0
) -> MixedLoader:
    """An epoch of so many clips, and of so many batches of pictures."""
    loaders = []
    for data in (Echo("c", clips), Echo("p", batches * size * replicas)):
        sampler = EpochBatches(data, size, replicas, rank)
        loaders.append(ResumableLoader(Batched(data), batch_size=None, sampler=sampler))
    return MixedLoader(*loaders)


def kinds(loader: MixedLoader) -> str:
    return "".join(batch[0][0] for batch in loader)


def test_pictures_are_spread_evenly_between_clips() -> None:
    assert kinds(mixed(4, 4)) == "cpcpcpcp"
    assert kinds(mixed(6, 2)) == "cpcccpcc"
    assert kinds(mixed(2, 6)) == "cpppcppp"
    assert kinds(mixed(1, 1)) == "cp" and len(mixed(7, 3)) == 10


LEGS = some.lists(some.tuples(some.integers(1, 3), some.integers(1, 4), some.integers(1, 4)))


@given(clips=some.integers(1, 30), batches=some.integers(1, 9), legs=LEGS)
def test_every_clip_comes_once_whatever_processes_and_batch_sizes(
    clips: int, batches: int, legs: Sequence[tuple[int, int, int]]
) -> None:
    """Each leg has its own processes and batch size, and is killed after some batches."""
    state, seen = mixed(clips, batches).state_dict(), Counter[str]()
    for replicas, size, most in [*legs, (2, 3, 99)]:
        ranks = [mixed(clips, batches, size, replicas, rank) for rank in range(replicas)]
        for rank in ranks:
            rank.load_state_dict(state)
        left = len(ranks[0]) - ranks[0].batches_over()
        found = [shares for _, shares in zip(range(most), zip(*ranks, strict=True), strict=False)]
        assert len(found) == min(left, most)
        for shares in found:
            assert len({share[0][0] for share in shares}) == 1  # one kind at a time
            seen.update({item for share in shares for item in share})
        state = ranks[0].state_dict()
    assert {name for name in seen if name[0] == "c"} == {f"c{i}" for i in range(clips)}
    assert all(count == 1 for name, count in seen.items() if name[0] == "c")


def test_place_in_an_epoch_is_kept_until_the_next_batch() -> None:
    loader, other = mixed(4, 4), mixed(4, 4)
    batches = iter(loader)
    for _ in range(3):
        next(batches)
    other.load_state_dict(loader.state_dict())
    assert other.state_dict() == loader.state_dict() == {"epoch": 0, "samples": 2, "pictures": 1}
    assert len(list(batches)) == 5
    loader.set_epoch(1)
    assert loader.state_dict() == {"epoch": 0, "samples": 4, "pictures": 4}
