"""Logs with a line that a full disk cut off: neither the next line nor the end of the run is lost."""

import os

from latent_shift.training import logging
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train


def cut_off_after(step, log):
    """A report that cuts the log's last line in two at a step, as a disk that is full for a while."""

    def report(progress):
        if progress.step == step:
            os.truncate(log, log.stat().st_size - 20)

    return report


def test_a_line_that_was_cut_off_costs_neither_the_next_one_nor_the_model(recipe):
    tiny = recipe("autoencoder", steps=3)
    log = tiny.output / "log.jsonl"
    model = train(build_task(tiny), cut_off_after(1, log))
    assert [line["step"] for line in logging.read_jsonl(log)] == [2, 3]
    assert len(log.read_text().splitlines()) == 3
    assert f"| loss | {logging.read_jsonl(log)[-1]['loss']:.4g} |" in (model / "README.md").read_text()


def test_a_log_of_which_the_last_line_is_damaged_ends_no_training(recipe):
    tiny = recipe("autoencoder", steps=2)
    log = tiny.output / "log.jsonl"
    model = train(build_task(tiny), cut_off_after(2, log))
    assert [line["step"] for line in logging.read_jsonl(log)] == [1]
    assert f"| loss | {logging.read_jsonl(log)[-1]['loss']:.4g} |" in (model / "README.md").read_text()


def test_damaged_lines_are_passed_over(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'\xef\xbb\xbf{"step": 1}\n{"step": 2, "lo{"step": 3}\n\xff\x00\n[3]\n\n{"step": 4}')
    assert logging.read_jsonl(log) == [{"step": 1}, {"step": 4}]
    assert logging.read_jsonl(tmp_path / "none.jsonl") == []
