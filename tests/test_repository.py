"""What must hold for the repository as a whole: locks, documents, packaging, and nothing of anybody's own machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from services.cli.main import COMMANDS, app
from shared.settings import OTHER_VARIABLES, Settings

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
RUNTIME_CODE = ("services/", "shared/")


def tracked(*prefixes: str, suffix: str = "") -> list[str]:
    """Return the files that git knows (new ones that it does not ignore included), relative to the root."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    names = sorted(set(listing.stdout.splitlines()))
    return [n for n in names if n.startswith(prefixes or "") and n.endswith(suffix) and (ROOT / n).is_file()]


def read(name: str) -> str:
    return (ROOT / name).read_text()


def lines_of(*prefixes: str, suffix: str = "") -> Iterator[tuple[str, str]]:
    """Yield ("file:line", text) of every tracked text file, this one aside: it has to name what it looks for."""
    for name in tracked(*prefixes, suffix=suffix):
        content = (ROOT / name).read_bytes()
        if b"\0" in content or ROOT / name == Path(__file__):
            continue
        for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
            yield f"{name}:{number}", line


def lines_matching(pattern: str, *prefixes: str) -> list[str]:
    found = re.compile(pattern)
    return [f"{place}: {line.strip()[:120]}" for place, line in lines_of(*prefixes) if found.search(line)]


# Locked requirements


def pins(lock: Path) -> dict[str, Requirement]:
    """Return the requirements of a lock file by canonical name, those of other platforms left out."""
    found = {}
    for line in lock.read_text().replace("\\\n", " ").splitlines():
        requirement = Requirement(line.split(" --hash")[0].strip())
        if requirement.marker is None or requirement.marker.evaluate(dict(default_environment())):
            found[canonicalize_name(requirement.name)] = requirement
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_every_requirement_with_hashes_and_names_no_place_to_fetch_it_from(lock: Path) -> None:
    text = lock.read_text()
    assert "/" not in text, "a path, an address or an option that names one"
    assert not re.search(r"^-", text, re.MULTILINE), "an option of the installer"
    requirements = text.replace("\\\n", " ").splitlines()
    assert requirements
    for line in requirements:
        assert re.match(r"[\w.\[\],-]+==[\w.]+( ; .+?)? +--hash=sha256:[0-9a-f]{64}", line), line


def test_the_locks_satisfy_what_pyproject_asks_for_and_agree_with_each_other() -> None:
    base, build, dev = (pins(ROOT / "requirements" / f"{name}.txt") for name in ("base", "build", "dev"))
    for text in PYPROJECT["project"]["dependencies"]:
        asked = Requirement(text)
        pinned = base[canonicalize_name(asked.name)]
        assert next(iter(pinned.specifier)).version in asked.specifier, f"{asked}, locked {pinned}: run make lock"
    for group in PYPROJECT["dependency-groups"].values():
        for text in (entry for entry in group if isinstance(entry, str)):
            asked = Requirement(text)
            if asked.marker is not None and not asked.marker.evaluate(dict(default_environment())):
                continue
            assert next(iter(dev[canonicalize_name(asked.name)].specifier)).version in asked.specifier, text
    for name, requirement in (base | build).items():
        assert dev[name].specifier == requirement.specifier, f"{name} differs between the locks"


def test_the_lock_of_the_javascript_packages_pins_each_by_hash_and_names_no_place_to_fetch_it_from() -> None:
    packages = json.loads(read("tests/javascript/package-lock.json"))["packages"]
    locked = {name: about for name, about in packages.items() if name}
    assert any(name.endswith("/cloudevents") for name in locked)
    for name, about in locked.items():
        assert about["integrity"].startswith("sha512-"), name
        assert "resolved" not in about, name


# Nobody's own machine


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert lines_matching(r"(?<![\w.}$*-])/(?:work|root|home|Users|tmp)/") == []
    assert lines_matching(r"""["'`](?:/work|/root|/tmp)["'`]""") == []


def test_no_file_names_a_package_registry_host() -> None:
    hosts = (
        r"\b(?:pypi|pythonhosted|npmjs|crates|proxy\.golang|sum\.golang|deb\.debian|repo\d?\.maven|central\.sonatype)\."
    )
    others = r"artifactory|jfrog|pkg\.dev|index-url|find-links=|find-links "
    assert [hit for hit in lines_matching(f"{hosts}|{others}") if "--no-emit" not in hit] == []


def test_nothing_ends_processes_by_name() -> None:
    assert lines_matching(r"\b(?:pkill|killall)\b") == []


def test_the_product_never_reads_the_specification_folder_beside_the_project() -> None:
    assert (
        lines_matching(r"\.\./shared|shared/data(?!base)|parents\[\d\]\s*/\s*.shared.", *RUNTIME_CODE, "bench/") == []
    )


# Documents


def documents() -> list[str]:
    return [name for name in tracked(suffix=".md") if not name.startswith("tests/")]


def test_every_file_that_a_document_or_a_comment_names_exists() -> None:
    folders = "services|shared|tests|docs|deploy|bench|requirements|\\.ci"
    named = re.compile(rf"(?<![\w./<-])((?:{folders})/[\w./-]*\w/?)(?![\w<*{{])")
    missing = []
    for place, line in lines_of():
        if not place.rsplit(":", 1)[0].endswith((".md", ".py", ".toml", ".yaml", "Makefile")) or "<" in line:
            continue
        if place.startswith("tests/contract/adapters/test_vectors.py"):  # names the files of others that it quotes
            continue
        for path in named.findall(line):
            made_on_the_spot = path.startswith(("deploy/kafka/target", "deploy/.env"))
            known = (ROOT / path).exists() or (ROOT / f"{path}.py").exists()
            if not known and not made_on_the_spot:
                missing.append(f"{place}: {path}")
    assert not missing, "\n".join(missing)


def test_every_link_between_documents_leads_to_a_file() -> None:
    missing = []
    for name in documents():
        for target in re.findall(r"\]\(([^)#\s]+)", read(name)):
            if "://" not in target and not (ROOT / name).parent.joinpath(target).exists():
                missing.append(f"{name}: {target}")
    assert not missing, "\n".join(missing)


def commands_in(text: str) -> set[tuple[str, ...]]:
    """Return the words after `threadline` in code spans and code blocks."""
    spans = re.findall(r"`(?:\.venv/bin/)?threadline ([^`\n]+)`", text)
    blocks = re.findall(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?threadline ([^\n#|>]+)", text, re.MULTILINE)
    return {tuple(found.split()) for found in [*spans, *blocks]}


def unknown_in(words: tuple[str, ...]) -> str | None:
    """Return what is wrong with a `threadline` command line, as far as its names go."""
    command: Any = get_command(app)
    for position, word in enumerate(words):
        if not hasattr(command, "get_command"):
            break
        found = command.get_command(None, word)
        if found is None:
            return None if word.startswith("-") or (position and word in "[<(") else f"no command {word}"
        command = found
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    return next((w for w in words if w.startswith("--") and w.split("=")[0] not in options), None)


def test_every_threadline_command_that_a_document_shows_exists_with_its_options() -> None:
    shown = {(name, words) for name in documents() for words in commands_in(read(name))}
    assert shown
    wrong = {f"{name}: threadline {' '.join(words)}": unknown_in(words) for name, words in shown}
    assert {line: fault for line, fault in wrong.items() if fault} == {}


def test_every_setting_that_a_document_names_exists() -> None:
    known = {f"THREADLINE_{name}".upper() for name in Settings.model_fields} | OTHER_VARIABLES
    named = {(name, found) for name in documents() for found in re.findall(r"THREADLINE_[A-Z_]+[A-Z]", read(name))}
    assert {(name, found) for name, found in named if found not in known} == set()


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {(name, target) for name in documents() for target in re.findall(r"`make ([a-z]+)", read(name))}
    assert {(name, target) for name, target in named if target not in targets} == set()


def test_the_changelog_has_the_version_of_the_project() -> None:
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert PYPROJECT["project"]["version"] in headings


def test_every_decision_has_its_four_parts() -> None:
    for name in tracked("docs/decisions/", suffix=".md"):
        parts = re.findall(r"^## (.+)$", read(name), re.MULTILINE)
        assert parts == ["Context", "Decision", "Consequences", "What enforces it"], name


# Scripts and packaging


def test_the_ci_script_is_valid_bash_and_executable() -> None:
    script = ROOT / ".ci" / "run"
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


def test_make_says_in_one_line_when_there_is_no_usable_python(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("rm", "cat", "sh", "printf"):
        (tools / name).symlink_to(next(p for p in (Path("/usr/bin", name), Path("/bin", name)) if p.exists()))
    old = tools / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    make = next(p for p in (Path("/usr/bin/make"), Path("/bin/make")) if p.exists())
    run = subprocess.run([make, "setup"], cwd=tmp_path, env={"PATH": str(tools)}, capture_output=True, text=True)
    assert run.returncode != 0
    assert "Threadline needs Python 3.11 or later; python3 is Python 3.9.2." in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_the_wheel_carries_every_file_of_the_product_and_runs_without_the_source_tree(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert set(tracked(*RUNTIME_CODE)) - set(archive.namelist()) == set()
        archive.extractall(tmp_path / "installed")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "installed")}
    for probe in ("import services.cli.main as m; print(m.__file__)", "import services.cli.main as m; m.main()"):
        run = subprocess.run(
            [sys.executable, "-c", probe, "--help"],
            cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
        )  # fmt: skip
        assert str(tmp_path) in run.stdout or "conversation" in run.stdout


# Deployment


def test_the_image_copies_what_exists_and_runs_a_real_command() -> None:
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = [
        source for line in re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE) for source in line.split()
    ]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {source.split("/")[0] for source in copied} <= kept
    assert re.findall(r'^CMD \["(\w+)"\]$', dockerfile, re.MULTILINE)[0] in set(COMMANDS)


def test_the_composition_runs_real_commands_with_settings_that_exist_and_no_default_secret() -> None:
    composition = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    ours = {name: service for name, service in composition["services"].items() if service["image"] == "threadline"}
    assert {"ingest", "conversation", "metrics", "migrate"} == set(ours)
    for service in ours.values():
        assert service["command"][0] in set(COMMANDS)
        for variable, value in service["environment"].items():
            assert variable.removeprefix("THREADLINE_").lower() in Settings.model_fields, variable
            if variable.endswith("_KEY"):
                assert re.fullmatch(r"\$\{THREADLINE_\w+_KEY:\?.+\}", value), "a secret must be given"


def test_the_chart_runs_real_commands_and_has_the_version_of_the_project() -> None:
    chart = ROOT / "deploy" / "helm" / "threadline"
    assert set(yaml.safe_load((chart / "values.yaml").read_text())["services"]) <= set(COMMANDS)
    description = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert description["version"] == description["appVersion"] == PYPROJECT["project"]["version"]
