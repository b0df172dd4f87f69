"""`latent-shift generate` where a file comes to a clip's name while clips are made: nothing is lost."""

import json
from pathlib import Path

import pytest
from torch.nn.modules.module import register_module_forward_pre_hook

from latent_shift import media
from program import run_program
from tiny import tiny_pipeline_folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_pipeline_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def while_made():
    """Write a file as soon as a network runs, as another program would."""
    handles = []

    def write(path, text="mine"):
        def hook(module, inputs):
            if not Path(path).exists():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(text)

        handles.append(register_module_forward_pre_hook(hook))

    yield write
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("frames", [2, 66])  # ready at once, and part by part
@pytest.mark.parametrize("given", [(), ("--json",)])
def test_a_file_that_comes_meanwhile_is_kept_and_the_name_of_the_clip_printed(
    model, tmp_path, monkeypatch, capsys, while_made, frames, given
):
    monkeypatch.chdir(tmp_path)
    while_made("out/a-circle-1.mp4")
    prompts = ("a circle", "a square", "--seed", 1, "--frames", frames, "--steps", 1, "--model", model)
    status, out, err = run_program(capsys, "generate", *prompts, *given)
    assert status == 0
    names = [json.loads(line)["file"] if given else line for line in out.splitlines()]
    assert names == ["out/a-circle-1-2.mp4", "out/a-square-1.mp4"]
    assert "out/a-circle-1.mp4: has come there while this was" in err
    assert "and is kept; the result is out/a-circle-1-2.mp4" in err
    assert Path("out/a-circle-1.mp4").read_text() == "mine"
    assert [media.read_settings(name)["prompt"] for name in names] == ["a circle", "a square"]
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(
        ["a-circle-1.mp4", *(Path(name).name for name in names)]
    )


def test_with_force_a_file_that_comes_meanwhile_is_replaced(model, tmp_path, capsys, while_made):
    file = tmp_path / "clip.webp"
    while_made(file)
    given = ("a circle", "--frames", 2, "--steps", 1, "--model", model, "-o", file, "--force")
    assert run_program(capsys, "generate", *given) == (0, f"{file}\n", "")
    assert len(media.read_clip(file)[0]) == 2
