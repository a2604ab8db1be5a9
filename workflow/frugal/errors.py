"""The one exception that a person reads, a sentence that says what is wrong and what to do; and what "no memory" is."""

import sys


class FrugalError(Exception):
    """Bad input, a missing file, a refused device. Scripts and the command line print it without a traceback."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: Python's, torch's, or a limit of frugal.memory.LiveBytes."""
    torch = sys.modules.get("torch")  # whoever has not loaded it cannot have got its exceptions
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # torch's CPU allocator raises a plain RuntimeError, and cuDNN and cuBLAS have words of their own
    words = ("DefaultCPUAllocator: can't allocate", "CUDA out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
