"""Whether the networks here are those that others publish: of the same weights and pixels, the same numbers.

    pip download --no-deps torch-fidelity==0.4.0 cd-fvd==0.1.1
    mkdir public && unzip torch_fidelity-*.whl -d public
    tar xzf cd-fvd-*.tar.gz -C public --strip-components 1
    python benchmarks/public_networks.py public

Inception-v3 and I3D with weights drawn here, which both read from a file as they would the published ones,
and the Fréchet distance of the same rows. Every batch norm gets statistics of its own. Of the two packages
only files are used, as they ask for torchvision.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from latent_shift.evaluation.extractors.i3d import InceptionI3d, own_names
from latent_shift.evaluation.extractors.inception import InceptionV3
from latent_shift.evaluation.extractors.weights import load_into, read_tensors
from latent_shift.evaluation.metrics.distances import frechet_of_rows

CD_FVD = Path("cdfvd/third_party")


def with_chance(network: nn.Module) -> nn.Module:
    """The network with weights and statistics by chance, such that signals keep their size."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def published(folder: Path, package: str, module: str) -> ModuleType:
    """A module of an unpacked package, without the package's own beginning, which imports torchvision."""
    empty = ModuleType(package)
    empty.__path__ = [str(folder / package)]
    sys.modules[package] = empty
    return import_module(f"{package}.{module}")


def inceptions(folder: Path, weights: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """pool3 and logits of eight frames: ours, and torch-fidelity's."""
    frames = torch.randint(0, 256, (8, 3, 299, 299), dtype=torch.uint8)
    torch.save(with_chance(InceptionV3()).state_dict(), weights)
    module = published(folder, "torch_fidelity", "feature_extractor_inceptionv3")
    public = module.FeatureExtractorInceptionV3(
        "public", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    ours = InceptionV3()
    load_into(ours, read_tensors(weights), weights)
    found = ours.eval()((frames.float() - 128) / 128)
    return dict(
        zip(("Inception pool3", "Inception logits"), zip(found, public(frames), strict=True), strict=True)
    )


def i3ds(folder: Path, weights: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits of two clips of sixteen frames: ours, and those of cd-fvd's copy of piergiaj's network.

    The copy's batch norms add 1e-5 to the variance, piergiaj's and TensorFlow's 1e-3, as ours do: both ways.
    """
    clips = torch.rand(2, 3, 16, 224, 224) * 2 - 1
    public = with_chance(published(folder / CD_FVD, "i3d", "pytorch_i3d").InceptionI3d(400))
    torch.save(public.state_dict(), weights)
    ours = InceptionI3d()
    load_into(ours, own_names(read_tensors(weights), weights), weights)
    found, copied = ours.eval()(clips), public(clips)
    for module in public.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eps = 1e-3
    return {"I3D logits": (found, public(clips)), "I3D logits, the copy's 1e-5": (found, copied)}


def distances(folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """The Fréchet distance of 2,000 rows of 64 numbers from 2,000 others: ours, and cd-fvd's."""
    first, second = torch.randn(2000, 64).double(), torch.randn(2000, 64).double() * 1.2 + 0.1
    public = published(folder / CD_FVD, "i3d", "utils").frechet_distance(first, second)
    return {"Fréchet distance": (torch.tensor(frechet_of_rows(first.numpy(), second.numpy())), public)}


@torch.no_grad()
def main() -> None:
    """Print how far apart the two of each kind are."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="where both packages were unpacked")
    folder = parser.parse_args().folder
    with tempfile.TemporaryDirectory() as place:
        found = {**inceptions(folder, Path(place, "inception.pth")), **i3ds(folder, Path(place, "i3d.pth"))}
    for name, (ours, public) in {**found, **distances(folder)}.items():
        apart = float((ours - public).abs().max() / public.abs().max())
        print(f"{name} {tuple(ours.shape)}: largest {public.abs().max():.4f}, apart by {apart:.1e} of it")


if __name__ == "__main__":
    main()
