const find = (id) => document.getElementById(id);
const rows = [...document.querySelectorAll(".row")].map((element) => new Row(element));
const rowOf = new Map(rows.map((row) => [row.element, row]));
const still = matchMedia("(prefers-reduced-motion: reduce)");
const PLAYERS = 56; // browsers keep 75 at most
let playing = !still.matches;

const counted = (count, thing) => `${count} ${thing}${count === 1 ? "" : "s"}`;

// Loading: videos become Blobs near the viewport only, and are let go of far away.
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) load(rowOf.get(entry.target));
}, { rootMargin: "40% 0px" });
const far = new IntersectionObserver((entries) => {
  for (const entry of entries) if (!entry.isIntersecting) rowOf.get(entry.target).unload();
}, { rootMargin: "120% 0px" });
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const row = rowOf.get(entry.target);
    row.visible = entry.isIntersecting;
    if (row.visible) load(row);
    follow(row);
  }
}, { threshold: 0.2 });

function load(row) {
  row.load();
  const idle = rows.filter((other) => other.loaded && !other.visible && other !== row);
  const count = () => rows.reduce((sum, r) => sum + (r.loaded ? r.videos.length : 0), 0);
  const middle = (r) => {
    const box = r.element.getBoundingClientRect();
    return Math.abs((box.top + box.bottom - innerHeight) / 2);
  };
  if (count() <= PLAYERS) return;
  idle.sort((a, b) => middle(b) - middle(a));
  while (idle.length && count() > PLAYERS) idle.shift().unload();
}

function follow(row) {
  const wanted = row.wanted ?? playing;
  if (wanted && row.visible) row.play();
  else row.pause();
}

function setPlaying(value) {
  playing = value;
  for (const row of rows) {
    row.wanted = null;
    follow(row);
  }
  find("play-all").setAttribute("aria-label", playing ? "Pause all" : "Play all");
  document.body.classList.toggle("playing", playing);
}

function toggle(row) {
  row.wanted = !row.playing;
  if (row.wanted && row.frame === row.frames - 1) row.seek(0);
  follow(row);
}

function tick() {
  for (const row of rows) if (row.playing) row.tick();
  requestAnimationFrame(tick);
}

// Filter
function filter() {
  const words = find("text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const label = find("class").value;
  let count = 0;
  for (const row of rows) {
    const { label: own, text } = row.element.dataset;
    const fits = (!label || own === label) && words.every((word) => text.includes(word));
    row.element.hidden = !fits;
    count += fits;
  }
  for (const gallery of document.querySelectorAll(".gallery")) {
    gallery.querySelector(".none").hidden = !!gallery.querySelector(".row:not([hidden])");
  }
  const all = counted(rows.length, "row");
  find("count").textContent = count === rows.length ? all : `${count} of ${all}`;
}

// Keys
const focused = () => rowOf.get(document.activeElement?.closest?.(".row"));

function step(by) {
  const row = focused();
  if (row) {
    row.wanted = false;
    row.step(by);
    return;
  }
  if (playing) setPlaying(false);
  for (const other of rows) if (other.visible) other.step(by);
}

function move(by) {
  const shown = rows.filter((row) => !row.element.hidden);
  if (!shown.length) return;
  const top = find("toolbar").getBoundingClientRect().bottom;
  const place = shown.indexOf(focused());
  const first = shown.findIndex((row) => row.element.getBoundingClientRect().bottom > top + 40);
  const next = place < 0 ? Math.max(0, first) : place + by;
  const row = shown[Math.max(0, Math.min(shown.length - 1, next))];
  row.element.focus({ preventScroll: true });
  row.element.scrollIntoView({ block: "nearest" });
}

const keys = {
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  " ": () => (focused() ? toggle(focused()) : setPlaying(!playing)),
  j: () => move(1),
  k: () => move(-1),
  ArrowDown: () => move(1),
  ArrowUp: () => move(-1),
  f: () => find("text").focus(),
  "?": () => find("help").showModal(),
  Escape: () => document.activeElement.blur(),
};

// Fields take their own keys; buttons and the like take space, sliders arrows.
function taken(event) {
  const target = event.target;
  if (target.matches("select, textarea, input:not([type=range])")) return event.key !== "Escape";
  if (event.key === " ") return target.matches("button, summary, a");
  return event.key.startsWith("Arrow") && target.matches("input, .scroll");
}

document.addEventListener("keydown", (event) => {
  const modified = event.ctrlKey || event.metaKey || event.altKey;
  const scrolls = ["ArrowUp", "ArrowDown"].includes(event.key) && !focused();
  if (modified || find("help").open || !keys[event.key] || scrolls || taken(event)) return;
  event.preventDefault();
  keys[event.key]();
});

// Toolbar
function choose(view) {
  document.body.dataset.view = view;
  document.querySelector(`.view input[value=${view}]`).checked = true;
}

function start() {
  const videos = rows.reduce((sum, row) => sum + row.videos.length, 0);
  find("summary").textContent = videos ? `${counted(videos, "video")} in ${counted(rows.length, "row")}` : "";
  find("summary").hidden = !videos;
  if (!rows.length) return;
  document.querySelector("section:has(.gallery)").before(find("toolbar"));
  find("toolbar").hidden = false;
  const labels = [...new Set(rows.map((row) => row.element.dataset.label))].filter((x) => x !== undefined);
  for (const label of labels.sort()) find("class").append(new Option(label, label));
  find("class-field").hidden = !labels.length;
  find("text").addEventListener("input", filter);
  find("class").addEventListener("change", filter);
  for (const input of document.querySelectorAll(".view input")) {
    input.addEventListener("change", () => choose(input.value));
  }
  find("size").addEventListener("input", () => {
    document.body.style.setProperty("--tile", `${find("size").value}px`);
  });
  find("speed").addEventListener("change", () => {
    Row.speed = Number(find("speed").value);
    for (const row of rows) if (row.playing) row.run();
  });
  find("crisp").addEventListener("click", () => {
    const on = document.body.classList.toggle("crisp");
    find("crisp").setAttribute("aria-pressed", on);
  });
  find("play-all").addEventListener("click", () => setPlaying(!playing));
  find("help-button").addEventListener("click", () => find("help").showModal());
  for (const row of rows) {
    row.button.addEventListener("click", () => toggle(row));
    for (const observer of [near, far, seen]) observer.observe(row.element);
  }
  still.addEventListener("change", () => setPlaying(!still.matches));
  const several = document.querySelector(".rows:not([data-columns='1'])");
  choose(several && innerWidth >= 900 ? "both" : "videos");
  for (const list of document.querySelectorAll(".rows")) {
    list.style.setProperty("--columns", list.dataset.columns);
  }
  filter();
  setPlaying(playing);
  tick();
}

start();
