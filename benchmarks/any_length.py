"""What clips of several lengths take: memory at the peak, and CPU time by frame, from the prompt to the file.

    python benchmarks/any_length.py                           # the built-in model, 16 to 512 frames
    python benchmarks/any_length.py --frames 16,32 --steps 1  # in seconds, for a test

Each length has a process of its own, which loads the model, makes a short clip to warm up and then the clip,
and writes it as it is decoded, as `latent-shift generate` does. CPU seconds are those of the second clip, and
are disturbed less by other work on the machine than wall seconds.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROMPT = "a large red star moving left on a navy background"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", default="16,64,512")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", default="moving-shapes")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--one", type=int, help="make one clip of so many frames in this process")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measure(arguments.model, arguments.dtype, arguments.one, arguments.steps)))
        return
    rows = []
    for frames in arguments.frames.split(","):
        command = [sys.executable, __file__, "--one", frames, "--steps", str(arguments.steps)]
        command += ["--model", arguments.model, "--dtype", arguments.dtype]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"frames": int(frames), **json.loads(done.stdout.splitlines()[-1])})
    print(f"{'frames':>6} {'ms a frame':>10} {'to first':>8} {'peak MB':>8} {'to first':>8}")
    for row in rows:
        slower, larger = (row[name] / rows[0][name] for name in ("seconds", "memory"))
        print(
            f"{row['frames']:>6} {row['seconds'] * 1e3:>10.1f} {slower:>8.3f}"
            f" {row['memory'] / 1e6:>8.0f} {larger:>8.3f}"
        )


def measure(model: str, dtype: str, frames: int, steps: int) -> dict[str, float]:
    """CPU seconds a frame of a clip, and bytes of this process at its peak."""
    from latent_shift import generation, systems
    from latent_shift.media import write_clip
    from latent_shift.systems.base import GenerationRequest

    system = systems.load(model, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        for length in (16, frames):
            began = time.process_time()
            request = GenerationRequest(prompt=PROMPT, seed=1, frames=length, steps=steps)
            for made in generation.run_in_parts(system, [request]):
                write_clip(Path(folder) / "clip.mp4", made.parts, made.request.fps, overwrite=True)
            seconds = time.process_time() - began
    return {
        "seconds": seconds / frames,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
