import json
import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close

from ardiffusion.metrics.videomae import VideoMAE

transformers = pytest.importorskip("transformers")

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.1]
SIZES = {
    "image_size": 16,
    "patch_size": 8,
    "num_frames": 4,
    "tubelet_size": 2,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def save(folder: Path, seed: int = 0) -> Path:
    """Write a tiny classifier, as the published checkpoints are classifiers."""
    torch.manual_seed(seed)
    config = transformers.VideoMAEConfig(**SIZES, use_mean_pooling=True, initializer_range=0.5)
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)
    settings = {"image_mean": MEAN, "image_std": STD, "do_normalize": True}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("videomae"))


def loaded(source: Path) -> VideoMAE:
    features = VideoMAE(str(source))
    features.load()
    return features


def clips(frames: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    shape = (2, frames, 3, side, side)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def naive(source: Path, video: Tensor) -> Tensor:
    """Mean over the tokens of 4 frames of 16 x 16, in float64."""
    network = transformers.VideoMAEForVideoClassification.from_pretrained(source).double().eval()
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    with torch.no_grad():
        tokens = network.videomae((video.double() / 255 - mean) / std)[0]
    assert tokens.shape[1:] == (2 * 2 * 2, 12)
    return sum(tokens[:, i] for i in range(8)) / 8  # pyright: ignore[reportReturnType]


def test_features_are_the_mean_over_the_last_layers_tokens(source: Path) -> None:
    result = loaded(source)(clips(4))
    assert result.shape == (2, 12) and result.dtype == torch.float32
    assert_close(result.double(), naive(source, clips(4)), rtol=1e-4, atol=1e-4)
    assert result.std() > 0.1


def test_longer_clips_are_described_in_parts_that_reach_the_last_frame(source: Path) -> None:
    video = clips(10)
    parts = [naive(source, video[:, start : start + 4]) for start in (0, 4, 6)]
    expected = torch.stack(parts).mean(0)
    assert_close(loaded(source)(video).double(), expected, rtol=1e-4, atol=1e-4)


def test_frames_are_scaled_to_the_size_of_the_checkpoint(source: Path) -> None:
    video = clips(4).repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    features = loaded(source)
    assert_close(features(video), features(clips(4)), rtol=1e-4, atol=1e-4)


def test_the_hash_is_of_the_weights(source: Path, tmp_path: Path) -> None:
    one, other = VideoMAE(str(source)), VideoMAE(str(save(tmp_path, seed=1)))
    assert one.hash == VideoMAE(str(source)).hash != other.hash
    assert one.width == 12 and len(one.hash) == 64


def test_a_loaded_network_pickles_and_stays_out_of_state_dicts(source: Path) -> None:
    features = loaded(source)
    result = features(clips(4))
    assert not features.state_dict() and not list(features.parameters())
    copy = pickle.loads(pickle.dumps(features))
    copy.load()
    assert_close(copy(clips(4)), result)


def test_clips_that_are_too_short_are_refused(source: Path) -> None:
    with pytest.raises(ValueError, match="clips of 4 frames or more, but these have 3"):
        loaded(source)(clips(3))


@pytest.mark.parametrize("broken", ["config.json", "preprocessor_config.json"])
def test_a_folder_without_checkpoint_is_named(tmp_path: Path, broken: str) -> None:
    (save(tmp_path) / broken).unlink()
    with pytest.raises(FileNotFoundError) as error:
        VideoMAE(str(tmp_path)).load()
    assert str(tmp_path) in str(error.value) and "as `source`." in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_another_network_is_not_filled_up_at_random(tmp_path: Path) -> None:
    weights = {"weight": torch.zeros(1)}
    save_file(weights, save(tmp_path) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FileNotFoundError, match=r"it lacks .*; check the name"):
        VideoMAE(str(tmp_path)).load()


def test_without_transformers_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, source: Path
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'ardiffusion\[videomae\]'\.$"):
        VideoMAE(str(source)).load()
