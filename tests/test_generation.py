"""Requests, the files they go to, and batches: what a clip is made of does not depend on its neighbours."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from latent_shift.generation import (
    GenerationRequest,
    clip_settings,
    parse_request,
    plan_jobs,
    read_prompts,
    run,
    slug,
)
from latent_shift.systems.base import RequestDefaults
from latent_shift.systems.latent_shift import LatentShift
from tiny import tiny_pipeline_folder

DEFAULTS = RequestDefaults(frames=16, fps=8.0, steps=20, guidance=7.5, height=64, width=64, size_multiple=8)


def planned(*requests, count=1, output="out/", **defaults):
    return plan_jobs(list(requests), replace(DEFAULTS, **defaults), count=count, output=output)


def request(prompt="a red circle", **values):
    return parse_request(prompt=prompt, **values)


def test_a_clip_takes_its_values_from_the_request_and_else_from_the_model():
    (job,) = planned(request(seed=3, steps=5))
    made = job.request
    assert (made.prompt, made.seed, made.frames, made.steps, made.guidance) == (
        "a red circle",
        3,
        16,
        5,
        7.5,
    )
    assert job.file == Path("out/a-red-circle-3.mp4")


def test_each_prompt_counts_its_seeds_up_from_its_own():
    jobs = planned(request("one", seed=7), request("two", seed=7), request("three", seed=1), count=2)
    assert [(job.request.prompt, job.request.seed) for job in jobs] == [
        ("one", 7), ("one", 8), ("two", 7), ("two", 8), ("three", 1), ("three", 2),
    ]  # fmt: skip


def test_a_seed_is_drawn_anew_where_none_is_given():
    seeds = {planned(request())[0].request.seed for _ in range(5)}
    assert len(seeds) > 1
    first, second = planned(request(), count=2)
    assert second.request.seed == first.request.seed + 1


def test_one_frame_makes_an_image():
    assert planned(request(seed=1, frames=1))[0].file.suffix == ".png"
    assert planned(request(seed=1), frames=1)[0].file.suffix == ".png"


def test_names_are_made_of_words_and_never_the_same_twice():
    jobs = planned(*[request("the same start " * 9 + end, seed=1) for end in ("a", "b", "c")])
    assert len({job.file for job in jobs}) == 3
    assert all(len(job.file.name) < 64 for job in jobs)
    assert slug("../../Étoile, ROUGE!/x") == "étoile-rouge-x"
    assert slug("?!") == "clip"


@pytest.mark.parametrize(
    ("output", "own", "file"),
    [
        ("clips", None, "clips/a-red-circle-1.mp4"),
        ("x/one.GIF", None, "x/one.GIF"),
        ("v1.2/", None, "v1.2/a-red-circle-1.mp4"),
        ("clips", "b.webp", "clips/b.webp"),
        ("clips", "sub/", "clips/sub/a-red-circle-1.mp4"),
        ("clips", "/elsewhere/b.mp4", "/elsewhere/b.mp4"),
    ],
)
def test_outputs_are_files_or_folders(output, own, file):
    assert planned(request(seed=1, output=own), output=output)[0].file == Path(file)


def test_a_folder_may_look_like_a_file(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    assert planned(request(seed=1), output=str(tmp_path / "a.mp4"))[0].file.parent == tmp_path / "a.mp4"


def test_an_output_in_the_users_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert planned(request(seed=1, output="~/a.mp4"))[0].file == Path("/home/me/a.mp4")


@pytest.mark.parametrize(
    ("requests", "options", "message"),
    [
        ([request()], {"output": "a.avi"}, r"unknown suffix '\.avi'"),
        ([request(), request()], {"output": "a.mp4"}, "several clips"),
        ([request()], {"output": "a.mp4", "count": 2}, "several clips"),
        ([request(output="b.mp4")], {"output": "a.mp4"}, "name a folder"),
        ([request(output="b.mp4")], {"count": 2}, "--count 2"),
        ([request(output="b.txt")], {}, r"unknown suffix '\.txt'"),
        ([request(output="s3://b/c.mp4")], {}, "s3://b/c.mp4: is an address"),
        ([request(output=" ")], {}, "output ' ': is empty; name a file or folder"),
        ([request(output="b.mp4"), request(output="./b.mp4")], {}, "two clips would be written"),
        ([request(output="b.mp4"), request(output="c/../b.mp4")], {}, "two clips would be written"),
        ([request(seed=2**63 - 1)], {"count": 2}, "exceeds"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(requests, options, message):
    with pytest.raises(ValueError, match=message):
        planned(*requests, **options)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"frames": 0}, "--frames 0: should be greater than or equal to 1"),
        ({"frames": -1}, "--frames -1"),
        ({"frames": 10**6}, "--frames 1000000: should be less"),
        ({"steps": 0}, "--steps 0"),
        ({"seed": -1}, "--seed -1"),
        ({"guidance": float("nan")}, "--guidance nan"),
        ({"guidance": -1.0}, "--guidance -1"),
    ],
)
def test_values_out_of_range_name_their_option(values, message):
    with pytest.raises(ValueError, match=message):
        parse_request(**({"prompt": "x"} | values))


def test_text_files_hold_a_prompt_a_line(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa red circle\n\n  # a comment\n  a blue star  \r\n", encoding="utf-8")
    assert read_prompts(file) == [{"prompt": "a red circle"}, {"prompt": "a blue star"}]


def test_lines_of_prompts_end_at_line_ends_only(tmp_path):
    file = tmp_path / "prompts.jsonl"
    lines = [{"prompt": "a\u2028red\x85circle"}, {"prompt": "a\x0cstar"}]
    file.write_bytes("\r".join(json.dumps(line, ensure_ascii=False) for line in lines).encode())
    assert read_prompts(file) == lines
    text = tmp_path / "prompts.txt"
    text.write_bytes("a\u2028red\x85circle\ra\x0cstar".encode())
    assert read_prompts(text) == lines


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-16-be"])
def test_prompts_in_other_encodings_are_read_with_a_warning(tmp_path, encoding):
    file = tmp_path / "prompts.txt"
    file.write_bytes("a café\na bar".encode(encoding))
    with pytest.warns(UserWarning, match=r"--prompts .*prompts\.txt: .*(UTF-16|Windows-1252)"):
        assert read_prompts(file) == [{"prompt": "a café"}, {"prompt": "a bar"}]


@pytest.mark.parametrize("name", ["prompt", "negative"])
def test_a_text_that_utf_8_cannot_hold_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"the {name} 'caf.*' is no text that UTF-8 can hold"):
        parse_request(**({"prompt": "x"} | {name: "caf\udce9"}))
    file = tmp_path / "prompts.jsonl"
    file.write_text(json.dumps({"prompt": "x"} | {name: "a \ud800"}))
    with pytest.raises(ValueError, match=rf"prompts\.jsonl line 1: the {name} .* is no text"):
        read_prompts(file)


def test_json_lines_hold_an_object_a_line(tmp_path):
    lines = [
        {"prompt": "a", "seed": 1, "frames": 8, "steps": 4, "guidance": 3, "negative": "b", "output": "c.gif"}
    ]
    lines.append({"prompt": "d"})
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n\n".join(map(json.dumps, lines)))
    assert read_prompts(file) == lines


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ('{"prompt": "a", "seed": 1, "seed": 2}', "the key 'seed' stands twice"),
        ("[1]", "expected a JSON object"),
        ('"a prompt"', "expected a JSON object"),
        ("{}", "has no prompt"),
        ('{"prompt": ""}', "the prompt is empty"),
        ('{"prompt": 3}', "the prompt must be text"),
        ('{"prompt": "x", "framez": 3}', "unknown key 'framez'; known are prompt, seed, frames"),
        ('{"prompt": "x", "frames": "3"}', "frames '3'"),
        ('{"prompt": "x", "frames": 0}', "frames 0: should be"),
        ('{"prompt": "x", "seed": 1.5}', "seed 1.5"),
        ('{"prompt": "x", "guidance": NaN}', "guidance nan"),
        ('{"prompt": "x", "steps": true}', "steps True"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, message):
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "fine"}}\n\n{line}\n')
    with pytest.raises(ValueError, match=rf"prompts\.jsonl line 3: .*{message}"):
        read_prompts(file)


def test_prompt_files_that_are_none(tmp_path):
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "table.csv").write_text("a")
    for name, message in [
        ("empty.txt", "no prompt"),
        ("bytes.txt", "UTF-8"),
        ("table.csv", ".jsonl"),
        ("none.txt", "No such file"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_prompts(tmp_path / name)


# ---- running them -----------------------------------------------------------------------------------


class Recorded(LatentShift):
    """A real system that notes the size of each batch."""

    def generate(self, requests, on_step=None):
        self.batches.append(len(requests))
        return super().generate(requests, on_step)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return Recorded.load(tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


@pytest.fixture
def system(loaded):
    loaded.batches = []
    return loaded


def test_clips_come_in_the_order_of_the_requests_with_every_value_settled(system):
    requests = [
        GenerationRequest(prompt="a circle", seed=1, frames=8),
        GenerationRequest(prompt="a square", frames=8),
        GenerationRequest(prompt="a circle", seed=3, frames=2, steps=1),
        GenerationRequest(prompt="a circle", seed=4, frames=8, negative="red"),
    ]
    made = list(run(system, requests))
    assert [each.clip.shape for each in made] == [(frames, 32, 32, 3) for frames in (8, 8, 2, 8)]
    assert [each.request.prompt for each in made] == ["a circle", "a square", "a circle", "a circle"]
    assert [(each.request.steps, each.request.guidance) for each in made] == [(3, 3), (3, 3), (1, 3), (3, 3)]
    assert all(each.request.seed is not None and each.request.fps == 8 for each in made)
    assert made[0].seconds == made[1].seconds > 0
    assert system.batches == [2, 1, 1]
    for each in made:
        assert (system.generate([each.request])[0] == each.clip).all()


def test_batches_are_of_consecutive_requests_of_one_shape_and_bounded(system):
    eight = [GenerationRequest(prompt="a circle", seed=seed, frames=8, steps=1) for seed in range(5)]
    list(run(system, eight))
    list(run(system, eight, max_batch=2))
    list(run(system, [*eight[:2], eight[0].model_copy(update={"fps": 4.0}), *eight[2:]]))
    assert system.batches == [5, 2, 2, 1, 2, 1, 3]
    with pytest.raises(ValueError, match="max_batch is 0; give 1 or more"):
        list(run(system, eight, max_batch=0))


def test_clips_of_few_images_are_made_one_by_one_on_a_cpu(system):
    few = [GenerationRequest(prompt="a circle", seed=seed, steps=1) for seed in range(2)]
    list(run(system, few))  # 4 frames, twice for guidance
    list(run(system, [request.model_copy(update={"frames": 1}) for request in few]))
    list(run(system, few, max_batch=8))
    assert system.batches == [1, 1, 1, 1, 2]


def test_clips_that_pass_in_blocks_are_made_one_by_one_on_a_cpu(system):
    long = GenerationRequest(prompt="a circle", frames=40, steps=1)
    list(run(system, [long.model_copy(update={"seed": seed, "frames": 32}) for seed in range(2)]))
    list(run(system, [long.model_copy(update={"seed": seed}) for seed in range(2)]))
    assert system.batches == [2, 1, 1]


def test_clips_with_steps_that_are_forecast_are_made_one_by_one(system, monkeypatch):
    requests = [GenerationRequest(prompt="a circle", seed=seed, frames=8) for seed in range(3)]
    config = system.pipeline.video_config.overlaid(forecast_threshold=0.3)
    monkeypatch.setattr(system.pipeline, "video_config", config)
    made = [each.clip for each in run(system, requests, max_batch=3)]
    assert system.batches == [1, 1, 1]
    assert all((system.generate([each])[0] == clip).all() for each, clip in zip(requests, made, strict=True))


def test_guidance_in_an_interval_leaves_fewer_images_than_a_cpus_kernels_take(system, monkeypatch):
    requests = [GenerationRequest(prompt="a circle", seed=seed, frames=8, steps=1) for seed in range(2)]
    config = system.pipeline.video_config.overlaid(guidance_interval=(0.2, 0.8))
    monkeypatch.setattr(system.pipeline, "video_config", config)
    list(run(system, requests))
    assert system.batches == [1, 1]


def test_large_clips_are_made_one_by_one(system):
    large = [
        GenerationRequest(prompt="a circle", seed=seed, frames=8, height=256, width=192, steps=1)
        for seed in range(2)
    ]
    assert [made.clip.shape for made in run(system, large)] == [(8, 256, 192, 3)] * 2
    assert system.batches == [1, 1]


def test_a_batch_is_made_when_its_first_clip_is_taken(system):
    clips = run(system, [GenerationRequest(prompt="a circle", frames=8, steps=steps) for steps in (1, 2)])
    assert system.batches == []
    next(clips)
    assert system.batches == [1]


def test_progress_counts_the_steps_of_all_clips(system):
    requests = [GenerationRequest(prompt="a circle", frames=8, steps=steps) for steps in (2, 2, 3)]
    progress = []
    list(run(system, requests, on_progress=lambda done, total: progress.append((done, total))))
    assert progress == [(done, 7) for done in (2, 4, 5, 6, 7)]


def test_a_request_that_cannot_be_met_is_refused_before_any_work(system):
    requests = [GenerationRequest(prompt="a circle"), GenerationRequest(prompt="a circle", width=30)]
    with pytest.raises(ValueError, match="^width 30: this model makes multiples of 4 up to 4096"):
        next(run(system, requests))
    assert system.batches == []


def test_settled_values_are_the_requests_and_else_the_models():
    settled = DEFAULTS.settle(GenerationRequest(prompt=" a circle ", seed=0, guidance=0, height=8))
    assert settled.model_dump() == {
        "prompt": "a circle", "seed": 0, "frames": 16, "fps": 8.0, "steps": 20, "guidance": 0,
        "negative": None, "height": 8, "width": 64, "loop": False,
    }  # fmt: skip
    assert DEFAULTS.settle(settled) is settled


def test_prompts_without_a_known_word_are_refused():
    closed = replace(DEFAULTS, vocabulary=("a", "circle"))
    assert closed.settle(GenerationRequest(prompt="a Circle, frogs")).prompt == "a Circle, frogs"
    with pytest.raises(ValueError, match="the model knows no word of 'frogs jump'"):
        closed.settle(GenerationRequest(prompt="frogs jump"))


def test_the_settings_of_a_clip_are_all_that_makes_it_again(system):
    (made,) = run(system, [GenerationRequest(prompt="a circle", frames=1, steps=1)])
    settings = clip_settings(made, "tiny", system.info())
    kept = {name: settings[name] for name in GenerationRequest.model_fields}
    (again,) = run(system, [GenerationRequest(**kept)])
    assert (again.clip == made.clip).all()
    known = {"model": "tiny", "scheduler": "DDIMScheduler", "dtype": "float32", "device": "cpu"}
    assert known.items() <= settings.items()
    assert {"weights", "version"} <= settings.keys()


def test_a_list_in_json_is_not_one_prompt(tmp_path):
    (tmp_path / "p.txt").write_text('["a red circle", "a blue square"]')
    with pytest.raises(ValueError, match="p.txt: holds JSON; write sentences only, one a line"):
        read_prompts(tmp_path / "p.txt")
