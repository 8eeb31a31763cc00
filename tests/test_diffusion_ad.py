import pytest
import torch

from ardiffusion.diffusion.ad import Iteration, ad_plan, ad_rows, plan_rows

GRID = [
    (frames, steps, difference, ready)
    for frames in (1, 2, 5)
    for steps in (1, 4, 10)
    for difference in sorted({0, 1, 3, steps})
    for ready in (0, 1)
    if difference <= steps
]


@pytest.mark.parametrize(("frames", "steps", "difference", "ready"), GRID)
def test_plan_follows_the_rule_frame_by_frame(
    frames: int, steps: int, difference: int, ready: int
) -> None:
    k = [steps] * ready + [0] * (frames - ready)
    rows = []
    while min(k) < steps:
        state = list(k)
        for f in range(ready, frames):
            clean = f == ready or state[f - 1] == steps
            ahead = f > ready and k[f - 1] > state[f] + difference
            k[f] += state[f] < steps and (clean or ahead)
        rows.append(list(k))
    plan = ad_plan(frames, steps=steps, difference=difference, ready=ready)
    assert plan.tolist() == rows


@pytest.mark.parametrize(("frames", "steps", "difference", "ready"), GRID)
def test_each_frame_visits_each_step_once_in_order(
    frames: int, steps: int, difference: int, ready: int
) -> None:
    plan = ad_plan(frames, steps=steps, difference=difference, ready=ready)
    assert (plan[:, :ready] == steps).all()
    for f in range(ready, frames):
        assert plan[:, f].unique().tolist() in (list(range(steps + 1)), list(range(1, steps + 1)))
    assert (plan.diff(dim=0) >= 0).all() and (plan.diff(dim=0) <= 1).all()
    assert (plan.diff(dim=1) <= 0).all()


def test_difference_zero_is_synchronous_and_difference_steps_is_one_frame_at_a_time() -> None:
    plan = ad_plan(4, steps=6, difference=0)
    assert (plan == plan[:, :1]).all() and len(plan) == 6
    plan = ad_plan(4, steps=6, difference=6)
    flying = ((plan > 0) & (plan < 6)).sum(dim=1)
    assert len(plan) == 24 and flying.max() == 1


def test_plan_matches_the_reference_tables(golden: dict[str, torch.Tensor]) -> None:
    for name in ("F16_s5_S50", "F16_s0_S10", "F40_s5_S10", "F16_s50_S50"):
        frames, difference, steps = (int(part[1:]) for part in name.split("_"))
        plan = ad_plan(frames, steps=steps, difference=difference)
        assert torch.equal(plan, golden[f"{name}_W16/step_index"].long())


@pytest.mark.parametrize(("frames", "steps", "difference", "ready"), GRID)
def test_rows_of_the_closed_form_equal_rows_of_the_table(
    frames: int, steps: int, difference: int, ready: int
) -> None:
    plan = ad_plan(frames, steps=steps, difference=difference, ready=ready)
    if not len(plan):
        return
    rows = list(ad_rows(frames, steps=steps, difference=difference, ready=ready))
    assert rows == list(plan_rows(plan, steps=steps, ready=ready))


def test_rows_without_end_begin_like_those_with_one() -> None:
    endless = ad_rows(None, steps=4, difference=2)
    first: list[Iteration] = [next(endless) for _ in range(9)]
    assert first == list(ad_rows(100, steps=4, difference=2))[:9]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([[1, 2]], "never noisier"),
        ([[2, 1], [1, 1]], "never returns"),
        ([[2, 1]], "ends before"),
        ([[3, 3]], "from 0 to 2"),
    ],
)
def test_tables_that_are_no_plans_are_refused(plan: list[list[int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(plan_rows(torch.tensor(plan), steps=2))


def test_difference_beyond_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and the 4 steps, got 5"):
        ad_plan(3, steps=4, difference=5)
    with pytest.raises(ValueError, match="difference of at least 1"):
        next(ad_rows(None, steps=4, difference=0))
