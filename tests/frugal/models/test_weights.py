"""Weights files: what comes in, what goes out, what is refused; synthetic weights against their targets."""

import hashlib
import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from frugal.cusnn.sparsity import measure
from frugal.models import WITH_WEIGHTS, WeightsError, build, keras, weights
from frugal.models.synthetic import channel_shares, draw

NAME, DEFINITION = "resnet18", "torchvision_v1.5"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth noise with a flat black border, [8, 3, 96, 96]: neighbouring pixels agree, as in a photograph."""
    coarse = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3, 12, 12)).astype(np.float32))
    fine = nn.functional.interpolate(coarse, size=(96, 96), mode="bicubic")
    fine[:, :, 80:] = -2.0
    return fine


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build(NAME).state_dict()


def saved(state, path):
    torch.save(state, path) if path.suffix == ".pth" else save_file(state, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_convert_and_load_give_the_same_network(tmp_path, state, suffix):
    source = saved(state, tmp_path / f"resnet18-f37072fd{suffix}")
    info = weights.convert(source, NAME, DEFINITION, None, tmp_path / "out" / "a.safetensors")
    model, read = weights.load_network(tmp_path / "out" / "a.safetensors")
    assert read == info
    assert (info.origin, info.drawn, info.recalibrated, info.seed) == (source.name, (), (), None)
    assert info.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert info.preprocess == "torchvision"
    assert not model.training
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.json", "a.safetensors"]


def test_old_spelling_of_dense_layers_and_missing_counters_are_read(tmp_path):
    state = build("densenet121").state_dict()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", key): value
        for key, value in state.items()
        if "num_batches_tracked" not in key
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    read, drawn = weights.load(saved(old, tmp_path / "densenet121-a639ec97.pth"), "densenet121", DEFINITION)
    assert drawn == ()
    assert all(torch.equal(value, state[key]) for key, value in read.items())
    assert list(read) == list(state)


def keras_file(path, state, missing, dtype=torch.float16):
    """Fabricate what the shared Keras files look like: their names, float16 convolutions, missing layers declared."""
    tensors = {}
    for key, value in state.items():
        if key.endswith("num_batches_tracked"):
            continue
        name = keras.parameter_name(key)
        if name.rpartition(".")[0] not in missing:
            tensors[name] = value.to(dtype) if value.ndim == 4 else value.clone()
    save_file(tensors, path, {"network": "resnet50", "missing": ",".join(missing)})
    return path


def test_keras_file_with_missing_layers(tmp_path, images):
    torch.manual_seed(1)
    state = build("resnet50", "keras_v1").state_dict()
    missing = ["conv5_block1_2_conv", "predictions"]
    source = keras_file(tmp_path / "k.safetensors", state, missing)
    info = weights.convert(source, "resnet50", "keras_v1", images, tmp_path / "a.safetensors")
    assert info.drawn == ("layer4.0.conv2.weight", "layer4.0.conv2.bias", "fc.weight", "fc.bias")
    assert info.recalibrated == ("layer4.0.bn2",)
    assert (info.preprocess, info.images, info.seed) == ("keras_caffe", 8, weights.DRAW_SEED)
    model, _ = weights.load_network(tmp_path / "a.safetensors")
    read = model.state_dict()
    touched = {*info.drawn, "layer4.0.bn2.running_mean", "layer4.0.bn2.running_var"}
    assert all(
        torch.equal(read[k], v.half().float() if v.ndim == 4 else v) for k, v in state.items() if k not in touched
    )
    drawn = read["layer4.0.conv2.weight"]
    # He-normal: variance 2 / fan_in; 2.4 million draws leave a relative error of 1e-3 (one deviation)
    assert drawn.var().item() == pytest.approx(2 / (512 * 9), rel=5e-3)
    assert torch.count_nonzero(read["layer4.0.conv2.bias"]) == 0
    # the batch norm behind it normalises what it now reads: mean 0, variance 1 a channel, up to float32 rounding
    outputs = []
    model.layer4[0].conv2.register_forward_hook(lambda m, a, y: outputs.append(y))
    with torch.inference_mode():
        model(images)
    norm = model.layer4[0].bn2
    torch.testing.assert_close(norm.running_mean, outputs[0].mean((0, 2, 3)), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.running_var, outputs[0].var((0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_keras_batch_norm_names_are_not_mixed_up():
    assert keras.parameter_name("layer1.0.bn2.running_var") == "conv2_block1_2_bn.var"
    assert keras.parameter_name("layer4.2.bn3.running_mean") == "conv5_block3_3_bn.mean"
    assert keras.parameter_name("layer2.0.downsample.1.weight") == "conv3_block1_0_bn.gamma"
    assert keras.parameter_name("layer2.0.downsample.0.bias") == "conv3_block1_0_conv.bias"
    assert keras.parameter_name("features.norm5.bias") == "bn.beta"
    assert keras.parameter_name("features.denseblock3.denselayer7.norm1.weight") == "conv4_block7_0_bn.gamma"
    assert keras.parameter_name("features.denseblock3.denselayer7.conv2.weight") == "conv4_block7_2_conv.weight"
    assert keras.parameter_name("features.transition3.norm.bias") == "pool4_bn.beta"
    assert keras.parameter_name("classifier.bias") == "predictions.bias"


def corrupted(state, **changes):
    return {**state, **changes}


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


REFUSALS = {
    "missing": (lambda s: without(s, "bn1.weight"), r"it lacks bn1\.weight; give the file of resnet18"),
    "extra": (lambda s: corrupted(s, surplus=torch.zeros(1)), "it has surplus too many; give the file"),
    "shape": (
        lambda s: {**s, "fc.weight": torch.zeros(10, 512)},
        r"fc\.weight has shape \[10, 512\], \[1000, 512\] is needed",
    ),
    "nan": (lambda s: {**s, "fc.bias": torch.full((1000,), torch.nan)}, r"fc\.bias has NaN or infinite values"),
    "infinite in float32": (
        lambda s: {**s, "fc.bias": torch.full((1000,), 1e300, dtype=torch.float64)},
        r"fc\.bias has NaN or infinite values",
    ),
    "integers": (lambda s: {**s, "fc.bias": torch.zeros(1000, dtype=torch.int32)}, r"fc\.bias is torch\.int32"),
    "variance": (lambda s: {**s, "bn1.running_var": -torch.ones(64)}, r"bn1\.running_var has negative variances"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("case", REFUSALS)
def test_a_file_that_does_not_fit_is_refused(tmp_path, state, case, suffix):
    change, message = REFUSALS[case]
    with pytest.raises(WeightsError, match=message) as caught:
        weights.load(saved(change(state), tmp_path / f"w{suffix}"), NAME, DEFINITION)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"weights file w{suffix}")


def test_another_network_is_named(tmp_path, state):
    with pytest.raises(WeightsError, match=r"w\.pth holds resnet18 \(torchvision_v1\.5\), not resnet50 \(keras_v1\)"):
        weights.load(saved(state, tmp_path / "w.pth"), "resnet50", "keras_v1")


def test_a_file_that_states_another_network_is_refused(tmp_path, state):
    save_file(state, tmp_path / "w.safetensors", {"network": "resnet34"})
    with pytest.raises(WeightsError, match=r"holds resnet34, not resnet18: give the file of resnet18"):
        weights.load(tmp_path / "w.safetensors", NAME, DEFINITION)


def test_keras_weights_do_not_fit_torchvisions_definition(tmp_path):
    save_file({"conv1_conv.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="set definition to keras_v1"):
        weights.load(tmp_path / "w.safetensors", "resnet50", DEFINITION)


def test_an_undeclared_gap_in_a_keras_file_is_refused(tmp_path):
    state = build("resnet50", "keras_v1").state_dict()
    path = keras_file(tmp_path / "k.safetensors", without(state, "layer1.0.conv2.weight"), ["predictions"])
    with pytest.raises(WeightsError, match=r"it lacks layer1\.0\.conv2\.weight; give"):
        weights.load(path, "resnet50", "keras_v1")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path, state, suffix, share):
    path = saved(state, tmp_path / f"w{suffix}")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(WeightsError, match=r"is truncated or .*: fetch it again") as caught:
        weights.load(path, NAME, DEFINITION)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)


class Harmful:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path, capsys):
    torch.save({"conv1.weight": Harmful()}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="truncated or holds more than tensors"):
        weights.load(tmp_path / "w.pth", NAME, DEFINITION)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"epoch": 3}, {"state_dict": {"conv1.weight": torch.zeros(1)}}])
def test_a_pickle_that_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"is no state dict .*: save model\.state_dict\(\) alone"):
        weights.load(tmp_path / "w.pth", NAME, DEFINITION)


def test_absent_and_unknown_files_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"does not exist: give a \.pth or \.safetensors file"):
        weights.load(tmp_path / "w.pth", NAME, DEFINITION)
    (tmp_path / "w.h5").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"w\.h5 is of no known kind"):
        weights.load(tmp_path / "w.h5", NAME, DEFINITION)


def test_a_damaged_or_undescribed_copy_is_refused(tmp_path, state):
    out = tmp_path / "a.safetensors"
    weights.convert(saved(state, tmp_path / "w.pth"), NAME, DEFINITION, None, out)
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    with pytest.raises(WeightsError, match=r"is damaged .*: delete both and run again"):
        weights.load_network(out)
    out.unlink()
    with pytest.raises(WeightsError, match=r"a\.safetensors is missing, though a\.json describes it"):
        weights.load_network(out)
    (tmp_path / "a.json").write_text('{"network": "resnet18"}')
    with pytest.raises(WeightsError, match="is no description of weights"):
        weights.load_network(out)
    (tmp_path / "a.json").unlink()
    with pytest.raises(WeightsError, match=r"a\.json is missing: it stands beside a\.safetensors"):
        weights.load_network(out)


def test_synthetic_weights_leave_the_zeros_they_aim_at(tmp_path, images):
    out = tmp_path / "a.safetensors"
    info = weights.convert(None, NAME, DEFINITION, images, out, seed=3)
    assert (info.origin, info.source_sha256, info.drawn, info.seed) == ("random weights", None, (), 3)
    assert json.loads((tmp_path / "a.json").read_text())["origin"] == "random weights"
    model, _ = weights.load_network(out)
    goals = weights.targets(NAME)
    table = [row for row in measure(model, images) if row.layer.name in goals]
    assert len(table) == 19
    # the promise is .05: a ReLU whose input has many equal values (a black border, pooled zeros) cannot be split finely
    assert max(abs(row.mean - goals[row.layer.name]) for row in table) <= 0.05
    # and the channels differ, as trained ones do: no layer is zero everywhere or nowhere
    assert all(row.max > row.mean for row in table)


def test_the_same_input_gives_the_same_bytes(tmp_path, images):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        weights.convert(None, NAME, DEFINITION, images, tmp_path / f"{name}.safetensors", seed=seed)
    a, b, c = ((tmp_path / f"{name}.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert set(file.keys()) == set(build(NAME).state_dict())
        kinds = {str(file.get_tensor(key).dtype) for key in file.keys()}  # noqa: SIM118 (no mapping)
    assert kinds == {"torch.float32", "torch.int64"}


def test_synthetic_weights_need_finite_images(tmp_path, images):
    with pytest.raises(WeightsError, match="needs images of shape"):
        weights.convert(None, NAME, DEFINITION, None, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"needs images of shape .* got shape"):
        weights.convert(None, NAME, DEFINITION, images[0], tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="must be finite"):
        weights.convert(None, NAME, DEFINITION, images * torch.nan, tmp_path / "a.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_every_network_has_a_target_for_every_convolution_but_the_first(name):
    with torch.device("meta"):
        model = build(name)
    convolutions = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    goals = weights.targets(name)
    assert list(goals) == convolutions[1:]
    assert all(0.05 < share < 0.99 for share in goals.values())


def test_an_unknown_network_has_no_targets():
    with pytest.raises(WeightsError, match="no table of sparsities to make synthetic weights of alexnet: take one of"):
        weights.targets("alexnet")


@pytest.mark.parametrize("target", [0.1, 0.5, 0.93])
def test_clipped_shares_average_the_target(target):
    shares = channel_shares(target, 128, np.random.default_rng(0))
    assert shares.mean() == pytest.approx(target, abs=1e-6)  # the bisection halves an interval of 5 fifty times
    assert shares.min() >= 0.02
    assert shares.max() <= 0.98
    assert shares.std() > 0.05


def test_a_tensor_is_drawn_the_same_whatever_was_drawn_before():
    first = draw("a.weight", (8, 4, 3, 3), 0)
    draw("b.weight", (8, 4, 3, 3), 0)
    assert torch.equal(first, draw("a.weight", (8, 4, 3, 3), 0))
    assert not torch.equal(first, draw("b.weight", (8, 4, 3, 3), 0))
