"""Networks against published numbers: parameter counts, and layers.csv (every convolution's shape and MACs)."""

import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from frugal.cusnn.sparsity import conv_layers
from frugal.models import DEFINITIONS, NETWORKS, WITH_WEIGHTS, UnknownNetwork, build, definitions, keras

TABLE = Path(__file__).parents[2] / "data" / "cusnn" / "layers.csv"
# torchvision's documentation, "Table of all available classification weights", column Params
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
}
# keras.io/api/applications, exact counts of model.summary() with batch norm's moving averages, which Keras counts
KERAS_PARAMETERS = {"resnet50": 25_636_712, "resnet101": 44_707_176, "resnet152": 60_419_944}
KERAS_PARAMETERS |= {"densenet121": 8_062_504, "densenet169": 14_307_880, "densenet201": 20_242_984}


def meta(name: str, definition: str) -> nn.Module:
    with torch.device("meta"):
        return build(name, definition)


def table_rows(name: str, definition: str) -> list[dict[str, str]]:
    with TABLE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["network"] == name and row["role"] != "fc"]
    return [row for row in rows if row["definition"] in (definition, "keras_and_torchvision")]


@pytest.mark.parametrize("name", PARAMETERS)
def test_torchvision_definition_has_the_published_parameter_count(name):
    assert sum(p.numel() for p in meta(name, "torchvision_v1.5").parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", KERAS_PARAMETERS)
def test_keras_definition_has_the_published_parameter_count(name):
    state = meta(name, "keras_v1").state_dict()
    assert sum(t.numel() for key, t in state.items() if "num_batches" not in key) == KERAS_PARAMETERS[name]


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("name", sorted(KERAS_PARAMETERS))
def test_every_convolution_is_in_the_table(name, definition):
    rows, layers = table_rows(name, definition), conv_layers(meta(name, definition))
    assert len(rows) in (53, 104, 155, 120, 168, 200)  # guards against an empty comparison
    ours = [(x.index, x.C, x.H, x.W, x.N, x.k, x.stride, x.pad, x.macs) for x in layers]
    columns = ("layer_index", "C", "H", "W", "N", "kernel", "stride", "pad", "dense_macs")
    assert ours == [tuple(int(row[column]) for column in columns) for row in rows]
    spelled = (lambda layer: layer) if rows[0]["definition"] == "torchvision_v1.5" else keras.layer_name
    assert [spelled(layer.name) for layer in layers] == [row["layer"] for row in rows]


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("name", sorted(KERAS_PARAMETERS))
def test_bias_and_epsilon_are_those_of_the_definition(name, definition):
    biased = {row["conv_bias"] for row in table_rows(name, definition)}
    model = meta(name, definition)
    assert {str(int(m.bias is not None)) for m in model.modules() if isinstance(m, nn.Conv2d)} == biased
    epsilon = 1e-5 if definition == "torchvision_v1.5" else 1.001e-5
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {epsilon}


def test_resnet_keys_are_torchvisions():
    """Names and shapes as torchvision's documentation and source spell them, first and last of each kind."""
    state = meta("resnet50", "torchvision_v1.5").state_dict()
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_var": (64,),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.num_batches_tracked": (),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.bias": (1024,),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert len(state) == 320  # 161 parameters, 53 × 3 buffers


def test_densenet_keys_are_torchvisions():
    """Names and shapes as torchvision's source spells them (its files have an inner dot that its loader drops)."""
    state = meta("densenet169", "torchvision_v1.5").state_dict()
    shapes = {
        "features.conv0.weight": (64, 3, 7, 7),
        "features.norm0.running_mean": (64,),
        "features.denseblock1.denselayer1.norm1.weight": (64,),
        "features.denseblock1.denselayer1.conv1.weight": (128, 64, 1, 1),
        "features.denseblock4.denselayer32.conv2.weight": (32, 128, 3, 3),
        "features.transition3.conv.weight": (640, 1280, 1, 1),
        "features.norm5.running_var": (1664,),
        "classifier.weight": (1000, 1664),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    norms = 1 + 2 * (6 + 12 + 32 + 32) + 3 + 1  # stem, two a layer, transitions, last
    assert len(state) == 168 + 2 + 5 * norms  # convolutions, classifier, five tensors a batch norm


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_torchvision_parity(name):
    torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed: nothing to compare with")
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).eval()
    ours = build(name).eval()
    ours.load_state_dict(theirs.state_dict())  # strict: the same names and shapes
    x = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        # the same operations in the same order
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-6, atol=1e-6)


def test_forward_is_the_written_formula():
    """A bottleneck and a dense layer against their equations in float64: which strides, sums and ReLUs stand where."""
    torch.manual_seed(0)
    f = nn.functional
    for definition, first, middle in (("torchvision_v1.5", 1, 2), ("keras_v1", 2, 1)):
        block = build("resnet50", definition).double().eval().layer2[0]
        for norm in (block.bn1, block.bn2, block.bn3, block.downsample[1]):
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.running_var, 0.5, 2)
        x = torch.randn(2, 256, 8, 8, dtype=torch.float64)

        def norm(y, m):
            scale = m.weight / (m.running_var + m.eps).sqrt()
            return (y - m.running_mean[:, None, None]) * scale[:, None, None] + m.bias[:, None, None]

        y = norm(f.conv2d(x, block.conv1.weight, block.conv1.bias, stride=first), block.bn1).clamp_min(0)
        y = norm(f.conv2d(y, block.conv2.weight, block.conv2.bias, stride=middle, padding=1), block.bn2).clamp_min(0)
        y = norm(f.conv2d(y, block.conv3.weight, block.conv3.bias), block.bn3)
        short, short_norm = block.downsample
        y = (y + norm(f.conv2d(x, short.weight, short.bias, stride=2), short_norm)).clamp_min(0)
        torch.testing.assert_close(block(x), y, rtol=1e-9, atol=1e-9)  # float64, another order of the same sums


def test_unknown_network_names_the_nearest():
    with pytest.raises(UnknownNetwork, match=r"'resnet5o' is not known \(did you mean resnet50\?\): take one of"):
        build("resnet5o")


def test_unknown_definition_lists_what_is_allowed():
    with pytest.raises(UnknownNetwork, match=r"'v2' of resnet50 is not known: take one of torchvision_v1.5, keras_v1"):
        build("resnet50", "v2")


def test_keras_never_published_a_resnet18():
    with pytest.raises(UnknownNetwork, match=r"'keras_v1' of resnet18 is not known: take one of torchvision_v1.5$"):
        build("resnet18", "keras_v1")


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_is_built_in_each_of_its_definitions(name):
    for definition in definitions(name):
        with torch.device("meta"):
            built = build(name, definition, 7)
        *_, last = built.parameters()
        assert last.shape[0] == 7


@pytest.mark.parametrize("divisor", [0, -4, 0.5])
def test_a_width_that_cannot_be(divisor):
    with pytest.raises(UnknownNetwork, match=rf"width_divisor {divisor} of vgg16: it must be a whole number from 1 on"):
        build("vgg16", width_divisor=divisor)


def test_densenets_have_one_width():
    with pytest.raises(UnknownNetwork, match="densenet169 has its published width alone: take width_divisor 1"):
        build("densenet169", width_divisor=4)
