"""The page of `ardiff live`: its controls, the newest frame and the map of those in flight."""

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr  # pyright: ignore[reportMissingImports] of the extra `live`
from einops import rearrange
from PIL import Image
from torch import Tensor

from ardiffusion.tools.live import LiveVideo, Studio, Wish

SHOWN = 24  # tiles of frames in flight
PAUSE = 0.1  # seconds between two looks at a video
KEPT = 64  # frames as they stand on the page, more than all of them see
STYLE = Path(__file__).with_name("live.css")

ABOUT = """\
# AR-Diffusion, live
A video begins as noise. Each frame is denoised in steps, and begins a few steps after the one
before it, so that many are on their way at once: **asynchronous** diffusion. What is finished
appears while later frames are still noise; the video goes on until you stop it.
"""
MAP = (
    "Finished frames, the newest with a blue edge, then those that are being denoised now: the "
    "grainier a tile, the more noise is left in it. Below stand a frame's number and its steps."
)


def picture_url(picture: Image.Image, kind: str = "PNG") -> str:
    """Write a picture into an address, so that the page asks for no file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, quality=92)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@lru_cache(maxsize=KEPT)
def frame_image(frame: Tensor, index: int) -> str:
    """Show a frame, uint8 (3, H, W); it is encoded once, though seen in many looks."""
    picture = Image.fromarray(rearrange(frame, "c h w -> h w c").numpy())
    return f'<img src="{picture_url(picture, "JPEG")}" alt="Frame {index + 1}">'


def screen(video: LiveVideo | None) -> str:
    if video is None:
        return '<div class="screen"><div class="blank">Press Start.</div></div>'
    if not video.pictures:
        running = video.thread.is_alive()
        waiting = "The first frame is still noise …" if running else "There is no video."
        return f'<div class="screen"><div class="blank">{waiting}</div></div>'
    newest = frame_image(video.pictures[-1], video.frames - 1)
    return f'<div class="screen">{newest}</div>'


def tile(index: int, inside: str, below: str, kind: str = "") -> str:
    return (
        f'<figure class="{kind}" data-frame="{index}"><div class="tile">{inside}</div>'
        f"<b>{index + 1}</b><br>{below}</figure>"
    )


def noise_map(video: LiveVideo | None) -> str:
    """Show the last finished frames, then those in flight with the noise that is left in each."""
    if video is None:
        return ""
    end, pictures, span = video.frames, list(video.pictures), video.span
    tiles = []
    for f, frame in enumerate(pictures, start=end - len(pictures)):
        given = f < video.given
        kind = "given" if given else "newest" if f == end - 1 else "finished"
        tiles.append(tile(f, frame_image(frame, f), "given" if given else "done", kind=kind))
    steps = video.wish.steps or 1
    flying = [] if span is None else enumerate(span.after, start=span.start)
    flying = [(f, k) for f, k in flying if f >= end]
    for f, k in flying[:SHOWN]:
        grain = f'<div class="grain" style="opacity:{1 - k / steps:.2f}"></div>'
        tiles.append(tile(f, grain, f"{k} / {steps}", kind="flying"))
    more = len(flying) - SHOWN
    rest = f'<div class="legend">and {more} more in flight</div>' if more > 0 else ""
    legend = f'<p class="legend">{MAP}</p>' if tiles else ""
    return f'<div class="map">{"".join(tiles)}</div>{rest}{legend}'


def said(video: LiveVideo, running: bool) -> str:
    """Say how far a video is, or why there is none."""
    if video.problem:
        return f'<p class="said problem" role="alert">{escape(video.problem)}</p>'
    frames = f"{video.frames} frame{'' if video.frames == 1 else 's'}"
    pace = f", {video.rate:.1f} per second" if video.rate else ""
    text = f"{frames}{pace}" if running else f"Stopped after {frames}."
    return f'<p class="said" role="status">{text}</p>'


def look(video: LiveVideo) -> tuple[Any, ...]:
    """Return what the page shows of a video: screen, words, map, both buttons and the file."""
    running = video.thread.is_alive()
    file = str(video.file) if not running and video.file.exists() else None
    return (
        screen(video),
        said(video, running=running),
        noise_map(video),
        gr.update(interactive=not running),
        gr.update(interactive=running),
        gr.update(value=file, interactive=file is not None),
    )


def watch(studio: Studio, session: str, wish: Wish) -> Iterator[tuple[Any, ...]]:
    """Begin a video and show it until it ends; who looks away ends it."""
    video, seen = studio.begin(session, wish), None
    try:
        while video.thread.is_alive():
            if seen != (video.frames, video.span):
                seen = (video.frames, video.span)
                yield look(video)
            video.thread.join(timeout=PAUSE)
        yield look(video)
    finally:
        video.stopping.set()


def controls(studio: Studio) -> list[Any]:
    """Make the inputs, in the order of `Wish`."""
    generator = studio.generator
    usual = generator.sampler(frames=1_000_000)  # as long ones are sampled
    names = [(name, name) for name in generator.classes if generator.conditional]
    with gr.Row():
        label = gr.Dropdown(
            [*names, ("no class", -1)],
            value=names[0][1] if names else None,
            label="Class",
            info="What it shows.",
            min_width=120,
            visible=bool(names),
        )
        seed = gr.Number(0, label="Seed", info="Which one of many.", min_width=120)
    with gr.Row():
        steps = gr.Number(usual.steps, label="Steps", info="For each frame.", min_width=120)
        difference = gr.Number(
            usual.difference,
            label="Difference",
            info="Of neighbours, in steps.",
            visible=studio.plan is None,
            min_width=120,
        )
    guidance = gr.Number(usual.guidance, label="Guidance", info="Pull towards the class; 1: none.")
    kinds = ["image", "video"]
    upload = gr.File(label="Begin with a picture or clip", file_types=kinds, height=150)
    return [label, seed, steps, difference, guidance, upload]


def build_page(studio: Studio) -> gr.Blocks:
    def start(request: gr.Request, *wished: Any) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
        yield from watch(studio, str(request.session_hash), Wish(*wished))

    def stop(request: gr.Request) -> None:
        video = studio.videos.get(str(request.session_hash))
        if video is not None:
            video.stop()

    def leave(request: gr.Request) -> None:
        studio.end(str(request.session_hash))

    with gr.Blocks(title="AR-Diffusion, live", analytics_enabled=False) as page:
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                inputs = controls(studio)
                with gr.Row():
                    go = gr.Button("Start", variant="primary", min_width=80)
                    halt = gr.Button("Stop", interactive=False, min_width=80)
            with gr.Column(scale=3):
                shown, words = gr.HTML(screen(None)), gr.HTML()
                save = gr.DownloadButton("Save as MP4", interactive=False)
        levels = gr.HTML()
        outputs = [shown, words, levels, go, halt, save]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        go.click(start, inputs, outputs, concurrency_limit=None, **quiet)
        halt.click(stop, queue=False, **quiet)
        page.unload(leave)
    return page


@contextmanager
def serve(studio: Studio, host: str, port: int | None) -> Iterator[str]:
    """Serve the page while the context lasts; yield its address."""
    grain = picture_url(Image.effect_noise((26, 26), 90))
    system = ["system-ui", "sans-serif"]  # fonts that need no download
    page = build_page(studio)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            run_history=False,
            footer_links=[],
            max_file_size="500mb",
            theme=gr.themes.Default(font=system, font_mono=["ui-monospace", "monospace"]),
            css=STYLE.read_text(encoding="utf-8").replace("GRAIN", grain),
        )
    except OSError:
        taken = f"Port {port} of {host} is taken" if port else f"No port of {host} is free"
        hint = "or there is no such address: choose another --port or --host."
        raise OSError(f"{taken}, {hint}") from None
    try:
        yield str(page.local_url)
    finally:
        for session in list(studio.videos):
            studio.end(session)
        page.close(verbose=False)
