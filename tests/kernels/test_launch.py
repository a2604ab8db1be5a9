"""The launcher against a kernel that echoes its arguments: on a fake driver, and on the real one if there is a GPU."""

import dataclasses
import gc
import math
import re
import shutil
import weakref

import numpy as np
import pytest
import torch
from fake_driver import CUresult, FakeDriver

from kernels import launch
from kernels.build import build
from kernels.launch import Context, LaunchError, load

N = 70  # elements: two full blocks of 32 threads and a part


def context(driver, stream=77):
    return Context(driver, torch.device("cpu"), 0, lambda: stream)


def arguments(device="cpu", scale=0.1, n=N, shift=-5):
    """Random inputs and outputs with guards (one element more than is written), in the echo kernel's order."""
    generator = np.random.default_rng(0)
    inputs = [
        torch.from_numpy(generator.standard_normal(N).astype(np.float32)),
        torch.from_numpy(generator.integers(0, 2**31, N).astype(np.int32)),
        torch.from_numpy(generator.integers(-(2**31), 2**31, N).astype(np.int32)),
    ]
    outputs = [torch.full((N + 2,), 99, dtype=tensor.dtype) for tensor in inputs]
    return [tensor.to(device) for tensor in (*inputs, *outputs)] + [scale, np.uint32(n), shift]


def check_echo(args):
    """Scalar first, then the input, then the guard: equal bit for bit."""
    for source, sink, scalar in zip(args[:3], args[3:6], args[6:], strict=True):
        source, sink = source.cpu().numpy(), sink.cpu().numpy()
        assert sink[0] == np.asarray(scalar).astype(sink.dtype)
        np.testing.assert_array_equal(sink[1:-1], source)
        assert sink[-1] == 99


def test_arguments_arrive_as_they_were_given(echo_prefix):
    driver = FakeDriver()
    args = arguments()
    load(echo_prefix, context(driver)).bind(3, 32, args)()
    check_echo(args)
    (arrays, _) = driver.values[0]
    for tensor, words in zip(args[:6], arrays, strict=True):
        assert words == [0, 0, tensor.numel(), 4, tensor.data_ptr(), tensor.numel(), 4]


@pytest.mark.parametrize(
    ("scale", "n", "shift"),
    [
        (0.0, 0, 0),
        (-0.0, 1, -1),
        (3.4028234663852886e38, 2**32 - 1, 2**31 - 1),
        (1e-45, np.uint32(2**32 - 1), np.int32(-(2**31))),
        (math.inf, np.int64(3), np.int64(3)),
        (np.float32(0.1), 7, -7),
        (math.nan, 7, -7),
    ],
)
def test_scalars_at_the_ends_of_their_range(echo_prefix, scale, n, shift):
    driver = FakeDriver()
    # One block: a large n copies no more than there is.
    load(echo_prefix, context(driver)).bind((1, 1), (32, 1, 1), arguments(scale=scale, n=n, shift=shift))()
    _, (raw_scale, raw_n, raw_shift) = driver.values[0]
    assert raw_scale == np.float32(scale).tobytes()
    assert raw_n == np.array(n).astype(np.uint32).tobytes()
    assert raw_shift == np.array(shift).astype(np.int32).tobytes()


def test_a_launch_is_one_driver_call_on_the_current_stream(echo_prefix):
    driver = FakeDriver()
    bound = load(echo_prefix, context(driver, stream=77)).bind(3, 32, arguments())
    driver.calls.clear()
    bound()
    bound(5)
    bound(0)  # the default stream, not "no stream given"
    assert driver.calls == ["cuLaunchKernel"] * 3
    assert driver.streams == [77, 5, 0]


def test_a_launch_reads_what_its_tensors_hold_now(echo_prefix):
    args = arguments()
    bound = load(echo_prefix, context(FakeDriver())).bind(3, 32, args)
    bound()
    args[0].mul_(-1)
    bound()
    check_echo(args)


def test_a_launch_keeps_its_tensors_and_its_parameters_alive(echo_prefix):
    args = arguments()
    tensor = weakref.ref(args[0])
    outputs = args[3:6]
    expected = [value.clone() for value in args[:3]]
    bound = load(echo_prefix, context(FakeDriver())).bind(3, 32, args)
    del args
    gc.collect()
    assert tensor() is not None
    bound()
    assert all(torch.equal(sink[1:-1], source) for sink, source in zip(outputs, expected, strict=True))
    del bound
    gc.collect()
    assert tensor() is None


def test_tensors_of_any_shape_are_passed_flat(echo_prefix):
    args = arguments()
    flat = args[0]
    args[0] = flat.view(7, 5, 2)
    load(echo_prefix, context(FakeDriver())).bind(3, 32, args)()
    args[0] = flat
    check_echo(args)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros(3, np.float32), "argument x is ndarray, it must be a torch tensor"),
        (0, None, "argument x is NoneType, it must be a torch tensor"),
        (0, torch.zeros(3, dtype=torch.float64), "argument x has dtype float64, it must be float32"),
        (1, torch.zeros(3), "argument k has dtype float32, it must be uint32 or int32"),
        (2, torch.zeros(3, dtype=torch.uint32), "argument i has dtype uint32, it must be int32"),
        (0, torch.zeros(3, device="meta"), "argument x is on meta, the kernel on cpu"),
        (0, torch.zeros(4, 4).T[:2], "argument x is not contiguous (shape (2, 4), strides (1, 4))"),
        (0, torch.zeros(1).expand(2**31), "argument x is not contiguous"),
        (6, "a", "argument scale is 'a', it must be a number of kind f32"),
        (6, 1e39, "argument scale = 1e+39, which float32 cannot hold"),
        (7, -1, "argument n = -1, which uint32 cannot hold"),
        (7, 2**32, "argument n = 4294967296, which uint32 cannot hold"),
        (7, 1.0, "argument n is 1.0, it must be a number of kind u32"),
        (8, 2**31, "argument shift = 2147483648, which int32 cannot hold"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_named(echo_prefix, position, value, message):
    args = arguments()
    args[position] = value
    with pytest.raises(LaunchError, match=re.escape(f"kernel test/echo: {message}")):
        load(echo_prefix, context(FakeDriver())).bind(3, 32, args)


def test_a_tensor_that_32_bits_cannot_index_is_refused(echo_prefix):
    kernel = load(echo_prefix, dataclasses.replace(context(FakeDriver()), device=torch.device("meta")))
    args = [value.to("meta") if isinstance(value, torch.Tensor) else value for value in arguments()]
    args[0] = torch.empty(2**31, device="meta")
    with pytest.raises(LaunchError, match="argument x has 2147483648 elements"):
        kernel.bind(3, 32, args)


def test_the_number_of_arguments_is_checked(echo_prefix):
    with pytest.raises(LaunchError, match=r"takes 9 arguments \(x, k, i, floats, .*\), got 8"):
        load(echo_prefix, context(FakeDriver())).bind(3, 32, arguments()[:-1])


@pytest.mark.parametrize("grid", [0, (1, 0), 2**31, (1, 65536), (1, 1, 65536), (-1, 1, 1)])
def test_an_impossible_grid_is_refused(echo_prefix, grid):
    with pytest.raises(LaunchError, match=r"grid .* is not possible"):
        load(echo_prefix, context(FakeDriver())).bind(grid, 32, arguments())


@pytest.mark.parametrize("grid", [(), (1, 1, 1, 1)])
def test_a_grid_has_one_to_three_sizes(echo_prefix, grid):
    with pytest.raises(LaunchError, match="1 to 3 sizes"):
        load(echo_prefix, context(FakeDriver())).bind(grid, 32, arguments())


@pytest.mark.parametrize("grid", [2**31 - 1, (1, 65535, 65535), np.int64(3)])
def test_the_largest_grid_is_allowed(echo_prefix, grid):
    load(echo_prefix, context(FakeDriver())).bind(grid, 32, arguments())


@pytest.mark.parametrize("block", [31, 64, (16, 2), (32, 1, 2)])
def test_a_block_that_the_kernel_was_not_built_for_is_refused(echo_prefix, block):
    with pytest.raises(LaunchError, match="it was built for 32 threads in x"):
        load(echo_prefix, context(FakeDriver())).bind(3, block, arguments())


def test_a_kernel_that_allows_fewer_threads_takes_them(echo, tmp_path):
    build(dataclasses.replace(echo, threads=64, min_threads=16), "9.0", tmp_path / "k")
    kernel = load(tmp_path / "k", context(FakeDriver()))
    for block in (16, 33, 64):
        kernel.bind(3, block, arguments())
    for block in (15, 65, (16, 2)):
        with pytest.raises(LaunchError, match="built for 16 to 64 threads in x"):
            kernel.bind(3, block, arguments())


@pytest.mark.parametrize("function", ["cuModuleLoadData", "cuModuleGetFunction", "cuDeviceGetAttribute", "cuDeviceGet"])
def test_a_driver_that_refuses_to_load_is_quoted(echo_prefix, function):
    driver = FakeDriver(fails={function: CUresult.CUDA_ERROR_OUT_OF_MEMORY})
    with pytest.raises(LaunchError, match=f"{function} failed with CUDA_ERROR_OUT_OF_MEMORY: text of CUDA_ERROR_OUT"):
        load(echo_prefix, context(driver))


def test_a_failing_launch_is_quoted(echo_prefix):
    driver = FakeDriver()
    bound = load(echo_prefix, context(driver)).bind(3, 32, arguments())
    driver.fails = {"cuLaunchKernel": CUresult.CUDA_ERROR_LAUNCH_FAILED}
    with pytest.raises(LaunchError, match="kernel test/echo: cuLaunchKernel failed with CUDA_ERROR_LAUNCH_FAILED"):
        bound()


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (10, 0), (7, 5)])
def test_a_cubin_of_another_architecture_is_not_loaded(echo_prefix, capability):
    driver = FakeDriver(capability)
    with pytest.raises(LaunchError, match=r"built for capability 9\.0, this GPU has {}\.{}: add".format(*capability)):
        load(echo_prefix, context(driver))
    assert "cuModuleLoadData" not in driver.calls


def test_a_cubin_serves_later_minor_versions_of_its_architecture(echo, tmp_path):
    build(echo, "8.0", tmp_path / "k")
    args = arguments()
    load(tmp_path / "k", context(FakeDriver((8, 9)))).bind(3, 32, args)()
    check_echo(args)


def test_a_damaged_cubin_is_not_loaded(echo_prefix, tmp_path):
    for suffix in (".json", ".cubin"):
        shutil.copy(f"{echo_prefix}{suffix}", tmp_path / f"k{suffix}")
    damaged = bytearray((tmp_path / "k.cubin").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "k.cubin").write_bytes(damaged)
    driver = FakeDriver()
    with pytest.raises(LaunchError, match=r"cached copy of .*k\.cubin is damaged \(sha256 .*delete it and run again"):
        load(tmp_path / "k", context(driver))
    (tmp_path / "k.cubin").unlink()
    with pytest.raises(LaunchError, match=r"there is no cubin .*run the rule build_kernel"):
        load(tmp_path / "k", context(driver))
    assert not driver.calls


def test_a_report_that_does_not_fit_the_loaded_kernel_is_refused(echo_prefix):
    with pytest.raises(LaunchError, match="the driver gives it 999 registers"):
        load(echo_prefix, context(FakeDriver(registers=999)))


def test_occupancy_is_the_drivers(echo_prefix):
    kernel = load(echo_prefix, context(FakeDriver()))
    assert kernel.blocks_per_sm() == 65536 // (kernel.report.registers * 32)


def test_without_a_gpu_the_cpu_twin_is_named(echo_prefix):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(LaunchError, match="torch sees no GPU"):
        load(echo_prefix)


def test_the_fake_has_the_real_drivers_functions():
    """What the fake answers must exist under the same name in cuda.bindings, or the fake would hide a slip."""
    from cuda.bindings import driver

    for name in (name for name in dir(FakeDriver) if name.startswith("cu")):
        assert callable(getattr(driver, name)), name
    for kind in ("CUfunction_attribute", "CUdevice_attribute"):
        for member in getattr(FakeDriver, kind):
            assert getattr(getattr(driver, kind), member.name) == member.value
    assert not driver.CUresult.CUDA_SUCCESS  # `if status` is the launcher's test for an error
    assert driver.CUresult.CUDA_ERROR_LAUNCH_FAILED


def test_the_simulator_echoes_too(echo):
    args = arguments()
    values = [tensor.numpy() for tensor in args[:6]]
    for position in (1, 4):
        values[position] = values[position].view(np.uint32)
    launch.simulate(echo, 3, 32, (*values, *args[6:]))
    check_echo(args)


@pytest.fixture
def gpu_kernel(echo, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU: the real driver loads and runs the echo kernel")
    capability = "{}.{}".format(*torch.cuda.get_device_capability())
    build(echo, capability, tmp_path / "k")
    return load(tmp_path / "k")


@pytest.mark.gpu
def test_a_gpu_echoes_the_arguments(gpu_kernel):
    args = arguments("cuda")
    gpu_kernel.bind(3, 32, args)()
    check_echo(args)
    assert gpu_kernel.blocks_per_sm() > 0


@pytest.mark.gpu
def test_a_launch_goes_to_the_current_stream_and_into_a_graph(gpu_kernel):
    args = arguments("cuda")
    bound = gpu_kernel.bind(3, 32, args)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        bound()
    side.synchronize()
    check_echo(args)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        bound()
    for sink in args[3:6]:
        sink.fill_(99)
    torch.cuda.synchronize()
    assert (args[3] == 99).all()  # captured, not run
    args[0].mul_(-1)
    graph.replay()
    torch.cuda.synchronize()
    check_echo(args)


@pytest.mark.gpu
def test_a_failing_launch_on_a_gpu_carries_the_drivers_text(gpu_kernel):
    """A block of no threads is refused before anything is enqueued, so the device stays usable."""
    nothing = (0,) * 9
    with pytest.raises(LaunchError, match=r"cuLaunchKernel failed with CUDA_ERROR_INVALID_VALUE: invalid argument"):
        gpu_kernel._call("cuLaunchKernel", gpu_kernel._function, *nothing, 0)
