"""Loads a built kernel and launches it at little cost to the host: packed once, a launch is one driver call.

    kernel = load("results/kernels/sparse/v3.sm_90")
    launch = kernel.bind(grid, kernel.report.threads, (x, w, y, np.uint32(channels)))
    launch()          # on torch's current stream; may be captured in a CUDA graph

A launch does no check, no allocation and no synchronisation: `bind` did the checks, and the parameter block that it
filled keeps its address. Numba's own launch packs the arguments every time (16 µs with one array).

One GPU a process: modules are loaded in torch's primary context of the device that is current at `load`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import operator
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from frugal.errors import FrugalError
from kernels.build import ELEMENTS, SCALARS, BuildReport, parameter_sizes, read_report
from kernels.simulator import simulate

if TYPE_CHECKING:
    import torch

__all__ = ["Context", "Kernel", "Launch", "LaunchError", "load", "simulate", "torch_context"]

GRID_LIMITS = (2**31 - 1, 65535, 65535)  # CUDA programming guide, table of technical specifications, all capabilities
PORTABLE_CLUSTER = 8  # blocks; more only where the function allows it
MAX_ELEMENTS = 2**31  # the kernels index with 32 unsigned bits, and add to an index before they compare it
SCALAR_FORMATS = {  # a number in the low half of a word
    "f32": "<f4x",
    "i32": "<i4x",
    "u32": "<I4x",
}


class LaunchError(FrugalError, ValueError):
    """A kernel that cannot be loaded or launched here, or arguments that it does not take."""


@dataclass(frozen=True)
class Context:
    """Where kernels run: `cuda.bindings.driver`, torch's device, the driver's number of it, torch's current stream."""

    driver: Any
    device: torch.device
    ordinal: int
    stream: Callable[[], int]


def torch_context() -> Context:
    """torch's current device, its primary context made and current. Raises LaunchError without a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise LaunchError("torch sees no GPU, so no CUDA kernel can be loaded: use the CPU twin on this machine.")
    from cuda.bindings import driver

    torch.cuda.synchronize()  # the first call makes the primary context and leaves it current
    ordinal = torch.cuda.current_device()
    # The raw handle costs 0.1 µs; torch.cuda.current_stream() makes a Stream object, a good part of a launch.
    stream = functools.partial(torch._C._cuda_getCurrentRawStream, ordinal)
    return Context(driver, torch.device("cuda", ordinal), ordinal, stream)


def load(prefix: str | Path, context: Context | None = None) -> Kernel:
    """The kernel that `kernels.build.build` wrote under a prefix, loaded on the context's device (default: torch's).

    Raises LaunchError if the cubin is not the one its report describes or was built for another architecture.
    """
    report = read_report(prefix)
    path = Path(f"{prefix}.cubin")
    try:
        image = path.read_bytes()
    except FileNotFoundError:
        raise LaunchError(f"there is no cubin {path}: run the rule build_kernel for it.") from None
    found = hashlib.sha256(image).hexdigest()
    if found != report.cubin_sha256:
        raise LaunchError(
            f"cached copy of {path} is damaged (sha256 {found[:16]}…, expected {report.cubin_sha256[:16]}…): delete it "
            "and run again."
        )
    return Kernel(report, image, context or torch_context())


class Kernel:
    """A loaded kernel. Its module stays loaded as long as the process lives: CUDA graphs may still hold its code."""

    def __init__(self, report: BuildReport, image: bytes, context: Context) -> None:
        self.report = report
        self.context = context
        self._check_architecture()
        driver = context.driver
        (self._module,) = self._call("cuModuleLoadData", image)
        (self._function,) = self._call("cuModuleGetFunction", self._module, report.entry.encode())
        (registers,) = self._call(
            "cuFuncGetAttribute", driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NUM_REGS, self._function
        )
        if registers != report.registers:
            raise LaunchError(
                f"kernel {report.variant}: the driver gives it {registers} registers, its report {report.registers}: "
                "delete the report and run again."
            )
        if report.dynamic_shared_bytes:
            self._set("CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES", report.dynamic_shared_bytes)

    def blocks_per_sm(self) -> int:
        """How many blocks of this kernel one multiprocessor can hold at a time."""
        (blocks,) = self._call(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor",
            self._function,
            self.report.threads,
            self.report.dynamic_shared_bytes,
        )
        return blocks

    def bind(
        self,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Any],
        *,
        cluster: int | Sequence[int] = 1,
        overlap: bool = False,
    ) -> Launch:
        """A launch with these arguments: contiguous tensors on the kernel's device (passed flat) and numbers, in order.

        grid: blocks in x, y, z. block: threads, as many as the kernel was built for. The tensors are kept
        alive by the launch; it works on their memory, so changing their values changes what the next launch reads.
        cluster: blocks of a thread-block cluster in x, y, z, of which the grid is a multiple (capability 9.0 and up).
        overlap: the launch may begin before the one ahead of it on the stream has ended (programmatic dependent
        launch); for a kernel that itself waits before it reads what that one writes.
        Raises LaunchError, naming the argument, for a wrong kind, dtype, device, layout or size.
        """
        shape = (*self._grid(grid), *self._block(block))
        attributes = self._attributes(shape[:3], _three(cluster), overlap)
        parameters = self.report.parameters
        if len(args) != len(parameters):
            names = ", ".join(name for name, _ in parameters)
            raise LaunchError(f"{self._name}: takes {len(parameters)} arguments ({names}), got {len(args)}.")
        words = b"".join(
            self._array(name, kind, value) if kind.endswith("*") else self._scalar(name, kind, value)
            for (name, kind), value in zip(parameters, args, strict=True)
        )
        return Launch(self, shape, words, tuple(args), attributes)

    @property
    def _name(self) -> str:
        return f"kernel {self.report.family}/{self.report.variant}"

    def _check_architecture(self) -> None:
        names = self.context.driver.CUdevice_attribute
        (device,) = self._call("cuDeviceGet", self.context.ordinal)
        (major,) = self._call("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        (minor,) = self._call("cuDeviceGetAttribute", names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
        built_major, built_minor = map(int, self.report.capability.split("."))
        if built_major != major or built_minor > minor:
            raise LaunchError(
                f"{self._name} was built for capability {self.report.capability}, this GPU has {major}.{minor}: add "
                f'"{major}.{minor}" to kernels.capabilities and run again.'
            )

    def _grid(self, grid: int | Sequence[int]) -> tuple[int, int, int]:
        sizes = _three(grid)
        if any(not 1 <= size <= limit for size, limit in zip(sizes, GRID_LIMITS, strict=True)):
            raise LaunchError(
                f"{self._name}: grid {sizes} is not possible, sizes must be from 1 to {GRID_LIMITS}; split the batch."
            )
        return sizes

    def _block(self, block: int | Sequence[int]) -> tuple[int, int, int]:
        sizes = _three(block)
        most, fewest = self.report.threads, self.report.min_threads or self.report.threads
        if sizes[1:] != (1, 1) or not fewest <= sizes[0] <= most:
            allowed = f"{most}" if fewest == most else f"{fewest} to {most}"
            raise LaunchError(f"{self._name}: block {sizes}, but it was built for {allowed} threads in x; pass those.")
        return sizes

    def _attributes(self, grid: tuple[int, ...], cluster: tuple[int, int, int], overlap: bool) -> list:
        """The driver's attributes of a launch that has clusters or may overlap."""
        driver, attributes = self.context.driver, []
        if float(self.report.capability) < 9:  # neither exists there: the kernel was built without
            return attributes
        blocks = math.prod(cluster)
        if blocks > 1:
            if any(size % part for size, part in zip(grid, cluster, strict=True)):
                raise LaunchError(f"{self._name}: grid {grid} is no multiple of the cluster {cluster}; pad the grid.")
            if blocks > PORTABLE_CLUSTER:
                self._set("CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED", 1)
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
            attribute.value.clusterDim.x, attribute.value.clusterDim.y, attribute.value.clusterDim.z = cluster
            attributes.append(attribute)
        if overlap:
            attribute = driver.CUlaunchAttribute()
            attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
            attribute.value.programmaticStreamSerializationAllowed = 1
            attributes.append(attribute)
        return attributes

    def _set(self, attribute: str, value: int) -> None:
        names = self.context.driver.CUfunction_attribute
        self._call("cuFuncSetAttribute", self._function, getattr(names, attribute), value)

    def _array(self, name: str, kind: str, value: Any) -> bytes:
        """The 7 words of a flat array in Numba's ABI."""
        import torch

        where = f"{self._name}: argument {name}"
        if not isinstance(value, torch.Tensor):
            raise LaunchError(f"{where} is {type(value).__name__}, it must be a torch tensor.")
        wanted = ELEMENTS[kind.rstrip("*")]
        # torch does little arithmetic on uint32, so counters usually live in int32: the same 4 bytes.
        allowed = ("uint32", "int32") if wanted == "uint32" else (wanted,)
        dtype = str(value.dtype).removeprefix("torch.")
        if dtype not in allowed:
            raise LaunchError(f"{where} has dtype {dtype}, it must be {' or '.join(allowed)}; convert it.")
        if value.device != self.context.device:
            raise LaunchError(f"{where} is on {value.device}, the kernel on {self.context.device}; move it there.")
        if not value.is_contiguous():
            raise LaunchError(
                f"{where} is not contiguous (shape {tuple(value.shape)}, strides {value.stride()}); pass .contiguous() "
                "or a flat view of its memory."
            )
        if value.numel() >= MAX_ELEMENTS:
            raise LaunchError(
                f"{where} has {value.numel()} elements, the kernel indexes fewer than 2^31; split the batch."
            )
        items, size = value.numel(), value.element_size()
        return struct.pack("<7Q", 0, 0, items, size, value.data_ptr(), items, size)

    def _scalar(self, name: str, kind: str, value: Any) -> bytes:
        """One word: a 4-byte number and padding."""
        where = f"{self._name}: argument {name}"
        try:
            number = float(value) if kind == "f32" else operator.index(value)
        except (TypeError, ValueError):
            raise LaunchError(f"{where} is {value!r}, it must be a number of kind {kind}.") from None
        try:
            return struct.pack(SCALAR_FORMATS[kind], number)
        except (OverflowError, struct.error):
            raise LaunchError(f"{where} = {number}, which {SCALARS[kind]} cannot hold.") from None

    def _call(self, function: str, *arguments: Any) -> tuple:
        """The results of a driver function, less its status. Raises LaunchError with the driver's text."""
        status, *results = getattr(self.context.driver, function)(*arguments)
        if status:
            self._fail(function, status)
        return tuple(results)

    def _fail(self, function: str, status: Any) -> NoReturn:
        driver = self.context.driver
        _, text = driver.cuGetErrorString(status)
        reason = text.decode() if text else "no text"
        raise LaunchError(
            f"{self._name}: {function} failed with {status.name}: {reason} (an error of an earlier kernel shows up "
            "here too; CUDA_LAUNCH_BLOCKING=1 tells which)."
        )


class Launch:
    """A kernel with its grid and arguments. Calling it enqueues the kernel and returns at once."""

    __slots__ = (
        "_address",
        "_attributes",
        "_block",
        "_config",
        "_cu_launch_kernel",
        "_current_stream",
        "_kernel",
        "_pointers",
        "args",
    )

    def __init__(
        self, kernel: Kernel, shape: tuple[int, ...], words: bytes, args: tuple[Any, ...], attributes: list
    ) -> None:
        count = len(parameter_sizes(kernel.report.parameters))
        self.args = args  # keeps the tensors alive
        self._kernel = kernel
        # One 8-byte slot a value, and the array of their addresses that cuLaunchKernel takes.
        self._block = ctypes.create_string_buffer(words, len(words))
        start = ctypes.addressof(self._block)
        self._pointers = (ctypes.c_void_p * count)(*(start + 8 * slot for slot in range(count)))
        self._address = ctypes.addressof(self._pointers)
        self._current_stream = kernel.context.stream
        driver, shared = kernel.context.driver, kernel.report.dynamic_shared_bytes
        self._attributes = attributes
        self._config = None
        if not attributes:
            self._cu_launch_kernel = functools.partial(driver.cuLaunchKernel, kernel._function, *shape, shared)
            return
        config = self._config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = shape[:3]
        config.blockDimX, config.blockDimY, config.blockDimZ = shape[3:]
        config.sharedMemBytes = shared
        config.attrs, config.numAttrs = attributes, len(attributes)
        self._cu_launch_kernel = functools.partial(driver.cuLaunchKernelEx, config, kernel._function)

    def __call__(self, stream: int | None = None) -> None:
        """Enqueues on a stream (torch's `stream.cuda_stream`), by default torch's current one. Raises LaunchError."""
        if stream is None:
            stream = self._current_stream()
        if self._config is None:
            status = self._cu_launch_kernel(stream, self._address, 0)[0]
        else:
            self._config.hStream = stream
            status = self._cu_launch_kernel(self._address, 0)[0]
        if status:
            self._kernel._fail("cuLaunchKernel", status)


def _three(sizes: int | Sequence[int]) -> tuple[int, int, int]:
    """Sizes in x, y, z, filled up with 1."""
    given = (int(sizes),) if isinstance(sizes, Integral) else tuple(int(size) for size in sizes)
    if not 1 <= len(given) <= 3:
        raise LaunchError(f"a grid or block has 1 to 3 sizes, got {given}.")
    return (*given, *(1,) * (3 - len(given)))
