"""The networks of others: their shapes and parameter counts are the published ones, and their files load."""

import json
import math
import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from clips import REAL, needs_real_clips
from latent_shift.evaluation.extractors import ExtractorOptions, c3d, i3d, inception, mobilenet, weights
from latent_shift.evaluation.extractors.base import Preprocessing, pad_same, preprocess
from latent_shift.evaluation.extractors.mobilenet import TfliteFile
from latent_shift.hashes import short_hash
from latent_shift.media import read_clip

MOBILENET = REAL / "weights" / "mobilenet_v2_imagenet"


def parameters(network, *, buffers=False):
    kept = network.state_dict().items() if buffers else network.named_parameters()
    return sum(tensor.numel() for name, tensor in kept if not name.endswith("num_batches_tracked"))


def on_meta(make):
    with torch.device("meta"):
        return make()


# ---- counts and shapes ------------------------------------------------------------------------------


def test_inception_has_the_parameters_that_keras_and_torchvision_count():
    network = on_meta(lambda: inception.InceptionV3(classes=1000))
    scales = sum(module.num_features for module in network.modules() if isinstance(module, nn.BatchNorm2d))
    # torchvision: 27,161,264 with the auxiliary classifier of 3,326,696. Keras: 23,851,784, with the
    # statistics of its batch norms, which have no scale.
    assert parameters(network) == 27_161_264 - 3_326_696
    assert parameters(network, buffers=True) - scales == 23_851_784
    assert parameters(on_meta(inception.InceptionV3)) == 23_834_568 + 8 * 2049


def test_inception_has_the_papers_grid_sizes():
    network = on_meta(inception.InceptionV3)
    sizes = {}
    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e",
                 "Mixed_7c"):  # fmt: skip
        network.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: sizes.update({name: tuple(out.shape[1:])})
        )
    pooled, logits = network.eval()(torch.empty(1, 3, 299, 299, device="meta"))
    assert sizes == {
        "Conv2d_1a_3x3": (32, 149, 149), "Conv2d_2a_3x3": (32, 147, 147), "Conv2d_2b_3x3": (64, 147, 147),
        "Conv2d_4a_3x3": (192, 71, 71), "Mixed_5d": (288, 35, 35), "Mixed_6e": (768, 17, 17),
        "Mixed_7c": (2048, 8, 8),
    }  # fmt: skip
    assert (pooled.shape, logits.shape) == ((1, 2048), (1, 1008))


def test_inception_has_the_published_names():
    names = set(on_meta(inception.InceptionV3).state_dict())
    assert {"Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch3x3dbl_3.bn.running_var",
            "Mixed_6a.branch3x3.conv.weight", "Mixed_6e.branch7x7dbl_5.bn.bias",
            "Mixed_7a.branch7x7x3_4.conv.weight",
            "Mixed_7c.branch3x3dbl_3b.conv.weight", "fc.bias"} <= names  # fmt: skip
    kept = [name for name in names if not name.endswith("num_batches_tracked")]
    assert len(kept) == 94 * 5 + 2  # 94 convolutions, each with a batch norm's four


def test_i3d_has_the_parameters_of_the_papers_tables():
    widths = [192]
    convolutions = 3 * 64 * 343 + 64 * 64 + 64 * 192 * 27
    norms = 64 + 64 + 192
    for a, b, c, d, e, f in i3d.MIXED.values():
        into = widths[-1]
        convolutions += into * (a + b + d + f) + 27 * (b * c + d * e)
        norms += a + b + c + d + e + f
        widths.append(a + c + e + f)
    assert widths[1:] == [256, 480, 512, 512, 512, 528, 832, 832, 1024]  # GoogLeNet's table 1
    network = on_meta(i3d.InceptionI3d)
    assert parameters(network) == convolutions + 2 * norms + 1024 * 400 + 400
    assert round(2 * parameters(network) / 1e6) == 25  # "Two-Stream I3D: 25M", table 1 of the paper


def test_i3d_has_the_papers_sizes():
    network, sizes = on_meta(i3d.InceptionI3d).eval(), {}
    for name in ("Conv3d_1a_7x7", "Conv3d_2c_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c"):
        network.get_submodule(name).register_forward_hook(
            lambda module, given, out, name=name: sizes.update({name: tuple(out.shape[1:])})
        )
    assert network(torch.empty(2, 3, 16, 224, 224, device="meta")).shape == (2, 400)
    assert sizes == {
        "Conv3d_1a_7x7": (64, 8, 112, 112), "Conv3d_2c_3x3": (192, 8, 56, 56), "Mixed_3c": (480, 8, 28, 28),
        "Mixed_4f": (832, 4, 14, 14), "Mixed_5c": (1024, 2, 7, 7),
    }  # fmt: skip


def test_c3d_has_the_parameters_of_the_papers_layers():
    shared = sum(27 * i * o + o for i, o in c3d.CONVOLUTIONS.values()) + 8193 * 4096 + 4097 * 4096
    assert parameters(on_meta(c3d.C3DNetwork)) == shared + 4097 * 101 == 78_409_573
    assert parameters(on_meta(lambda: c3d.C3DNetwork(487))) == 79_991_015  # Sports-1M
    assert parameters(on_meta(lambda: c3d.C3DNetwork(400))) // 10**6 == 79  # "3D-ConvNet: 79M", I3D's table 1
    features, logits = on_meta(c3d.C3DNetwork)(torch.empty(2, 3, 16, 112, 112, device="meta"))
    assert (features.shape, logits.shape) == ((2, 4096), (2, 101))


def test_mobilenet_has_the_published_parameters():
    network = on_meta(mobilenet.MobileNetV2)
    channels = sum(layer.out_channels for layer in network.convolutions()[:-1])
    # torchvision counts 3,504,872, with a scale for each channel and 1,000 classes.
    assert parameters(network) == 3_504_872 - channels + 1281
    features, logits = network(torch.empty(2, 3, 224, 224, device="meta"))
    assert (features.shape, logits.shape) == ((2, 1280), (2, 1001))


# ---- details that move figures ------------------------------------------------------------------------


def test_padding_is_tensorflows():
    for size, kernel, stride in ((224, 7, 2), (7, 2, 2), (16, 3, 1), (5, 3, 2), (8, 1, 1)):
        padded = pad_same(torch.ones(1, size), [kernel], [stride])
        assert (padded.shape[-1] - kernel) // stride + 1 == math.ceil(size / stride)
    assert pad_same(torch.ones(1, 4), [3], [2])[0].tolist() == [1, 1, 1, 1, 0]  # the odd one at the far end


def test_pools_inside_inception_do_not_count_the_padding():
    ones = torch.ones(1, 4, 5, 5)
    assert torch.equal(inception._pooled(ones, "average"), ones)
    assert torch.equal(inception._pooled(-ones, "maximum"), -ones)


def test_resizing_keeps_bytes_and_says_how():
    clips = torch.randint(0, 256, (2, 3, 20, 30, 3), dtype=torch.uint8)
    same = preprocess(clips[:, :, :, :20], Preprocessing(20, "bilinear", antialias=True))
    assert torch.equal(same, clips[:, :, :, :20].permute(0, 1, 4, 2, 3).float())
    smaller = {
        kind: preprocess(clips, Preprocessing(7, "bilinear", antialias=kind)) for kind in (True, False)
    }
    assert smaller[True].shape == (2, 3, 3, 7, 7)
    assert not torch.allclose(smaller[True], smaller[False])
    corners = preprocess(clips, Preprocessing(7, "bilinear-corners", antialias=False))
    assert torch.allclose(corners[0, 0, :, 0, 0], clips[0, 0, 0, 0].float(), atol=1e-3)
    assert preprocess(clips, Preprocessing(40, "bicubic", antialias=True)).amax() <= 255


# ---- files --------------------------------------------------------------------------------------------


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        self.register_buffer("numbers", torch.arange(6).reshape(2, 3).T)

    def forward(self, x):
        return self.inner(x)


class Harmful:
    def __reduce__(self):
        return (exec, ("raise SystemExit('code from the file ran')",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_file_does_not_run(tmp_path):
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"w": Harmful()}))
    torch.save({"w": Harmful()}, tmp_path / "bad.pt")
    np.savez(tmp_path / "bad.npz", w=np.array([Harmful()], dtype=object))
    for name in ("bad.pth", "bad.pt", "bad.npz"):
        with pytest.raises(ValueError, match="without running code"):
            weights.read_tensors(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", pickle.dumps(Harmful()))
        archive.writestr("script/constants.pkl", b"")
    with pytest.raises(ValueError, match="without running code"):
        weights.read_tensors(tmp_path / "script.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(Tiny().eval()), str(tmp_path / "tiny.pt"))
    with pytest.raises(ValueError, match="without running code"):
        weights.read_tensors(tmp_path / "tiny.pt")


def test_a_missing_file_says_what_to_get_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.delenv(weights.FOLDER_VARIABLE, raising=False)
    with pytest.raises(
        ValueError, match=r"no folder of weights.*pt_inception.*pytorch-fid.*6726825d.*--weights"
    ):
        inception.Inception(ExtractorOptions())
    with pytest.raises(ValueError, match=r"has none.*rgb_imagenet\.pt from github\.com/piergiaj.*73a4fd1d"):
        i3d.I3D(ExtractorOptions(tmp_path))
    monkeypatch.setenv(weights.FOLDER_VARIABLE, str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="no such folder"):
        c3d.C3D(ExtractorOptions())


def test_another_file_of_that_name_is_refused(tmp_path):
    torch.save({}, tmp_path / "pt_inception-2015-12-05-6726825d.pth")
    with pytest.raises(ValueError, match="is not the published file"):
        inception.Inception(ExtractorOptions(tmp_path))
    (tmp_path / "f").write_bytes(b"hello\n")
    assert weights.git_blob(tmp_path / "f") == "ce013625030ba8dba906f756967f9e9ca394464a"  # what git says
    with pytest.raises(ValueError, match="is not the published file"):
        weights.PublishedFile("f", "x", git_blob="0" * 40).check(tmp_path / "f")


def test_the_hashes_are_those_that_others_wrote_down():
    file = REAL / "weights" / "expected_official_weights.json"
    if not file.is_file():
        pytest.skip(f"no list of official weights at {file}")
    text = file.read_text()
    for one in (*weights.INCEPTION, *weights.I3D, *weights.C3D, *weights.C3D_MEAN):
        assert one.name in text
        assert (one.git_blob or one.sha256 or "") in text


def random_state(network, seed=0):
    chance = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(tensor.shape, generator=chance) * 0.02 + (0.99 if "running_var" in name else 0)
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def test_both_layouts_of_i3d_load_to_the_same(tmp_path):
    network = on_meta(i3d.InceptionI3d)
    state = random_state(network)
    back = {"b0": "0", "b1a": "1.0", "b1b": "1.1", "b2a": "2.0", "b2b": "2.1", "b3b": "3.1"}
    other = {}
    for name, tensor in state.items():
        name = name[0].lower() + name[1:]
        for own, theirs in back.items():
            name = name.replace(f".{own}.", f".branch_{theirs}.")
        other[name.replace(".bn.", ".batch3d.").replace("logits", "conv3d_0c_1x1")] = tensor
    assert "mixed_5c.branch_3.1.batch3d.running_mean" in other
    renamed = i3d.own_names(other, tmp_path)
    assert renamed.keys() == state.keys()
    assert all(renamed[name] is state[name] for name in state)
    with pytest.raises(ValueError, match=r"names that are not known.*i3d_pretrained_400\.pt or"):
        i3d.own_names({"x": torch.zeros(1)}, tmp_path)


@pytest.mark.slow
def test_i3d_runs_on_weights_of_its_layout(tmp_path, monkeypatch):
    torch.save(random_state(on_meta(i3d.InceptionI3d)), tmp_path / "rgb_imagenet.pt")
    monkeypatch.setattr(weights, "I3D", (weights.PublishedFile("rgb_imagenet.pt", "a test"),))
    extractor = i3d.I3D(ExtractorOptions(tmp_path))
    clips = torch.randint(0, 256, (1, 16, 24, 24, 3), dtype=torch.uint8)
    features, logits = extractor(clips)
    assert features.shape == logits.shape == (1, 400)
    assert torch.equal(features, extractor(clips).features)
    assert extractor.info.weights == short_hash(tmp_path / "rgb_imagenet.pt")
    with pytest.raises(ValueError, match="clips have 8 frames; i3d takes 16"):
        extractor(clips[:, :8])
    with pytest.raises(ValueError, match="expected uint8"):
        extractor(clips.float())


def test_c3d_reads_the_published_layout(tmp_path):
    assert c3d.own_name("conv1a/W") == "conv1a.weight"
    assert c3d.own_name("fc8/b") == "fc8.bias"
    mean = np.arange(3 * 16 * 128 * 171, dtype=np.float32).reshape(1, 3, 16, 128, 171)
    np.savez(tmp_path / "mean2.npz", mean=mean)
    cut = c3d.read_mean(tmp_path / "mean2.npz")
    assert cut.shape == (3, 16, 112, 112)
    assert cut[1, 2, 0, 0] == mean[0, 1, 2, 8, 8]
    np.savez(tmp_path / "other.npz", mean=mean[..., :50])
    with pytest.raises(ValueError, match="its mean is"):
        c3d.read_mean(tmp_path / "other.npz")


def test_weights_that_do_not_fit_are_named(tmp_path):
    network = Tiny()
    state = {name: value for name, value in network.state_dict().items()}
    weights.load_into(network, state, tmp_path)
    with pytest.raises(ValueError, match=r"lacks 1 tensors, the first numbers"):
        weights.load_into(network, {k: v for k, v in state.items() if k != "numbers"}, tmp_path)
    with pytest.raises(ValueError, match=r"holds, unexpected, 1 tensors, the first more"):
        weights.load_into(network, {**state, "more": state["numbers"]}, tmp_path)
    with pytest.raises(ValueError, match=r"numbers is \(1,\); expected \(3, 2\)"):
        weights.load_into(network, {**state, "numbers": torch.zeros(1)}, tmp_path)


# ---- real weights on real frames ----------------------------------------------------------------------


needs_mobilenet = pytest.mark.skipif(not MOBILENET.is_dir(), reason=f"no MobileNetV2 weights in {MOBILENET}")


@needs_mobilenet
def test_the_tflite_file_is_read_as_others_unpacked_it():
    graph = json.loads((MOBILENET / "mobilenet_v2_1.0_224_quant.graph.json").read_text())
    constants = np.load(MOBILENET / "mobilenet_v2_1.0_224_quant.npz", allow_pickle=False)

    def plain(number):
        told = graph["tensors"][str(number)]
        return (constants[f"t{number}"] - float(told["zero_point"][0])) * told["scale"][0]

    found = list(TfliteFile(MOBILENET / "mobilenet_v2_1.0_224_quant.tflite").convolutions())
    operations = [op for op in graph["ops"] if "CONV" in op["op"]]
    assert len(found) == len(operations) == 53
    for (weight, bias), operation in zip(found, operations, strict=True):
        order = (3, 0, 1, 2) if operation["op"].startswith("DEPTH") else (0, 3, 1, 2)
        np.testing.assert_allclose(weight.numpy(), plain(operation["inputs"][1]).transpose(order), rtol=1e-6)
        np.testing.assert_allclose(bias.numpy(), plain(operation["inputs"][2]), rtol=1e-6)


def test_other_files_are_no_tflite(tmp_path):
    (tmp_path / "x.tflite").write_bytes(b"hello world")
    with pytest.raises(ValueError, match="is no TFLite file"):
        TfliteFile(tmp_path / "x.tflite")
    (tmp_path / "x.tflite").write_bytes(b"\xff\0\0\0TFL3")
    with pytest.raises(ValueError, match="is damaged"):
        list(TfliteFile(tmp_path / "x.tflite").convolutions())


@needs_mobilenet
def test_the_graphs_shapes_are_the_networks():
    graph = json.loads((MOBILENET / "mobilenet_v2_1.0_224_quant.graph.json").read_text())
    told = [graph["tensors"][str(op["outputs"][0])]["shape"] for op in graph["ops"] if "CONV" in op["op"]]
    sizes = []
    network = on_meta(mobilenet.MobileNetV2)
    for layer in network.convolutions():
        layer.register_forward_hook(lambda module, given, out: sizes.append(list(out.shape)))
    network(torch.empty(1, 3, 224, 224, device="meta"))
    assert [[n, h, w, c] for n, c, h, w in sizes] == told


@needs_mobilenet
@needs_real_clips
def test_float_weights_do_what_the_8_bit_network_does():
    """Every convolution's output rounded and cut as in the file's 8-bit arithmetic: nothing much moves."""
    graph = json.loads((MOBILENET / "mobilenet_v2_1.0_224_quant.graph.json").read_text())
    told = [graph["tensors"][str(op["outputs"][0])] for op in graph["ops"] if "CONV" in op["op"]]
    plain, rounded = (mobilenet.MobileNet(ExtractorOptions(MOBILENET)) for _ in range(2))
    for layer, kept in zip(rounded.network.convolutions(), told, strict=True):
        scale, zero = kept["scale"][0], kept["zero_point"][0]
        layer.register_forward_hook(
            lambda module, given, out, scale=scale, zero=zero: (
                ((out / scale).round() + zero).clamp(0, 255).sub(zero) * scale
            )
        )
    frames, _ = read_clip(REAL / "real_clips" / "vmc-bear.mp4", max_frames=2)
    (one, logits), (other, other_logits) = (e(torch.from_numpy(frames)[None]) for e in (plain, rounded))
    assert torch.nn.functional.cosine_similarity(one, other).min() > 0.97
    assert torch.equal(logits.argmax(dim=1), other_logits.argmax(dim=1))


@needs_mobilenet
@needs_real_clips
@pytest.mark.parametrize(
    ("clip", "label"),
    [
        ("fz-blackswan.mp4", "black swan"),
        ("vmc-bear.mp4", "brown bear"),
        ("ucf101/v_PlayingGuitar_g06_c01.avi", "acoustic guitar"),
    ],
)
def test_real_features_see_what_is_there(clip, label):
    extractor = mobilenet.MobileNet(ExtractorOptions(MOBILENET))
    frames, _ = read_clip(REAL / "real_clips" / clip, max_frames=2)
    features, logits = extractor(torch.from_numpy(frames)[None])
    labels = (MOBILENET / "imagenet_labels.txt").read_text().splitlines()
    named = [labels[number] for number in logits.mean(dim=0).topk(3).indices]
    assert any(label in name for name in named), named
    assert features.shape == (2, 1280)
    assert 0 <= features.min() <= features.max() <= 6
