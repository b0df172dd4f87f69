"""Keys that a run would not heed are refused: of another network than init_from's, and of other data."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from diffusers import AutoencoderKL

from latent_shift.training.recipe import load_recipe
from latent_shift.training.task import build_task

FOLDER = Path(__file__).parents[2] / "recipes"
OWN_CLIPS = {"latents": None, "clips": {"source": {"format": "folder", "path": "clips"}, "frames": {}}}
MOTIONS = {"oversample_motions": ["bouncing"], "oversample_motions_ratio": 0.5}


# ---- a network's section beside init_from ------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "start", "setting", "named"),
    [
        (
            "autoencoder",
            "",
            "autoencoder.block_out_channels=[8, 8, 8, 16]",
            "autoencoder.block_out_channels is [8, 8, 8, 16], and that of init_from is [8, 8, 8, 8]",
        ),
        (
            "autoencoder",
            "",
            "autoencoder.act_fn=relu",
            "autoencoder.act_fn is relu, and that of init_from is silu",
        ),
        ("image", "image-model", "unet.layers_per_block=2", "unet.layers_per_block is 2, and that of"),
        ("image", "image-model", "unet.attention_head_dim=[4, 8]", "unet.attention_head_dim is [4, 8], and"),
    ],
)
def test_a_section_of_another_network_than_init_froms_is_refused(
    recipe_file, parts, task, start, setting, named
):
    changed = load_recipe(recipe_file(task, init_from=str(parts / start)), [setting])
    mend = "set these keys to its values, leave them out, or remove init_from for a new network"
    with pytest.raises(ValueError, match=f"^{re.escape(named)}.*{re.escape(str(parts / start))}.*{mend}$"):
        build_task(changed)


@pytest.mark.parametrize(
    ("task", "start", "settings"),
    [
        ("autoencoder", "", ["autoencoder={}", "crop=null"]),
        ("autoencoder", "", ["autoencoder.act_fn=silu", "autoencoder.norm_num_groups=4.0"]),
        ("autoencoder", "", ["autoencoder.scaling_factor=0.5"]),  # is measured at the end
        ("image", "image-model", ["unet.layers_per_block=[1, 1]", "unet.attention_head_dim=[4, 4]"]),
        ("image", "image-model", ["unet.act_fn=silu", "unet.num_attention_heads=null"]),
    ],
)
def test_equal_values_beside_init_from_are_fine(recipe_file, parts, task, start, settings):
    build_task(load_recipe(recipe_file(task, init_from=str(parts / start)), settings))


def test_the_scaling_factor_of_a_frozen_encoder_is_that_of_init_from(recipe, parts, tmp_path):
    shutil.copytree(parts / "vae", tmp_path / "model" / "vae")
    vae = AutoencoderKL.from_pretrained(tmp_path / "model" / "vae")
    vae.register_to_config(scaling_factor=0.7)
    vae.save_config(tmp_path / "model" / "vae")
    section = recipe("autoencoder").autoencoder
    frozen = {"init_from": str(tmp_path / "model"), "freeze_encoder": True}
    build_task(recipe("autoencoder", **frozen, autoencoder={**section, "scaling_factor": 0.7}))
    with pytest.raises(ValueError, match=r"autoencoder.scaling_factor is 0.5, and that of init_from is 0.7"):
        build_task(recipe("autoencoder", **frozen, autoencoder={**section, "scaling_factor": 0.5}))


def resolved_recipes():
    """The contents of this repository's recipes by name, as they are and with each preset."""
    for file in sorted(FOLDER.rglob("*.yaml")):
        content = yaml.safe_load(file.read_text())
        if "task" not in content:
            continue
        yield file.stem, content
        for preset in sorted((file.parent / "presets").glob("*.yaml")):
            changes = yaml.safe_load(preset.read_text()).get(file.stem)
            if isinstance(changes, dict):
                yield f"{file.stem} with {preset.stem}", laid_over(content, changes)


def laid_over(content, changes):
    merged = dict(content)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = laid_over(merged[key], value) if both else value
    return merged


def test_this_repositorys_recipes_repeat_the_network_that_they_start_from():
    recipes = dict(resolved_recipes())
    by_model = {f"{content['output']}/model": content for content in recipes.values()}
    compared = 0
    for name, content in recipes.items():
        start = by_model.get(content.get("init_from"), {})
        for key in ("autoencoder", "unet"):
            if isinstance(content.get(key), dict) and isinstance(start.get(key), dict):
                assert content[key] == start[key], (name, key)
                compared += 1
    assert compared >= 6


@pytest.mark.parametrize(
    ("task", "setting", "named"),
    [
        ("autoencoder", "autoencoder.latent_channels=four", "autoencoder: makes no network: "),
        ("autoencoder", "autoencoder.norm_num_groups=0", "autoencoder: makes no network: "),
        ("image", "unet.norm_num_groups=7", "unet: makes no network: "),
        ("image", "unet.block_out_channels=32", "unet: makes no network: "),
        ("text_contrastive", "text_encoder.hidden_size=wide", "text_encoder: makes no network: "),
        ("text_contrastive", "text_encoder.hidden_act=foo", "text_encoder: makes no network: "),
        (
            "video_text_contrastive",
            "video_encoder.num_attention_heads=0",
            "video_encoder: makes no network: ",
        ),
    ],
)
def test_values_that_make_no_network_are_named(recipe_file, task, setting, named):
    with pytest.raises(ValueError, match=named):
        build_task(load_recipe(recipe_file(task), [setting]))


@pytest.mark.parametrize("task", ["text_contrastive", "video_text_contrastive"])
@pytest.mark.parametrize("setting", ["compile=true", "sample_every=5"])
def test_contrastive_tasks_neither_compile_nor_sample(recipe_file, task, setting):
    with pytest.raises(ValueError, match="neither compiles nor samples; remove it"):
        load_recipe(recipe_file(task), [setting])


# ---- experimental keys of other data ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experimental", "named"),
    [
        ({"amplitude_range": 0.5}, "amplitude_range is 0.5"),
        ({"oversample_motions_ratio": 0.5}, "oversample_motions_ratio is 0.5"),
        (MOTIONS, "oversample_motions is .'bouncing',."),
        ({"oversample_words": ["a"], "oversample_ratio": 1}, "oversample_words is .'a',."),
    ],
)
@pytest.mark.parametrize("task", ["image", "video"])
def test_what_changes_a_generated_source_is_refused_beside_clips(recipe_file, task, experimental, named):
    path = recipe_file(task, **OWN_CLIPS, experimental=experimental)
    message = f"experimental.{named}: it is for latents, of a generated source, .*; remove it"
    with pytest.raises(ValueError, match=message):
        load_recipe(path)


def test_what_changes_a_generated_source_may_be_at_its_default_beside_clips(recipe_file):
    defaults = {"amplitude_range": 1, "oversample_motions": [], "oversample_motions_ratio": 0}
    assert load_recipe(recipe_file("video", **OWN_CLIPS, experimental=defaults)).source is None
    tiny = load_recipe(recipe_file("video", experimental={**MOTIONS, "amplitude_range": 0.5}))
    assert tiny.source.amplitude_range == 0.5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"experimental": {"timestep_range": [0.2, 0.9]}}, r"experimental.timestep_range is \(0.2, 0.9\)"),
        ({"experimental": {"noise_candidates": 8}}, "experimental.noise_candidates is 8"),
        ({"experimental": {"progressive_noise_alpha": 0.5}}, "experimental.progressive_noise_alpha is 0.5"),
        ({"diffusion": {"shared_noise_ratio": 0.5}}, "diffusion.shared_noise_ratio is 0.5"),
    ],
)
@pytest.mark.parametrize("data", [{}, OWN_CLIPS])
def test_the_noise_of_clips_is_refused_for_images(recipe_file, data, changes, named):
    message = f"{named}: it is for clips, and task image trains on single frames; remove it"
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe_file("image", **data, **changes))
    shared = {"diffusion": {"shared_noise_ratio": 0.5}}
    assert load_recipe(recipe_file("video", **data, **shared | changes)).steps > 0


def test_a_model_of_images_says_nothing_of_shared_noise(recipe):
    task = build_task(recipe("image", experimental={"timestep_range": [0, 1], "noise_candidates": 1}))
    task.set_video_config()
    assert task.pipeline.video_config.shared_noise_ratio == 0
