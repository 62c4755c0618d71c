#!/usr/bin/env python3
"""Compiles kernels' texts with NVRTC, and holds them to limits: nvrtc.py LIBRARIES TEXTS ARCHITECTURE...

LIBRARIES is the folder of libnvrtc, TEXTS one of .cu files. A kernel may use 255 registers (there are no more) and must not spill them to memory,
but for attention over heads of more than 128 elements. Prints one line a kernel and architecture with the largest use over all texts.
"""
import ctypes
import re
import sys
from pathlib import Path

libraries, texts, architectures = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
for builtins in libraries.glob("libnvrtc-builtins.so.*"):
    ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
nvrtc = ctypes.CDLL(str(libraries / "libnvrtc.so"))


def compiled(text: str, architecture: str) -> str:
    """What the compiler says of the text; ends the program where it refuses it."""
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    options = [f"-arch={architecture}", "-std=c++14", "--ptxas-options=-v"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*[o.encode() for o in options]))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    if status != 0:
        sys.exit(f"NVRTC refuses a text for {architecture}:\n{log.value.decode()}")
    return log.value.decode()


used: dict[tuple[str, str], tuple[int, int]] = {}
spilling = []
files = sorted(texts.glob("*.cu"))
for file in files:
    text = file.read_text()
    head = re.search(r"#define HEAD (\d+)", text)
    for architecture in architectures:
        uses = re.findall(r"Compiling entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", compiled(text, architecture), re.S)
        if not uses:
            sys.exit(f"NVRTC says nothing of the registers of {file}: its words have changed, and this script must follow")
        for name, spilled, registers in uses:
            most = used.get((name, architecture), (0, 0))
            used[name, architecture] = (max(most[0], int(registers)), max(most[1], int(spilled)))
            # Sampling runs once for a row and token: a few words in memory cost it nothing that shows.
            few = name == "sample" and int(spilled) <= 32
            if int(spilled) and not few and not (head and int(head[1]) > 128):
                spilling.append(f"{name} on {architecture}, {file}: {spilled} bytes")

for (name, architecture), (registers, spilled) in sorted(used.items()):
    print(f"  {name:28} {architecture}  {registers:3} registers" + (f", {spilled} bytes spilled" if spilled else ""))
print(f"  {len(files)} texts")
if spilling or not files:
    sys.exit("registers spill to memory:\n" + "\n".join(spilling))
