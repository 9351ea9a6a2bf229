"""Every measurement, one after the other, in one table: `python -m bench [NAME …] [--json FILE]`."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import traceback
from pathlib import Path

from bench.report import Row, as_json, show

HERE = Path(__file__).parent
HELPERS = {"report", "ground", "mailbox", "persons"}


def names() -> list[str]:
    """Return the modules of this folder that measure something."""
    return sorted(path.stem for path in HERE.glob("[a-z]*.py") if path.stem not in HELPERS)


def main() -> None:
    """Run what was asked for; exit 1 where a measurement failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(names())}")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    asked = parser.parse_args()
    unknown = set(asked.names) - set(names())
    if unknown:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    failed = []
    for name in asked.names or names():
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        measure = getattr(importlib.import_module(f"bench.{name}"), "rows", None)
        try:
            if measure is None:
                subprocess.run([sys.executable, "-m", f"bench.{name}"], check=True, cwd=HERE.parent)
            else:
                rows += measure()
        except Exception:
            # One that fails must not take the figures of the others with it.
            traceback.print_exc()
            failed.append(name)
    show(rows)
    if asked.json:
        asked.json.write_text(as_json(rows) + "\n")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
