"""What a kernel costs, read from its cubin: an ELF file with NVIDIA's own sections.

Layout: the 64-bit ELF of the System V ABI (machine 190) whose sections are named after the kernel. `.text.<entry>`
holds the code, `.nv.shared.<entry>` has the size of its static shared memory, `.nv.constant<bank>.<entry>` its
constants (bank 0: the parameters). `.nv.info` holds records (format, attribute, size or value) of the whole file,
`.nv.info.<entry>` those of the kernel; the attributes are those that the CUDA binary utilities print under the names
given below.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from frugal.errors import FrugalError

# Attributes of .nv.info, with the names that cuobjdump gives them.
MAX_THREADS = 0x05  # EIATTR_MAX_THREADS: x, y, z
FRAME_SIZE = 0x11  # EIATTR_FRAME_SIZE: symbol, bytes
KPARAM_INFO = 0x17  # EIATTR_KPARAM_INFO: index, ordinal, offset, flags with the size from bit 18
REGCOUNT = 0x2F  # EIATTR_REGCOUNT: symbol, registers
SIZED = 0x04  # format of a record that carries its own bytes; the others have 16 bits of value

# From Volta to Hopper an instruction is 128 bits and its lowest 12 are the opcode; bits 9 to 11 of them say where the
# operands are (register, immediate, constant bank).
FFMA, HMMA, FORM_MASK = 0x023, 0x03C, 0x1FF
NOP, OPCODE_MASK = 0x918, 0xFFF


@dataclass(frozen=True)
class Resources:
    """Costs of one kernel: registers and bytes of local memory a thread, shared bytes a block."""

    registers: int
    local_bytes: int
    shared_bytes: int
    constant_bytes: int
    threads: int | None
    instructions: int
    ffma: int
    hmma: int
    parameter_sizes: tuple[int, ...]


def read(image: bytes, entry: str) -> Resources:
    """The resources of kernel `entry` in a cubin. Raises FrugalError if the bytes are no cubin or lack the kernel."""
    try:
        sections, symbols = _sections(image)
        code = sections[f".text.{entry}"]
        symbol = symbols.index(entry)
        whole = list(_records(sections[".nv.info"][1]))
        own = list(_records(sections[f".nv.info.{entry}"][1]))
    except (IndexError, KeyError, struct.error, ValueError) as error:
        raise FrugalError(f"these {len(image)} bytes are not a cubin with the kernel {entry} ({error}).") from None
    threads = [struct.unpack("<III", value) for attribute, value in own if attribute == MAX_THREADS]
    parameters = sorted(struct.unpack("<IHHI", value)[1:] for attribute, value in own if attribute == KPARAM_INFO)
    opcodes = [word & OPCODE_MASK for (word, _) in struct.iter_unpack("<QQ", code[1])]
    return Resources(
        registers=_of_symbol(whole, REGCOUNT, symbol),
        local_bytes=_of_symbol(whole, FRAME_SIZE, symbol),
        shared_bytes=sections.get(f".nv.shared.{entry}", (0, b""))[0],
        constant_bytes=sum(
            size
            for name, (size, _) in sections.items()
            if name.startswith(".nv.constant") and name.endswith(f".{entry}")
        ),
        threads=threads[0][0] * threads[0][1] * threads[0][2] if threads else None,
        instructions=sum(opcode != NOP for opcode in opcodes),
        ffma=sum(opcode & FORM_MASK == FFMA for opcode in opcodes),
        hmma=sum(opcode & FORM_MASK == HMMA for opcode in opcodes),
        parameter_sizes=tuple(flags >> 18 for _, _, flags in parameters),
    )


def _sections(image: bytes) -> tuple[dict[str, tuple[int, bytes]], list[str]]:
    """Sections by name, each as (size, bytes: none where the file holds none), and the symbols' names by index."""
    if image[:5] != b"\x7fELF\x02" or struct.unpack_from("<H", image, 18)[0] != 190:
        raise ValueError("no 64-bit CUDA ELF header")
    start = struct.unpack_from("<Q", image, 40)[0]
    count, names_at = struct.unpack_from("<HH", image, 60)
    headers = [struct.unpack_from("<IIQQQQIIQQ", image, start + 64 * number) for number in range(count)]
    names = image[headers[names_at][4] :]
    no_bits = 8
    sections = {
        _text(names, name): (size, b"" if kind == no_bits else image[offset : offset + size])
        for name, kind, _, _, offset, size, *_ in headers
    }
    strings = sections[".strtab"][1]
    symbols = [_text(strings, fields[0]) for fields in struct.iter_unpack("<IBBHQQ", sections[".symtab"][1])]
    return sections, symbols


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()


def _records(section: bytes) -> Iterator[tuple[int, bytes]]:
    """(attribute, bytes) of each record of an .nv.info section."""
    at = 0
    while at < len(section):
        form, attribute, size = struct.unpack_from("<BBH", section, at)
        value = section[at + 4 : at + 4 + size] if form == SIZED else section[at + 2 : at + 4]
        yield attribute, value
        at += 4 + (size if form == SIZED else 0)


def _of_symbol(records: list[tuple[int, bytes]], attribute: int, symbol: int) -> int:
    """The value that a (symbol, value) record of this attribute gives for a symbol."""
    values = [struct.unpack("<II", value) for found, value in records if found == attribute]
    return dict(values)[symbol]
