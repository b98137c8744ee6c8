"""The tables of a study store, and how those of older formats become today's."""

from __future__ import annotations

import time
import uuid

import sqlalchemy as sql
from sqlalchemy.dialects import mysql

SCHEMA_VERSION = 2
"""1: one study a database, in tables without a prefix. 2: many, each row with its study's name."""

_MYSQL = ("mysql", "mariadb")
# MySQL takes Demo and demo for one name unless it is told otherwise, and keeps 64 kB of a plain text.
_NAME = sql.String(100).with_variant(mysql.VARCHAR(100, charset="utf8mb4", collation="utf8mb4_bin"), *_MYSQL)
_LONG = sql.Text().with_variant(mysql.LONGTEXT(charset="utf8mb4"), *_MYSQL)
_TRIES = 5

_tables = sql.MetaData()
STUDY = sql.Table(
    "autopeft_study",
    _tables,
    sql.Column("name", _NAME, primary_key=True),
    sql.Column("schema_version", sql.Integer, nullable=False),
    sql.Column("metric", _LONG, nullable=False),
    sql.Column("seed", sql.Integer, nullable=False),
    sql.Column("seconds", sql.Double, nullable=False),
    sql.Column("request", _LONG, nullable=False),
    sql.Column("plan", _LONG, nullable=False),
)
TRIALS = sql.Table(
    "autopeft_trials",
    _tables,
    sql.Column("study", _NAME, sql.ForeignKey("autopeft_study.name"), primary_key=True),
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("state", sql.String(20), nullable=False),
    sql.Column("reason", _LONG, nullable=False),
    sql.Column("trial", _LONG, nullable=False),
)
REPORTS = sql.Table(
    "autopeft_reports",
    _tables,
    sql.Column("study", _NAME, primary_key=True),
    sql.Column("trial", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("samples", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("report", _LONG, nullable=False),
    sql.ForeignKeyConstraint(["study", "trial"], ["autopeft_trials.study", "autopeft_trials.number"]),
)
IDS = sql.Table(
    "autopeft_study_ids",
    _tables,
    sql.Column("study", _NAME, sql.ForeignKey("autopeft_study.name"), primary_key=True),
    sql.Column("id", sql.String(32), nullable=False),
)
_OLD = ("study", "trials", "reports")
_COPIES = (
    "INSERT INTO autopeft_study (name, schema_version, metric, seed, seconds, request, plan) "
    "SELECT name, 2, metric, seed, seconds, request, plan FROM study",
    "INSERT INTO autopeft_trials (study, number, state, reason, trial) "
    "SELECT study.name, number, state, reason, trial FROM trials, study",
    "INSERT INTO autopeft_reports (study, trial, samples, report) "
    "SELECT study.name, trial, samples, report FROM reports, study",
)


def make_tables(engine: sql.Engine) -> None:
    """Make the tables that are missing; several users may do so at once."""
    for left in reversed(range(_TRIES)):
        try:
            _tables.create_all(engine)
        except sql.exc.DBAPIError:  # another user made one between the look and the making
            if not left:
                raise
            time.sleep(0.2)
        else:
            return


def give_id(connection: sql.Connection, study: str) -> None:
    """Give a study that begins an id that no other has, not even an earlier one of its name."""
    connection.execute(IDS.delete().where(IDS.c.study == study))
    connection.execute(IDS.insert().values(study=study, id=uuid.uuid4().hex))


def id_of(connection: sql.Connection, study: str) -> str:
    """Return a study's id; empty where it was begun before studies had one."""
    if not sql.inspect(connection).has_table(IDS.name):
        return ""
    found = connection.execute(sql.select(IDS.c.id).where(IDS.c.study == study)).scalar_one_or_none()
    return found or ""


def old_version(connection: sql.Connection) -> int | None:
    """Return the format of a database that was written before format 2; None where it is not old."""
    found = sql.inspect(connection)
    if not found.has_table("study") or {"name", "schema_version"} - {
        column["name"] for column in found.get_columns("study")
    }:
        return None
    version = connection.execute(sql.text("SELECT schema_version FROM study")).scalar_one_or_none()
    return None if version is None else int(version)


def upgrade(engine: sql.Engine) -> None:
    """Bring a SQLite file of format 1 to today's: all of it or, where it is cut off, nothing."""
    make_tables(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        if old_version(connection) == 1:
            for copy in _COPIES:
                connection.exec_driver_sql(copy)
            for table in reversed(_OLD):
                connection.exec_driver_sql(f"DROP TABLE {table}")
        connection.commit()
