"""`python -m benchmarks [NAME...] [--json]`: run some benchmarks, or all."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import importlib
import sys
import time

NAMES = (
    *("tree", "sequences", "learner", "acting", "overhead", "learn", "saving", "spread", "shards"),
)


def main() -> int:
    """Run the benchmarks named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}: known are {', '.join(NAMES)}")
    for name in arguments.names or NAMES:
        module = importlib.import_module(f"benchmarks.{name}")
        if not arguments.json:
            print(f"\n{name}: {(module.__doc__ or '').splitlines()[0]}", flush=True)
        began = time.perf_counter()
        try:
            for result in module.run():
                print(result.json() if arguments.json else result.text(), flush=True)
        except KeyboardInterrupt:
            print(f"\n{name}: interrupted", file=sys.stderr)
            return 130
        if not arguments.json:
            print(f"({time.perf_counter() - began:,.0f} s)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
