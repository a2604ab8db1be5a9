"""Right before fast: the rules of verification, and what each wrong output is called."""

import pytest
import torch

from frugal.timing import Arm, Case, Prepared, Reference, Verifier
from frugal.timing.verify import checksum, poison, rounded, tensors


def product_case(terms=64, s=True, integers=False):
    """y = x w with `terms` products a sum; the reference in float64 is exact for these sizes."""

    def reference(inputs):
        x, w = inputs["x"].double(), inputs["w"].double()
        return Reference(x @ w, x.abs() @ w.abs() if s else None, terms)

    return Case("cusnn", "layers", {}, lambda seed, phase: None, reference)


def operands(terms=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"x": torch.randn(8, terms, generator=generator), "w": torch.randn(terms, 5, generator=generator)}


def arm(role="ours", **given):
    return Arm(name=role, role=role, prepare=lambda inputs: Prepared(lambda: None), **given)


def gamma(k):
    return k * 2**-24 / (1 - k * 2**-24)


def test_a_float32_sum_passes_and_its_error_is_told():
    inputs = operands()
    check = Verifier(product_case(), inputs).check(arm(), [inputs["x"] @ inputs["w"]])
    exact = inputs["x"].double() @ inputs["w"].double()
    error = (inputs["x"] @ inputs["w"]).double() - exact
    assert (check.ok, check.rule) == (True, "a_priori")
    assert check.max_abs_err == float(error.abs().max())
    assert check.max_rel_err == pytest.approx(float(error.abs().max() / exact.abs().max()))


@pytest.mark.parametrize(("factor", "ok"), [(0.99, True), (1.01, False)])
def test_the_a_priori_bound_is_per_element(factor, ok):
    inputs = operands()
    y = inputs["x"].double() @ inputs["w"].double()
    s = inputs["x"].double().abs() @ inputs["w"].double().abs()
    wrong = y.clone()
    wrong[3, 2] += factor * float(gamma(64) * s[3, 2] + 2**-24 * y[3, 2].abs())
    check = Verifier(product_case(), inputs).check(arm(), [wrong])
    assert check.ok is ok
    if not ok:
        assert "a_priori" in check.reason


def test_baselines_get_four_times_the_bound_and_tf32_its_rounded_operands():
    inputs = operands()
    y = inputs["x"].double() @ inputs["w"].double()
    s = inputs["x"].double().abs() @ inputs["w"].double().abs()
    off = y + 3.9 * (gamma(64) * s + 2**-24 * y.abs())
    verifier = Verifier(product_case(), inputs)
    assert not verifier.check(arm(), [off]).ok
    assert verifier.check(arm("baseline"), [off]).rule == "a_priori_x4"
    u = 2**-11
    tf32 = y + 0.99 * ((2 * u + u * u + gamma(64)) * s + 2**-24 * y.abs())
    assert not verifier.check(arm(), [tf32]).ok or verifier.check(arm(), [tf32]).rule == "baseline_x2"
    assert Verifier(product_case(), inputs).check(arm(tf32=True), [tf32]).rule == "a_priori"
    assert not Verifier(product_case(), inputs).check(arm(tf32=False), [tf32]).ok


@pytest.mark.parametrize(("factor", "ok"), [(3.9, True), (4.1, False)])
def test_a_baselines_convolution_may_spread_its_error_over_the_plane(factor, ok):
    x, w = torch.zeros(1, 3, 6, 6), torch.randn(2, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    x[0, :, 0, 0] = 1.0  # outputs far from the corner have S = 0

    def reference(inputs):
        x, w = inputs["x"].double(), inputs["w"].double()
        conv = torch.nn.functional.conv2d
        return Reference(conv(x, w, padding=1), conv(x.abs(), w.abs(), padding=1), 27)

    case = Case("cusnn", "layers", {}, lambda seed, phase: None, reference)
    right = reference({"x": x, "w": w})
    spread = right.y.clone()
    spread[0, 1, 5, 5] += factor * gamma(27) * float(right.s[0, 1].max())
    assert Verifier(case, {"x": x, "w": w}).check(arm("baseline"), [spread]).ok is ok
    assert not Verifier(case, {"x": x, "w": w}).check(arm(), [spread]).ok


def test_the_reference_of_a_half_arm_gets_rounded_inputs():
    inputs = operands()
    half = rounded(inputs, "float16")
    assert half["x"].dtype == torch.float32
    assert torch.equal(half["x"], inputs["x"].half().float())
    y = (half["x"].double() @ half["w"].double()).half()
    assert Verifier(product_case(), inputs).check(arm(dtype="float16"), [y]).rule == "a_priori"
    unrounded = (inputs["x"].double() @ inputs["w"].double()).half()
    assert not Verifier(product_case(), inputs).check(arm(dtype="float16"), [unrounded]).ok


@pytest.mark.parametrize(("factor", "ok"), [(1.99, True), (2.3, False)])
def test_another_order_may_have_twice_the_baselines_error(factor, ok):
    inputs = operands()
    y = inputs["x"].double() @ inputs["w"].double()
    verifier = Verifier(product_case(s=False), inputs)
    assert verifier.check(arm("baseline"), [y + 1e-5]).rule == "norm"
    check = verifier.check(arm(), [y + factor * 1e-5])  # half an ulp of the largest output is some 0.15e-5 more
    assert check.ok is ok
    assert check.rule == ("baseline_x2" if ok else None)


def test_the_baseline_must_have_the_same_dtype_and_tf32():
    inputs = operands()
    y = inputs["x"].double() @ inputs["w"].double()
    verifier = Verifier(product_case(s=False), inputs)
    verifier.check(arm("baseline", tf32=True), [y + 1e-3])
    check = verifier.check(arm(tf32=False), [y + 1e-3])
    assert not check.ok
    assert "no rule applies" in check.reason


def test_a_wrong_baseline_is_no_yardstick():
    inputs = operands()
    y = inputs["x"].double() @ inputs["w"].double()
    verifier = Verifier(product_case(), inputs)
    assert not verifier.check(arm("baseline"), [y + 1]).ok
    assert not verifier.check(arm(), [y + 1]).ok


def test_an_arm_can_be_held_to_one_rule():
    inputs = operands()
    y = inputs["x"].double() @ inputs["w"].double()
    verifier = Verifier(product_case(), inputs)
    baseline = y.clone()
    s = inputs["x"].double().abs() @ inputs["w"].double().abs()
    baseline += 3 * gamma(64) * s
    assert verifier.check(arm("baseline"), [baseline]).ok
    assert verifier.check(arm(), [baseline]).rule == "baseline_x2"
    assert not verifier.check(arm(tolerance="a_priori"), [baseline]).ok
    assert verifier.check(arm(tolerance="baseline"), [y]).rule == "baseline_x2"
    assert verifier.check(arm(tolerance="norm"), [y * 1.0009]).rule == "norm"
    assert not verifier.check(arm(tolerance="norm"), [y * 1.0011]).ok
    # an arm may promise more than its precision
    assert verifier.check(arm(tolerance="norm", norm_bound=1e-5), [y * (1 + 9e-6)]).err_bound == 1e-5
    assert not verifier.check(arm(tolerance="norm", norm_bound=1e-5), [y * (1 + 1.1e-5)]).ok


def test_what_is_left_unwritten_is_called_so():
    inputs = operands()
    y = (inputs["x"] @ inputs["w"]).clone()
    y[0, 1] = float("nan")
    check = Verifier(product_case(), inputs).check(arm(), [y])
    assert (check.ok, check.reason) == (False, "unwritten: 1 elements are NaN")


def test_infinity_and_another_shape_are_wrong():
    inputs = operands()
    y = inputs["x"] @ inputs["w"]
    verifier = Verifier(product_case(), inputs)
    assert not verifier.check(arm(), [y / 0]).ok
    assert "shape (5, 8)" in verifier.check(arm(), [y.T]).reason
    assert "outputs: 2 where the reference has 1" in verifier.check(arm(), [y, y]).reason


def test_integers_are_exact_and_poisoned_with_their_least_value():
    case = Case("syno", "x", {}, lambda seed, phase: None, lambda inputs: Reference(inputs["x"] + 1))
    inputs = {"x": torch.arange(6, dtype=torch.int32)}
    verifier = Verifier(case, inputs)
    y = torch.empty(6, dtype=torch.int32)
    poison([y])
    assert set(y.tolist()) == {-(2**31)}
    assert verifier.check(arm(dtype="int32"), [y]).reason == "unwritten: 6 elements"
    assert verifier.check(arm(dtype="int32"), [inputs["x"] + 1]).rule == "exact"
    assert verifier.check(arm(dtype="int32"), [inputs["x"]]).reason == "6 of 6 integers differ"


def test_several_outputs_are_all_compared():
    both = Case("dtr", "x", {}, lambda seed, phase: None, lambda i: (Reference(i["x"].double()),) * 2)
    inputs = operands()
    x = inputs["x"]
    verifier = Verifier(both, inputs)
    assert verifier.check(arm(tolerance="norm"), [x, x]).ok
    assert not verifier.check(arm(tolerance="norm"), [x, x + 1]).ok


def test_poison_reaches_what_a_library_made_in_inference_mode():
    with torch.inference_mode():
        made = torch.ones(4)
    poison([made])
    assert made.isnan().all()
    leaf = torch.ones(3, requires_grad=True)
    poison([leaf])
    assert leaf.detach().isnan().all()


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.int8, torch.bool, torch.complex64]
)
def test_a_checksum_sees_one_changed_element(dtype):
    value = torch.arange(12).to(dtype).reshape(3, 4)
    before = checksum({"x": value})
    assert checksum({"x": value.T.contiguous().T}) == before
    value[2, 1] = 0
    assert checksum({"x": value}) != before


def test_what_run_may_return():
    y = torch.ones(1)
    assert tensors(None, (y,)) == (y,)
    assert tensors(y) == (y,)
    assert tensors([y, y]) == (y, y)
    with pytest.raises(TypeError, match="returned a dict"):
        tensors({"y": y})
