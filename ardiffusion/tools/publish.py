"""Write videos to object storage, to train from there: `ardiff publish FOLDER TARGET`."""

from pathlib import Path
from typing import Any

from ardiffusion.data.publishing import publish_videos
from ardiffusion.data.storage import is_remote
from ardiffusion.nn.sizes import check_range
from ardiffusion.tools.options import check_named


def publish(
    folder: str, target: str, max_broken: float = 0.05, cache: str | None = None
) -> dict[str, Any]:
    """Write the videos of a folder to object storage, from where --data.root reads them.

    They are written as they are, in chunks of LitData, with the index of their frames. What is
    there already is not written again.

    Args:
        folder: Folder of videos, of class folders of videos, or of folders of frames.
        target: s3://bucket/folder, hf://datasets/user/repo/folder, or another address that LitData
            can write to; local:/folder for a slow disk that many machines share.
        max_broken: Largest fraction of broken or empty videos that is left out.
        cache: Folder for the index of videos, ~/.cache/ardiffusion by default.
    """
    check_named("FOLDER", folder)
    check_range("--{}", 0, 1, max_broken=max_broken)
    if not is_remote(target):
        raise ValueError(
            f"TARGET is {target}, no address in object storage: give one, as s3://bucket/folder, "
            "or local:/folder for a folder."
        )
    known = publish_videos(Path(folder).expanduser(), target.rstrip("/"), max_broken, cache)
    lengths = known["lengths"]
    written = {"videos": len(lengths) - lengths.count(0), "frames": sum(lengths)}
    return {"target": target, "classes": known["classes"], **written}
