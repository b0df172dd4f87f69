"""Steps that were left out because their gradient was not finite: counted, named, and not too many."""

from __future__ import annotations

import json
from typing import Any

from latent_shift.training.log import forget_after
from latent_shift.training.optimization import Diverged
from latent_shift.training.recipe import Run

FILE_NAME = "skipped.jsonl"


class Skipped:
    """The skipped steps of a run that goes on after step `done`: a line each in `skipped.jsonl`."""

    def __init__(self, recipe: Run, done: int, *, writes: bool) -> None:
        self.path, self.most, self.writes = recipe.output / FILE_NAME, recipe.optimizer.most_skipped, writes
        self.last = recipe.steps
        if writes:
            forget_after(done, self.path)
        self.count = 0
        if self.path.exists():
            lines = map(json.loads, self.path.read_text(encoding="utf-8").splitlines())
            self.count = sum(line["step"] <= done for line in lines)

    def note(self, step: int, batch: dict[str, Any]) -> None:
        """Count one more, with what it was made of.

        Raises Diverged where that is one too many, or the run's last step: nothing tells then whether the
        model is still one.
        """
        self.count += 1
        keys = [str(key) for key in batch.get("key", [])]
        if self.writes:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "keys": keys}) + "\n")
        if self.count > self.most or step == self.last:
            raise Diverged(
                f"the loss or its gradient was not finite in {self.count} steps, the last is step {step}"
                f" with {', '.join(keys) or 'its batch'} ({self.path} lists all): lower learning_rate,"
                " use fp32, or look at these clips"
            )
