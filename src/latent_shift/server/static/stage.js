// The clips that are looked at: one, or two in step. A running one shows its progress and previews.

import * as api from "./api.js";
import { command } from "./command.js";

const STATES = { queued: "Waiting", in_progress: "Being made", completed: "Done", failed: "Failed" };
const ONE_FRAME = 1 / 30; // seconds that two clips may be apart
const stage = document.getElementById("shown");
const loop = document.getElementById("loop");
const play = document.getElementById("play");
const difference = document.getElementById("difference");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const urls = new Map(); // object URLs of clips by id

let shown = []; // {id, video, parts, follower}

const element = (tag, values = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), values);
  made.append(...children);
  return made;
};

export const ids = () => shown.map((one) => one.id);

// Show clips; `actions` are functions of a video by the label of their button.
export function show(videos, actions) {
  for (const one of shown) one.follower?.abort();
  shown = videos.map((video) => build(video, actions, videos.length > 1));
  stage.replaceChildren(...(shown.length ? shown.map((one) => one.figure) : [element("p", { textContent: "Write a prompt and press Generate." })]));
  for (const one of shown) update(one.video);
  location.replace(`#${ids().join("+")}`);
}

function build(video, actions, together) {
  const parts = {
    frame: element("div", { className: "frame" }),
    progress: element("progress", { max: 100 }),
    facts: element("p", { className: "facts" }),
    warning: element("p", { className: "warning" }),
    actions: element("div", { className: "actions" }),
    command: element("details", { className: "command", open: !together }),
  };
  parts.progress.setAttribute("aria-label", "Progress");
  const figure = element("figure", { className: "clip" }, parts.frame, parts.progress, element(
    "figcaption", {}, element("p", { className: "prompt", textContent: video.prompt }),
    parts.facts, parts.warning, parts.actions, parts.command,
  ));
  return { id: video.id, video, parts, figure, actions, state: "" };
}

// News of a video: what is shown of it changes.
export function update(video) {
  for (const one of shown.filter((each) => each.id === video.id)) {
    one.video = video;
    draw(one);
  }
  compare();
}

function draw(one) {
  const { video, parts } = one;
  const active = ["queued", "in_progress"].includes(video.status);
  parts.progress.hidden = !active;
  if (active) parts.progress.value = Math.max(video.progress, Number(parts.progress.value) || 0);
  parts.facts.textContent = facts(video);
  parts.warning.textContent = video.warnings.join("; ");
  parts.warning.hidden = !video.warnings.length;
  const state = video.expired ? "expired" : video.status;
  if (state === one.state) {
    if (state === "queued") note(one, placed(video));
    return;
  }
  one.state = state;
  parts.actions.replaceChildren(...Object.entries(one.actions(video)).map(([label, act]) => {
    const format = /^Download (.+)$/.exec(label)?.[1];
    const button = element("button", { type: "button", className: "quiet", textContent: format ? `↓ ${format}` : label });
    button.setAttribute("aria-label", label);
    button.addEventListener("click", () => act(one.video));
    return button;
  }));
  const line = element("pre", { tabIndex: 0 });
  line.replaceChildren(...command(video).split(/(--\w+)/).map((part) => // a hyphen is no place to break an option at
    part.startsWith("--") ? element("span", { textContent: part }) : part));
  parts.command.replaceChildren(element("summary", { textContent: "The same on the command line" }), line);
  if (state === "queued") note(one, placed(video));
  else if (state === "in_progress") note(one, "Being made …");
  else if (state === "failed") note(one, `${video.error.message} (${video.error.code})`);
  else if (state === "expired") note(one, "The clip has been removed for its age.");
  else open(one);
  if (active && !one.follower) followed(one);
}

const placed = (video) => (video.queue_position > 1 ? `Number ${video.queue_position} in the queue` : "Next in the queue");

function facts(video) {
  const seconds = video.inference_time_s === null ? "" : ` · ${video.inference_time_s.toFixed(1)} s`;
  const made = `${STATES[video.status]}${video.status === "in_progress" ? ` ${video.progress} %` : ""}`;
  return `${made} · ${video.model} · seed ${video.seed} · ${video.num_frames} frames · ${video.num_inference_steps} steps`
    + `${video.loop ? " · loop" : ""} · guidance ${video.guidance_scale} · ${video.size.replace("x", "×")}${seconds}`;
}

function note(one, text) {
  const line = one.parts.frame.querySelector("p");
  if (line) line.textContent = text;
  else one.parts.frame.replaceChildren(element("p", { textContent: text }));
}

async function followed(one) {
  one.follower = new AbortController();
  try {
    await api.follow(one.id, one.follower.signal, (name, data) => {
      if (name === "status") update(data);
      if (name === "preview" && one.video.status === "in_progress") preview(one, data);
    });
  } catch (error) {
    if (error.name !== "AbortError") one.follower = null; // the list goes on telling the state
  }
}

function preview(one, data) {
  let image = one.parts.frame.querySelector("img");
  if (!image) {
    image = element("img");
    one.parts.frame.replaceChildren(image);
  }
  image.alt = `Preview after ${data.step} of ${data.steps} steps`;
  image.src = data.image;
}

async function open(one) {
  try {
    if (!urls.has(one.id)) {
      const { blob } = await api.content(one.id);
      urls.set(one.id, { url: URL.createObjectURL(blob), isImage: blob.type.startsWith("image/") });
    }
  } catch (error) {
    note(one, error.message);
    return;
  }
  const { url, isImage } = urls.get(one.id);
  if (isImage) {
    one.parts.frame.replaceChildren(element("img", { src: url, alt: one.video.prompt }));
    return;
  }
  const clip = element("video", { src: url, muted: true, playsInline: true, loop: loop.checked });
  clip.setAttribute("aria-label", one.video.prompt);
  clip.tabIndex = 0;
  clip.addEventListener("click", () => toggle());
  clip.addEventListener("keydown", (event) => {
    if (event.key === " " || event.key === "Enter") {
      event.preventDefault();
      toggle();
    }
  });
  for (const name of ["play", "pause", "ended"]) clip.addEventListener(name, label);
  one.parts.frame.replaceChildren(clip);
  if (!still.matches) start();
  label();
}

const clips = () => [...stage.querySelectorAll("video")];

function label() {
  const all = clips();
  play.hidden = !all.length;
  play.textContent = all.some((clip) => !clip.paused) ? "Pause" : "Play";
}

// All clips from the beginning, together.
function start() {
  for (const clip of clips()) {
    clip.currentTime = 0;
    clip.play().catch(label);
  }
}

function toggle() {
  const all = clips();
  if (all.some((clip) => !clip.paused)) for (const clip of all) clip.pause();
  else if (all.some((clip) => clip.ended)) start();
  else for (const clip of all) clip.play().catch(label);
}

// The second clip keeps to the first one's clock.
function keepInStep() {
  const [first, second] = clips();
  if (first && second && !first.paused) {
    const wanted = Math.min(first.currentTime, second.duration || 0);
    if (Math.abs(second.currentTime - wanted) > ONE_FRAME) second.currentTime = wanted;
    if (second.paused && !second.ended && wanted < second.duration) second.play().catch(() => {});
  }
  requestAnimationFrame(keepInStep);
}

function compare() {
  const names = { model: "model", num_inference_steps: "steps", guidance_scale: "guidance", seed: "seed", num_frames: "frames", size: "size", loop: "loop", prompt: "prompt", negative_prompt: "negative prompt" };
  const [first, second] = shown.map((one) => one.video);
  const differing = second ? Object.keys(names).filter((name) => first[name] !== second[name]) : [];
  difference.textContent = second
    ? differing.map((name) => `${names[name]}: ${first[name] ?? "none"} | ${second[name] ?? "none"}`).join(" · ") || "Both were made alike."
    : "";
}

export function forget(id) {
  const kept = urls.get(id);
  if (kept) URL.revokeObjectURL(kept.url);
  urls.delete(id);
}

loop.addEventListener("change", () => {
  for (const clip of clips()) clip.loop = loop.checked;
  if (loop.checked && clips().some((clip) => clip.ended)) start();
});
play.addEventListener("click", toggle);
requestAnimationFrame(keepInStep);
