"""Features of VideoMAE (Tong et al., 2022), which see motion better than those of I3D.

Ge et al. (CVPR 2024) show that distances of I3D features favour the quality of single frames over
realistic motion, and that features learnt from videos without labels do so less.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor, nn

from ardiffusion.metrics.features import VideoFeatures, weights_hash
from ardiffusion.nn.pretrained import Pretrained

SOURCE = "MCG-NJU/videomae-base-finetuned-ssv2"


class VideoMAE(Pretrained, VideoFeatures):
    """Mean over the tokens of VideoMAE's last layer, for content-debiased Fréchet distances.

    A checkpoint of `transformers`, by default the base-sized one that was pre-trained without
    labels and fine-tuned on Something-Something v2. This is not the giant network of the paper's
    own package cd-fvd, so distances compare among themselves only, at the same `source`, and say
    nothing about published ones. Needs `pip install 'ardiffusion[videomae]'`.

    Frames are scaled bilinearly and normalised as the checkpoint says. Clips longer than it takes
    (16 frames) are described part by part, the last part ending at the last frame, and averaged.

    Args:
        source: Repository on the Hugging Face Hub, or folder, with the checkpoint.
        revision: Branch, tag or commit of the repository.
    """

    name = "videomae"

    def __init__(self, source: str = SOURCE, revision: str = "main") -> None:
        super().__init__()
        self.source, self.revision = source, revision

    def read_network(self) -> nn.Module:
        """Read the checkpoint; `width` and `frames` are known from then on."""
        network, settings = read_checkpoint(self.source, revision=self.revision)
        self.frames, self.side = network.config.num_frames, network.config.image_size
        self.width = network.config.hidden_size
        self.mean, self.std = settings["image_mean"], settings["image_std"]
        return network

    @property
    def hash(self) -> str:
        self.load()
        return weights_hash(self._loaded[0])

    def forward(self, video: Tensor) -> Tensor:
        network = self.network(video.device)
        self.check_frames(video.shape[1])
        last = video.shape[1] - self.frames
        starts = (*range(0, last, self.frames), last)
        parts = (self.normalise(video[:, start : start + self.frames]) for start in starts)
        features = [network(part).last_hidden_state for part in parts]
        return reduce(torch.stack(features), "p b t d -> b d", "mean").float()  # (B, width)

    def normalise(self, video: Tensor) -> Tensor:
        """Scale frames to the checkpoint's size and mean (B, F, 3, H, W)."""
        x = rearrange(video, "b f c h w -> (b f) c h w").float() / 255
        x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", align_corners=False)
        mean, std = (rearrange(x.new_tensor(v), "c -> c 1 1") for v in (self.mean, self.std))
        return rearrange((x - mean) / std, "(b f) c h w -> b f c h w", f=self.frames)


def read_checkpoint(source: str, revision: str) -> tuple[Any, dict[str, Any]]:
    """Read the network, and the settings of its image processor."""
    try:
        from transformers import VideoMAEModel
        from transformers.utils.hub import cached_file
    except ImportError as error:
        raise ValueError(
            "VideoMAE needs transformers: run pip install 'ardiffusion[videomae]'."
        ) from error
    try:
        path = cached_file(source, "preprocessor_config.json", revision=revision)
        assert path is not None
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
        with quiet("transformers"):  # it tells of the classifier that is left out
            loaded: Any = VideoMAEModel.from_pretrained(
                source, revision=revision, output_loading_info=True
            )
        network, info = loaded
        if info["missing_keys"]:  # those it has filled at random
            raise ValueError(f"it lacks {sorted(info['missing_keys'])[0]}")
        return network, settings
    except (OSError, ValueError, RuntimeError) as error:
        why = re.split(r"\.?(?:\s*\n|\. |$)", str(error).strip())[0]  # its first sentence
        raise FileNotFoundError(
            f"No VideoMAE checkpoint could be read from {source} (revision {revision}): {why}; "
            f"check the name and the connection, or give a folder with config.json, "
            f"preprocessor_config.json and model.safetensors as `source`."
        ) from error


@contextmanager
def quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
