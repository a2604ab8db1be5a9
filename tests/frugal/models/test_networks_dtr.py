"""DTR's networks: parameters, layers and shapes against what is published of them, and their own formulas."""

import csv
import functools
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as f

from frugal.models import build
from frugal.models.densenet import densenet100
from frugal.models.gan import EPS, Learnt, UnrolledGan, adam, unrolled_gan
from frugal.models.inception import inceptionv4
from frugal.models.recurrent import Cell, gru, lstm, treelstm
from frugal.models.resnet import CifarBlock, resnet32
from frugal.models.transformer import transformer
from frugal.models.unet import unet

PUBLISHED = Path(__file__).parents[3] / "workflow" / "paper" / "dtr.csv"
# (parameters, what says so)
PARAMETERS = {
    # He et al., CVPR 2016, table 6: 0.46M and 19.4M
    "resnet32": (464_154, 0.46e6),
    "resnet1202": (19_421_274, 19.4e6),
    # Huang et al., CVPR 2017, table 2: DenseNet-BC (k = 12), depth 100, 0.8M
    "densenet100": (769_162, 0.8e6),
}


def kept(model):
    """Bytes of parameters and buffers."""
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def counters(model):
    """Bytes that a batch norm of the published fork has more than ours: its count is added to a tensor of its own."""
    return 8 * sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@functools.cache
def meta(make, *args):
    """A network without memory; nobody changes it."""
    with torch.device("meta"):
        return make(*args)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_number(name):
    exact, rounded = PARAMETERS[name]
    assert sum(p.numel() for p in meta(build, name).parameters()) == exact
    assert exact == pytest.approx(rounded, rel=0.05)  # the papers give two or three digits


# Constants of the published logs (docs and frugal.dtr.logs: weights, buffers, inputs, targets), to the byte.
@pytest.mark.parametrize(
    ("model", "inputs", "constants"),
    [
        ((build, "resnet32"), 56 * 3 * 224 * 224 * 4 + 56 * 8, 35_584_920),
        ((build, "inceptionv4"), 64 * 3 * 299 * 299 * 4 + 64 * 8, 239_640_948),
        # 72 scalars of 8 bytes are the log's own
        ((transformer,), (512 + 20) * 10 * 512 * 4 + 20 * 512 * 8 + 72 * 8, 263_197_248),
        ((lstm, 512, 1700), 128 * 512 * 512 * 4, 194_424_928),
        ((treelstm, 10, 300), 127 * 100 * 10 * 4, 2_000_800),
    ],
    ids=["resnet32", "inceptionv4", "transformer", "lstm", "treelstm"],
)
def test_weights_and_inputs_are_the_constants_of_the_published_log(model, inputs, constants):
    made = meta(*model)
    assert kept(made) + counters(made) + inputs == constants


def published_bytes(name, needle):
    """Bytes of the model alone on the published GPU: what was allocated with it, less what was with the input."""
    with PUBLISHED.open(newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["model"] == name and needle in r["parameters"].split(";")]
    value = {r["metric"]: float(r["value"]) for r in rows if r["variant"] == "pytorch"}
    return value["model_bytes"] - value["input_bytes"]


@pytest.mark.parametrize(
    ("model", "published", "needle"),
    [
        ((build, "resnet1202"), "resnet1202", "batch=64"),
        ((build, "inceptionv4"), "inceptionv4", "batch=64"),
        ((build, "densenet121"), "densenet121", "batch=84"),
        ((build, "unet"), "unet", "batch=6"),
        ((lstm, 512, 1700), "lstm", "seq=256"),
        ((treelstm, 100, 300), "treelstm", "depth=9"),
        ((treelstm, 300, 1024), "treelstm", "depth=6"),
        ((unrolled_gan, 2048, 4096, 60), "unroll_gan", "batch=512"),
    ],
)
def test_models_take_the_published_bytes_of_a_gpu(model, published, needle):
    made = meta(*model)
    buffers = [] if published in ("unroll_gan", "lstm") else [*made.buffers()]  # made with the first step
    tensors = [*made.parameters(), *buffers]
    # CUDA's allocator rounds up to 512 bytes, and leaves up to 1 MiB to a tensor of more rather than split it off
    least = sum(-(-tensor.nbytes // 512) * 512 for tensor in tensors)
    slack = sum(2**20 for tensor in tensors if tensor.nbytes > 2**20)
    assert least <= published_bytes(published, needle) <= least + slack


def test_layers_are_as_many_as_their_names_say():
    weighted = {name: [m for m in meta(build, name).modules() if isinstance(m, (nn.Conv2d, nn.Linear))] for name in
                ("resnet32", "resnet1202", "densenet100", "inceptionv4", "unet")}  # fmt: skip
    assert {name: len(layers) for name, layers in weighted.items()} == {
        "resnet32": 32, "resnet1202": 1202, "densenet100": 100, "inceptionv4": 149 + 1, "unet": 18 + 1,
    }  # fmt: skip
    convs = [m for m in weighted["inceptionv4"] if isinstance(m, nn.Conv2d)]
    assert all(conv.bias is None for conv in convs)
    norms = [m for m in meta(build, "inceptionv4").modules() if isinstance(m, nn.BatchNorm2d)]
    assert ({m.eps for m in norms}, len(norms)) == ({1e-3}, 149)


@pytest.mark.parametrize(
    ("side", "maps"),
    [
        # Szegedy et al., AAAI 2017, figures 3 and 9: sizes of the grid, and channels after each kind of cell
        (299, {"stem": (64, 147), "0": (160, 73), "1": (192, 71), "2": (384, 35), "6": (384, 35), "7": (1024, 17),
               "14": (1024, 17), "15": (1536, 8), "18": (1536, 8)}),
        (139, {"stem": (64, 67), "18": (1536, 3)}),
    ],
)  # fmt: skip
def test_inception_has_the_maps_of_the_figures(side, maps):
    model, found = meta.__wrapped__(build, "inceptionv4"), {}
    for name, part in [("stem", model.stem), *model.cells.named_children()]:
        part.register_forward_hook(lambda m, a, y, name=name: found.update({name: tuple(y.shape[1:])}))
    assert model(torch.empty(1, 3, side, side, device="meta")).shape == (1, 1001)
    assert {name: found[name] for name in maps} == {name: (c, s, s) for name, (c, s) in maps.items()}


def test_unet_has_the_published_widths_at_each_size():
    model, found = meta.__wrapped__(build, "unet"), []
    for part in [*model.down, *model.up]:
        part.register_forward_hook(lambda m, a, y: found.append((a[0].shape[1], *y.shape[1:])))
    assert model(torch.empty(6, 3, 608, 416, device="meta")).shape == (6, 1, 608, 416)
    assert found == [
        (3, 64, 608, 416), (64, 128, 304, 208), (128, 256, 152, 104), (256, 512, 76, 52), (512, 512, 38, 26),
        (1024, 256, 76, 52), (512, 128, 152, 104), (256, 64, 304, 208), (128, 64, 608, 416),
    ]  # fmt: skip
    assert [part[0].out_channels for part in model.up] == [512, 256, 128, 64]  # half of what comes in
    assert model(torch.empty(1, 3, 45, 70, device="meta")).shape == (1, 1, 45, 70)


def test_a_block_of_the_small_residual_networks_is_the_formula():
    torch.manual_seed(0)
    block = CifarBlock(8, 16, 2, 0.0).double().eval()
    nn.init.uniform_(block.bn2.running_var, 0.5, 2)
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    y = f.conv2d(x, block.conv1.weight, stride=2, padding=1).div((1 + 1e-5) ** 0.5).clamp_min(0)
    y = f.conv2d(y, block.conv2.weight, padding=1) / (block.bn2.running_var + 1e-5).sqrt()[:, None, None]
    y[:, 4:12] += x[:, :, [0, 2, 4]][:, :, :, [0, 2, 4]]
    torch.testing.assert_close(block(x), y.clamp_min(0), rtol=1e-12, atol=1e-12)  # float64, the same sums


def test_the_recurrent_cell_is_the_formula():
    torch.manual_seed(0)
    cell = Cell(3, 4, 0.0).double()
    x, (c1, h1), (c2, h2) = torch.randn(5, 3).double(), torch.randn(2, 5, 4).double(), torch.randn(2, 5, 4).double()
    w, u, b = cell.iou_x.weight, cell.iou_c.weight, cell.iou_x.bias
    i, o, z = (x @ w.T + (c1 + c2) @ u.T + b).split(4, dim=1)
    inner = x @ cell.f_x.weight.T + cell.f_x.bias
    c = i.sigmoid() * z.tanh() + sum((inner * (h @ cell.f_h.weight.T)).sigmoid() for h in (h1, h2))
    found = cell(x, [(c1, h1), (c2, h2)])
    for expected, got in zip((c, o.sigmoid() * c.tanh()), found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)  # float64, the same sums
    leaf, _ = cell(x, [])
    i, o, z = (x @ w.T + b).split(4, dim=1)
    torch.testing.assert_close(leaf, i.sigmoid() * z.tanh(), rtol=1e-12, atol=1e-12)


def test_loops_and_trees_visit_their_inputs_once_each():
    torch.manual_seed(0)
    seen = []
    model = treelstm(3, 4)
    model.cell.register_forward_hook(lambda m, a, y: seen.append((float(a[0][0, 0]), len(a[1]))))
    model([torch.full((2, 3), float(k)) for k in range(7)])
    assert seen == [(3, 0), (4, 0), (1, 2), (5, 0), (6, 0), (2, 2), (0, 2)]
    model, steps = lstm(3, 4), [torch.randn(2, 3) for _ in range(3)]
    c, h = torch.zeros(1, 4), torch.zeros(1, 4)
    for x in steps:
        c, h = model.cell(x, [(c, h)])
    assert torch.equal(model(steps), c)


def test_the_loop_of_gru_cells_is_torchs_own():
    torch.manual_seed(0)
    program, fused = gru(3, 4), nn.GRU(3, 4)
    fused.load_state_dict({f"{name}_l0": value for name, value in program.cell.state_dict().items()})
    steps = [torch.randn(2, 3) for _ in range(5)]
    # float32: another order of the sums, over five steps
    torch.testing.assert_close(program(steps), fused(torch.stack(steps))[0][-1], rtol=1e-5, atol=1e-6)


def test_the_functional_adam_is_torchs():
    torch.manual_seed(0)
    value, gradients = torch.randn(5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)
    theirs = nn.Parameter(value.clone())
    optimiser = torch.optim.Adam([theirs], 1e-4, (0.5, 0.999), EPS)
    state = Learnt({"w": value}, {"w": torch.zeros(5)}, {"w": torch.zeros(5)}, torch.zeros(()).double())
    for gradient in gradients:
        theirs.grad = gradient
        optimiser.step()
        state = adam(state, {"w": gradient})
    # eps stands under the root here: of gradients near 1, that is 1e-8 of a step of 1e-4
    torch.testing.assert_close(state.parameters["w"], theirs.data, rtol=0, atol=1e-11)


def test_the_generators_gradient_goes_through_the_unrolled_steps(monkeypatch):
    """Against central differences in float64, with a discriminator that learns fast enough to matter."""
    monkeypatch.setattr("frugal.models.gan.LEARNING_RATE", 0.05)
    torch.manual_seed(0)
    model = unrolled_gan(6, 3, 4).double()
    noise, real = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    model(noise, real)
    learnt = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    assert learnt == {name for name in start if not name.startswith("generator")}
    monkeypatch.setattr(UnrolledGan, "_learn", lambda *_: None)  # the one step that the gradient does not go through
    start = {name: value.clone() for name, value in model.state_dict().items()}

    def loss():
        model.load_state_dict(start)
        return f.binary_cross_entropy(model(noise, real), torch.ones(5, 1).double())

    loss().backward()
    assert all(p.grad is None for p in model.discriminator.parameters())
    for name, parameter in model.named_parameters():
        if not name.startswith("generator"):
            continue
        direction = torch.randn_like(parameter)
        ends, kept = [], start[name]
        for step in (1e-6, -1e-6):
            start[name] = kept + step * direction
            ends.append(loss().detach())
        start[name] = kept
        slope = (ends[0] - ends[1]) / 2e-6
        # errors of differences: 1e-16 / 1e-6 of the loss, and the third derivative times 1e-12
        torch.testing.assert_close((parameter.grad * direction).sum(), slope, rtol=1e-5, atol=1e-8)
    without = unrolled_gan(6, 3, 0).double()
    without.load_state_dict(start)
    f.binary_cross_entropy(without(noise, real), torch.ones(5, 1).double()).backward()
    first = next(model.generator.parameters()).grad, next(without.generator.parameters()).grad
    assert (first[0] - first[1]).abs().max() > 0.01 * first[1].abs().max()  # unrolling changes it


def test_a_discriminators_dead_units_leave_finite_gradients():
    torch.manual_seed(0)
    model = unrolled_gan(16, 4, 3)
    with torch.no_grad():
        model.discriminator[0].bias[:8] = -100.0  # these never fire
    model(torch.randn(8, 4), torch.randn(8, 2)).log().mean().backward()
    assert all(p.grad.isfinite().all() for p in model.generator.parameters())
    assert any(p.grad.any() for p in model.generator.parameters())


def test_in_evaluation_nothing_is_learnt():
    torch.manual_seed(0)
    model = unrolled_gan(16, 4, 3).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    noise = torch.randn(8, 4)
    with torch.no_grad():
        assert torch.equal(model(noise, torch.randn(8, 2)), model.discriminator(model.generator(noise)))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


PIXELS, ROWS = (2, 3, 32, 32), [(2, 3)] * 3


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (partial(resnet32, width_divisor=8), [PIXELS]),
        (densenet100, [PIXELS]),
        (partial(unet, width_divisor=16), [PIXELS]),
        (partial(inceptionv4, width_divisor=16), [(2, 3, 107, 107)]),
        (partial(lstm, 3, 4), ROWS),
        (partial(treelstm, 3, 4), ROWS),
        (partial(gru, 3, 4), ROWS),
        (partial(unrolled_gan, 8, 4, 2), [(5, 4), (5, 2)]),
    ],
    ids=["resnet32", "densenet100", "unet", "inceptionv4", "lstm", "treelstm", "gru", "unrolled_gan"],
)
def test_dropout_is_for_training_and_changes_no_name(make, shapes):
    torch.manual_seed(0)
    inputs = [torch.randn(shape) for shape in shapes]
    given = (inputs,) if shapes is ROWS else tuple(inputs)
    without, dropping = make(), make(dropout=0.5)
    dropping.load_state_dict(without.state_dict())
    losses = [model(*given).detach() for model in (dropping, dropping)]
    assert not torch.equal(*losses)
    dropping.load_state_dict(without.state_dict())
    assert torch.equal(without.eval()(*given), dropping.eval()(*given))
