"""``python -m fuzz --seed 0 --count 5000``: mutations of all that the product reads; 1 where there was a fault."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fuzz import runner
from fuzz.readers import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=5000, help="mutations, numbered from --first on")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--only", type=int, help="one mutation, in this process, with its traceback")
    parser.add_argument("--keep", type=Path, help="with --only: the new folder where the mutated input stays")
    parser.add_argument("--target", action="append", choices=TARGETS, help="these readers alone")
    parser.add_argument("--batch", help=argparse.SUPPRESS)
    given = parser.parse_args()
    names = tuple(given.target or TARGETS)
    if given.batch:
        start, stop = map(int, given.batch.split(":"))
        runner.batch(given.seed, start, stop, names)
        return 0
    if given.only is not None:
        if given.keep:
            given.keep.mkdir(parents=True)
        fault = runner.one(given.seed, given.only, names, given.keep)
        print(fault or f"mutation {given.only} ({runner.target_of(given.only, names)}): fine")
        return int(fault is not None)
    began, faults = time.monotonic(), []
    for fault in runner.run(given.seed, range(given.first, given.first + given.count), names):
        faults.append(fault)
        print(fault, flush=True)
    print(
        f"seed {given.seed}: {given.count} mutations, {len(faults)} faults, {time.monotonic() - began:.0f} s"
    )
    for kind, count in runner.summary(faults).most_common():
        print(f"{count:6d}  {kind}")
    again = "".join(f" --target '{n}'" for n in given.target or ())
    if faults:
        print(f"one again: python -m fuzz --seed {given.seed} --only {faults[0].number}{again}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
