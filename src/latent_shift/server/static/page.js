// The page: the form makes jobs, the list of the server's videos is queue and history, the stage shows clips.

import * as api from "./api.js";
import * as form from "./form.js";
import * as stage from "./stage.js";

const PAGE = 24; // videos of the list at once
const MOST = 100; // that the server lists
const SOON = 1000; // milliseconds between two looks while something is made, and while nothing is
const LATER = 5000;
const at = (id) => document.getElementById(id);
const thumbnails = new Map();

let videos = []; // newest first
let older = []; // further pages, as they were when they were asked for
let more = null; // id after which there are older ones
let timer = null;

const isActive = (video) => ["queued", "in_progress"].includes(video.status);
const all = () => [...videos, ...older.filter((old) => !videos.some((video) => video.id === old.id))];

function say(text) {
  at("problem").textContent = text;
}

async function trying(act) {
  say("");
  try {
    return await act();
  } catch (error) {
    say(error.message);
    return undefined;
  }
}

// ---- actions on a video

async function download(video, format) {
  const { blob, name } = await api.content(video.id, format ? { format } : {});
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function actions(video) {
  const own = {};
  if (video.status === "completed" && !video.expired) {
    const kinds = video.num_frames === 1 ? [["PNG", ""], ["WebP", "webp"]] : [["MP4", ""], ["GIF", "gif"], ["WebP", "webp"]];
    for (const [label, format] of kinds) own[`Download ${label}`] = (one) => trying(() => download(one, format));
  }
  own["Use these settings"] = (one) => {
    form.restore(form.settingsOf(one));
    at("prompt").focus();
  };
  if (isActive(video)) own.Cancel = (one) => trying(() => api.cancel(one.id).then(refresh));
  else own.Delete = (one) => trying(() => removed(one));
  return own;
}

async function removed(video) {
  await api.remove(video.id);
  stage.forget(video.id);
  older = older.filter((one) => one.id !== video.id);
  videos = videos.filter((one) => one.id !== video.id);
  stage.show(all().filter((one) => stage.ids().includes(one.id) && one.id !== video.id), actions);
  await refresh();
}

// ---- the list

async function refresh() {
  clearTimeout(timer);
  try {
    let page = await api.list({ limit: PAGE });
    const before = videos;
    videos = page.data;
    while (page.has_more && isActive(page.data.at(-1))) { // the queue is longer than a page
      page = await api.list({ limit: MOST, after: page.last_id });
      videos = [...videos, ...page.data];
    }
    if (!older.length) more = page.has_more ? page.last_id : null;
    else older = [...before.filter(hasFallenOff), ...older];
    at("state").textContent = status();
    drawQueue();
    drawHistory();
    for (const video of videos) stage.update(video);
  } catch (error) {
    at("state").textContent = `No answer from the server: ${error.message}`;
  }
  timer = setTimeout(refresh, videos.some(isActive) ? SOON : LATER);
}

// Whether newer videos have pushed one off the list's first page. One that was deleted is not older than all of it.
function hasFallenOff(video) {
  const known = [...videos, ...older].some((one) => one.id === video.id);
  return !known && videos.length > 0 && video.created_at <= videos.at(-1).created_at;
}

function status() {
  const waiting = videos.filter((video) => video.status === "queued").length;
  const running = videos.filter((video) => video.status === "in_progress").length;
  if (!waiting && !running) return "Ready";
  return [running ? `${running} being made` : "", waiting ? `${waiting} waiting` : ""].filter(Boolean).join(", ");
}

function button(text, className, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = className;
  made.textContent = text;
  made.addEventListener("click", act);
  return made;
}

// Items of a list by key, drawn once each and then changed, so that the focus stays where it is.
function keyed(list, items, draw) {
  const old = new Map([...list.children].map((item) => [item.dataset.key, item]));
  const fresh = items.map((video) => {
    const item = old.get(video.id) ?? Object.assign(document.createElement("li"));
    item.dataset.key = video.id;
    draw(item, video);
    return item;
  });
  const same = fresh.length === list.children.length && fresh.every((item, n) => item === list.children[n]);
  if (!same) list.replaceChildren(...fresh);
}

function drawQueue() {
  const active = videos.filter(isActive).reverse();
  at("idle").hidden = active.length > 0;
  keyed(at("queue"), active, (item, video) => {
    if (!item.children.length) {
      const place = Object.assign(document.createElement("span"), { className: "place" });
      const cancel = button("Cancel", "quiet", () => trying(() => api.cancel(video.id).then(refresh)));
      cancel.setAttribute("aria-label", `Cancel ${video.prompt}`);
      item.append(place, button(video.prompt, "name", () => look(video.id)), cancel);
    }
    const text = video.status === "queued" ? `No. ${video.queue_position}` : `${video.progress} %`;
    if (item.firstChild.textContent !== text) item.firstChild.textContent = text;
  });
}

function drawHistory() {
  at("older").hidden = more === null;
  keyed(at("history"), all().filter((video) => !isActive(video)), (item, video) => {
    if (!item.children.length) {
      const picture = Object.assign(document.createElement("span"), { className: "picture" });
      const text = Object.assign(document.createElement("span"), { className: "text", textContent: video.prompt });
      const open = button("", "open", () => look(video.id));
      open.append(picture, text);
      item.append(open);
      if (video.status === "completed") {
        const beside = button("Compare", "quiet beside", () => look(video.id, true));
        beside.setAttribute("aria-label", `Compare the clip shown with ${video.prompt}, seed ${video.seed}`);
        item.append(beside);
      }
      thumbnail(picture, video);
    }
    item.firstChild.setAttribute("aria-current", stage.ids().includes(video.id));
  });
}

async function thumbnail(picture, video) {
  picture.textContent = video.expired ? "expired" : video.status === "failed" ? video.error.code : "";
  if (video.status !== "completed" || video.expired) return;
  try {
    if (!thumbnails.has(video.id)) {
      const { blob } = await api.content(video.id, { variant: "thumbnail" });
      thumbnails.set(video.id, URL.createObjectURL(blob));
    }
    const image = document.createElement("img");
    image.src = thumbnails.get(video.id);
    image.alt = "";
    picture.replaceChildren(image);
  } catch {
    picture.textContent = "gone";
  }
}

function look(id, beside = false) {
  const wanted = beside ? [stage.ids()[0] ?? id, id] : [id];
  stage.show([...new Set(wanted)].map((one) => all().find((video) => video.id === one)).filter(Boolean), actions);
  drawHistory();
  at("stage").scrollIntoView({ block: "nearest" });
}

// ---- what the visitor does

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  trying(async () => {
    const made = [];
    try {
      for (const fields of form.requests()) made.push(await api.create(fields));
      if (at("fresh").checked) form.newSeed();
    } finally { // the second of two may be refused
      videos = [...made.toReversed(), ...videos];
      if (made.length) stage.show(made, actions);
      await refresh();
    }
  });
});

at("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});

const restore = (file) => trying(async () => {
  if (file.size > form.largestFile()) throw new Error(`${file.name} is larger than the ${form.largestFile()} bytes that are read.`);
  at("state").textContent = "Reading the file …";
  const left = form.restore(await api.inspect(file));
  say(left);
  at("state").textContent = `Settings of ${file.name} restored`;
});

at("file").addEventListener("change", () => {
  if (at("file").files.length) restore(at("file").files[0]);
  at("file").value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) restore(event.dataTransfer.files[0]);
  });
}

at("older").addEventListener("click", () => trying(async () => {
  const page = await api.list({ limit: PAGE, after: more });
  older = [...older, ...page.data];
  more = page.has_more ? page.last_id : null;
  drawHistory();
}));

await trying(form.prepare);
const remembered = location.hash.slice(1).split("+").filter(Boolean);
await refresh();
const found = await Promise.all(remembered.map((id) => api.retrieve(id).catch(() => null)));
const first = found.some(Boolean) ? found.filter(Boolean) : videos.slice(0, 1);
stage.show(first, actions);
drawHistory();
