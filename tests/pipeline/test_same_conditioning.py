"""Training and sampling condition the U-Net on a caption in the same way, bit for bit, in both layouts."""

import pytest
import torch

from latent_shift.conditioning import caption_embeds, repeat_per_frame
from latent_shift.pipeline import LatentShiftPipeline
from tiny import tiny_pipeline_folder
from tiny_xl import tiny_xl_folder

CAPTIONS = ["a red circle moves left", "a black square grows"]
FRAMES, SIZE = 3, (32, 48)


@pytest.fixture(scope="module", params=["sd", "sdxl"])
def models(request, tmp_path_factory):
    """Makes a pipeline of one layout, tuned with frame position embeddings or without."""
    make = {"sd": tiny_pipeline_folder, "sdxl": tiny_xl_folder}[request.param]

    def load(frame_positions):
        folder = tmp_path_factory.mktemp("models") / "model"
        make(folder, frame_position_embedding=frame_positions)
        pipeline = LatentShiftPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return load


def tensors_of_sampling(pipeline, **call):
    """Everything that a callback may see in the first step of sampling."""
    seen = {}

    def note(pipeline, step, timestep, tensors):
        seen.update(tensors)
        return {}

    pipeline(
        CAPTIONS, num_frames=FRAMES, height=SIZE[0], width=SIZE[1], num_inference_steps=1,
        output_type="latent", callback_on_step_end=note,
        callback_on_step_end_tensor_inputs=pipeline._callback_tensor_inputs, **call,
    )  # fmt: skip
    return seen


def of_training(pipeline, dropped, frame_positions):
    """The same tensors, as training conditions on captions, by their names in sampling."""
    embeds = caption_embeds(pipeline, {}, CAPTIONS, dropped)
    made = repeat_per_frame(embeds, FRAMES, SIZE, frame_positions=frame_positions)
    added = made.added or {}
    return {"prompt_embeds": made.text, **{f"add_{name}": tensor for name, tensor in added.items()}}


@pytest.mark.parametrize("frame_positions", [False, True])
def test_captions_without_guidance(models, frame_positions):
    pipeline = models(frame_positions)
    sampled = tensors_of_sampling(pipeline, guidance_scale=1.0)
    trained = of_training(pipeline, [False, False], frame_positions)
    assert trained.keys() == sampled.keys() - {"latents", "negative_prompt_embeds"}
    for name, tensor in trained.items():
        assert tensor.dtype == sampled[name].dtype
        assert torch.equal(tensor, sampled[name]), name


@pytest.mark.parametrize("frame_positions", [False, True])
def test_captions_and_dropped_ones_under_guidance(models, frame_positions):
    """What training drops is what guidance moves away from: the halves of the batch in sampling."""
    pipeline = models(frame_positions)
    sampled = tensors_of_sampling(pipeline, guidance_scale=2.0)
    for dropped, half in ((True, 0), (False, 1)):
        for name, tensor in of_training(pipeline, [dropped] * 2, frame_positions).items():
            assert torch.equal(tensor, sampled[name].chunk(2)[half]), (name, dropped)
    mixed = of_training(pipeline, [False, True], frame_positions)
    for name, tensor in mixed.items():
        without, with_text = sampled[name].chunk(2)
        assert torch.equal(tensor, torch.cat([with_text[:FRAMES], without[FRAMES:]])), name
    if "add_text_embeds" in mixed and not frame_positions:
        assert not sampled["prompt_embeds"].chunk(2)[0].any()  # zeros, as SDXL's layout guides away from
