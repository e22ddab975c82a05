#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Look for inputs that do harm, with clang's libFuzzer.

    python3 fuzz/run.py ring --seconds 600     frame, pool, ring, stream, nest, tls
    python3 fuzz/run.py ring --keep            and add to the corpus what is new in it

Needs clang with its run-time libraries (Debian: clang-14 libclang-rt-14-dev); nest also
an interpreter with a shared library, which is the one that runs this. An input that
does harm is left in build/fuzz/TARGET as crash-..., timeout-... or oom-...: mend what
it finds, and copy it to fuzz/corpus/TARGET under a name that says what it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ("frame", "pool", "ring", "stream", "nest", "tls")
TLS_PARTS = ("direct", "key", "listen", "relay", "thread")
SKIPPED = 77  # the exit code that says so
NEST_SOURCES = ("nest_decode.c", "nest_encode.c", "nest_weigh.c")
FLAGS = [
    "-g", "-O1", "-DNDEBUG", "-std=gnu11", "-D_GNU_SOURCE", "-fno-omit-frame-pointer",
    "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined",
]  # fmt: skip


def find_clang() -> str:
    names = ["clang", *(f"clang-{version}" for version in range(30, 11, -1))]
    for name in names:
        if path := shutil.which(name):
            return path
    print("fuzz/run.py: there is no clang here", file=sys.stderr)
    sys.exit(SKIPPED)


def sources(target: str) -> list[str]:
    """Name, in words of the compiler's command, what the target is made of."""
    words = [f"-I{ROOT}/core/include", f"-I{ROOT}/core/src"]
    if target == "nest":
        library = sysconfig.get_config_var("LIBDIR")
        words += [f"-I{ROOT}/binding", f"-I{sysconfig.get_path('include')}"]
        words += [str(ROOT / "binding" / name) for name in NEST_SOURCES]
        words += [f"-L{library}", f"-Wl,-rpath,{library}"]
        words += [f"-lpython{sysconfig.get_config_var('LDVERSION')}"]
    elif target == "tls":
        words += [f"-I{ROOT}/binding"]
        words += [str(ROOT / "binding" / f"tls_{part}.c") for part in TLS_PARTS]
        words += ["-lssl", "-lcrypto", "-pthread"]
    else:
        words += sorted(map(str, (ROOT / "core" / "src").rglob("*.c")))
        words += ["-pthread"]
    return words


def build(target: str, folder: Path) -> Path:
    program = folder / f"fuzz_{target}"
    source = ROOT / "fuzz" / f"fuzz_{target}.c"
    words = sources(target)
    subprocess.run(
        [find_clang(), *FLAGS, str(source), *words, "-o", program], check=True
    )
    return program


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--keep", action="store_true", help="merge into the corpus")
    given = parser.parse_args()
    folder = ROOT / "build" / "fuzz" / given.target
    found = folder / "found"
    found.mkdir(parents=True, exist_ok=True)
    corpus = ROOT / "fuzz" / "corpus" / given.target
    program = build(given.target, folder)
    environment = {
        **os.environ,
        "PYTHONMALLOC": "malloc",  # or the sanitizer sees arenas instead of objects
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    }
    command = [
        str(program),
        f"-artifact_prefix={folder}/",
        "-timeout=10",
        "-max_len=2048",
        "-error_exitcode=1",  # its own would say that there is no clang
    ]
    if given.keep:
        command += [
            "-merge=1",
            "-use_counters=0",
            "-max_len=256",
            str(corpus),
            str(found),
        ]
    else:
        command += [f"-max_total_time={given.seconds}", "-print_final_stats=1",
                    "-malloc_limit_mb=64", "-rss_limit_mb=2048", str(found), str(corpus)]  # fmt: skip
    os.nice(10)
    return subprocess.run(command, env=environment, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
