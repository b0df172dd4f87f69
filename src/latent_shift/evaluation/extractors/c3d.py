"""C3D, fine-tuned on UCF-101: the classifier of the Inception Score for videos.

Tran et al. (arXiv 1412.0767): eight convolutions of 3 x 3 x 3 and three full layers, on 16 frames of
112 x 112. The score's protocol is TGAN's (Saito et al., arXiv 1611.06624) in the code of TGANv2, followed
here: channels in the order blue, green, red, the frames resized with their corners kept, scaled by 128 about
128, and the mean clip of Sports-1M, cut to 112 x 112 from its corner (8, 8), taken off. Its pools count a
last incomplete block (Caffe's rounding up), which is why 7 pixels become 4 before the first full layer.

Shapes: B clips; 16 frames of 112 x 112 pixels, 0 to 255; fc7 (B, 4096), logits (B, 101).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional

from latent_shift.evaluation.extractors import base, weights
from latent_shift.evaluation.extractors.registry import ExtractorOptions

NAME, SIDE, WIDTH, CLASSES, FRAMES = "c3d", 112, 4096, 101, 16
PREPROCESSING = base.Preprocessing(SIDE, "bilinear-corners", antialias=False)
CONVOLUTIONS = {
    "conv1a": (3, 64), "conv2a": (64, 128), "conv3a": (128, 256), "conv3b": (256, 256), "conv4a": (256, 512),
    "conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512),
}  # fmt: skip
_POOLED = {
    "conv1a": (1, 2, 2),
    "conv2a": (2, 2, 2),
    "conv3b": (2, 2, 2),
    "conv4b": (2, 2, 2),
    "conv5b": (2, 2, 2),
}
_CROP = slice(8, 8 + SIDE)  # of the mean clip, both ways


class C3DNetwork(nn.Module):
    """The whole network, without dropout."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        for name, (channels, out) in CONVOLUTIONS.items():
            self.add_module(name, nn.Conv3d(channels, out, 3, padding=1))
        self.fc6 = nn.Linear(512 * 4 * 4, WIDTH)
        self.fc7 = nn.Linear(WIDTH, WIDTH)
        self.fc8 = nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Clips (B, 3, 16, 112, 112), blue first, less their mean: fc7 (B, 4096), logits (B, classes)."""
        for name in CONVOLUTIONS:
            x = functional.relu(self.get_submodule(name)(x))
            if name in _POOLED:
                x = functional.max_pool3d(x, _POOLED[name], ceil_mode=True)
        x = functional.relu(self.fc6(x.flatten(1)))
        x = functional.relu(self.fc7(x))
        return x, self.fc8(x)


class C3D(base.Extractor):
    """fc7 and the logits of UCF-101's classes, of every clip."""

    def __init__(self, options: ExtractorOptions) -> None:
        file, _ = weights.find_weights(weights.C3D, options.weights, NAME)
        mean_file, _ = weights.find_weights(weights.C3D_MEAN, options.weights, NAME)
        network = C3DNetwork()
        tensors = weights.read_tensors(file)
        weights.load_into(network, {own_name(name): tensor for name, tensor in tensors.items()}, file)
        digest = weights.combined_hash([file, mean_file])
        layer = f"fc7, {WIDTH} numbers a clip"
        info = base.ExtractorInfo(NAME, layer, digest, "clip", WIDTH, FRAMES, classifies=True)
        super().__init__(network, info, PREPROCESSING, options)
        self.mean = read_mean(mean_file).to(self.device)

    def run(self, pixels: Tensor) -> base.ExtractorOutput:
        """See `Extractor.run`."""
        scaled = (pixels / 127.5 - 1) * 128 + 128
        clips = scaled.flip(2).transpose(1, 2) - self.mean  # (B, 3, 16, S, S), blue first
        return base.run_chunks(self.network, clips.split(1))


def read_mean(file: Path) -> Tensor:
    """Read the mean clip (3, 16, 112, 112), blue first, 0 to 255. Raises ValueError for another file."""
    mean = weights.read_tensors(file).get("mean")
    if mean is None or mean.numel() % (3 * FRAMES) or mean.ndim < 4 or min(mean.shape[-2:]) < _CROP.stop:
        shape = None if mean is None else tuple(mean.shape)
        raise ValueError(f"{file}: its mean is {shape}; expected (3, {FRAMES}, 120 or more, 120 or more)")
    return mean.reshape(3, FRAMES, *mean.shape[-2:])[:, :, _CROP, _CROP].float()


def own_name(name: str) -> str:
    """Return this network's name of one of the published file's tensors: conv1a/W is conv1a.weight."""
    layer, _, kind = name.partition("/")
    kind = {"W": "weight", "b": "bias"}.get(kind, kind)
    return f"{layer}.{kind}"
