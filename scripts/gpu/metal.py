#!/usr/bin/env python3
"""Parses kernels' texts as Metal would, with clang over a stand-in for Metal's library: metal.py TEXTS

TEXTS is a folder of texts, as the tests keep them. What is found: names that Metal has not or keeps for itself, address spaces that do not fit,
functions that ask for their thread and are not told. Needs libclang for Python (PyPI's wheel `libclang` brings it along).
"""
import sys
from pathlib import Path

from clang.cindex import Diagnostic, Index

OPTIONS = [
    *("-x", "clcpp", "-cl-std=CLC++2021", "-target", "spir64"),
    "-cl-ext=-__opencl_c_generic_address_space,-__opencl_c_pipes,-__opencl_c_device_enqueue",  # Metal has none of these
    "-D__METAL_VERSION__=310",
    *("-isystem", str(Path(__file__).parent / "metal")),
    *("-w", "-ferror-limit=0"),
]

files = sorted(Path(sys.argv[1]).glob("*.cu"))
found = set()
for file in files:
    text = file.read_text()
    unit = Index.create().parse("kernel.metal", args=OPTIONS, unsaved_files=[("kernel.metal", text)])
    for said in unit.diagnostics:
        if said.severity >= Diagnostic.Error:
            line = text.splitlines()[said.location.line - 1].strip()
            found.add(f"{said.spelling}: {line}")
if found or not files:
    sys.exit("not Metal:\n" + "\n".join(sorted(found)))
print(f"  {len(files)} texts")
