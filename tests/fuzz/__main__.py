"""Let atheris look for bytes that break a target: `python -m tests.fuzz TARGET [OPTION …]`.

TARGET is one of tests/fuzz/targets.py (mail, delivery, reply, events, html), or any. Options are libFuzzer's, e.g.
`-max_total_time=600`, `-seed=1`, or a folder that keeps what was found interesting. Linux on x86-64 with Python up to
3.13 only, for which atheris has wheels.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["services", "shared", "orjson", "email", "html", "json"]):
    from tests.fuzz.targets import TARGETS, run
from tests.fuzz.words import dictionary, seeds


def main() -> None:
    """Fuzz until libFuzzer's options or a find end it."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in (*TARGETS, "any"):
        sys.exit(str(__doc__))
    names = list(TARGETS)

    def once(data: bytes) -> None:
        if name != "any":
            run(name, data)
        elif data:
            run(names[data[0] % len(names)], data[1:])

    with dictionary() as words, tempfile.TemporaryDirectory() as folder:
        for number, (target, seed) in enumerate((one, seed) for one in names for seed in seeds(one)):
            if name == "any":
                Path(folder, str(number)).write_bytes(bytes([names.index(target)]) + seed)
            elif name == target:
                Path(folder, str(number)).write_bytes(seed)
        options = [f"-dict={words}", "-len_control=0", "-max_len=3000", "-rss_limit_mb=2048", *sys.argv[2:], folder]
        atheris.Setup([sys.argv[0], *options], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
