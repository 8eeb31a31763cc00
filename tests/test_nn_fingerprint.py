import torch
from torch import nn

from ardiffusion.nn.fingerprint import fingerprint


def test_fingerprint_sees_names_values_types_and_buffers_only() -> None:
    torch.manual_seed(0)
    linear, norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
    network = nn.Sequential(linear, norm)
    first = fingerprint(network)
    assert fingerprint(network.eval().requires_grad_(False)) == first
    changes = [fingerprint(nn.Sequential(norm, linear))]
    with torch.no_grad():
        linear.bias[1] += 1e-6
    changes.append(fingerprint(network))
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked += 1
    changes += [fingerprint(network), fingerprint(network.bfloat16())]
    assert len({first, *changes}) == 5


def test_fingerprint_of_known_weights_stays_what_caches_and_records_hold() -> None:
    linear = nn.Linear(2, 1)
    linear.load_state_dict({"weight": torch.tensor([[0.5, -2.0]]), "bias": torch.tensor([1.0])})
    assert fingerprint(linear) == "3ca1a99f50156456"
