// A video's settings as a line of the command `latent-shift generate`, for a POSIX shell.

import { optionsOf, sourceOf } from "./form.js";

const quoted = (text) => (/^[\w.,:=/+-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`);

export function command(video) {
  const [width, height] = video.size.split("x");
  const options = {
    model: sourceOf(video.model),
    seed: video.seed,
    frames: video.num_frames,
    fps: video.fps,
    steps: video.num_inference_steps,
    guidance: video.guidance_scale,
    width,
    height,
    ...(video.negative_prompt === null ? {} : { negative: video.negative_prompt }),
    ...optionsOf(video.model),
  };
  const words = Object.entries(options).map(([name, value]) => `--${name} ${quoted(String(value))}`);
  if (video.loop) words.push("--loop");
  const prompt = video.prompt.startsWith("-") ? `-- ${quoted(video.prompt)}` : quoted(video.prompt);
  return video.prompt.startsWith("-")
    ? `latent-shift generate ${words.join(" ")} ${prompt}`
    : `latent-shift generate ${prompt} ${words.join(" ")}`;
}
