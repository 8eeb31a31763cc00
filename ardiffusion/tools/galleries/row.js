"use strict";

// A row's videos play in step: frame for frame with the longest one, whatever their rates are.
class Row {
  static speed = 1;

  constructor(element) {
    this.element = element;
    this.videos = [...element.querySelectorAll("video")];
    this.strips = [...element.querySelectorAll(".film img")];
    this.button = element.querySelector(".controls .play");
    this.slider = element.querySelector(".controls input");
    this.output = element.querySelector(".controls output");
    this.name = element.querySelector("h3").textContent;
    this.leader = this.videos.reduce((a, b) => (Row.frames(b) > Row.frames(a) ? b : a));
    this.frames = Row.frames(this.leader);
    this.frame = 0;
    this.loaded = false;
    this.visible = false;
    this.playing = false;
    this.wanted = null; // by the user of this row; null follows the page
    this.urls = [];
    for (const video of this.videos) video.muted = true; // the attribute alone is not enough
    this.leader.addEventListener("ended", () => this.restart());
    this.slider.addEventListener("input", () => {
      this.wanted = false;
      this.pause();
      this.seek(Number(this.slider.value));
    });
    const counts = this.strips.map((strip) => Number(strip.dataset.count));
    const most = Math.max(...counts);
    this.longest = this.strips[counts.indexOf(most)]; // the others scroll with it
    element.style.setProperty("--most", most);
    const scrollers = [...element.querySelectorAll(".strips .scroll")];
    for (const one of scrollers) {
      one.addEventListener("scroll", () => {
        for (const other of scrollers) other.scrollLeft = one.scrollLeft;
      });
    }
    for (const strip of this.strips) {
      const { count, every, given } = strip.dataset;
      strip.parentElement.style.setProperty("--count", count);
      if (given) strip.parentElement.style.setProperty("--given", Math.ceil(given / every));
      strip.addEventListener("click", (event) => {
        const place = Math.floor((event.offsetX / strip.clientWidth) * strip.dataset.count);
        this.wanted = false;
        this.pause();
        this.seek(place * strip.dataset.every);
      });
    }
  }

  static frames(video) {
    return Number(video.dataset.frames);
  }

  static fps(video) {
    return Number(video.dataset.fps);
  }

  static blob(id, type) {
    const text = document.getElementById(id).textContent;
    if (Uint8Array.fromBase64) return new Blob([Uint8Array.fromBase64(text)], { type });
    return new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], { type });
  }

  load() {
    if (this.loaded) return;
    this.loaded = true;
    for (const [elements, type] of [[this.videos, "video/mp4"], [this.strips, "image/webp"]]) {
      for (const element of elements) {
        const url = URL.createObjectURL(Row.blob(element.dataset.source, type));
        this.urls.push(url);
        element.src = url;
      }
    }
    this.seek(this.frame);
  }

  unload() {
    if (!this.loaded) return;
    this.pause();
    this.loaded = false;
    for (const video of this.videos) {
      video.removeAttribute("src");
      video.load(); // lets go of the decoder
    }
    for (const strip of this.strips) strip.removeAttribute("src");
    for (const url of this.urls.splice(0)) URL.revokeObjectURL(url);
  }

  // The middle of a frame's time, so that rounding never shows its neighbour.
  time(video, frame) {
    return (Math.min(frame, Row.frames(video) - 1) + 0.5) / Row.fps(video);
  }

  seek(frame) {
    this.frame = Math.max(0, Math.min(this.frames - 1, frame));
    if (this.loaded) {
      for (const video of this.videos) video.currentTime = this.time(video, this.frame);
    }
    this.show();
  }

  step(by) {
    this.pause();
    this.seek((this.frame + by + this.frames) % this.frames);
  }

  play() {
    if (!this.loaded || this.playing) return;
    this.playing = true;
    this.run();
    this.show();
  }

  run() {
    for (const video of this.videos) {
      const rate = (Row.speed * Row.fps(this.leader)) / Row.fps(video);
      video.playbackRate = Math.max(0.0625, Math.min(16, rate));
      if (this.frame < Row.frames(video) - 1 || video === this.leader) {
        video.play().catch(() => {}); // interrupted by a pause or by unloading
      }
    }
  }

  restart() {
    if (!this.playing) return;
    this.seek(0);
    this.run();
  }

  pause() {
    this.playing = false;
    for (const video of this.videos) video.pause();
    this.show();
  }

  // Runs once per picture of the screen while the row plays.
  tick() {
    if (!this.playing || this.leader.seeking || this.leader.readyState < 2) return;
    const frame = Math.floor(this.leader.currentTime * Row.fps(this.leader) + 0.01);
    if (frame === this.frame) return;
    this.frame = Math.max(0, Math.min(this.frames - 1, frame));
    for (const video of this.videos) {
      if (video === this.leader || video.seeking || video.ended) continue;
      const off = video.currentTime - this.time(video, this.frame);
      if (Math.abs(off) * Row.fps(video) > 2) video.currentTime = this.time(video, this.frame);
    }
    this.show();
  }

  // Scrolls a strip that is too long for its place to the marked frame.
  reveal(strip, place) {
    const scroller = strip.closest(".scroll");
    if (!this.visible || scroller.scrollWidth <= scroller.clientWidth) return;
    const cell = strip.clientWidth / strip.dataset.count;
    const left = place * cell - scroller.scrollLeft;
    if (left >= 0 && left + cell <= scroller.clientWidth) return;
    scroller.scrollLeft = place * cell - cell;
  }

  show() {
    const text = `${this.frame + 1} / ${this.frames}`;
    if (this.output.value !== text) {
      this.output.value = text;
      this.slider.value = this.frame;
      this.slider.setAttribute("aria-valuetext", `frame ${this.frame + 1} of ${this.frames}`);
      for (const strip of this.strips) {
        const { count, every } = strip.dataset;
        const place = Math.min(count - 1, Math.floor(this.frame / every));
        strip.parentElement.style.setProperty("--place", place);
        if (strip === this.longest) this.reveal(strip, place);
      }
    }
    if (this.element.classList.toggle("playing", this.playing) !== this.labelled) {
      this.labelled = this.playing;
      this.button.setAttribute("aria-label", `${this.playing ? "Pause" : "Play"} ${this.name}`);
    }
  }
}
