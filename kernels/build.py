"""Python kernel source to PTX, cubin and a report of its resources, on a machine with or without a GPU.

numba-cuda types the source and writes NVVM IR, NVVM writes PTX, nvJitLink assembles the cubin; none of them needs a
device. What the kernel costs (registers, spills, shared memory, instructions) is read back from the cubin itself
(kernels.cubin) and from nvJitLink's log, and the two must agree.

Why arrays and not plain pointers as parameters: both were built for sm_90 from the same text (a five-point stencil and
the sparse convolution, `float32[::1]` against `CPointer(float32)`) and gave the same registers and the same number of
instructions (18 and 90, 127, 144 registers; 1128 to 1672 instructions), since Numba's array header is dead code when a
kernel indexes flat 1-D arrays with unsigned integers. Numba's atomics take arrays only, so arrays are the one form. An
array then occupies 7 words in the parameter block (`ARRAY_WORDS`), filled once when a launch is bound; the build
compares the parameter layout in the cubin with this rule, so that another Numba ABI cannot pass unnoticed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import linecache
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from frugal.errors import FrugalError
from frugal.files import publishing
from kernels import cubin

# Kind -> dtype, by the name that Numba, NumPy and torch all give it; numbers have 4 bytes. A * marks a flat array.
SCALARS = {"f32": "float32", "i32": "int32", "u32": "uint32"}
ELEMENTS = {**SCALARS, "u8": "uint8", "u16": "uint16"}
KINDS = (*SCALARS, *(f"{kind}*" for kind in ELEMENTS))
ARRAY_WORDS = 7  # 64-bit words of a 1-D array in Numba's ABI: meminfo, parent, items, item size, data, shape, stride
MAX_THREADS = 1024


class BuildError(FrugalError, ValueError):
    """A kernel that cannot be built: bad source, unknown capability, missing toolkit."""


@dataclass(frozen=True, kw_only=True)
class KernelSource:
    """A kernel before it is compiled: the text and what a build and a launch must know of it.

    `python_source` is a complete module: it imports what it uses (`from numba import config, cuda, float32, uint32`)
    and defines the function `entry`, undecorated. The same text runs in Numba's simulator, where
    `config.ENABLE_CUDASIM` is true: there the module binds the warp intrinsics that the simulator lacks (ballot, warp
    barrier) to emulations. It calls no further function of its own on a GPU: Numba compiles a callee only for a device
    that is there.
    """

    family: str
    """The kernel's folder, e.g. "sparse"."""
    variant: str
    """Name of this compile-time choice within the family; files are called after it."""
    entry: str
    """Function in `python_source`, and symbol in the cubin."""
    python_source: str
    parameters: tuple[tuple[str, str], ...]
    """(name, kind) in the function's order. Kinds: f32* i32* u32* u8* u16* (flat arrays), f32 i32 u32."""
    threads: int
    """Threads a block, in one dimension: the compiler relies on there being no more."""
    min_threads: int | None = None
    """Fewest threads that a launch may have, where the kernel asks how many there are; None: always `threads`."""
    max_registers: int | None = None
    """Upper limit of registers a thread; None leaves it to the block size."""
    dynamic_shared_bytes: int = 0
    """Shared memory a block gets at its launch, beyond what the source declares by size."""
    fastmath: bool = False
    """Numba's fastmath: assumes no NaN and flushes denormals. Multiply-adds contract without it."""

    def __post_init__(self) -> None:
        name = f"kernel {self.family}/{self.variant}"
        if not self.entry.isidentifier():
            raise BuildError(f"{name}: entry {self.entry!r} is not a Python name; use one like conv3x3.")
        for parameter, kind in self.parameters:
            if kind not in KINDS:
                raise BuildError(
                    f"{name}: parameter {parameter} has kind {kind!r}, allowed are {', '.join(KINDS)}; use one of them."
                )
        if not 1 <= self.threads <= MAX_THREADS:
            raise BuildError(f"{name}: threads = {self.threads}, allowed are 1 to {MAX_THREADS}; use a multiple of 32.")
        if self.min_threads is not None and not 1 <= self.min_threads <= self.threads:
            raise BuildError(
                f"{name}: min_threads = {self.min_threads}, allowed are 1 to threads = {self.threads}; leave it None "
                "for a fixed block."
            )
        if self.max_registers is not None and not 16 <= self.max_registers <= 255:
            raise BuildError(
                f"{name}: max_registers = {self.max_registers}, allowed are 16 to 255; leave it None for no limit."
            )

    @property
    def sha256(self) -> str:
        """Hash of every field: equal sources, built with equal tools, give equal bytes."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def function(self) -> Callable:
        """The function `entry`, from executing the module; its lines show in tracebacks."""
        name = f"<kernel {self.family}/{self.variant}>"
        # mtime None keeps linecache from looking for a file of this name.
        linecache.cache[name] = (len(self.python_source), None, self.python_source.splitlines(True), name)
        module = {"__name__": f"kernels.generated.{self.family}"}
        exec(compile(self.python_source, name, "exec"), module)
        found = module.get(self.entry)
        if not callable(found):
            raise BuildError(f"kernel {self.family}/{self.variant}: the source defines no function {self.entry}.")
        wanted = tuple(parameter for parameter, _ in self.parameters)
        given = found.__code__.co_varnames[: found.__code__.co_argcount]
        if given != wanted:
            raise BuildError(
                f"kernel {self.family}/{self.variant}: {self.entry}({', '.join(given)}) does not match its parameter "
                f"list ({', '.join(wanted)}); give one (name, kind) an argument, in order."
            )
        return found


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What was built and what it costs: the content of `<prefix>.json`. None means not known, never zero."""

    family: str
    variant: str
    entry: str
    capability: str
    parameters: tuple[tuple[str, str], ...]
    threads: int
    max_registers: int | None
    fastmath: bool
    registers: int
    """Registers a thread."""
    local_bytes: int
    """Local memory a thread: spilled registers and arrays that the compiler could not keep in registers."""
    spill_store_bytes: int | None
    spill_load_bytes: int | None
    shared_bytes: int
    """Static shared memory a block; from capability 9.0 on with the 1024 bytes that the system keeps there."""
    dynamic_shared_bytes: int
    """Shared memory a block gets at its launch, on top of the static."""
    constant_bytes: int
    """Constant memory, the parameter block included."""
    instructions: int
    """Machine instructions, padding left out."""
    ffma: int | None
    """float32 multiply-adds among them; None where the encoding is not known (capability 10.0 and up)."""
    source_sha256: str
    ptx_sha256: str
    cubin_sha256: str
    tools: dict[str, str | None]
    """Versions of what compiled it."""
    min_threads: int | None = None
    """Fewest threads that a launch may have; None: always `threads`."""
    hmma: int | None = None
    """Matrix multiply-adds on tensor cores among the instructions; None where the encoding is not known."""


def build(source: KernelSource, capability: str, prefix: str | Path) -> BuildReport:
    """Writes `<prefix>.ptx`, `<prefix>.cubin` and `<prefix>.json` for one compute capability, such as "9.0".

    The same source and tools give the same bytes, in any process and after any other build. The report is written
    last, so a report means that all three are there. Raises BuildError for an unknown capability or a source that does
    not compile.
    """
    major, minor = _capability(capability)
    ptx = _ptx(source, (major, minor))
    image, log = _link(source, ptx, f"sm_{major}{minor}")
    resources = cubin.read(image, source.entry)
    spill_stores, spill_loads = _check_log(source, log, resources)
    _check_layout(source, resources)
    report = BuildReport(
        family=source.family,
        variant=source.variant,
        entry=source.entry,
        capability=f"{major}.{minor}",
        parameters=source.parameters,
        threads=source.threads,
        max_registers=source.max_registers,
        fastmath=source.fastmath,
        registers=resources.registers,
        local_bytes=resources.local_bytes,
        spill_store_bytes=spill_stores,
        spill_load_bytes=spill_loads,
        shared_bytes=resources.shared_bytes,
        dynamic_shared_bytes=source.dynamic_shared_bytes,
        constant_bytes=resources.constant_bytes,
        instructions=resources.instructions,
        ffma=resources.ffma if major < 10 else None,
        source_sha256=source.sha256,
        ptx_sha256=hashlib.sha256(ptx).hexdigest(),
        cubin_sha256=hashlib.sha256(image).hexdigest(),
        tools=tools(),
        min_threads=source.min_threads,
        hmma=resources.hmma if major < 10 else None,
    )
    _publish(prefix, ".ptx", ptx)
    _publish(prefix, ".cubin", image)
    _publish(prefix, ".json", (json.dumps(dataclasses.asdict(report), indent=1, sort_keys=True) + "\n").encode())
    return report


def read_report(prefix: str | Path) -> BuildReport:
    """The report beside a built kernel. Raises BuildError if it is missing or was written by another version."""
    path = Path(f"{prefix}.json")
    try:
        fields = json.loads(path.read_text())
        fields["parameters"] = tuple((name, kind) for name, kind in fields["parameters"])
        return BuildReport(**fields)
    except FileNotFoundError:
        raise BuildError(f"there is no kernel report {path}: run the rule build_kernel for it.") from None
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"kernel report {path} cannot be read ({error}): delete it and run again.") from None


def capabilities() -> tuple[str, ...]:
    """The compute capabilities that the installed toolkit can build for, lowest first."""
    from cuda.bindings import nvrtc

    status, numbers = nvrtc.nvrtcGetSupportedArchs()
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise BuildError(f"the CUDA toolkit lists no architectures ({status.name}): reinstall numba-cuda[cu13].")
    return tuple(f"{number // 10}.{number % 10}" for number in sorted(numbers))


def tools() -> dict[str, str | None]:
    """Versions of the packages that decide the bytes of a build."""
    names = ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink")
    return {name: _version(name) for name in names}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None  # a toolkit that did not come as a wheel


def _capability(text: str) -> tuple[int, int]:
    known = capabilities()
    if text not in known:
        raise BuildError(
            f"compute capability {text!r} is unknown to the installed CUDA toolkit, which builds for "
            f"{', '.join(known)}; use one of these in kernels.capabilities."
        )
    major, minor = text.split(".")
    return int(major), int(minor)


def _ptx(source: KernelSource, capability: tuple[int, int]) -> bytes:
    """PTX text of the kernel, under names that depend on nothing but the source."""
    import numba
    from numba import cuda
    from numba.core.errors import NumbaError
    from numba.cuda.cudadrv.error import CudaSupportError, NvvmError

    name = f"kernel {source.family}/{source.variant}"
    if numba.config.ENABLE_CUDASIM:
        raise BuildError(f"{name}: Numba's simulator is on and compiles nothing; unset NUMBA_ENABLE_CUDASIM.")
    try:
        text, _ = cuda.compile(
            source.function(),
            _signature(source),
            device=False,
            abi="numba",
            output="ptx",
            cc=capability,
            debug=False,
            opt=True,
            lineinfo=False,
            fastmath=source.fastmath,
            launch_bounds=source.threads,
        )
    except CudaSupportError as error:
        raise BuildError(f"{name} calls a function of its own, which Numba cannot build without a GPU.") from error
    except (NumbaError, NvvmError, SyntaxError) as error:
        raise BuildError(f"{name} does not compile: {_essence(str(error))}") from error
    mangled = re.search(r"\.visible \.entry ([\w$]+)\(", text)
    target = re.search(r"\.target (\w+)", text)
    if mangled is None or target is None or target[1] != "sm_{}{}".format(*capability):
        raise BuildError(
            f"{name}: NVVM wrote code for {target and target[1]} instead of sm_{capability[0]}{capability[1]}; "
            "unset NUMBA_FORCE_CUDA_CC."
        )
    text = text.replace(mangled[1], source.entry)
    # Numba numbers functions and shared arrays within a process; their order does not depend on what ran before.
    others = list(dict.fromkeys(re.findall(r"_ZN[\w$]+|_cudapy_\w+", text)))
    for number, other in sorted(enumerate(others), key=lambda pair: -len(pair[1])):
        text = text.replace(other, f"{source.entry}__{number}")
    if source.max_registers is not None:
        # In the PTX, since the linker's -maxrregcount is ignored for a kernel whose block size is given.
        threads = f".maxntid {source.threads}, 1, 1"
        text = text.replace(threads, f"{threads}\n.maxnreg {source.max_registers}")
    return (text.strip() + "\n").encode()


def _signature(source: KernelSource):
    from numba import types

    arguments = []
    for _, kind in source.parameters:
        element = getattr(types, ELEMENTS[kind.rstrip("*")])
        arguments.append(types.Array(element, 1, "C") if kind.endswith("*") else element)
    return types.void(*arguments)


def _essence(message: str) -> str:
    """Numba's message on one line, without its advice on how to report a bug."""
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", message).splitlines()]
    return " ".join(line for line in lines if line)[:600]


def _link(source: KernelSource, ptx: bytes, architecture: str) -> tuple[bytes, str]:
    """The cubin of a PTX text, and nvJitLink's log."""
    from cuda.bindings import nvjitlink

    options = [f"-arch={architecture}", "-O3", "-verbose"]
    linker = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(linker, nvjitlink.InputType.PTX, ptx, len(ptx), f"{source.variant}.ptx")
        nvjitlink.complete(linker)
        image = bytearray(nvjitlink.get_linked_cubin_size(linker))
        nvjitlink.get_linked_cubin(linker, image)
        log = bytearray(nvjitlink.get_info_log_size(linker))
        nvjitlink.get_info_log(linker, log)
    except nvjitlink.nvJitLinkError as error:
        reason = bytearray(nvjitlink.get_error_log_size(linker))
        nvjitlink.get_error_log(linker, reason)
        message = _essence(reason.decode(errors="replace").rstrip("\0")) or str(error)
        raise BuildError(f"kernel {source.family}/{source.variant} does not link: {message}") from error
    finally:
        nvjitlink.destroy(linker)
    return bytes(image), log.decode(errors="replace").rstrip("\0")


def _check_log(source: KernelSource, log: str, resources: cubin.Resources) -> tuple[int | None, int | None]:
    """Bytes of spill stores and loads of the entry (not in the cubin, so None where the log does not say)."""
    frame = r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
    spills = re.search(rf"Function properties for {source.entry}\s+ptxas\s*\.?\s*{frame}", log)
    totals = re.search(rf"'{source.entry}':\s+info\s*: used (\d+) registers, used \d+ barriers, (\d+) stack", log)
    in_cubin = (resources.registers, resources.local_bytes)
    if totals is not None and (int(totals[1]), int(totals[2])) != in_cubin:
        raise BuildError(
            f"kernel {source.family}/{source.variant}: the cubin says {in_cubin} (registers, stack bytes), nvJitLink "
            f"{totals.groups()}; report this with the versions {tools()}."
        )
    return (int(spills[2]), int(spills[3])) if spills else (None, None)


def parameter_sizes(parameters: tuple[tuple[str, str], ...]) -> list[int]:
    """Bytes of each value in the parameter block: 7 words for an array, 4 bytes for a scalar."""
    sizes: list[int] = []
    for _, kind in parameters:
        sizes += [8] * ARRAY_WORDS if kind.endswith("*") else [4]
    return sizes


def _check_layout(source: KernelSource, resources: cubin.Resources) -> None:
    name, wanted, found = f"kernel {source.family}/{source.variant}", parameter_sizes(source.parameters), resources
    if list(found.parameter_sizes) != wanted:
        raise BuildError(
            f"{name}: the cubin takes {len(found.parameter_sizes)} values, the launcher would pass {len(wanted)}: this "
            "numba-cuda has another calling convention; install a version within the range in pyproject.toml."
        )
    if found.threads != source.threads:
        raise BuildError(f"{name}: the cubin is for {found.threads} threads a block, the source says {source.threads}.")


def _publish(prefix: str | Path, suffix: str, content: bytes) -> None:
    with publishing(f"{prefix}{suffix}") as file:
        file.write(content)
