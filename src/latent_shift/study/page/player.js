// Two clips in step: they start together, wait for one another, and begin again when both have ended.

const PAUSE = 350; // milliseconds between the end of a play and the next

export class Player {
  // onProgress(part of a play, whole plays) is called with every frame of the screen, onPlayed(plays) after each,
  // onBroken(video) where a clip did not come, or cannot be decoded.
  constructor(left, right, { onProgress, onPlayed, onBroken }) {
    this.videos = [left, right];
    this.onProgress = onProgress;
    this.onPlayed = onPlayed;
    this.onBroken = onBroken;
    this.plays = 0;
    this.run = 0; // counts loads, so that what belongs to an earlier pair stops
    this.ended = new Set();
    for (const video of this.videos) {
      video.addEventListener("ended", () => { this.ended.add(video); this.finishPlay(); });
      video.addEventListener("error", () => { if (video.getAttribute("src")) this.onBroken(video); });
    }
    document.addEventListener("visibilitychange", () => {
      if (!this.loaded) return;
      if (document.hidden) this.videos.forEach((video) => video.pause());
      else if (!this.still) this.restart(); // a play counts only if it was seen
    });
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  }

  // Show other clips; frameSeconds is how long one frame stands.
  async load(sources, frameSeconds) {
    const run = ++this.run;
    this.loaded = false;
    this.frameSeconds = frameSeconds;
    this.videos.forEach((video, number) => { video.src = sources[number]; video.load(); });
    await Promise.all(this.videos.map((video) => ready(video)));
    if (run !== this.run) return;
    this.loaded = true;
    this.count();
  }

  // Count plays from 0, and play.
  count() {
    this.plays = 0;
    this.onProgress(0, 0);
    if (!this.still) this.restart();
  }

  async restart() {
    if (!this.loaded || document.hidden) return;
    const run = ++this.run;
    this.ended.clear();
    clearTimeout(this.timer);
    this.videos.forEach((video) => video.pause());
    await Promise.all(this.videos.map((video) => rewound(video)));
    if (run !== this.run) return;
    try {
      await Promise.all(this.videos.map((video) => video.play()));
    } catch (error) {
      // Interrupted by the next start, or the browser wants a key or a click first: "Play again".
      if (run === this.run && error.name === "NotAllowedError") this.still = true;
      return;
    }
    this.watch(run);
  }

  // Once a frame of the screen: the clip that is ahead by half of its own frame waits for the other.
  watch(run) {
    if (run !== this.run) return;
    const [a, b] = this.videos;
    const ahead = a.currentTime - b.currentTime;
    for (const [video, lead] of [[a, ahead], [b, -ahead]]) {
      if (lead > this.frameSeconds / 2) video.pause();
      else if (lead <= this.frameSeconds / 8 && video.paused && !video.ended && !document.hidden) {
        video.play().catch(() => {});
      }
    }
    const part = Math.min(...this.videos.map((video) => video.currentTime / video.duration || 0));
    this.onProgress(part, this.plays);
    requestAnimationFrame(() => this.watch(run));
  }

  finishPlay() {
    if (this.ended.size < 2) return;
    this.ended.clear();
    this.plays += 1;
    this.onProgress(1, this.plays);
    this.onPlayed(this.plays);
    if (!this.still) this.timer = setTimeout(() => this.restart(), PAUSE);
  }

  stop() {
    this.run += 1;
    clearTimeout(this.timer);
    this.videos.forEach((video) => video.pause());
  }
}

function ready(video) {
  if (video.readyState >= 4) return Promise.resolve();
  return new Promise((resolve) => video.addEventListener("canplaythrough", resolve, { once: true }));
}

function rewound(video) {
  if (video.currentTime === 0) return Promise.resolve();
  return new Promise((resolve) => {
    video.addEventListener("seeked", resolve, { once: true });
    video.currentTime = 0;
  });
}
