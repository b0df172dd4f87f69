// The form: a model's defaults, what was typed last, the seed, and settings restored from a clip.

import * as api from "./api.js";

const KEPT = "latent-shift-form";
const NUMBERS = { frames: "num_frames", steps: "num_inference_steps", guidance: "guidance_scale", width: "width", height: "height", fps: "fps" };
const SAVED = ["prompt", "model", "seed", "negative", ...Object.keys(NUMBERS)];
const UNKNOWN = { guidance_interval: "the guidance interval", forecast: "the forecast", prediction: "the prediction type", background: "the transparent ground" }; // in files of `generate`
const field = (id) => document.getElementById(id);

let models = [];

// The name by which the command line knows a served model.
export const sourceOf = (id) => models.find((one) => one.id === id)?.source ?? id;

// Device and precision that the server was started with, where they are not the command's own choice.
export function optionsOf(id) {
  const { device = "auto", dtype = "auto" } = models.find((one) => one.id === id) ?? {};
  return Object.fromEntries(Object.entries({ device, dtype }).filter(([, value]) => value !== "auto"));
}

// Most bytes of a file that the server reads settings from.
export const largestFile = () => models[0].limits.upload_bytes;

const model = () => models.find((one) => one.id === field("model").value) ?? models[0];

export const drawSeed = () => String(crypto.getRandomValues(new Uint32Array(1))[0] >>> 1);

function save() {
  const values = Object.fromEntries(SAVED.map((id) => [id, field(id).value]));
  localStorage.setItem(KEPT, JSON.stringify({ ...values, fresh: field("fresh").checked, loop: field("loop").checked, seamless: field("seamless").checked }));
}

function load() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}

// The model's limits and examples, and its own values where `values` has none.
function show(values) {
  const { defaults, limits, examples } = model();
  for (const [id, name] of Object.entries(NUMBERS)) field(id).value = values[id] ?? defaults[name];
  field("seamless-field").hidden = !defaults.loops;
  field("seamless").checked = defaults.loops && (values.seamless ?? false);
  field("frames").max = limits.frames;
  field("steps").max = limits.steps;
  for (const side of ["width", "height"]) field(side).step = field(side).min = defaults.size_multiple;
  field("prompt").maxLength = limits.prompt_chars;
  field("examples").replaceChildren(...examples.map((text) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.className = "quiet";
    button.textContent = text;
    button.addEventListener("click", () => {
      field("prompt").value = text;
      field("prompt").focus();
      save();
    });
    item.append(button);
    return item;
  }));
}

export async function prepare() {
  models = await api.models();
  for (const id of ["model", "other-model"]) {
    field(id).replaceChildren(...models.map((one) => new Option(one.id, one.id)));
  }
  const kept = load();
  if (models.some((one) => one.id === kept.model)) field("model").value = kept.model;
  show(model().id === kept.model ? kept : {});
  field("prompt").value = kept.prompt ?? "";
  field("negative").value = kept.negative ?? "";
  field("seed").value = kept.seed || drawSeed();
  field("fresh").checked = kept.fresh ?? true;
  field("loop").checked = kept.loop ?? true;
  field("model").addEventListener("change", () => show({}));
  field("new-seed").addEventListener("click", () => newSeed());
  for (const name of ["input", "change", "click"]) field("form").addEventListener(name, save);
  field("loop").addEventListener("change", save);
}

export function newSeed() {
  field("seed").value = drawSeed();
  save();
}

// The request of the form; with that of a second clip to compare, where its part is open.
export function requests() {
  const first = { prompt: field("prompt").value, model: field("model").value, seed: field("seed").value };
  for (const [id, name] of Object.entries(NUMBERS)) first[name] = Number(field(id).value);
  if (field("negative").value) first.negative_prompt = field("negative").value;
  if (field("seamless").checked) first.loop = true;
  if (!field("compare").open) return [first];
  const second = { ...first, model: field("other-model").value };
  if (field("other-steps").value) second.num_inference_steps = Number(field("other-steps").value);
  if (field("other-guidance").value) second.guidance_scale = Number(field("other-guidance").value);
  return [first, second];
}

// Settings of a file or a video into the form. Returns what could not be restored, as a sentence.
export function restore(settings) {
  const known = models.find((one) => [one.id, one.source].includes(settings.model));
  if (known) field("model").value = known.id;
  show({ ...settings, seamless: settings.loop });
  field("prompt").value = settings.prompt ?? "";
  field("negative").value = settings.negative ?? "";
  if (settings.seed !== undefined) field("seed").value = settings.seed;
  field("fresh").checked = false;
  save();
  const lost = [];
  if (!known && settings.model) lost.push(`the model ${settings.model}, which is not served here`);
  if (settings.loop && !field("seamless").checked) lost.push("the loop, which this model does not make");
  if (settings.loras?.length) lost.push("LoRA files");
  for (const [name, what] of Object.entries(UNKNOWN)) {
    if (settings[name] !== undefined && settings[name] !== null) lost.push(`${what}, which the server does not take`);
  }
  return lost.length ? `Not restored: ${lost.join("; ")}.` : "";
}

export function settingsOf(video) {
  const [width, height] = video.size.split("x");
  return {
    prompt: video.prompt, model: video.model, seed: video.seed, frames: video.num_frames, fps: video.fps,
    steps: video.num_inference_steps, guidance: video.guidance_scale, negative: video.negative_prompt ?? "", loop: video.loop, width, height,
  };
}
