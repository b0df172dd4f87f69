"""Connections to a database of SQLite in which a transaction is on the disk when it ends.

    engine = connect(folder / "jobs.sqlite")
    with engine.begin() as connection: ...      # holds the lock for writing from its beginning
    with reading(engine) as connection: ...     # waits for nobody
    with passing(engine).begin() as connection: ...     # gets to the disk with the next of the first kind

The file must not lie on a network file system, because of SQLite's write-ahead log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError

BUSY_SECONDS = 30  # that a transaction waits for another


def connect(file: Path, **pool: Any) -> Engine:
    """Return an engine for a file, which is made where it is missing. pool: options of the pool."""
    engine = create_engine(URL.create("sqlite", database=str(file)), **pool)  # a name may have a ? or #
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


@contextmanager
def opening(file: Path, mend: str) -> Iterator[None]:
    """Raise ValueError where what is done within says that the file is damaged or cannot be used.

    file: of the database. mend: end of the message.
    """
    try:
        yield
    except DatabaseError as error:
        raise ValueError(f"{file}: is damaged, or cannot be used ({error.orig}); {mend}") from error


def check_whole(connection: Connection) -> None:
    """Raise DatabaseError for a file of which a part is missing or damaged."""
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        raise DatabaseError(None, None, sqlite3.DatabaseError(" ".join(found.split())))


def reading(engine: Engine) -> Connection:
    """Return a connection that only reads."""
    return engine.connect().execution_options(only_reads=True)


def passing(engine: Engine) -> Engine:
    """Return an engine for transactions that a loss of power may undo; the death of a process does not.

    They do not wait for the disk. Their order, and that of all others, is kept.
    """
    return engine.execution_options(only_passing=True)


def _prepare(connection: Any, _: Any) -> None:
    """Set up a connection: transactions are begun by `_begin`, and nothing else begins one."""
    connection.isolation_level = None
    waiting = f"busy_timeout={1000 * BUSY_SECONDS}"
    for setting in (waiting, "journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if options.get("only_reads", False):
        connection.exec_driver_sql("BEGIN")
    else:
        connection.exec_driver_sql(
            f"PRAGMA synchronous={'NORMAL' if options.get('only_passing') else 'FULL'}"
        )
        connection.exec_driver_sql("BEGIN IMMEDIATE")
