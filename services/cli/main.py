"""The `threadline` command: which commands there are, and how each of them fails.

A command's module is imported only when that command runs, so that `threadline --help` answers at once.
Exit codes: 0 done, 1 failed with one clear line on stderr, 2 wrong usage.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shared.errors import ThreadlineError

# Name → module, function or typer app in it, one line of help.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("services.cli.serve", "up", "ingest, conversation and metrics in one process on one port"),
    "ingest": ("services.cli.serve", "ingest", "the ingest service alone"),
    "conversation": ("services.cli.serve", "conversation", "the conversation service alone"),
    "metrics": ("services.cli.serve", "metrics", "the metrics service alone"),
    "demo": ("services.cli.demo", "demo", "`up` on a temporary folder, lifelike traffic, and the pages to open"),
    "simulate": ("services.cli.simulate", "simulate", "post lifelike omnichannel traffic"),
    "try": ("services.cli.trying", "try_", "your own mail on timelines in a minute, on a temporary folder"),
    "import": ("services.cli.importing", "import_", "load mail or events with their own times"),
    "verify": ("services.cli.verify", "verify", "every event is on one timeline, every KPI equals its recount"),
    "replay": ("services.cli.replay", "replay", "rebuild timelines from the log, without what was erased"),
    "quarantine": ("services.cli.quarantine", "app", "what could not be understood: list, show, retry, drop"),
    "channels": ("services.cli.channels", "app", "channel accounts: list, put, delete, and test one"),
    "webhooks": ("services.cli.webhooks", "app", "endpoints outside that are told: list, put, delete, test, retry"),
    "keys": ("services.cli.keys", "app", "create, list and revoke API keys"),
    "migrate": ("services.cli.operations", "migrate", "bring the database to the newest schema"),
    "settings": ("services.cli.operations", "settings", "every setting with its unit, default and what is in force"),
    "doctor": ("services.cli.operations", "doctor", "find out what keeps Threadline from working here"),
}


class Commands(TyperGroup):
    """The group of all commands, each imported when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, summary = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, typer.Typer):
            single = new_app()
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        command.short_help = summary
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in COMMANDS.items()])


def new_app(**options: Any) -> typer.Typer:
    """Return a typer app that writes plain help and lets exceptions through to `main`."""
    return typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False, **options)


app = new_app(cls=Commands, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"threadline {version('threadline')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """One customer on one timeline, over every channel, with KPIs that are exact while they stream."""


def main() -> None:
    """Run the command line: the entry point of the package."""
    try:
        app(prog_name="threadline")
    except ThreadlineError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("stopped")
    except Exception as error:
        if os.environ.get("THREADLINE_LOG_LEVEL", "").lower() == "debug":
            raise
        fail(f"unexpected {type(error).__name__}: {error} (THREADLINE_LOG_LEVEL=debug shows where)")


def fail(message: str) -> None:
    """End the process with exit code 1 and `message` as the one line on stderr."""
    from shared.telemetry import without_secrets

    print("threadline: " + without_secrets(" ".join(message.split())), file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
