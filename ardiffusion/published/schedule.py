"""The noise schedule stored with the published transformer: one table is read, others follow."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ardiffusion.diffusion.schedule import NoiseSchedule

BETAS = "diffusion_model.betas"
ALPHAS_CUMPROD = "diffusion_model.alphas_cumprod"

# Everything of the schedule that a file may hold; logvar is zero, the others follow from betas.
SCHEDULE_NAMES = frozenset(
    f"diffusion_model.{name}"
    for name in (
        "betas",
        "alphas_cumprod",
        "alphas_cumprod_prev",
        "sqrt_alphas_cumprod",
        "sqrt_one_minus_alphas_cumprod",
        "log_one_minus_alphas_cumprod",
        "sqrt_recip_alphas_cumprod",
        "sqrt_recipm1_alphas_cumprod",
        "posterior_variance",
        "posterior_log_variance_clipped",
        "posterior_mean_coef1",
        "posterior_mean_coef2",
        "logvar",
    )
)


def published_schedule(state: Mapping[str, Tensor]) -> NoiseSchedule | None:
    """Return the schedule that a file's transformer was trained with, or None if it says none.

    Raises:
        ValueError: If it is not linear in the square root of beta.
    """
    if BETAS not in state:
        return None
    betas = state[BETAS].double().cpu()
    schedule = NoiseSchedule(
        beta_start=round(betas[0].item(), 9),
        beta_end=round(betas[-1].item(), 9),
        timesteps=len(betas),
    )
    tables = [torch.cumprod(1 - betas, dim=0)]
    if ALPHAS_CUMPROD in state:
        tables.append(state[ALPHAS_CUMPROD].double().cpu())
    expected = schedule.alphas_cumprod
    if any(
        table.shape != expected.shape or not torch.allclose(table, expected, rtol=1e-3)
        for table in tables
    ):
        raise ValueError(
            f"The file's {BETAS} and {ALPHAS_CUMPROD} are not those of a schedule that is linear "
            f"in the square root of beta from {schedule.beta_start} to {schedule.beta_end}."
        )
    return schedule
