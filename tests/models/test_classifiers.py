import pickle
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data.transforms_factory import create_transform
from torch import nn
from torch.nn import functional

from hetpure.errors import ConfigError
from hetpure.models.classifiers import Classifier, build_classifier, with_preprocessing
from hetpure.models.networks import load_weights
from tests.toys import TinyNetwork, images

THIRD_PARTY = """
import torch

class Net(torch.nn.Module):
    def __init__(self, width=4, classes=10):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, width, 3, padding=1)
        self.head = torch.nn.Linear(width, classes)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))

def not_a_class():
    pass

class NotAModule:
    pass
"""


@pytest.fixture
def third_party(tmp_path: Path) -> str:
    (tmp_path / "their_code.py").write_text(THIRD_PARTY)
    return str(tmp_path / "their_code.py")


def test_normalisation_belongs_to_the_classifier() -> None:
    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)

    x = torch.tensor([[[[0.5]], [[0.25]]]])  # two channels of one pixel
    classifier = Classifier(Same(), mean=[0.5, 0.75], std=[0.1, 0.25])
    torch.testing.assert_close(classifier(x), torch.tensor([[0.0, -2.0]]))


def test_images_are_resized_first_where_a_size_is_set() -> None:
    x = images(2, 1, 8)
    classifier = Classifier(nn.Identity(), [0.2], [0.5], image_size=12)
    expected = functional.interpolate(x, (12, 12), mode="bilinear", antialias=True)
    torch.testing.assert_close(classifier(x), (expected - 0.2) / 0.5)
    assert Classifier(nn.Identity(), [0.2], [0.5])(x).shape == x.shape


def picture(height: int, width: int) -> Image.Image:
    """Smooth, with some noise on top, and far enough from black and white: 8-bit resizing clips overshoots early."""
    y, x = np.mgrid[:height, :width] / 16.0
    waves = np.stack([np.sin(x + y), np.cos(1.7 * x), np.sin(2.1 * y)], axis=-1) * 60.0 + 128.0
    noise = np.random.default_rng(0).normal(0.0, 12.0, waves.shape)
    return Image.fromarray((waves + noise).clip(0, 255).astype(np.uint8))


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None] / 255.0


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("size", "crop_pct", "tolerance"),
    [
        ((64, 64), 0.875, 1e-6),  # cut only: 56 is 0.875 of 64
        ((64, 91), 0.875, 1e-6),
        ((101, 64), 0.875, 1e-6),
        ((120, 97), 0.875, 1.5 / 255),  # resized: timm's 8-bit images are rounded after each of two passes
        ((50, 57), 0.9, 1.5 / 255),
        ((64, 64), 1.0, 1.5 / 255),
    ],
)
def test_the_view_is_timms_evaluation_transform(
    size: tuple[int, int], crop_pct: float, tolerance: float, interpolation
) -> None:
    image = picture(*size)
    transform = create_transform(
        56, is_training=False, interpolation=interpolation, crop_pct=crop_pct, mean=(0.0,) * 3, std=(1.0,) * 3
    )
    expected = transform(image)
    assert isinstance(expected, torch.Tensor)
    classifier = Classifier(nn.Identity(), [0.0], [1.0], 56, crop_pct, interpolation)
    torch.testing.assert_close(classifier.view(as_tensor(image))[0], expected, rtol=0.0, atol=tolerance)


def test_what_is_cut_off_gets_no_gradient_and_the_rest_does() -> None:
    classifier = Classifier(nn.Identity(), [0.5], [0.25], image_size=28, crop_pct=0.875, interpolation="bicubic")
    for side, outside in ((32, 2), (64, 3)):  # cut; resized and cut, which draws on a few pixels beyond the edge
        x = images(1, 3, side).requires_grad_()
        (gradient,) = torch.autograd.grad(classifier(x).square().sum(), x)
        rows, columns = classifier.seen(side, side)
        assert (rows, columns) == (slice(side // 16, side - side // 16),) * 2
        assert gradient[..., rows, columns].abs().amin(1).min() > 0
        assert gradient[..., : side // 16 - outside + 2 * (side == 32), :].abs().sum() == 0


def test_a_timm_model_has_its_own_crop_at_its_own_sizes() -> None:
    def of(name: str, size: int | None) -> tuple[float, str]:
        network = nn.Identity()
        network.pretrained_cfg = timm.get_pretrained_cfg(name).to_dict()  # pyright: ignore
        classifier = with_preprocessing(network, image_size=size)
        return classifier.crop_pct, classifier.interpolation

    assert of("tf_efficientnet_lite0", 224) == (0.875, "bicubic")
    assert of("resnet50.tv_in1k", 224) == (0.875, "bilinear")
    assert of("resnet50.tv2_in1k", 224) == (0.965, "bilinear")  # torchvision's: 232, of which 224
    assert of("resnet50.tv_in1k", 288) == (1.0, "bilinear")
    assert of("tf_efficientnet_lite0", None)[0] == 1.0
    plain = with_preprocessing(nn.Identity(), image_size=224)
    assert (plain.crop_pct, plain.interpolation) == (1.0, "bilinear")
    # Nothing is resized unless a size is set.
    own = build_classifier("resnet10t", "random", arguments={"num_classes": 3}, image_size=176)
    assert (own.crop_pct, own.interpolation) == (0.875, "bicubic")
    whole = build_classifier("resnet10t", "random", image_size=176, crop_pct=1.0, interpolation="bilinear")
    assert whole.crop_pct == 1.0


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"crop_pct": 0.0}, "crop_pct"),
        ({"crop_pct": 1.1}, "crop_pct"),
        ({"interpolation": "nearest"}, "interpolation"),
        ({"image_size": 0}, "image_size"),
        ({"std": [0.0]}, "std"),
        ({"std": [float("inf")]}, "std"),
        ({"mean": [float("inf")]}, "mean"),
    ],
)
def test_impossible_preprocessing_is_refused(arguments: dict, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"classifier\.{key} is .*; accepted: "):
        build_classifier("cifar_resnet8", "random", **{"image_size": 28, **arguments})


def test_a_timm_model_has_its_own_normalisation() -> None:
    classifier = build_classifier("resnet10t", "random", arguments={"num_classes": 7})
    cfg = timm.get_pretrained_cfg("resnet10t")
    assert classifier.mean.flatten().tolist() == pytest.approx(cfg.mean)
    assert classifier.std.flatten().tolist() == pytest.approx(cfg.std)
    x = images(2, 3, 32)
    expected = classifier.network((x - torch.tensor(cfg.mean).view(3, 1, 1)) / torch.tensor(cfg.std).view(3, 1, 1))
    torch.testing.assert_close(classifier(x), expected)
    assert classifier(x).shape == (2, 7)


def test_a_given_normalisation_wins() -> None:
    classifier = build_classifier("cifar_resnet8", "random", arguments={"in_chans": 1}, mean=[0.3], std=[0.4])
    assert (classifier.mean.item(), classifier.std.item()) == pytest.approx((0.3, 0.4))
    plain = with_preprocessing(nn.Identity(), channels=1)
    assert (plain.mean.item(), plain.std.item()) == (0.0, 1.0)


def test_classifiers_are_frozen_and_in_evaluation_mode() -> None:
    classifier = build_classifier("cifar_resnet8", "random")
    assert not any(module.training for module in classifier.modules())
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_third_party_class_with_its_own_state_dict(third_party: str, tmp_path: Path, suffix: str) -> None:
    name = f"{third_party}:Net"
    trained = build_classifier(name, "random", arguments={"width": 6, "classes": 3}).network
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pt":
        torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, file)
    else:
        save_file(trained.state_dict(), file)
    loaded = build_classifier(name, str(file), arguments={"width": 6, "classes": 3})
    x = images(2)
    assert torch.equal(loaded(x), trained(x))


def test_an_importable_class() -> None:
    classifier = build_classifier("tests.toys:TinyNetwork", "random", arguments={"classes": 4})
    assert isinstance(classifier.network, TinyNetwork)
    assert classifier(images(2)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "arguments", "key"),
    [
        ("resnet_no_such", None, "classifier.name"),
        ("no.such.module:Net", None, "classifier.name"),
        ("{file}:NoSuchClass", None, "classifier.name"),
        ("{file}:not_a_class", None, "classifier.name"),
        ("{file}:NotAModule", None, "classifier.name"),
        ("/no/such/file.py:Net", None, "classifier.name"),
        ("{file}:Net", {"depth": 3}, "classifier.arguments"),
        ("cifar_resnet8", {"no_such_argument": 3}, "classifier.name"),
    ],
)
def test_bad_networks_are_refused(third_party: str, name: str, arguments: dict | None, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_classifier(name.format(file=third_party), arguments=arguments)
    assert str(caught.value).startswith(key) and "\n" not in str(caught.value)


def test_code_that_does_not_import_is_refused(tmp_path: Path) -> None:
    for text in ("def (", "import no_such_module"):
        (tmp_path / "broken.py").write_text(text)
        with pytest.raises(ConfigError, match=r"classifier\.name"):
            build_classifier(f"{tmp_path}/broken.py:Net")


class Touch:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_infinities_of_the_networks_own_and_average_counters_load(tmp_path: Path) -> None:
    def network() -> nn.Module:
        made = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        made.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
        return made

    state = network().state_dict()
    torch.save({**state, "1.num_batches_tracked": torch.tensor(2.5)}, tmp_path / "n.pt")
    load_weights(network(), str(tmp_path / "n.pt"))
    torch.save({**state, "mask": torch.tensor([float("inf"), -float("inf")])}, tmp_path / "n.pt")
    with pytest.raises(ConfigError, match=r"'mask' holds numbers that are not finite$"):
        load_weights(network(), str(tmp_path / "n.pt"))


def test_a_harmless_pickle_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "n.pt").write_bytes(pickle.dumps((1, 2)))
    with pytest.raises(ConfigError, match=r"refused, it is a pickle that torch\.save did not write"):
        load_weights(TinyNetwork(), str(tmp_path / "n.pt"))
    torch.save((1, 2), tmp_path / "n.pt")
    with pytest.raises(ConfigError, match=r"holds no state dict, but a tuple$"):
        load_weights(TinyNetwork(), str(tmp_path / "n.pt"))


def test_no_code_in_a_weights_file_is_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save({"conv.weight": torch.zeros(1), "extra": Touch(mark)}, tmp_path / "bad.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Touch(mark)))
    for name in ("bad.pt", "bare.pt"):
        with pytest.raises(ConfigError) as caught:
            load_weights(TinyNetwork(), str(tmp_path / name))
        assert caught.value.key == "weights" and "refused" in str(caught.value) and "\n" not in str(caught.value)
    assert not mark.exists()
    pickle.loads((tmp_path / "bare.pt").read_bytes())
    assert mark.exists(), "the bait does not work"


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt", "empty.safetensors", "empty.pt", "text.pt", "list.pt"])
def test_unreadable_weights_are_refused_on_one_line(tmp_path: Path, name: str) -> None:
    network, file = TinyNetwork(), tmp_path / name
    kind, suffix = name.split(".")
    save = save_file if suffix == "safetensors" else torch.save
    if kind == "cut":
        save(network.state_dict(), file)
        file.write_bytes(file.read_bytes()[:-200])
    elif kind == "list":
        torch.save([torch.zeros(1)], file)
    else:
        file.write_text("" if kind == "empty" else "no weights here")
    with pytest.raises(ConfigError) as caught:
        load_weights(network, str(file))
    assert caught.value.key == "weights" and "\n" not in str(caught.value)


@pytest.mark.parametrize("fault", ["missing", "unexpected", "other shapes"])
def test_state_dicts_must_fit_exactly(tmp_path: Path, fault: str) -> None:
    network = TinyNetwork()
    state = dict(network.state_dict())
    if fault == "missing":
        del state["head.bias"]
    elif fault == "unexpected":
        state["neck.bias"] = torch.zeros(2)
    else:
        state["head.bias"] = torch.zeros(11)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match=rf"{fault}.*(head|neck)\.bias"):
        load_weights(network, str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model.", "module.0."])
def test_what_wrappers_put_before_names_is_taken_off(tmp_path: Path, prefix: str) -> None:
    network, other = TinyNetwork(), TinyNetwork()
    save_file({prefix + name: value for name, value in network.state_dict().items()}, tmp_path / "w.safetensors")
    load_weights(other, str(tmp_path / "w.safetensors"))
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())
    # A network whose own names begin so keeps them.
    numbered = nn.Sequential(nn.Linear(2, 2))
    save_file(numbered.state_dict(), tmp_path / "n.safetensors")
    load_weights(numbered, str(tmp_path / "n.safetensors"))


OWN_WEIGHTS = """
import timm
from torch import nn
from safetensors.torch import load_file

def whole():
    network = timm.create_model("cifar_resnet8")
    network.load_state_dict(load_file({file!r}))
    return network

def headless():  # as timm does where num_classes is not the checkpoint's
    network = whole()
    network.fc = nn.Linear(network.fc.in_features, 10)
    return network

def lazy():
    return nn.LazyLinear(10)

def fixed():
    return nn.Flatten()
"""


def test_untrained_networks_are_refused_unless_asked_for(tmp_path: Path) -> None:
    """A network counts as trained where building it sets each of its tensors, whatever the random numbers."""
    before = torch.random.get_rng_state()
    untrained = build_classifier("cifar_resnet8", "random")
    torch.rand(3)  # what other code draws changes nothing
    again = build_classifier("cifar_resnet8", "random")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in untrained.state_dict().items())
    torch.random.set_rng_state(before)
    save_file(untrained.network.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "own.py").write_text(OWN_WEIGHTS.format(file=str(tmp_path / "w.safetensors")))

    loaded = build_classifier(f"{tmp_path}/own.py:whole")
    assert torch.equal(loaded(images(2, 3, 32)), untrained(images(2, 3, 32)))
    build_classifier(f"{tmp_path}/own.py:fixed")
    for name, random in (("headless", "fc.weight"), ("lazy", "weight")):
        with pytest.raises(ConfigError, match=f"^classifier.weights is None, and .*:{name} is untrained: {random}"):
            build_classifier(f"{tmp_path}/own.py:{name}")
    with pytest.raises(ConfigError, match=r"conv1.weight is random; accepted: a file; random, for .*pretrained=true$"):
        build_classifier("cifar_resnet8")
    with pytest.raises(ConfigError, match=r"classifier.pretrained is True; accepted: false with weights: random"):
        build_classifier("cifar_resnet8", "random", pretrained=True)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_missing_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_weights(TinyNetwork(), "/no/such/file.safetensors")


def test_class_counts_and_image_shapes_are_checked() -> None:
    classifier = build_classifier("tests.toys:TinyNetwork", "random")
    classifier.check_classes((1, 8, 8), 10)
    with pytest.raises(ConfigError, match="10 class scores, but the data have 7"):
        classifier.check_classes((1, 8, 8), 7)
    with pytest.raises(ConfigError, match="3x8x8"):
        classifier.check_classes((3, 8, 8), 10)
