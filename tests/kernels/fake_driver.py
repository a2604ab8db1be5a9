"""A stand-in for cuda.bindings.driver that runs the echo kernel of conftest on the CPU.

It reads the parameter block the way the driver does: by the addresses it is given and the sizes that the cubin states.
"""

import ctypes
import enum
import struct

from kernels import cubin


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_LAUNCH_FAILED = 719


class CUfunction_attribute(enum.IntEnum):
    CU_FUNC_ATTRIBUTE_NUM_REGS = 4


class CUdevice_attribute(enum.IntEnum):
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class FakeDriver:
    """Behaves as a GPU of the given capability; `fails` maps a function's name to the status it returns."""

    CUfunction_attribute = CUfunction_attribute
    CUdevice_attribute = CUdevice_attribute

    def __init__(self, capability=(9, 0), fails=None, registers=None):
        self.capability, self.fails, self.registers = capability, fails or {}, registers
        self.calls, self.streams, self.values = [], [], []

    def _answer(self, name, *results):
        self.calls.append(name)
        status = self.fails.get(name, CUresult.CUDA_SUCCESS)
        return (status, *results) if not status else (status, *(None for _ in results))

    def cuGetErrorString(self, status):
        return CUresult.CUDA_SUCCESS, f"text of {status.name}".encode()

    def cuDeviceGet(self, ordinal):
        return self._answer("cuDeviceGet", ordinal)

    def cuDeviceGetAttribute(self, attribute, device):
        names = CUdevice_attribute
        part = 0 if attribute == names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR else 1
        return self._answer("cuDeviceGetAttribute", self.capability[part])

    def cuModuleLoadData(self, image):
        return self._answer("cuModuleLoadData", bytes(image))

    def cuModuleGetFunction(self, module, name):
        return self._answer("cuModuleGetFunction", cubin.read(module, name.decode()))

    def cuFuncGetAttribute(self, attribute, function):
        assert attribute == CUfunction_attribute.CU_FUNC_ATTRIBUTE_NUM_REGS
        return self._answer("cuFuncGetAttribute", self.registers or function.registers)

    def cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function, threads, shared):
        return self._answer("cuOccupancyMaxActiveBlocksPerMultiprocessor", 65536 // (function.registers * threads))

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        assert (shared, extra) == (0, 0)
        self.streams.append(stream)
        answer = self._answer("cuLaunchKernel")
        if not answer[0]:
            addresses = (ctypes.c_void_p * len(function.parameter_sizes)).from_address(parameters)
            raw = [ctypes.string_at(at, size) for at, size in zip(addresses, function.parameter_sizes, strict=True)]
            self._echo(raw, gx * gy * gz * bx * by * bz)
        return answer

    def _echo(self, raw, threads):
        """The echo kernel, from the bytes of its 6 arrays (7 words each) and 3 scalars."""
        words = [struct.unpack("<Q", value)[0] for value in raw[:42]]
        arrays = [words[first : first + 7] for first in range(0, 42, 7)]
        self.values.append((arrays, raw[42:]))
        count = min(threads, struct.unpack("<I", raw[43])[0])
        for source, sink, scalar in zip(arrays[:3], arrays[3:], raw[42:], strict=True):
            ctypes.memmove(sink[4], scalar, 4)
            ctypes.memmove(sink[4] + 4, source[4], 4 * count)
