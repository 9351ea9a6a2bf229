"""What is generated from the catalogue is what is in the repository; Prometheus takes our rules and our metrics."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml

from services.metrics.exposition import Snapshot, families_of, gauge_name
from services.metrics.generated import DOCUMENT, GRAFANA, document, grafana
from services.metrics.kpis import BY_ID, DEFINITIONS, FAMILIES
from tests.conftest import ROOT, needs

PROMETHEUS = ROOT / "deploy" / "prometheus"


def test_the_dashboard_and_the_document_are_what_the_catalogue_says() -> None:
    assert json.loads(GRAFANA.read_text()) == grafana()
    assert DOCUMENT.read_text() == document()


def test_every_kpi_is_on_the_dashboard_once() -> None:
    titles = [panel["title"] for panel in grafana()["panels"] if panel["type"] != "row"]
    assert sorted(titles) == sorted(d.id.replace("_", " ") for d in DEFINITIONS)
    assert [kpi for ids in FAMILIES.values() for kpi in ids] == [d.id for d in DEFINITIONS]


def test_names_follow_the_units() -> None:
    assert gauge_name(BY_ID["first_reply_time"]) == "cs_first_reply_time_seconds"
    assert gauge_name(BY_ID["csat_ratio"]) == "cs_csat_ratio"
    assert gauge_name(BY_ID["occupancy"]) == "cs_occupancy_ratio"
    assert gauge_name(BY_ID["nps"]) == "cs_nps"


def shown_names() -> set[str]:
    """The names of all samples a scrape may have."""
    names = set()
    for family in families_of(Snapshot([], {}, [], 0.0, 0.0, 0, (0.0, 0, 0))):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + suffix for suffix in suffixes}
    return names


def used_names(text: str) -> set[str]:
    return set(re.findall(r"\bcs_[a-z0-9_]+", text))


def test_no_two_metrics_have_one_name() -> None:
    names = [family.name for family in families_of(Snapshot([], {}, [], 0.0, 0.0, 0, (0.0, 0, 0)))]
    assert len(names) == len(set(names))


def test_rules_and_dashboard_use_only_metrics_that_there_are() -> None:
    expressions = [rule["expr"] for path in ("recording.yml", "alerts.yml") for rule in rules(PROMETHEUS / path)]
    panels = [target["expr"] for panel in grafana()["panels"] for target in panel.get("targets", ())]
    for text in (*expressions, *panels):
        assert used_names(text) <= shown_names(), text


def rules(path: Path) -> list[dict[str, str]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


@needs("prometheus")
def test_promtool_finds_the_rules_right_and_their_tests_pass() -> None:
    for command in (
        ["promtool", "check", "rules", "recording.yml", "alerts.yml"],
        ["promtool", "check", "config", "--syntax-only", "prometheus.yml"],
        ["promtool", "test", "rules", "rules_test.yml"],
    ):
        done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stdout + done.stderr
