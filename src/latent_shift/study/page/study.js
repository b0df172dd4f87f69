// The rater's page. All state is the server's: what is shown is what it answers, so that a reload, another
// window or another day go on where the rater was. An answer that did not get through is sent again.

import { Player } from "./player.js";

const $ = (id) => document.getElementById(id);
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "none" };
const [, kind, token] = location.pathname.split("/");

let state = null;
let open = false; // answers are taken
let fetching = false; // the next pair is on its way
let playedAt = 0; // when the first whole play ended

const player = new Player($("left"), $("right"), {
  onProgress(part, plays) {
    $("played").value = plays ? 1 : part;
    $("played").classList.toggle("whole", plays > 0);
  },
  onPlayed(plays) {
    if (plays === 1) {
      playedAt = performance.now();
      setOpen(Boolean(state?.pair?.question));
    }
  },
  onBroken(video) { fetchAgain(video); },
});
const fetchedAgain = new WeakMap(); // by video, the address of a clip that came whole and did not play

class Refused extends Error {
  constructor(status, code, message) { super(message); this.status = status; this.code = code; }
}

// Call the server; while it cannot be reached, say so and try again. The same call twice does no harm.
async function call(path, body) {
  for (let wait = 500; ; wait = Math.min(wait * 2, 10000)) {
    let response;
    try {
      response = await fetch(path, body === undefined ? {} : {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
      if (response.status >= 500) throw new Error();
    } catch {
      say("No connection to the server. Nothing is lost; trying again …", "bad");
      await new Promise((resolve) => setTimeout(resolve, wait));
      continue;
    }
    if (wait > 500) say("");
    const content = await response.json();
    if (!response.ok) throw new Refused(response.status, content.error.code, content.error.message);
    return content;
  }
}

// A clip that did not come is waited for; one that is there and does not play is beyond the browser.
async function fetchAgain(video) {
  const address = video.src;
  if (fetchedAgain.get(video) === address) {
    say("This browser cannot play the clips (mp4, H.264). Please try another one.", "bad");
    return;
  }
  for (let wait = 500; video.src === address; wait = Math.min(wait * 2, 10000)) {
    const response = await fetch(address).catch(() => null);
    if (response?.ok) {
      await response.arrayBuffer();
      fetchedAgain.set(video, address);
      say("");
      if (video.src === address) video.load();
      return;
    }
    if (response && response.status < 500) return failed(new Refused(response.status, "not_found", ""));
    say("No connection to the server. Nothing is lost; trying again …", "bad");
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

function say(text, mood = "") {
  $("message").textContent = text;
  $("message").className = mood;
}

function only(section) {
  for (const id of ["consent", "rating", "finished", "problem"]) $(id).hidden = id !== section;
  $("place").hidden = section !== "rating";
  if (section !== "rating") player.stop();
}

function setOpen(isOpen) {
  open = isOpen;
  for (const choice of ["left", "right", "none"]) $(`answer-${choice}`).disabled = !isOpen;
}

function show(now) {
  const before = state;
  state = now;
  document.title = now.title;
  $("title").textContent = now.title;
  $("answer-none").hidden = !now.no_difference;
  document.querySelectorAll(".third").forEach((one) => { one.hidden = !now.no_difference; });
  if (now.stage === "consent") {
    $("consent-text").textContent = now.consent;
    $("scope").textContent = `There are ${now.pairs} pairs; it takes about ${now.minutes} ` +
      `${now.minutes === 1 ? "minute" : "minutes"}.`;
    only("consent");
    return;
  }
  if (now.stage === "finished") { say(""); only("finished"); return; }
  only("rating");
  showPair(now.pair, before?.pair);
}

function showPair(pair, before) {
  const isNew = pair.showing !== before?.showing;
  if (!isNew && pair.question?.id === before.question?.id) { // shown already
    setOpen(Boolean(pair.question) && player.plays > 0);
    return;
  }
  $("count").textContent = `${pair.number} of ${pair.of}`;
  $("progress").max = pair.of;
  $("progress").value = pair.number - 1;
  $("practice").hidden = pair.kind !== "training";
  setOpen(false);
  feedback(pair, isNew);
  const question = pair.question;
  $("answers").hidden = $("question").hidden = !question;
  $("next").hidden = Boolean(question);
  if (question) {
    const prompt = question.prompt ?? "";
    $("prompt").textContent = prompt;
    $("prompt").hidden = !prompt;
    $("question").textContent = question.text;
    $("question").focus({ preventScroll: true });
  } else {
    $("next").focus();
  }
  if (isNew) {
    const clip = (side) => `/api/r/${token}/clips/${pair.showing}/${side}.mp4`;
    for (const side of ["left", "right"]) { $(side).width = state.width; $(side).height = state.height; }
    player.load([clip("left"), clip("right")], state.clip_seconds / state.frames);
  } else if (question) {
    player.count(); // the next question is answered after a play of its own
  }
}

function feedback(pair, isNew) {
  const last = pair.feedback.at(-1);
  if (!last || isNew) { say(""); return; }
  const meant = `Look again: the better answer is the clip on the ${last.expected}.`;
  say(last.right ? "That is how it is meant." : meant, last.right ? "good" : "bad");
}

async function answer(choice) {
  if (!open || $(`answer-${choice}`).hidden) return;
  setOpen(false);
  const { showing, question } = state.pair;
  const seconds = Math.round(performance.now() - playedAt) / 1000;
  try {
    show(await call(`/api/r/${token}/answers`, {
      showing, question: question.id, choice, seconds, plays: player.plays,
    }));
    if (!state.pair.question && state.pair.kind !== "training") await next();
  } catch (error) {
    if (error.status !== 409) throw error;
    await next(); // answered in another window, or open for too long: the server knows what comes now
    if (error.code === "released") say("The last pair was open for too long and went to someone else.");
  }
}

async function next() {
  if (fetching) return;
  fetching = true;
  try {
    show(await call(`/api/r/${token}`));
  } finally {
    fetching = false;
  }
}

async function agree() {
  $("agree").disabled = true;
  if (kind === "join") {
    const joined = await call("/api/join", { invitation: token });
    location.replace(`/r/${joined.token}`);
    return;
  }
  show(await call(`/api/r/${token}/consent`, {}));
}

function failed(error) {
  if (!(error instanceof Refused)) throw error;
  $("problem-text").textContent = "Please open the whole link that you were given. If you did, it is not, or no longer, valid.";
  only("problem");
}

$("agree").addEventListener("click", () => agree().catch(failed));
$("next").addEventListener("click", () => next().catch(failed));
$("again").addEventListener("click", (event) => { player.restart(); event.currentTarget.blur(); });
for (const choice of ["left", "right", "none"]) {
  $(`answer-${choice}`).addEventListener("click", () => answer(choice).catch(failed));
}
document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || $("rating").hidden) return;
  if (event.key in KEYS) {
    event.preventDefault();
    answer(KEYS[event.key]).catch(failed);
  } else if (event.key === "Enter" && !$("next").hidden && event.target !== $("next")) {
    next().catch(failed);
  } else if (event.key === " " && !(event.target instanceof HTMLButtonElement)) {
    event.preventDefault();
    player.restart();
  }
});

(async () => {
  if (kind === "join") show(await call(`/api/join/${token}`));
  else if (kind === "r") await next();
  else failed(new Refused(404, "not_found", ""));
})().catch(failed);
