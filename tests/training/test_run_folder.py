"""What else may be in a run's folder, and who: damage, copies, a second process, a full disk, fewer steps."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tensorboard.summary.writer.record_writer import RecordWriter

from latent_shift.data.workers import errors_of_workers
from latent_shift.hashes import files_hash
from latent_shift.io import atomic_file, only_process_in
from latent_shift.training import checkpoint, logging, model_card, run_config
from latent_shift.training.task import build_task
from latent_shift.training.trainer import train

FILES = ["weights.safetensors", "ema.safetensors", "optimizer.safetensors", "state.json"]


def ignore(progress):
    pass


def steps_of(output):
    return [checkpoint.step_of(folder) for folder in checkpoint.checkpoints(output)]


@pytest.fixture
def saved(recipe):
    """A run with the checkpoints of steps 1 to 3, not yet at its end."""
    tiny = recipe("autoencoder", checkpoints_total_limit=3)
    for step in (1, 2, 3):
        checkpoint.save(checkpoint.State.new(build_task(tiny)), step)
    return tiny


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(saved, name):
    file = saved.output / "checkpoints" / "step-00000003" / name
    file.write_bytes(file.read_bytes()[:-20])
    state = checkpoint.State.new(build_task(saved))
    with pytest.warns(UserWarning, match=f"{name}.*goes on from step-00000002, which is whole"):
        assert checkpoint.load(state) == 2
    one_kept = checkpoint.State.new(build_task(saved.model_copy(update={"checkpoints_total_limit": 1})))
    checkpoint.save(one_kept, 2)
    assert steps_of(saved.output) == [2]  # never the damaged one in the place of a whole one


def _flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda folder: _flip(folder / "weights.safetensors"),
            "weights.safetensors: is not what was written",
        ),
        (lambda folder: _flip(folder / "optimizer.safetensors"), "optimizer.safetensors: is"),
        (lambda folder: shutil.copy(folder / "weights.safetensors", folder / "ema.safetensors"), "ema.safe"),
        (lambda folder: (folder / "state.json").write_text("[]"), "expected a JSON object"),
        (lambda folder: (folder / "state.json").write_bytes(b"\xff"), "state.json: is not valid JSON"),
        (
            lambda folder: (folder / "state.json").write_text(
                '{"step": 3, "ema_step": 3, "optimizer": {}, "inputs": [1]}'
            ),
            "state.json: inputs is '.1.'",
        ),
        (
            lambda folder: shutil.copytree(folder, folder.with_name("step-00000099")),
            "state.json is of step 3",
        ),
        (lambda folder: folder.with_name("step-00000099").mkdir(), "step-00000099 is damaged"),
    ],
)
def test_other_damage_is_passed_over_with_a_warning(saved, change, message):
    folder = saved.output / "checkpoints" / "step-00000003"
    change(folder)
    run_config.record_recipe(saved)
    assert not run_config.is_finished(saved)
    with pytest.warns(UserWarning, match=f"{message}.*goes on from step-0000000[23], which is whole"):
        assert checkpoint.load(checkpoint.State.new(build_task(saved))) in (2, 3)


def test_files_named_as_checkpoints_are_none(saved):
    folder = saved.output / "checkpoints"
    (folder / "step-00000098").write_text("x")
    (folder / "step-00000099").symlink_to("nowhere")
    assert steps_of(saved.output) == [1, 2, 3]


def test_a_record_of_the_recipe_that_is_gone_is_told(saved):
    with pytest.warns(UserWarning, match="recipe.json: is gone: the run goes on by the recipe given"):
        assert not run_config.is_finished(saved)


@pytest.mark.parametrize("content", [b'{"task"', b"[]", b"\xff\xfe"])
def test_a_damaged_record_of_the_recipe_is_named(saved, content):
    (saved.output / "recipe.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"recipe.json: .*; put the recipe of this run there, or remove"):
        run_config.is_finished(saved)


def test_damaged_lines_of_a_log_are_removed_with_a_warning(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 1}\n\xff\x00{\n3\n{"step": 2}\n{"step": 5}\n{"ste')
    with pytest.warns(UserWarning, match="log.jsonl: 2 damaged lines are removed"):
        logging.remove_steps_after(4, log)
    assert logging.read_jsonl(log) == [{"step": 1}, {"step": 2}]


def test_where_no_checkpoint_is_whole_nothing_begins_anew(saved):
    for file in (saved.output / "checkpoints").glob("*/ema.safetensors"):
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"step-00000003.*step-00000001 is damaged .*no checkpoint is whole"):
        checkpoint.load(checkpoint.State.new(build_task(saved)))


def test_other_names_among_the_checkpoints_are_passed_over(saved):
    folder = saved.output / "checkpoints"
    for name in ("step-00000003-backup", "step-12 (copy)", "step-", "step-x", "step-00000009.damaged"):
        shutil.copytree(folder / "step-00000002", folder / name)
    assert steps_of(saved.output) == [1, 2, 3]
    assert checkpoint.load(checkpoint.State.new(build_task(saved))) == 3


def test_fewer_steps_than_were_taken_are_refused(recipe):
    train(build_task(recipe("autoencoder", steps=3)), ignore)
    with pytest.raises(ValueError, match=r"has taken 3 steps already, more than steps 2; set steps to 3 or"):
        train(build_task(recipe("autoencoder", steps=2)), ignore)


def test_a_model_without_checkpoints_is_not_trained_over(recipe):
    """People remove checkpoints for room, and repeat a command by mistake."""
    train(build_task(recipe("autoencoder", steps=1)), ignore)
    output = recipe("autoencoder").output
    shutil.rmtree(output / "checkpoints")
    with pytest.raises(ValueError, match="model: is there already, and no checkpoint to go on from"):
        train(build_task(recipe("autoencoder", steps=1)), ignore)
    os.rename(output / "model", output / "kept")
    assert train(build_task(recipe("autoencoder", steps=1)), ignore).is_dir()


def test_an_emptied_model_is_written_again_and_a_file_in_its_place_is_named(saved):
    run_config.record_recipe(done := saved.model_copy(update={"steps": 3}))
    model = done.output / "model"
    model.mkdir()
    assert not run_config.is_finished(done)
    (model / "config.json").write_text("{}")
    assert run_config.is_finished(done)
    shutil.rmtree(model)
    model.write_text("notes")
    with pytest.raises(ValueError, match="model: is a file, where the run's model is to be"):
        run_config.is_finished(done)


def test_a_model_of_another_origin_is_not_trained_over(recipe):
    """As where the output is a folder with the pretrained model in it."""
    model = recipe("autoencoder").output / "model"
    model.mkdir(parents=True)
    assert not run_config.is_finished(recipe("autoencoder"))
    (model / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match="model: is there already, and no checkpoint to go on from"):
        train(build_task(recipe("autoencoder", steps=1)), ignore)


def test_checkpoints_on_a_disk_that_is_not_mounted_are_not_begun_anew(saved, tmp_path):
    folder = saved.output / "checkpoints"
    shutil.move(folder, tmp_path / "disk")
    folder.symlink_to(tmp_path / "disk")
    assert steps_of(saved.output) == [1, 2, 3]
    os.rename(tmp_path / "disk", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="checkpoints: is a link to .*disk, which is not there: mount or"):
        train(build_task(saved), ignore)


def test_lost_checkpoints_and_damaged_logs_of_a_run_that_begins_anew(recipe):
    tiny = recipe("autoencoder", checkpoint_every=3)
    tiny.output.mkdir(parents=True)
    for content, told in (
        (b'\xef\xbb\xbf{"step": 2}\n{"ste', None),
        (b'{"step": 3}\n', "log told of 3 steps"),
    ):
        (tiny.output / "log.jsonl").write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logging.begin_logs_after(0, tiny)
        assert (tiny.output / "log.jsonl").read_bytes() == b""
        assert ([told] if told else []) == [told for one in caught if told in str(one.message)]
    (tiny.output / "log.jsonl").write_bytes(b'\xef\xbb\xbf{"step": 2}\n{"ste')
    logging.begin_logs_after(2, tiny)
    assert logging.read_jsonl(tiny.output / "log.jsonl") == [{"step": 2}]


def test_a_run_does_not_go_on_beside_other_frozen_weights_and_says_so_of_other_clips(recipe):
    tiny = recipe("autoencoder")
    begun = checkpoint.State.new(build_task(tiny), inputs={"frozen": "1", "clips": "1"})
    checkpoint.save(begun, 1)
    assert checkpoint.load(checkpoint.State.new(build_task(tiny), inputs={"frozen": "1"})) == 1
    with pytest.raises(ValueError, match="the weights that this run does not train are others now"):
        checkpoint.load(checkpoint.State.new(build_task(tiny), inputs={"frozen": "2", "clips": "1"}))
    with pytest.warns(UserWarning, match="clips or captions are others than when it was begun"):
        checkpoint.load(checkpoint.State.new(build_task(tiny), inputs={"frozen": "1", "clips": "2"}))


def test_hashes_of_what_checkpoints_do_not_hold(recipe):
    task = build_task(recipe("video", lora={"rank": 2}))
    before = task.inputs()
    assert before.keys() == {"frozen"}  # no clips of the user's
    for name, parameter in task.named_parameters():
        if "lora" in name:
            parameter.data += 1
    assert task.inputs() == before
    next(one for one in task.parameters() if not one.requires_grad).data += 1
    assert task.inputs() != before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left")])
def test_a_full_disk_at_the_export_is_a_line(recipe, monkeypatch, error):
    tiny = recipe("autoencoder", steps=1)
    task = build_task(tiny)

    def full(folder):
        folder.mkdir()
        raise error

    monkeypatch.setattr(task, "export", full)
    with pytest.raises(ValueError, match="model: cannot be written: .*No space left.*its last step is whole"):
        train(task, ignore)
    assert steps_of(tiny.output) == [1]
    assert not (tiny.output / "model.unfinished").exists()


def test_a_worker_that_was_killed_is_a_line():
    class Killed(torch.utils.data.Dataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    loaded = torch.utils.data.DataLoader(Killed(), num_workers=1)
    with (
        pytest.raises(ValueError, match="was ended from outside.*set num_workers lower"),
        errors_of_workers(),
    ):
        next(iter(loaded))


def test_an_error_in_a_worker_is_its_own_line():
    text = (
        "Caught OSError in DataLoader worker process 0.\nOriginal Traceback:\n x\nOSError: [Errno 5] a.mp4\n"
    )
    with pytest.raises(ValueError, match=r"^\[Errno 5\] a.mp4$"), errors_of_workers():
        raise OSError(text)
    with pytest.raises(RuntimeError), errors_of_workers():
        raise RuntimeError("a fault of the program")


def test_a_file_in_place_of_the_folder_is_named(recipe):
    tiny = recipe("autoencoder", steps=1)
    tiny.output.parent.mkdir(parents=True, exist_ok=True)
    tiny.output.write_text("x")
    with pytest.raises(ValueError, match="output: .* is a file, and no folder; name another"):
        train(build_task(tiny), ignore)


def test_notes_beside_a_model_stay_when_training_goes_on(recipe):
    train(build_task(recipe("autoencoder", steps=1)), ignore)
    model = recipe("autoencoder").output / "model"
    (weights,) = model.rglob("*.safetensors")
    before = weights.read_bytes()
    notes = [model / "notes.txt", weights.parent / "tried.txt"]
    for note in notes:
        note.write_text("three seeds")
    train(build_task(recipe("autoencoder", steps=2)), ignore)
    assert [note.read_text() for note in notes] == ["three seeds"] * 2
    assert weights.read_bytes() != before


def test_a_card_with_its_licence_filled_in_is_kept(recipe):
    """Also: who may read the card may read the weights."""
    train(build_task(recipe("autoencoder", steps=1)), ignore)
    card = recipe("autoencoder").output / "model" / "README.md"
    model_card.keep_edited_card(card.parent, card.parent)
    assert not card.with_name("README.before.md").exists()
    modes = {file.stat().st_mode for file in card.parent.rglob("*") if file.is_file()}
    assert modes == {card.stat().st_mode}
    mine = card.read_text().replace("license: other", "license: mit")
    card.write_text(mine)
    with pytest.warns(UserWarning, match="README.md: was written into; it is README.before.md now"):
        train(build_task(recipe("autoencoder", steps=2)), ignore)
    assert card.with_name("README.before.md").read_text() == mine
    assert " for 2 steps " in card.read_text()


@pytest.mark.filterwarnings("ignore:.*was a link")
def test_a_link_in_place_of_the_model_costs_neither_the_run_nor_what_it_leads_to(recipe, tmp_path):
    tiny = recipe("autoencoder", steps=1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").write_text("x")
    tiny.output.mkdir(parents=True)
    (tiny.output / "model").symlink_to(elsewhere)
    train(build_task(tiny), ignore)
    assert not (tiny.output / "model").is_symlink()
    assert any((tiny.output / "model").rglob("*.safetensors"))
    assert os.listdir(elsewhere) == ["kept"]


def test_a_precision_that_changes_the_numbers_may_not_change(recipe):
    train(build_task(recipe("autoencoder", steps=2)), ignore)
    with pytest.raises(ValueError, match="mixed_precision was 'fp32', is 'bf16'"):
        train(build_task(recipe("autoencoder", steps=3, mixed_precision="bf16")), ignore)


HOLDER = """
import sys, time
from pathlib import Path
from latent_shift.io import only_process_in
with only_process_in(Path(sys.argv[1]), "trains into"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_blocks_nothing(recipe):
    tiny = recipe("autoencoder", steps=1)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tiny.output], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    message = rf"{tiny.output}: another process \({holder.pid}\) trains into this folder: wait for it, or end"
    with pytest.raises(ValueError, match=message):
        train(build_task(tiny), ignore)
    assert not (tiny.output / "log.jsonl").exists()
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert train(build_task(tiny), ignore).is_dir()


def test_a_log_that_cannot_be_written_does_not_end_a_run(recipe, monkeypatch):
    def full(path, line):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logging, "_append", full)
    tiny = recipe("autoencoder", steps=2)
    with pytest.warns(UserWarning, match=r"log\.jsonl: could not be written, the run goes on without"):
        assert train(build_task(tiny), ignore).is_dir()


@pytest.mark.parametrize("after", [0, 3])
def test_a_full_disk_under_tensorboard_is_a_line_without_traceback(recipe, monkeypatch, capfd, after):
    """Its thread writes, at the start or later."""
    write, calls = RecordWriter.write, []

    def full(self, data):
        calls.append(data)
        if len(calls) > after:
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(RecordWriter, "write", full)
    tiny = recipe("autoencoder", steps=3, sample_every=2)
    with pytest.warns(UserWarning, match="the log for TensorBoard: could not be written"):
        assert train(build_task(tiny), ignore).is_dir()
    assert "Traceback" not in capfd.readouterr().err
    assert len((tiny.output / "log.jsonl").read_text().splitlines()) == 3


def test_samples_that_cannot_be_written_do_not_end_a_run(recipe):
    tiny = recipe("autoencoder", steps=2, sample_every=1)
    tiny.output.mkdir(parents=True)
    (tiny.output / "samples").write_text("no folder")
    with pytest.warns(UserWarning, match="the samples of step 1: could not be written"):
        assert train(build_task(tiny), ignore).is_dir()


def test_a_full_disk_names_the_file(tmp_path):
    failed = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    named = pytest.raises(OSError, match="No space left on device.*: '.*a.txt'")
    with named as caught, atomic_file(tmp_path / "a.txt"):
        raise failed
    assert caught.value.errno == 28
    with pytest.raises(OSError, match="No space left on device: '.*a.txt'"), atomic_file(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")


def test_a_lock_of_this_process_alone_is_written_with_its_number(tmp_path):
    with only_process_in(tmp_path / "run", "trains into"):
        assert (tmp_path / "run" / ".lock").read_text() == str(os.getpid())


@pytest.mark.parametrize("size", [10, 500_000])
def test_a_clip_replaced_by_one_of_the_same_size_is_another(tmp_path, size):
    file = tmp_path / "a.mp4"
    hashes = set()
    same, middle = b"a" * (size - 1), b"a" * (size // 2)
    for content in (b"a" * size, same + b"b", b"b" + same, middle + b"b" + middle[1:]):
        file.write_bytes(content)
        hashes.add(files_hash({"a.mp4": file}))
    assert len(hashes) == 4
    file.write_bytes(b"a" * size)
    assert files_hash({"a.mp4": file}) in hashes


def test_latents_of_an_autoencoder_of_another_scale_are_refused(recipe, tmp_path, parts):
    """The same weights, another scaling factor, mean or deviation: other latents."""
    train(build_task(recipe("video", steps=1)), ignore)
    model = shutil.copytree(parts / "image-model", tmp_path / "model")
    config = json.loads((model / "vae" / "config.json").read_text())
    for changes in ({"scaling_factor": 0.9}, {"latents_mean": [0.1] * 4, "latents_std": [2.0] * 4}):
        (model / "vae" / "config.json").write_text(json.dumps({**config, **changes}))
        other = recipe("video", steps=1, pretrained_model=str(model), output=str(tmp_path / "other"))
        with pytest.raises(ValueError, match="holds latents of other settings"):
            train(build_task(other), ignore)


def test_checkpoints_and_stores_have_the_permissions_of_any_new_file(recipe, tmp_path):
    (tmp_path / "usual").touch()
    usual = (tmp_path / "usual").stat().st_mode
    tiny = recipe("autoencoder")
    saved = checkpoint.save(checkpoint.State.new(build_task(tiny)), 1)
    with atomic_file(tmp_path / "stored.safetensors") as partial:
        save_file({"a": torch.ones(2)}, partial)
    made = [*saved.iterdir(), tmp_path / "stored.safetensors"]
    assert len(made) == 5
    assert {file.stat().st_mode for file in made} == {usual}
