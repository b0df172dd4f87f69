"""Training of the transformer: stills, key frames in order, and the frames between known ones.

Each is next-token cross-entropy on tokens of frames; text and frame rates carry no loss. The image
transformer is trained on stills and frozen afterwards; a stage on clips trains a second channel of attention
beside it (`temporal_attention.py`).

Shapes: B clips, T frames of a stored clip, F frames at hand, n tokens of a frame, K codes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Generator, Tensor
from torch.nn import functional

from latent_shift.data.latent_dataset import LatentDataset
from latent_shift.io import warn
from latent_shift.media import contact_sheet, write_image
from latent_shift.rng import StepRNG
from latent_shift.systems.cogvideo.clips import EMPTY, longest_clips, write_clips
from latent_shift.systems.cogvideo.model import PARTS, CogVideoModel, ModelConfig
from latent_shift.systems.cogvideo.sampling import SamplingConfig
from latent_shift.systems.cogvideo.temporal_attention import ChannelConfig
from latent_shift.systems.cogvideo.token_dataset import to_tokens, token_dataset
from latent_shift.systems.cogvideo.tokenizer import FOLDER as FRAME_TOKENIZER
from latent_shift.systems.cogvideo.tokenizer import FrameTokenizer
from latent_shift.systems.cogvideo.transformer import TransformerConfig
from latent_shift.training.datasets import Store, data_summary
from latent_shift.training.logging import Report
from latent_shift.training.recipe import Count, Holds, Ratio, Recipe
from latent_shift.training.task import Task
from latent_shift.training.text_encoder import trained_words


class TokenRecipe(Recipe):
    """The keys that all stages of the transformer have in common."""

    tokens: Store
    caption_dropout: Ratio = Field(0.1, description="captions replaced by the empty one, for guidance")
    sampling: SamplingConfig = SamplingConfig()

    def data_summary(self) -> list[str]:
        """See `Recipe.data_summary`."""
        return data_summary(self.tokens.source, None)

    @model_validator(mode="after")
    def _not_compiled(self) -> TokenRecipe:
        if self.compile:
            raise ValueError("compile: has no effect on this task; set it to false")
        return self


class ImageRecipe(TokenRecipe):
    """The image transformer, trained on single frames."""

    task: Literal["cogvideo_image"]
    text_encoder_from: Annotated[Path, Holds(("text_encoder", "tokenizer"))] = Field(
        description="folder with text_encoder/ and tokenizer/"
    )
    frame_tokenizer: Annotated[Path, Holds((FRAME_TOKENIZER,))] = Field(
        description=f"folder with {FRAME_TOKENIZER}/"
    )
    transformer: TransformerConfig = TransformerConfig()
    motion_caption_ratio: Ratio = Field(
        0.5, description="captions that also name the clip's motion: this channel is frozen for clips"
    )


class ClipRecipe(TokenRecipe):
    """The keys that the stages on clips have in common."""

    pretrained_model: Annotated[Path, Holds(PARTS)] = Field(
        description="model folder with the image transformer"
    )
    num_frames: Count
    frame_strides: tuple[Count, ...] = Field(
        (),
        description="frames from one to the next, each a frame rate of its own; none: the largest at which a"
        " clip has num_frames, so that its text describes all of them",
    )
    attention_window: Count | None = Field(
        None, description="side of the squares that the second channel sees, in tokens; none: whole frames"
    )

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of training, the paper's rule where none is given."""
        frames = self.tokens.source.shape.num_frames
        return self.frame_strides or ((frames - 1) // max(self.num_frames - 1, 1),)

    @property
    def frame_rates(self) -> tuple[float, ...]:
        """Frames a second at each stride."""
        return tuple(self.tokens.source.shape.fps / stride for stride in self.strides)

    @model_validator(mode="after")
    def _clips_are_long_enough(self) -> ClipRecipe:
        frames = self.tokens.source.shape.num_frames
        for stride in self.strides:
            if stride < 1 or (self.num_frames - 1) * stride + 1 > frames:
                raise ValueError(
                    f"num_frames {self.num_frames} at a stride of {max(stride, 1)}: clips of source have"
                    f" {frames} frames only"
                )
        return self


class KeyFramesRecipe(ClipRecipe):
    """Stage 1: key frames in order."""

    task: Literal["cogvideo_key_frames"]
    num_frames: Count = 6
    first_frame: Literal["video", "image"] = Field(
        "video", description="what makes the first frame; image, the paper's way: the image transformer"
    )

    @property
    def channel(self) -> ChannelConfig:
        """The settings of the channel."""
        return ChannelConfig(
            num_frames=self.num_frames, frame_rates=self.frame_rates, attention_window=self.attention_window,
            first_frame=self.first_frame == "video",
        )  # fmt: skip


class InterpolationRecipe(ClipRecipe):
    """Stage 2: windows of frames, some of them known."""

    task: Literal["cogvideo_interpolation"]
    num_frames: Count = Field(4, description="frames of a window")
    frame_strides: tuple[Count, ...] = (1,)
    known: tuple[int, ...] = Field(
        (0, 3),
        min_length=2,
        description="frames of a window that are known, evenly spaced, from first to last",
    )

    @property
    def channel(self) -> ChannelConfig:
        """The settings of the channel."""
        return ChannelConfig(
            num_frames=self.num_frames, frame_rates=self.frame_rates, known=self.known,
            attention_window=self.attention_window,
        )  # fmt: skip

    @model_validator(mode="after")
    def _window_is_valid(self) -> InterpolationRecipe:
        assert self.channel  # unusable settings are an error now
        return self


class TokenTask(Task):
    """Base of the stages: data, samples and export of a `CogVideoModel`."""

    images: ClassVar[bool]  # whether an item is a single frame
    pipeline_tag = "text-to-video"
    usage = (
        "```sh", 'latent-shift generate "..." --model THIS-FOLDER -o clip.mp4', "```",
    )  # fmt: skip
    recipe: TokenRecipe

    def __init__(self, recipe: TokenRecipe, model: CogVideoModel) -> None:
        super().__init__(recipe)
        self.model = model.requires_grad_(False)

    def dataset(self, report: Report) -> LatentDataset:
        """The clips of the store, encoded now where it is not complete."""
        return self._stored(report)

    def validation(self, report: Report) -> LatentDataset | None:
        """Clips that come after those of `dataset` in the series."""
        held_out = self.recipe.validation
        return None if held_out is None else self._stored(report, last=held_out.items)

    def _stored(self, report: Report, last: int = 0) -> LatentDataset:
        return token_dataset(
            self.recipe.tokens, self.model.frame_tokenizer, report,
            last=last, workers=self.recipe.num_workers, images=self.images,
        )  # fmt: skip

    def captions(self, batch: dict[str, Any], numbers: Tensor) -> list[str]:
        """The captions of a batch; in training some are dropped. numbers: from 0 to 1, (B,).

        Warns (UserWarning) where one is longer than the text of the model.
        """
        most = self.model.captions.length
        if max(len(ids) for ids in self.model.captions.tokenizer(batch["caption"]).input_ids) > most:
            warn(
                f"captions of more than {most} tokens are truncated; a new model has transformer.text_length"
            )
        ratio = self.recipe.caption_dropout if self.training else 0.0
        return [
            EMPTY if drop else text
            for text, drop in zip(batch["caption"], (numbers < ratio).tolist(), strict=True)
        ]

    @torch.no_grad()
    def samples(self, folder: Path, step: int) -> None:
        """Write a sheet of images, or of clips a line each, of fixed prompts."""
        config = self.model.config
        lengths = longest_clips(config)
        if not self.images and not lengths:
            return  # stage 2 on a model without key frames
        fps, frames = (1.0, 1) if self.images else list(lengths.items())[-1]
        prompts = self.recipe.tokens.source.sample_prompts(images=self.images)
        generators = [Generator().manual_seed(seed) for seed in range(len(prompts))]
        made = write_clips(
            self.model, prompts, generators, frames=frames, fps=fps, sampling=config.sampling
        ).cpu().numpy()  # fmt: skip
        sheet = contact_sheet([made[:, 0]], columns=8) if self.images else contact_sheet(list(made), prompts)
        write_image(folder / f"step-{step:08d}.png", sheet, overwrite=True)

    def export(self, folder: Path) -> None:
        """Write the model's folder."""
        self.model.save(folder)


class ImageTask(TokenTask):
    """The image transformer, from stored single frames and captions to the loss."""

    Config = ImageRecipe
    summary = "CogVideo's image transformer (arXiv 2205.15868)"
    pipeline_tag = "text-to-image"
    images = True
    recipe: ImageRecipe

    def __init__(self, recipe: ImageRecipe) -> None:
        source = recipe.tokens.source
        frame_tokenizer = FrameTokenizer.load(recipe.frame_tokenizer / FRAME_TOKENIZER)
        config = ModelConfig(
            transformer=recipe.transformer, height=source.shape.height, width=source.shape.width,
            scale=frame_tokenizer.scale, sampling=recipe.sampling,
        )  # fmt: skip
        model = CogVideoModel.new(config, frame_tokenizer, recipe.text_encoder_from)
        known = trained_words(model.captions.tokenizer, source.vocabulary())
        words = {"closed_vocabulary": known, "untrained_words": source.untrained_words()}
        model.config = config.model_copy(update=words)
        super().__init__(recipe, model)
        self.model.transformer.requires_grad_(True)

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss of a batch, a scalar; `rng` decides which captions name a motion or are dropped."""
        tokens = to_tokens(batch["latents"])  # (B, 1, n)
        numbers = _numbers(rng, 2)
        with_motion = (numbers[0] < self.recipe.motion_caption_ratio).tolist()
        pairs = zip(batch["caption"], batch["image_caption"], with_motion, strict=True)
        chosen = [moving if motion else still for moving, still, motion in pairs]
        text = self.model.captions(self.captions({"caption": chosen}, numbers[1]), tokens.device)
        return {"loss": token_loss(self.model.transformer(text, tokens), tokens)}


class ClipTask(TokenTask):
    """A stage on clips: trains its channel only."""

    images = False
    channel_name: ClassVar[str]
    recipe: ClipRecipe

    def __init__(self, recipe: ClipRecipe, config: ChannelConfig) -> None:
        model = CogVideoModel.load(recipe.pretrained_model)
        shape = recipe.tokens.source.shape
        if (model.config.height, model.config.width) != (shape.height, shape.width):
            raise ValueError(
                f"pretrained_model: makes {model.config.height}x{model.config.width} pixels, tokens.source"
                f" {shape.height}x{shape.width}"
            )
        super().__init__(recipe, model)
        self.channel = self.model.add_channel(self.channel_name, config)
        self.model.config = self.model.config.model_copy(update={"sampling": recipe.sampling})

    def forward(self, batch: dict[str, Any], rng: StepRNG) -> dict[str, Tensor]:
        """The loss of a batch, a scalar; `rng` decides frames, frame rates and dropped captions."""
        tokens = to_tokens(batch["latents"])  # (B, T, n)
        numbers = _numbers(rng, 3)
        rates, frames = self.chosen_frames(tokens.shape[1], numbers[0], numbers[1])
        rates, frames = rates.to(tokens.device), frames.to(tokens.device)
        tokens = tokens.gather(1, frames[:, :, None].expand(-1, -1, tokens.shape[2]))
        text = self.model.captions(self.captions(batch, numbers[2]), tokens.device)
        logits = self.model.transformer(text, tokens, self.channel, rates)
        made = list(self.channel.config.unknown)[0 if self.channel.config.first_frame else 1 :]
        return {"loss": token_loss(logits[:, made], tokens[:, made])}

    def chosen_frames(self, length: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of frame rates (B,), and numbers of frames (B, F) out of `length`, by numbers from 0 to 1."""
        strides = torch.tensor(self.recipe.strides)
        rows = (first * len(strides)).long()
        span = (self.recipe.num_frames - 1) * strides[rows]
        start = (second * (length - span)).long()
        return rows, start[:, None] + strides[rows][:, None] * torch.arange(self.recipe.num_frames)


class KeyFramesTask(ClipTask):
    """Stage 1: key frames in order."""

    Config = KeyFramesRecipe
    summary = "CogVideo's stage 1, which writes key frames in order (arXiv 2205.15868)"
    channel_name = "key_frames"

    def __init__(self, recipe: KeyFramesRecipe) -> None:
        super().__init__(recipe, recipe.channel)


class InterpolationTask(ClipTask):
    """Stage 2: frames between known ones; the loss is on unknown frames."""

    Config = InterpolationRecipe
    summary = "CogVideo's stage 2, which writes frames between known ones (arXiv 2205.15868)"
    channel_name = "interpolation"

    def __init__(self, recipe: InterpolationRecipe) -> None:
        super().__init__(recipe, recipe.channel)


def token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of logits (B, F, n, K) and tokens (B, F, n), a scalar."""
    return functional.cross_entropy(logits.float().flatten(0, 2), tokens.flatten())


def _numbers(rng: StepRNG, count: int) -> Tensor:
    """Numbers from 0 to 1, (count, items), from each item's own stream."""
    return torch.stack([torch.rand(count, generator=one) for one in rng.item_generators()], dim=1)
