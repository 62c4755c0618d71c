#!/usr/bin/env python3
"""Compiles kernels' texts with NVRTC, and holds them to limits: nvrtc.py LIBRARIES TEXTS ARCHITECTURE...

LIBRARIES is the folder of libnvrtc, TEXTS one of .cu files. A kernel may use 255 registers (there are no more) and must not spill more than four to
memory, but for attention over heads of more than 128 elements. Prints one line a kernel and architecture with the largest use over all texts.
"""
import ctypes
import itertools
import os
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

libraries, texts, architectures = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
for builtins in libraries.glob("libnvrtc-builtins.so.*"):
    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
nvrtc = ctypes.CDLL(str(libraries / "libnvrtc.so"))


def uses(file: Path, architecture: str) -> list[tuple[str, int, int]]:
    """What the compiler says of the file's kernels: name, bytes spilled, registers. Ends the program where it refuses the text."""
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), file.read_bytes(), b"kernel.cu", 0, None, None)
    options = [f"-arch={architecture}", "-std=c++14", "--ptxas-options=-v"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*[o.encode() for o in options]))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    said = log.value.decode()
    if status != 0:
        sys.exit(f"NVRTC refuses {file} for {architecture}:\n{said}")
    found = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", said, re.S)
    if not found:
        sys.exit(f"NVRTC says nothing of the registers of {file}: its words have changed, and this script must follow")
    return [(name, int(spilled), int(registers)) for name, spilled, registers in found]


used: dict[tuple[str, str], tuple[int, int]] = {}
spilling = []
files = sorted(texts.glob("*.cu"))
if not files:
    sys.exit(f"no texts in {texts}")
work = list(itertools.product(files, architectures))
with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    for (file, architecture), kernels in zip(work, pool.map(uses, *zip(*work))):
        head = re.search(r"#define HEAD (\d+)", file.read_text())
        for name, spilled, registers in kernels:
            most = used.get((name, architecture), (0, 0))
            used[name, architecture] = (max(most[0], registers), max(most[1], spilled))
            # The compiler trades a few registers for another block at work beside; sampling runs once for a row and token.
            few = spilled <= (32 if name == "sample" else 16)
            if spilled and not few and not (head and int(head[1]) > 128):
                size = f" with heads of {head[1]}" if head else ""
                spilling.append(f"{name}{size} on {architecture}, {file}: {spilled} bytes")

for (name, architecture), (registers, spilled) in sorted(used.items()):
    print(f"  {name:28} {architecture}  {registers:3} registers" + (f", {spilled} bytes spilled" if spilled else ""))
print(f"  {len(files)} texts")
if spilling:
    sys.exit("registers spill to memory:\n" + "\n".join(spilling))
