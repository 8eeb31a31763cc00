"""A row of a gallery: its videos side by side, strips of their frames below each other."""

import json
from collections.abc import Mapping, Sequence

from ardiffusion.data.layouts import without_suffix
from ardiffusion.tools.galleries.collect import Shown
from ardiffusion.tools.galleries.markup import Markup, definitions, element

ICON = Markup('<span class="icon" aria-hidden="true"></span>')


def video_row(row: Mapping[str, Shown], columns: Sequence[str]) -> Markup:
    """Return a row; `columns` keep their places where it has no video."""
    first = next(iter(row.values()))
    name = without_suffix(first.clip.name)
    label = next((v.clip.label for v in row.values() if v.clip.label is not None), None)
    id_ = f"row-{first.id}"
    texts = [name, label or "", *row]
    for shown in row.values():
        sample = json.dumps(shown.clip.sample, ensure_ascii=False)
        texts.append(f"{shown.clip.name} {shown.clip.label} {sample}")
    return element(
        "article",
        element(
            "header",
            element("h3", name, id=id_),
            element("span", label, class_="label") if label is not None else "",
        ),
        element(
            "div",
            element("div", *(tile(c, row.get(c)) for c in columns), class_="tiles"),
            element("div", *(strip(c, row[c]) for c in columns if c in row), class_="strips"),
            class_="views",
        ),
        controls(name, frames=max(video.media.frames for video in row.values())),
        samples(row),
        class_="row",
        tabindex="-1",
        aria_labelledby=id_,
        data_label=label,
        data_text=" ".join(texts).lower(),  # as the page lowers what is searched for
    )


def tile(column: str, shown: Shown | None) -> Markup:
    """Return a video with its column's name, or an empty place."""
    caption = element("figcaption", column)
    if shown is None:
        return element("figure", element("div", "no video", class_="absent"), caption)
    media, clip = shown.media, shown.clip
    video = element(
        "video",
        muted=True,
        playsinline=True,
        disablepictureinpicture=True,
        width=media.width,
        height=media.height,
        aria_label=f"{column}: {clip.name}, {media.frames} frames",
        data_source=shown.id,
        data_frames=media.frames,
        data_fps=f"{media.fps:.6g}",
    )
    return element("figure", video, caption)


def strip(column: str, shown: Shown) -> Markup:
    """Return every n-th frame of a video in one line."""
    media = shown.media
    count = -(-media.frames // media.every)
    step = "every frame" if media.every == 1 else f"frames 0, {media.every}, {2 * media.every}, …"
    image = element(
        "img",
        alt=f"{column}: {step} of {shown.clip.name}",
        data_source=f"{shown.id}-strip",
        data_count=count,
        data_every=media.every,
    )
    mark = element("span", class_="mark", aria_hidden="true")
    film = element("div", element("div", image, mark, class_="film"), class_="scroll")
    return element("figure", element("figcaption", column), film)


def controls(name: str, frames: int) -> Markup:
    """Return the button that plays a row and the slider over its frames."""
    return element(
        "div",
        element("button", ICON, type="button", class_="play", aria_label=f"Play {name}"),
        element(
            "input",
            type="range",
            min=0,
            max=frames - 1,
            value=0,
            step=1,
            aria_label=f"Frame of {name}",
            aria_valuetext=f"frame 1 of {frames}",
        ),
        element("output", f"1 / {frames}", aria_live="off"),  # or it is read out while playing
        class_="controls",
    )


def samples(row: Mapping[str, Shown]) -> Markup | str:
    """Return what samples.jsonl says of a row's videos, folded."""
    known = [
        element("div", element("h4", column), definitions(shown.clip.sample))
        for column, shown in row.items()
        if shown.clip.sample
    ]
    if not known:
        return ""
    return element("details", element("summary", "Sample"), *known)
