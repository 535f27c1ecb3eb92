"""The command line: ``watchly …``.

Data goes to stdout, talk to stderr. Modules are loaded by the command that needs them, so that help
comes at once.
"""

from __future__ import annotations

import signal
import sys
from typing import Never

import click

from watchly_core.errors import ImportRejected, Invalid, WatchlyError
from watchly_http.cli import backups, people, relays, serving, transfers, upkeep
from watchly_http.cli.console import in_one_line, say

#: How the shell says that a process ended by a signal: 128 and its number.
_SIGNALLED = 128


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="watchly")
def cli() -> None:
    """Watchly keeps a movie catalogue.

    Settings come from the environment and a file .env. With none at all, a private PostgreSQL and
    image files are kept below WATCHLY_HOME.

    \b
    Examples:
      watchly serve
      watchly import --sample
      watchly export --format csv > movies.csv
    """


for _command in (
    serving.serve,
    upkeep.migrate,
    transfers.import_,
    transfers.export,
    upkeep.sweep,
    upkeep.reindex,
    upkeep.rebuild,
    relays.relay,
    relays.webhook,
    people.token,
    people.user,
    people.keys,
    backups.backup,
    backups.restore,
    serving.dev,
    upkeep.doctor,
):
    cli.add_command(_command)


def main() -> Never:
    """Run the command line; an error of ours is one line on stderr and exit code 1."""
    # An exception, so that what was started is stopped on the way out.
    for stop in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(stop, lambda number, _: sys.exit(_SIGNALLED + number))
    try:
        cli(standalone_mode=True)
    except ImportRejected as rejected:
        say(f"watchly: {rejected}")
    except Invalid as invalid:
        say(f"watchly: {in_one_line(invalid.faults)}")
    except WatchlyError as error:
        say(f"watchly: {error}")
    except OSError as error:
        say(f"watchly: {error.filename or 'input or output'}: {error.strerror}")
    sys.exit(1)
