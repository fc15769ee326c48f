"""A real Postgres server for tests: initdb and pg_ctl in a temporary folder, on a free port.

Postgres refuses to run as root, so root starts it as `postgres`, or as `nobody` where that user is
missing. The server listens on loopback only, trusts it, and is stopped by its own folder.
"""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PLACES = ("/usr/lib/postgresql", "/usr/local/pgsql", "/usr/pgsql")
_WAIT_S = 60
_SETTINGS = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 40
shared_buffers = 16MB
autovacuum = off
fsync = off
"""


def find_binaries() -> Path | None:
    """Folder with `initdb` and `pg_ctl`: on PATH, else the newest version that Debian installed."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = [file.parent for place in _PLACES for file in Path(place).glob("**/bin/initdb")]
    return max(folders, default=None)


class Server:
    """A server whose data can be looked at, and which can be stopped and started."""

    def __init__(self, binaries: Path, root: Path, user: str | None) -> None:
        self.data = root / "data"
        self.log = root / "server.log"
        self.port = _free_port()
        self._binaries = binaries
        self._user = user
        self.run("initdb", "-D", str(self.data), "-U", "moss", "-A", "trust", "-E", "UTF8", "-N")
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(f"{_SETTINGS}port = {self.port}\n")

    def run(self, program: str, *arguments: str) -> None:
        """Run one of Postgres' programs as the server's user."""
        command: Sequence[str] = [str(self._binaries / program), *arguments]
        if self._user is not None:
            command = ["runuser", "-u", self._user, "--", *command]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=2 * _WAIT_S, cwd="/", check=False
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"

    def start(self) -> None:
        """Start, and return when it takes connections."""
        self.run("pg_ctl", "-D", str(self.data), "-l", str(self.log), "-w", "-t", str(_WAIT_S),
                 "start")  # fmt: skip

    def stop(self) -> None:
        """End it at once, as a crash of its machine would; it recovers when it starts."""
        self.run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy's URL of one of its databases."""
        return f"postgresql+psycopg://moss@127.0.0.1:{self.port}/{database}"

    def sql(self, *statements: str) -> None:
        """Run statements, each on its own."""
        import psycopg

        place = f"host=127.0.0.1 port={self.port} user=moss dbname=postgres"
        with psycopg.connect(place, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)


@contextmanager
def postgres_server(binaries: Path) -> Iterator[Server]:
    """A server while the block runs."""
    user = _server_user()
    root = Path(tempfile.mkdtemp(prefix="moss-postgres-"))
    try:
        if user is not None:
            shutil.chown(root, user)
            _let_through(root)
        server = Server(binaries, root, user)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _server_user() -> str | None:
    """Whom to run as: None for the present user."""
    if os.getuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _let_through(root: Path) -> None:
    """Another user reaches its folder only through folders that all may enter."""
    for folder in root.parents:
        if not folder.stat().st_mode & 0o001:
            raise PermissionError(f"{folder} is closed to other users; set TMPDIR elsewhere")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
