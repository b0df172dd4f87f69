"""Recipes: everything that decides a training run, as strict pydantic models.

Not code that trains (`loop.py`), not the files they come from (`recipe_files.py`), and not a place for
guesses: an unknown key, a wrong type or a contradiction is an error, before any work is done. A recipe's
`task` says which objective it trains.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, model_validator

from latent_shift.data.sources import AnyGeneratedSource, AnySource
from latent_shift.data.video_dataset import ClipSettings
from latent_shift.training.model_configs import Autoencoder, ClipTower, Scheduler, TextTower, UNet


def _with_format(value: Any) -> Any:
    return {"format": "moving-shapes", **value} if isinstance(value, dict) else value


World = Annotated[AnyGeneratedSource, BeforeValidator(_with_format)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """A configuration in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimizer(Strict):
    """AdamW or Muon, and the schedule: a linear warm-up, a plateau, a linear cool-down to zero."""

    kind: Literal["adamw", "adamw-8bit", "muon"] = Field(
        "adamw",
        description="adamw-8bit: a quarter of the memory (arXiv 2110.02861), on a CUDA GPU; muon: matrices"
        " step with their singular values made alike (arXiv 2502.16982), all else by AdamW",
    )
    learning_rate: float = Field(gt=0.0)
    weight_decay: float = Field(0.01, ge=0.0)
    betas: tuple[Share, Share] = (0.9, 0.99)
    warmup_steps: int = Field(100, ge=0)
    cooldown_steps: int = Field(0, ge=0)
    clip_norm: float = Field(1.0, gt=0.0, description="gradients longer than this are scaled down to it")
    most_skipped: int = Field(
        20, ge=0, description="steps of an infinite gradient, left out; more end the run"
    )


class Run(Strict):
    """What every task needs."""

    output: Path = Field(description="the run's folder: checkpoints, log, samples, and the model at the end")
    seed: int = 0
    steps: Count
    batch_size: Count = Field(description="clips (or images) a step, over all processes")
    optimizer: Optimizer
    ema_decay: float = Field(0.999, ge=0.0, lt=1.0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    compile: bool = Field(False, description="torch.compile: slower to start, about a quarter faster after")
    workers: int = Field(
        0, ge=0, description="processes that load, and draw clips to be encoded; 0: the training process does"
    )
    log_every: Count = 20
    checkpoint_every: Count = 500
    keep_checkpoints: Count = 2
    sample_every: int = Field(0, ge=0, description="steps between samples; 0 for none")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Run:
        schedule = self.optimizer
        if schedule.warmup_steps + schedule.cooldown_steps > self.steps:
            raise ValueError(
                f"warmup_steps {schedule.warmup_steps} + cooldown_steps {schedule.cooldown_steps} exceed"
                f" steps {self.steps}"
            )
        return self


class Validation(Strict):
    """Items kept out of the training, and the loss on them under noise that never changes."""

    items: Count = Field(64, description="clips; of the autoencoder's task, frames")
    every: Count = Field(250, description="steps from one validation to the next")


class Divisible(Run):
    """A run whose loss is a mean over the items of a batch: these may be taken in parts, or shared out."""

    accumulate: Count = Field(1, description="parts that a process takes its batch in; more take less memory")
    validation: Validation | None = None

    @model_validator(mode="after")
    def _parts_are_equal(self) -> Divisible:
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulate {self.accumulate}")
        return self


class Latents(Strict):
    """A store of clips encoded once, made at the start of a run where it is missing."""

    folder: Path
    world: World
    every: Count = Field(1, description="of a clip only each n-th frame: teaches what happens over all of it")
    often: tuple[str, ...] = Field((), description="words: clips told with one come more often")
    often_share: Share = Field(0.0, description="share of what is seen that is taken from those clips")

    @model_validator(mode="after")
    def _consistent(self) -> Latents:
        if self.world.clips > 1_000_000:
            raise ValueError(
                f"world.clips is {self.world.clips}; say how many clips to encode, 1000000 at most"
            )
        if bool(self.often) != (self.often_share > 0):
            raise ValueError("often and often_share go together: give both, or neither")
        return self


class Clips(Strict):
    """Your own clips (docs/data.md), decoded and encoded as they are seen."""

    source: AnySource
    frames: ClipSettings
    ahead: bool = Field(
        False, description="read what `data pack --latents-of` the base computed, in place of the clips"
    )
    tell_fps: bool = Field(
        False, description="captions of clips say their frame rate, and so will prompts (needs open words)"
    )
    images: AnySource | None = Field(
        None, description="captioned images for the share image_steps; none: the clips' own frames"
    )

    @model_validator(mode="after")
    def _words_are_not_encoded_yet(self) -> Clips:
        if self.ahead and self.tell_fps:
            raise ValueError("ahead and tell_fps: the captions of a pack are encoded without the frame rate")
        return self


def _with_one_of(recipe: Any, first: str, second: str) -> Any:
    """The recipe; ValueError unless it has one of two keys."""
    if (getattr(recipe, first) is None) == (getattr(recipe, second) is None):
        raise ValueError(f"{first} or {second}: give one of them, and only one")
    return recipe


class WordingRecipe(Run):
    """A text tower, trained so that two wordings of one content land close together."""

    task: Literal["wording"]
    world: World | None = Field(None, description="of Moving Shapes; or wordings")
    wordings: Path | None = Field(
        None, description="YAML list of contents, each a list of sentences that say the same; or world"
    )
    text_tower: TextTower

    @model_validator(mode="after")
    def _one_kind_of_words(self) -> WordingRecipe:
        return _with_one_of(self, "world", "wordings")


class ContrastRecipe(Run):
    """A clip tower, trained so that a clip lands close to its caption."""

    task: Literal["contrast"]
    world: World
    text: Path = Field(description="folder with the text_encoder/ and tokenizer/, which stay as they are")
    clip_tower: ClipTower
    misses: int = Field(0, ge=0, le=64, description="false captions a clip, wrong in one motion or shape")


class AutoencoderRecipe(Divisible):
    """An image autoencoder, trained on single frames."""

    task: Literal["autoencoder"]
    world: World | None = Field(None, description="frames of Moving Shapes; or clips")
    clips: Clips | None = Field(None, description="single frames of your own; or world")
    autoencoder: Autoencoder
    kl_weight: float = Field(3e-3, ge=0.0, description="of the mean divergence per latent number, in nats")
    crop: int | None = Field(None, ge=8, description="train on windows of so many pixels around the things")
    init: Path | None = Field(None, description="folder with the vae/ to start from instead of from nothing")
    freeze_encoder: bool = Field(
        False, description="train the decoder of init alone: the latents stay, and so do denoisers of them"
    )

    @model_validator(mode="after")
    def _has_an_encoder_to_freeze(self) -> AutoencoderRecipe:
        if self.freeze_encoder and self.init is None:
            raise ValueError("freeze_encoder needs init: a new encoder has learned nothing worth keeping")
        return self

    @model_validator(mode="after")
    def _one_kind_of_frames(self) -> AutoencoderRecipe:
        if self.crop is not None and self.clips is not None:
            raise ValueError("crop: only for world; the height and width of clips.frames say what is seen")
        return _with_one_of(self, "world", "clips")

    @model_validator(mode="after")
    def _crop_fits(self) -> AutoencoderRecipe:
        if self.crop is not None and self.world is not None and self.crop > min(self.world.shape[2:]):
            raise ValueError(
                f"crop {self.crop} is larger than the frames of world, {self.world.shape.height}"
            )
        scale = 2 ** (len(self.autoencoder.get("block_out_channels", ())) - 1)
        if self.crop is not None and self.crop % scale:
            raise ValueError(f"crop {self.crop} is no multiple of the autoencoder's scale, {scale}")
        return self


class Diffusion(Strict):
    """The denoising objective."""

    min_snr_gamma: float | None = Field(
        None, gt=0.0, description="arXiv 2303.09556; blinds a zero terminal SNR to its noisiest steps"
    )
    caption_dropout: Share = Field(0.1, description="captions replaced by the empty one, for guidance")
    noise_correlation: Share = Field(0.0, description="variance of the noise that a clip's frames share")
    noise_persistence: Share = Field(0.0, description="correlation of the rest between neighbouring frames")
    noise_choices: int = Field(
        1, ge=1, le=4096, description="shared noise is the one of so many that is most like the clip's end"
    )
    timesteps: tuple[Share, Share] = Field(
        (0.0, 1.0), description="part of the noise schedule that clips are trained on; 1 is all noise"
    )

    @model_validator(mode="after")
    def _chooses_among_shared_noise(self) -> Diffusion:
        if self.noise_choices > 1 and self.noise_correlation == 0:
            raise ValueError("noise_choices chooses shared noise: noise_correlation has to be above 0")
        return self

    @model_validator(mode="after")
    def _timesteps_rise(self) -> Diffusion:
        least, most = self.timesteps
        if least >= most:
            raise ValueError(f"timesteps [{least:g}, {most:g}]: the first has to be below the second")
        return self


class Sampling(Strict):
    """Settings that samples are made with, written into the model as its defaults."""

    guidance_scale: float = Field(4.0, ge=1.0)
    num_inference_steps: Count = 25
    eta: Share = Field(0.0, description="fresh noise in every step of clips (DDIM): repairs disagreements")


class Lora(Strict):
    """Low-rank layers beside the U-Net's, trained instead of it (arXiv 2106.09685)."""

    rank: Count = 16
    alpha: float = Field(16.0, gt=0.0, description="the layers' product counts alpha / rank")
    modules: tuple[str, ...] = Field(
        ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"),
        min_length=1,
        description="ends of the names of the modules that get them; the convolutions see the other frames",
    )


class ImageRecipe(Divisible):
    """Text-to-image: a new U-Net on single frames, over a trained text tower and autoencoder."""

    task: Literal["image"]
    text: Path = Field(description="folder with text_encoder/ and tokenizer/")
    autoencoder: Path = Field(description="folder with vae/")
    unet: UNet
    scheduler: Scheduler
    latents: Latents | None = Field(None, description="of Moving Shapes; or clips")
    clips: Clips | None = Field(None, description="single frames of your own; or latents")
    diffusion: Diffusion = Diffusion()
    sampling: Sampling = Sampling()
    init: Path | None = Field(None, description="model folder whose U-Net to start from")

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> ImageRecipe:
        return _with_one_of(self, "latents", "clips")


class Shift(Strict):
    """Options of the temporal shift (`shift.py`)."""

    enabled: bool = Field(True, description="false trains every frame on its own: the ablation")
    place: Literal["output", "input"] = "output"
    padding: Literal["zeros", "replicate", "circular"] = "zeros"
    direction: Literal["both", "causal"] = "both"
    fold: int = Field(3, ge=2)
    distances: tuple[Annotated[int, Field(ge=1)], ...] = Field((1,), min_length=1)


class Toward(Strict):
    """Another model of the same shape, and how far the first weights lie on the way to its own."""

    model: Path = Field(description="model folder")
    share: Share = Field(description="of the way: 0 changes nothing, 1 is that model")


class VideoRecipe(Divisible):
    """Text-to-video: the U-Net of an image model, fine-tuned on clips with the temporal shift."""

    task: Literal["video"]
    base: str = Field(min_length=1, description="text-to-image model: a folder, a hub id or a single file")
    tokenizer: Path | None = Field(None, description="where base is a single file (docs/models.md)")
    prediction: Literal["epsilon", "v_prediction"] | None = Field(None, description="likewise, of SD 2.x")
    latents: Latents | None = Field(None, description="of Moving Shapes; or clips")
    clips: Clips | None = Field(None, description="of your own; or latents")
    diffusion: Diffusion = Diffusion()
    sampling: Sampling = Sampling()
    scheduler: Scheduler = Field(
        {},
        description="changes of the base's noise schedule (DDIMScheduler): v_prediction, zero terminal SNR",
    )
    shift: Shift = Shift()
    image_steps: Share = Field(0.1, description="share of steps that train on images, to keep that ability")
    tell_places: bool = Field(False, description="tell each frame its place in the clip")
    init: Path | None = Field(None, description="model folder whose U-Net to start from instead of base's")
    toward: Toward | None = Field(None, description="start on the way to another model (arXiv 2109.01903)")
    lora: Lora | None = Field(None, description="train low-rank layers alone; the model gets them merged")
    layers: tuple[str, ...] = Field(
        (), description="parts of the names of the U-Net's parameters to train, such as resnets; none: all"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about a third slower")

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> VideoRecipe:
        return _with_one_of(self, "latents", "clips")

    @model_validator(mode="after")
    def _one_way_to_train_less(self) -> VideoRecipe:
        if self.lora is not None and self.layers:
            raise ValueError("lora and layers: give one of them, or neither")
        return self


Recipe = WordingRecipe | ContrastRecipe | AutoencoderRecipe | ImageRecipe | VideoRecipe
ANY_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="task")])
