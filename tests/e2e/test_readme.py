"""The README's first steps, typed as they stand there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import needs
from tests.processes import ROOT, up
from tests.waiting import until

pytestmark = needs("curl")


def first_steps() -> list[str]:
    """Return the shell blocks of the README's section "First steps", in order."""
    section = (ROOT / "README.md").read_text().split("## First steps")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def values(script: str, folder: Path) -> list[Any] | None:
    """Run a script and return the JSON values it prints, None where it fails."""
    run = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True)
    if run.returncode != 0:
        return None
    return [json.loads(value) for value in run.stdout.replace("}{", "}\n{").splitlines()]


async def test_the_first_steps_of_the_readme_show_ann_as_one_customer_on_one_line(open_folder: Path) -> None:
    post, look = first_steps()
    async with up(open_folder) as system:
        # All that differs from the README: where the data folder is, the port, and the interpreter.
        here = f"KEY=$(cat admin.key)\nURL={system.ingest.url}\n"
        post, replaced = re.subn(r"^KEY=.*\nURL=.*\n", lambda _: here, post)
        assert replaced == 1
        look = here + look.replace(".venv/bin/python", shlex.quote(sys.executable))
        assert values(post, open_folder) == [
            {"accepted": [{"source": "/chat/shop", "id": "1"}, {"source": "/email/support", "id": "2"}]}
        ]
        seen: list[Any] = []

        def both_are_counted() -> bool:
            seen[:] = values(look, open_folder) or []
            return bool(seen) and seen[1]["total"]["value"] == 2

        await until(both_are_counted, "both messages on the timeline and in the KPI", limit_s=60)
        timeline, kpi = seen
        told = [entry for entry in timeline["entries"] if entry["type"] == "threadline.message.received"]
        assert [(entry["channel"], entry["text"]) for entry in told] == [
            ("email", "Still nothing. Can you look?"),
            ("chat", "My parcel has not come."),
        ]
        assert len({entry["conversation_id"] for entry in told}) == 1
        by_channel = {point["group"]["channel"]: point["value"] for point in kpi["points"] if point["value"]}
        assert by_channel == {"chat": 1, "email": 1}
