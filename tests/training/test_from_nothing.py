"""A model of the user's own clips and words from nothing: text tower, autoencoder, images, clips."""

import pytest
import yaml

from clips import captioned_folder
from latent_shift.pipeline import LatentShiftPipeline
from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task
from latent_shift.training.tasks.text_contrastive import read_paraphrases
from latent_shift.training.trainer import train

PARAPHRASES = [["a frog hops", "the frog is hopping"], ["a snail crawls", "some snail crawls along"]]


@pytest.fixture
def own(tmp_path):
    """A folder of clips, their captions, and the file of paraphrases."""
    captions = ["\n".join(PARAPHRASES[number % 2]) for number in range(4)]
    captioned_folder(tmp_path / "clips", captions, count=12)
    (tmp_path / "paraphrases.yaml").write_text(yaml.safe_dump(PARAPHRASES))
    return tmp_path


def clips(own, **frames):
    return {"source": {"format": "folder", "path": str(own / "clips")}, "frames": {"fps": 8, **frames}}


def ignore(progress):
    pass


@pytest.mark.slow
def test_a_model_of_words_and_clips_of_ones_own(recipe, recipe_file, own):
    def stage(task, *without, **changes):
        path = recipe_file(task, **changes)
        content = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({key: content[key] for key in content if key not in without}))
        return train(build_task(load_recipe(path)), ignore)

    text = stage("text_contrastive", "source", paraphrases=str(own / "paraphrases.yaml"))
    seen = clips(own, height=64, width=64)
    autoencoder = stage("autoencoder", "source", "crop", clips=seen, validation={"items": 1, "every": 3})
    image = stage("image", "latents", text_encoder_from=str(text), autoencoder=str(autoencoder), clips=seen)
    short = clips(own, height=64, width=64, num_frames=4)
    model = LatentShiftPipeline.from_pretrained(
        stage("video", "latents", pretrained_model=str(image), clips=short)
    )
    settings = model.video_config
    assert settings.closed_vocabulary == tuple(
        sorted({"a", "along", "crawls", "frog", "hopping", "hops", "is", "snail", "some", "the"})
    )
    assert (settings.num_frames, settings.height, settings.width) == (4, 64, 64)
    with pytest.warns(UserWarning, match="the model does not know 'red'"):
        assert model("a red frog hops", output_type="np").frames.shape == (1, 4, 64, 64, 3)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a frog", "must be a list of two contents or more"),
        ("[[a frog, a toad]]", "must be a list of two contents or more"),
        ("[[a frog, a toad], [a snail]]", "content 2 must be a list of two sentences or more"),
        ("[[a frog, a toad], [a snail, 3]]", "content 2 must be a list of two sentences or more"),
        ("[", "cannot be read"),
    ],
)
def test_a_file_of_paraphrases_that_is_none_is_told(tmp_path, text, error):
    path = tmp_path / "paraphrases.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=error):
        read_paraphrases(path)


@pytest.mark.parametrize(
    ("task", "changes", "error"),
    [
        (
            "text_contrastive",
            {"paraphrases": "some.yaml"},
            "source or paraphrases: give one of them, and only one",
        ),
        ("autoencoder", {"source": None}, "source or clips: give one of them, and only one"),
        ("image", {"latents": None}, "latents or clips: give one of them, and only one"),
    ],
)
def test_one_kind_of_data_is_wanted(recipe, task, changes, error):
    with pytest.raises(ValueError, match=error):
        recipe(task, **changes)


def test_more_contents_a_batch_than_there_are_is_told(recipe, own):
    with pytest.raises(ValueError, match="has 2 contents: in a batch each may stand once"):
        train(
            build_task(
                recipe(
                    "text_contrastive", source=None, paraphrases=str(own / "paraphrases.yaml"), batch_size=3
                )
            ),
            ignore,
        )
