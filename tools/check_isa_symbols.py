"""Prove that the object files of the per-ISA kernel libraries define no weak symbols.

An inline function or template instantiation compiled with AVX-512 flags is a weak symbol; the linker keeps
one copy of it for the whole module and may keep that one, which then crashes on a CPU without AVX-512.
So each translation unit that is compiled with ISA flags must give its code internal linkage.

Usage: python tools/check_isa_symbols.py BUILD_DIR
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

LIBRARY_PREFIX = "depthwise_kernels_"
WEAK_TYPES = frozenset("WVu")  # weak function, weak object, unique global (nm's letters for defined symbols)


def isa_objects(build_dir: Path) -> dict[str, list[Path]]:
    """Object files under `build_dir` by ISA, from CMake's folder of each kernel library."""
    folders = sorted(build_dir.rglob(f"{LIBRARY_PREFIX}*.dir"))
    return {f.name.removeprefix(LIBRARY_PREFIX).removesuffix(".dir"): sorted(f.rglob("*.o")) for f in folders}


def defined_symbols(obj: Path) -> list[tuple[str, str]]:
    """The (name, nm type letter) pairs of the symbols that `obj` defines."""
    listing = subprocess.run(
        ["nm", "--demangle", "--defined-only", str(obj)], check=True, capture_output=True, text=True
    ).stdout
    rows = (line.split(maxsplit=2) for line in listing.splitlines() if line)
    return [(name, letter) for _, letter, name in rows]


def main(build_dir: str) -> int:
    """Report every weak symbol; return the exit status."""
    libraries = isa_objects(Path(build_dir))
    if not libraries:
        print(f"no {LIBRARY_PREFIX}*.dir folder under {build_dir}: nothing was checked")
        return 1
    failed = False
    for isa, objects in libraries.items():
        symbols = [(obj, *symbol) for obj in objects for symbol in defined_symbols(obj)]
        weak = [(obj, name) for obj, name, letter in symbols if letter in WEAK_TYPES]
        for obj, name in weak:
            print(f"{isa}: weak symbol in {obj.name}: {name}")
        print(f"{isa}: {len(objects)} objects, {len(symbols)} symbols defined, {len(weak)} weak")
        failed |= bool(weak) or not symbols
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/check_isa_symbols.py BUILD_DIR")
    sys.exit(main(sys.argv[1]))
