"""Connections to a database of SQLite in which every transaction is on the disk when it ends.

    engine = connect(folder / "jobs.sqlite")
    with engine.begin() as connection: ...      # holds the lock for writing from its beginning
    with reading(engine) as connection: ...     # waits for nobody

The file must not lie on a network file system, because of SQLite's write-ahead log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

BUSY_SECONDS = 30  # that a transaction waits for another


def connect(file: Path, **pool: Any) -> Engine:
    """Return an engine for a file, which is made where it is missing. pool: options of the pool."""
    engine = create_engine(f"sqlite:///{file}", **pool)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def reading(engine: Engine) -> Connection:
    """Return a connection that only reads."""
    return engine.connect().execution_options(only_reads=True)


def _prepare(connection: Any, _: Any) -> None:
    """Set up a connection: transactions are begun by `_begin`, and nothing else begins one."""
    connection.isolation_level = None
    waiting = f"busy_timeout={1000 * BUSY_SECONDS}"
    for setting in (waiting, "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("only_reads", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
