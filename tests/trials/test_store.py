"""The store on SQLite: the contract, kill -9, migrations, and files that are not a store."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from hwprofiles.errors import RequestError, TransientError
from tests.contracts.store import FACTS, StoreContract, queued
from trials.candidate import Trial
from trials.database import metadata
from trials.store import Store


class TestSqliteStore(StoreContract):
    def make(self, folder: Path) -> Store:
        return Store.open(folder / "store.sqlite")


def run_trials(path: Path, acknowledge: Connection) -> None:
    """Add, start and finish trials without end; send each one's state after the call that stored it."""
    with Store.open(path) as store:
        store.requeue_running("digits")
        trials = {trial.number: trial for trial in store.trials("digits")}
        acknowledge.send(None)
        while True:
            waiting = [trial for trial in trials.values() if not trial.state.finished]
            if not waiting:
                waiting = [queued(len(trials)), queued(len(trials) + 1)]
                store.save("digits", *waiting)
                acknowledge.send(waiting)
            for trial in waiting:
                running = trial.start()
                store.save("digits", running)
                acknowledge.send([running])
                trials[trial.number] = running.finish(FACTS)
                store.save("digits", trials[trial.number])
                acknowledge.send([trials[trial.number]])


def successors(acknowledged: dict[int, Trial]) -> list[dict[int, Trial]]:
    """What the store may hold: what was acknowledged, or one transaction more."""
    queue = [trial for trial in acknowledged.values() if not trial.state.finished]
    if not queue:
        new = [queued(len(acknowledged)), queued(len(acknowledged) + 1)]
        return [acknowledged, acknowledged | {trial.number: trial for trial in new}]
    current = queue[0]
    after = current.finish(FACTS) if current.state == "running" else current.start()
    return [acknowledged, acknowledged | {after.number: after}]


def test_a_killed_writer_loses_no_acknowledged_transition_and_repeats_none(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store.open(path) as store:
        store.create_job("digits", spec={}, plan={})
    moments = random.Random(0)
    context = multiprocessing.get_context("spawn")
    for _ in range(4):
        with Store.open(path) as store:
            acknowledged = {trial.number: trial for trial in store.trials("digits")}
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=run_trials, args=(path, send))
        child.start()
        send.close()
        assert receive.recv() is None
        acknowledged = {
            number: trial if trial.state.finished else trial.requeue()
            for number, trial in acknowledged.items()
        }
        for _ in range(moments.randrange(60)):
            acknowledged |= {trial.number: trial for trial in receive.recv()}
        time.sleep(moments.random() * 2e-3)
        child.kill()
        child.join()
        try:
            while True:
                acknowledged |= {trial.number: trial for trial in receive.recv()}
        except EOFError:
            pass
        receive.close()
        with Store.open(path) as store:
            assert {trial.number: trial for trial in store.trials("digits")} in successors(acknowledged)
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


def test_the_last_revision_makes_the_tables_that_the_code_expects(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite"):
        engine = create_engine(f"sqlite:///{tmp_path / 'store.sqlite'}")
        with engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        engine.dispose()


def test_a_commit_is_on_disk_and_constraints_are_enforced(tmp_path: Path) -> None:
    full, on = 2, 1
    with Store.open(tmp_path / "store.sqlite") as store, store._engine.connect() as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert pragmas == ["wal", full, on]


def test_a_store_that_never_held_a_job_leaves_no_file(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite") as store:
        store.create_job("refused", spec={}, plan={})
        store.remove_job("refused")
    assert not list(tmp_path.iterdir())


def test_a_store_stays_that_was_there_before_or_holds_a_job_or_is_open_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store.open(path) as store:
        with Store.open(path) as other:
            pass
        assert path.exists()
        store.create_job("digits", spec={}, plan={})
    with Store.open(path) as store:
        store.remove_job("digits")
    assert path.exists()
    with Store.open(tmp_path / "second.sqlite") as store, Store.open(tmp_path / "second.sqlite") as other:
        store.close()
        other.create_job("digits", spec={}, plan={})
    with Store.open(tmp_path / "second.sqlite") as store:
        assert [job.name for job in store.jobs()] == ["digits"]


def test_facts_of_no_version_or_another_one_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    for stored, version in (("{}", "None"), ('{"version": 99}', "99")):
        path.unlink(missing_ok=True)
        with Store.open(path) as store:
            store.create_job("digits", spec={}, plan={})
            store.save("digits", queued(0))
            store.save("digits", queued(0).start())
            store.save("digits", queued(0).start().finish(FACTS))
            with store._engine.begin() as connection:
                connection.exec_driver_sql(f"UPDATE trials SET facts = '{stored}'")
            with pytest.raises(RequestError, match=f"facts of version {version}; allowed: 1 or 2; run the"):
                store.trials("digits")


def test_a_store_opens_by_url_as_by_path(tmp_path: Path) -> None:
    with Store.open(tmp_path / "store.sqlite") as store:
        store.create_job("digits", spec={}, plan={})
    with Store.open(f"sqlite:///{tmp_path / 'store.sqlite'}") as store:
        assert store.job("digits").name == "digits"


def test_a_store_of_a_newer_revision_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store.open(path) as store:
        store.create_job("digits", spec={}, plan={})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '999'")
    connection.close()
    with pytest.raises(RequestError, match=r"store\.sqlite is of revision '999'.*upgrade prunefront"):
        Store.open(path)


def test_what_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a database, " * 100)
    with pytest.raises(RequestError, match=r"notes\.txt cannot be used: file is not a database"):
        Store.open(tmp_path / "notes.txt")
    with pytest.raises(RequestError, match="cannot be used: unable to open database file"):
        Store.open(tmp_path / "missing" / "store.sqlite")


def test_a_locked_store_may_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    with Store.open(path) as store:
        store.create_job("digits", spec={}, plan={})
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout = 10")
            connection.rollback()
            blocker = sqlite3.connect(path, isolation_level=None)
            blocker.execute("BEGIN IMMEDIATE")
            with pytest.raises(TransientError, match="locked by another process"):
                connection.exec_driver_sql("SELECT 1")
            blocker.close()


def revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", "trials:migrations")
    return [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()][::-1]


@pytest.mark.parametrize("revision", revisions())
def test_a_store_of_any_revision_is_brought_up_to_date_with_all_it_holds(
    revision: str, tmp_path: Path
) -> None:
    path = tmp_path / "store.sqlite"
    config, engine = Config(), create_engine(f"sqlite:///{path}")
    config.set_main_option("script_location", "trials:migrations")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        job = "'digits', 'searching', '{\"seed\": 0}', '{}', 7.5"
        trial = "'digits', 0, '[16, 8, 0]', 1, 0.5, 'auto', 'running', 1, null, ''"
        connection.exec_driver_sql(f"insert into jobs values ({job})")
        connection.exec_driver_sql(f"insert into trials values ({trial})")
    engine.dispose()
    with Store.open(path) as store:
        assert (store.job("digits").spec, store.job("digits").created_s) == ({"seed": 0}, 7.5)
        [running] = store.trials("digits")
        store.save("digits", running.finish(FACTS))
        with store.reading() as connection:
            assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_who_opens_a_new_file_while_another_makes_it_waits(tmp_path: Path) -> None:
    """SQLite itself fails at once where a file turns to its log while somebody is about to write."""
    other = sqlite3.connect(tmp_path / "new.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.3, other.rollback)
    end.start()
    with Store.open(tmp_path / "new.sqlite") as store:
        assert store.jobs() == []
    end.join()
    other.close()
