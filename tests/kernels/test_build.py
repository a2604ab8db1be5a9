"""Builds on a machine without a GPU, checked against the PTX text, the files on disk and NVIDIA's own assembler."""

import dataclasses
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import traceback

import numba
import pytest
from numba import cuda

from frugal.errors import FrugalError
from kernels import build as builder
from kernels import cubin
from kernels.build import BuildError, KernelSource, build, capabilities, read_report

DEFAULT_CAPABILITIES = ("7.5", "8.0", "8.9", "9.0")  # config.yaml's default


def kernel(body: list[str], **fields) -> KernelSource:
    """A kernel of (x, y) with these lines as its body."""
    text = "from numba import cuda, float32, uint32\n\n\ndef work(x, y):\n" + "".join(f"    {line}\n" for line in body)
    defaults = {
        "family": "test",
        "variant": "work",
        "entry": "work",
        "python_source": text,
        "parameters": (("x", "f32*"), ("y", "f32*")),
        "threads": 64,
    }
    return KernelSource(**{**defaults, **fields})


def accumulators(count: int, **fields) -> KernelSource:
    """`count` running sums, all alive across a loop: one multiply-add each, and one register at least."""
    lines = ["t = uint32(cuda.threadIdx.x)"]
    lines += [f"a{i} = x[uint32(t + uint32({i}))]" for i in range(count)]
    lines += ["for step in range(uint32(7)):", "    v = y[uint32(step)]"]
    lines += [f"    a{i} += a{(i + 1) % count} * v" for i in range(count)]
    lines += [f"y[uint32(t + uint32({64 * i}))] = a{i}" for i in range(count)]
    return kernel(lines, **fields)


@pytest.mark.parametrize("capability", DEFAULT_CAPABILITIES)
def test_the_report_describes_the_files(echo, capability, tmp_path):
    report = build(echo, capability, tmp_path / "deep" / "echo")
    folder = tmp_path / "deep"
    assert sorted(path.name for path in folder.iterdir()) == ["echo.cubin", "echo.json", "echo.ptx"]
    assert report.cubin_sha256 == hashlib.sha256((folder / "echo.cubin").read_bytes()).hexdigest()
    assert report.ptx_sha256 == hashlib.sha256((folder / "echo.ptx").read_bytes()).hexdigest()
    assert report.source_sha256 == echo.sha256
    assert read_report(folder / "echo") == report
    assert json.loads((folder / "echo.json").read_text())["capability"] == capability
    text = (folder / "echo.ptx").read_text()
    assert f".target sm_{capability.replace('.', '')}" in text
    assert ".visible .entry echo(" in text
    assert ".maxntid 32, 1, 1" in text
    assert (report.local_bytes, report.spill_store_bytes, report.spill_load_bytes) == (0, 0, 0)
    assert 0 < report.registers <= 255
    assert all(report.tools[name] for name in ("numba", "numba-cuda", "nvidia-nvvm", "nvidia-nvjitlink"))


@pytest.mark.parametrize("capability", DEFAULT_CAPABILITIES)
def test_multiply_adds_contract_without_fastmath_and_are_all_counted(capability, tmp_path):
    lines = ["t = uint32(cuda.threadIdx.x)", "a = x[t]", "b = y[t]"] + ["a += a * b"] * 37 + ["y[t] = a"]
    report = build(kernel(lines), capability, tmp_path / "k")
    assert report.ffma == 37
    assert (tmp_path / "k.ptx").read_text().count("fma.rn.f32") == 37
    assert report.instructions > 37


def test_a_register_limit_is_kept_and_its_spills_are_reported(tmp_path):
    free = build(accumulators(64), "9.0", tmp_path / "free")
    tight = build(accumulators(64, max_registers=32), "9.0", tmp_path / "tight")
    assert free.registers > 64
    assert (free.local_bytes, free.spill_store_bytes) == (0, 0)
    assert tight.registers <= 32
    assert tight.local_bytes > 0
    assert tight.spill_store_bytes > 0
    assert tight.spill_load_bytes > 0


def test_an_array_that_is_indexed_at_run_time_shows_as_local_memory(tmp_path):
    lines = ["a = cuda.local.array(50, float32)", "for step in range(uint32(50)):", "    a[step] = x[step]"]
    lines += ["y[uint32(0)] = a[uint32(x[uint32(0)])]"]
    assert build(kernel(lines), "9.0", tmp_path / "k").local_bytes == 200


@pytest.mark.parametrize(("capability", "reserved"), [("7.5", 0), ("8.9", 0), ("9.0", 1024)])
def test_static_shared_memory_is_reported(capability, reserved, tmp_path):
    lines = ["a = cuda.shared.array(300, float32)", "t = uint32(cuda.threadIdx.x)", "a[t] = x[t]"]
    lines += ["cuda.syncthreads()", "y[t] = a[uint32(uint32(63) - t)]"]
    assert build(kernel(lines), capability, tmp_path / "k").shared_bytes == 1200 + reserved


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="needs NVIDIA's assembler ptxas on PATH as a reference")
@pytest.mark.parametrize("limit", [None, 32])
def test_resources_agree_with_ptxas(limit, tmp_path):
    report = build(accumulators(48, max_registers=limit), "8.0", tmp_path / "k")
    log = subprocess.run(
        # nvJitLink assembles relocatable code and links it; so -c here, which may cost or save a few registers.
        ["ptxas", "-arch=sm_80", "-c", "-O3", "-v", "-o", os.devnull, tmp_path / "k.ptx"],
        capture_output=True,
        text=True,
    )
    if "Unsupported .version" in log.stderr:
        pytest.skip("the ptxas on PATH is older than the installed NVVM")
    frame, stores, loads = map(int, re.search(r"(\d+) bytes stack.*?(\d+) bytes.*?(\d+) bytes", log.stderr).groups())
    registers, constant = map(int, re.search(r"Used (\d+) registers.*?(\d+) bytes cmem\[0\]", log.stderr).groups())
    assert (report.registers, report.local_bytes) == (registers, frame)
    assert (report.spill_store_bytes, report.spill_load_bytes) == (stores, loads)
    assert report.constant_bytes == constant


def test_equal_sources_give_equal_bytes_in_any_process(tmp_path):
    """Another hash seed, and another kernel built before in the same process, must not show."""
    script = (
        "import pickle, sys; from kernels.build import build\n"
        "for name, source in pickle.load(open(sys.argv[1], 'rb')): build(source, '9.0', sys.argv[2] + name)"
    )
    shared = ["a = cuda.shared.array(64, float32)", "t = uint32(cuda.threadIdx.x)", "a[t] = x[t]", "cuda.syncthreads()"]
    first = kernel([*shared, "y[t] = a[uint32(uint32(63) - t)]"])
    other = kernel([*shared, "y[t] = a[t] + a[uint32(uint32(63) - t)]"])
    for seed, sources in (("1", [("first", first)]), ("2", [("other", other), ("first", first)])):
        (tmp_path / f"{seed}.pickle").write_bytes(pickle.dumps(sources))
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / f"{seed}.pickle"), f"{tmp_path}/{seed}/"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
        )
    for suffix in (".ptx", ".cubin", ".json"):
        assert (tmp_path / "1" / f"first{suffix}").read_bytes() == (tmp_path / "2" / f"first{suffix}").read_bytes()
    assert (tmp_path / "2" / "other.cubin").read_bytes() != (tmp_path / "2" / "first.cubin").read_bytes()


def test_every_field_of_a_source_changes_its_hash(echo):
    changed = {
        "family": "other",
        "variant": "other",
        "entry": "other",
        "python_source": echo.python_source + "\n",
        "parameters": (("x", "u32*"), *echo.parameters[1:]),
        "threads": 64,
        "min_threads": 16,
        "max_registers": 64,
        "dynamic_shared_bytes": 4096,
        "fastmath": True,
    }
    assert set(changed) == {field.name for field in dataclasses.fields(echo)}
    hashes = {dataclasses.replace(echo, **{name: value}).sha256 for name, value in changed.items()}
    assert len(hashes | {echo.sha256}) == len(changed) + 1


@pytest.mark.parametrize("capability", ["1.0", "9", "90", "sm_90", "", "9.0a"])
def test_an_unknown_capability_names_the_known_ones(echo, capability, tmp_path):
    with pytest.raises(BuildError, match=re.escape(f"{capability!r} is unknown")) as caught:
        build(echo, capability, tmp_path / "k")
    assert all(known in str(caught.value) for known in DEFAULT_CAPABILITIES)
    assert not list(tmp_path.iterdir())


def test_the_default_capabilities_can_be_built():
    assert set(DEFAULT_CAPABILITIES) <= set(capabilities())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"parameters": (("x", "f64*"), ("y", "f32*"))},
            "kind 'f64*', allowed are f32, i32, u32, f32*, i32*, u32*, u8*, u16*",
        ),
        ({"threads": 0}, "threads = 0, allowed are 1 to 1024"),
        ({"parameters": (("x", "u8"), ("y", "f32*"))}, "kind 'u8', allowed are f32"),
        ({"min_threads": 0}, "min_threads = 0, allowed are 1 to threads = 64"),
        ({"min_threads": 65}, "min_threads = 65, allowed are 1 to threads = 64"),
        ({"threads": 2048}, "threads = 2048, allowed are 1 to 1024"),
        ({"max_registers": 8}, "max_registers = 8, allowed are 16 to 255"),
        ({"entry": "no name"}, "entry 'no name' is not a Python name"),
    ],
)
def test_a_field_out_of_range_is_refused(fields, message):
    with pytest.raises(BuildError, match=re.escape(message)):
        kernel(["y[uint32(0)] = x[uint32(0)]"], **fields)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (kernel(["y[uint32(0)] = x.nonsense"]), "kernel test/work does not compile.*nonsense"),
        (kernel(["y[uint32(0)] = = 1"]), "kernel test/work does not compile.*invalid syntax"),
        (kernel(["pass"], entry="absent"), "the source defines no function absent"),
        (kernel(["pass"], parameters=(("y", "f32*"), ("x", "f32*"))), r"work\(x, y\) does not match.*\(y, x\)"),
    ],
)
def test_a_bad_source_ends_in_one_sentence_and_leaves_no_file(source, message, tmp_path):
    with pytest.raises(BuildError, match=message) as caught:
        build(source, "9.0", tmp_path / "k")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_callee_is_refused_where_numba_would_ask_for_a_gpu(tmp_path):
    if cuda.is_available():
        pytest.skip("with a GPU Numba compiles a callee for that GPU")
    source = kernel(["y[uint32(0)] = twice(x[uint32(0)])"])
    text = source.python_source.replace("\n\n\n", "\n\n\n@cuda.jit(device=True)\ndef twice(v):\n    return v + v\n\n\n")
    with pytest.raises(BuildError, match="calls a function of its own"):
        build(dataclasses.replace(source, python_source=text), "9.0", tmp_path / "k")


def test_code_that_needs_too_much_shared_memory_does_not_link(tmp_path):
    lines = ["a = cuda.shared.array(20000, float32)", "t = uint32(cuda.threadIdx.x)", "a[t] = x[t]"]
    lines += ["cuda.syncthreads()", "y[t] = a[uint32(uint32(63) - t)]"]
    with pytest.raises(BuildError, match=r"test/work does not link: .*shared"):
        build(kernel(lines), "9.0", tmp_path / "k")


def test_the_simulator_is_refused(echo, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "ENABLE_CUDASIM", True)
    with pytest.raises(BuildError, match="unset NUMBA_ENABLE_CUDASIM"):
        build(echo, "9.0", tmp_path / "k")


def test_another_calling_convention_is_noticed(echo, monkeypatch, tmp_path):
    monkeypatch.setattr(builder, "ARRAY_WORDS", 6)
    with pytest.raises(BuildError, match="another calling convention"):
        build(echo, "9.0", tmp_path / "k")


def test_a_failing_line_of_generated_source_shows_in_the_traceback():
    source = kernel(["raise KeyError(x)"])
    try:
        source.function()(1, 2)
    except KeyError as error:
        shown = "".join(traceback.format_exception(error))
    assert "<kernel test/work>" in shown
    assert "raise KeyError(x)" in shown


def test_any_cut_of_a_cubin_is_refused(echo_prefix):
    image = echo_prefix.with_name("echo.sm_90.cubin").read_bytes()
    assert cubin.read(image, "echo").registers > 0
    headers_end = int.from_bytes(image[40:48], "little") + 64 * int.from_bytes(image[60:62], "little")
    for length in range(0, min(headers_end, len(image)), 101):
        with pytest.raises(FrugalError, match="not a cubin with the kernel echo"):
            cubin.read(image[:length], "echo")
    with pytest.raises(FrugalError, match="not a cubin with the kernel other"):
        cubin.read(image, "other")


def test_a_missing_or_damaged_report_says_what_to_do(tmp_path):
    with pytest.raises(BuildError, match=r"no kernel report .*run the rule build_kernel"):
        read_report(tmp_path / "k")
    for damaged in ("{", "{}", '{"parameters": []}', "[]"):
        (tmp_path / "k.json").write_text(damaged)
        with pytest.raises(BuildError, match=r"cannot be read .*delete it and run again"):
            read_report(tmp_path / "k")
