from pathlib import Path

import pytest
import torch
from goldens import load_golden
from parity import measure
from parity_dit import build
from torch import Tensor

from ardiffusion.convert import from_published
from ardiffusion.diffusion.sampler import Sampler
from ardiffusion.diffusion.schedule import NoiseSchedule
from ardiffusion.diffusion.solver import PublishedDDIM
from ardiffusion.nn.published import PublishedDiT
from ardiffusion.published.dit import published_name, published_schedule

GOLDENS = sorted((Path(__file__).parent / "fixtures" / "goldens").glob("*.json"))
NETWORK = "diffusion_model.model."


def published(name: str = "dit_small_video_temporal_causal") -> dict[str, Tensor]:
    path = GOLDENS[0].with_stem(name)
    return load_golden(path).state_dict()


def convert_dit(state: dict[str, Tensor], heads: int | None = None) -> PublishedDiT:
    network = from_published(state, heads=heads)["dit"]
    assert isinstance(network, PublishedDiT)
    return network


@pytest.mark.parametrize("path", GOLDENS, ids=lambda path: path.stem)
def test_converted_weights_give_the_numbers_of_the_reference(path: Path) -> None:
    rows = measure(path)
    assert rows and all(row.passes for row in rows), rows


def test_kinds_and_sizes_are_read_off_names_and_shapes() -> None:
    net = convert_dit(published(), heads=4)
    assert (net.width, net.depth, net.heads, net.channels, net.classes) == (96, 3, 4, 4, 0)
    assert not net.rotary and not net.qk_norm and net.window == 16
    net = convert_dit(published("dit_small_rope_qknorm"))
    assert net.rotary and net.qk_norm and net.heads == 4
    assert convert_dit(published("dit_small_class_cond"), heads=4).classes == 10


def test_the_network_holds_the_files_own_tensors() -> None:
    state = published()
    net = convert_dit(state, heads=4)
    own = {value.data_ptr() for value in net.state_dict().values()}
    assert own <= {value.data_ptr() for value in state.values()}
    assert all(value.dtype == torch.float32 for value in net.state_dict().values())
    assert all(p.requires_grad for p in net.parameters())


def test_the_large_network_needs_no_heads() -> None:
    with torch.device("meta"):
        net = PublishedDiT(depth=1)
        shapes = {name: torch.empty_like(value) for name, value in net.state_dict().items()}
    state = {published_name(name, 0): value for name, value in shapes.items()}
    state[f"{NETWORK}pos_embed"] = state[f"{NETWORK}pos_embed"][None]
    assert convert_dit(state).heads == 16


def test_shared_frequencies_may_stand_anywhere_and_schedules_may_be_absent() -> None:
    state = published("dit_small_rope_qknorm")
    x, t = torch.randn(1, 16, 32, 4), torch.arange(16)[None]
    expected = convert_dit(state)(x, t)
    lean = {n: v for n, v in state.items() if not n.endswith("freqs") and v.shape != (1000,)}
    lean[f"{NETWORK}blocks.2.attn.rotary_emb.freqs"] = state[f"{NETWORK}rotary_emb.freqs"]
    torch.testing.assert_close(convert_dit(lean)(x, t), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({f"{NETWORK}blocks.1.mlp.fc1.bias": None}, r"lacks .*model\.blocks\.1\.mlp\.fc1\.bias"),
        ({f"{NETWORK}lost.weight": torch.zeros(1)}, r"surplus .*model\.lost\.weight"),
        ({f"{NETWORK}blocks.0.attn.proj.bias": torch.zeros(9)}, r"proj\.bias of shape \[9\]"),
        ({f"{NETWORK}x_embedder.weight": None}, r"lacks .*x_embedder\.weight"),
        ({"context_emb": None}, "holds neither"),
        ({f"{NETWORK}pos_embed": None}, r"pos_embed or rotary_emb\.freqs; the file holds neither"),
        ({f"{NETWORK}pos_embed": torch.zeros(1, 80, 96)}, "give frames and tokens"),
        ({f"{NETWORK}rotary_emb.freqs": torch.ones(12)}, "the file holds both"),
        ({"diffusion_model.betas": torch.linspace(1e-4, 0.02, 1000)}, "linear in the square root"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor | None], message: str) -> None:
    state = published() | {name: value for name, value in change.items() if value is not None}
    state = {name: value for name, value in state.items() if change.get(name, value) is not None}
    with pytest.raises(ValueError, match=message):
        convert_dit(state, heads=4)


def test_heads_are_asked_for_or_contradicted() -> None:
    with pytest.raises(ValueError, match="transformer of width 96 has; give heads"):
        convert_dit(published())
    with pytest.raises(ValueError, match="has 4 heads, not 8"):
        convert_dit(published("dit_small_rope_qknorm"), heads=8)
    state = published("dit_small_rope_qknorm")
    state[f"{NETWORK}rotary_emb.freqs"] = torch.ones(12)
    with pytest.raises(ValueError, match=r"are not 10000"):
        convert_dit(state)


def test_the_stored_schedule_is_recognised() -> None:
    schedule = published_schedule(published("sampler_small_v_diff_forcing"))
    assert schedule is not None
    assert (schedule.beta_start, schedule.beta_end, schedule.timesteps) == (8.5e-4, 0.012, 1000)
    assert published_schedule({}) is None


@pytest.mark.parametrize(("frames", "difference"), [(24, 0), (40, 3)])
def test_runs_in_which_the_reference_loses_updates_are_refused(
    frames: int, difference: int
) -> None:
    net = build(load_golden(GOLDENS[0].with_stem("sampler_small_x0")))
    run = Sampler(NoiseSchedule(), solver=PublishedDDIM(), steps=50, difference=difference)
    with pytest.raises(ValueError, match="outrun the network's window of 16 frames"):
        run.sample(net, torch.zeros(1, frames, 32, 4))
