"""Text embeddings that are kept are those of each caption alone, read once; runs with them resume exactly."""

import signal

import pytest
import torch

from latent_shift.conditioning import encode_prompts
from latent_shift.data.latent_dataset import LatentDataset
from latent_shift.moving_shapes import WorldConfig
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.training.distributed import Interrupted
from latent_shift.training.task import build_task
from latent_shift.training.text_states import BLOCK, TextStates
from latent_shift.training.trainer import train
from tiny import tiny_pipeline_folder
from tiny_xl import tiny_xl_folder

CAPTIONS = ["a red circle moves left", "", "a black square grows", "a red circle moves left"]


@pytest.mark.parametrize("make", [tiny_pipeline_folder, tiny_xl_folder])
def test_each_caption_is_read_once_and_alone(make, tmp_path):
    make(tmp_path / "model")
    pipeline = LatentShiftPipeline.from_pretrained(tmp_path / "model")
    read = []
    first = pipeline.text_encoders()[0]
    first.register_forward_pre_hook(lambda module, given: read.append(len(given[0])))
    states = TextStates(pipeline)
    found = states(CAPTIONS)
    again = states(CAPTIONS[::-1])
    assert read == [1, 1, 1]
    for number, text in enumerate(CAPTIONS):
        alone = encode_prompts(pipeline, [text])
        assert torch.equal(found.states[number : number + 1], alone.states)
        assert torch.equal(again.states[3 - number], found.states[number])
        assert (found.pooled is None) == (alone.pooled is None)
        if alone.pooled is not None:
            assert torch.equal(found.pooled[number : number + 1], alone.pooled)


def test_expected_captions_are_read_in_blocks_whatever_their_order(tmp_path):
    tiny_pipeline_folder(tmp_path / "model")
    pipeline = LatentShiftPipeline.from_pretrained(tmp_path / "model")
    long = " ".join(["red"] * 2 * pipeline.tokenizer.model_max_length)
    captions = [
        f"a {colour} {shape} {moves}"
        for colour in ("red", "black", "green")
        for shape in ("circle", "square", "star", "cross")
        for moves in ("moves left", "grows", "spins")
    ]
    expected = [*captions, *(f"{text} on white" for text in captions), long, captions[0]]
    read = []
    pipeline.text_encoder.register_forward_pre_hook(lambda module, given: read.append(len(given[0])))
    forwards, backwards = TextStates(pipeline), TextStates(pipeline)
    for states in (forwards, backwards):
        states.expect(expected)
    found, turned = forwards(expected), backwards(expected[::-1])
    assert read == [BLOCK, 73 - BLOCK] + [73 - BLOCK, BLOCK][::-1]
    assert torch.equal(found.states, turned.states.flip(0))
    together = encode_prompts(pipeline, expected)
    torch.testing.assert_close(found.states, together.states)
    assert found.filled == together.filled
    assert 0 < len(together.filled) < len(expected)
    unexpected = forwards(["a blue star"])
    assert torch.equal(unexpected.states, encode_prompts(pipeline, ["a blue star"]).states)
    assert read[-2:] == [1, 1]


def test_captions_that_fill_the_text_encoder_are_named(tmp_path):
    tiny_pipeline_folder(tmp_path / "model")
    pipeline = LatentShiftPipeline.from_pretrained(tmp_path / "model")
    long = " ".join(["red"] * 2 * pipeline.tokenizer.model_max_length)
    captions = ["a red circle", long, ""]
    assert TextStates(pipeline)(captions).filled == encode_prompts(pipeline, captions).filled == (1,)


@pytest.mark.parametrize("images", [True, False])
def test_a_clip_has_so_many_wordings(images):
    scenes = WorldConfig(seed=3, clips=5, paraphrases=1.0).captioned_clips()
    latents = torch.zeros(5, 6, 4, 8, 8)
    free = LatentDataset(latents, scenes, images=images)
    bound = LatentDataset(latents, scenes, images=images, wordings=2)
    rounds = 6 * len(free)
    per_clip = [
        {data[index]["image_caption"] for index in range(rounds) if data[index]["key"] == "clip 4"}
        for data in (bound, free)
    ]
    assert 1 <= len(per_clip[0]) <= 2 < len(per_clip[1])
    assert per_clip[0] <= per_clip[1]
    kinds = ("image_caption",) if images else ("caption", "image_caption")
    assert {bound[index][kind] for index in range(rounds) for kind in kinds} == set(bound.all_wordings())
    assert list(free.all_wordings()) == []


@pytest.mark.slow
def test_a_resumed_run_with_kept_states_equals_one_never_stopped(recipe, tmp_path):
    def stop(progress):
        if (progress.stage, progress.step) == ("training", 2):
            signal.raise_signal(signal.SIGINT)

    stored = recipe("image").latents.model_dump(mode="json")
    finals = []
    for name in ("whole", "parted"):
        run = recipe("image", output=str(tmp_path / name), latents={**stored, "wordings": 2})
        if name == "parted":
            with pytest.raises(Interrupted):
                train(build_task(run), stop)
        train(build_task(run), lambda progress: None)
        finals.append((run.output / "checkpoints" / "step-00000006" / "weights.safetensors").read_bytes())
    assert finals[0] == finals[1]
