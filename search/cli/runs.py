"""Commands about jobs that are there: list them, show one, forget one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from search.cli import remote
from search.cli.remote import ServerName, service_instead
from search.cli.stored import JobName, open_store, place_of
from search.cli.terminal import AsJson, Runs, out, print_json, runs_folder, say
from search.place import Place


def show(
    job: JobName,
    trial: Annotated[int | None, typer.Option(help="One trial instead of the job.")] = None,
    server: ServerName = None,
    runs: Runs = None,
    as_json: AsJson = False,
) -> None:
    """Show a job's state and trials, or everything about one trial."""
    from search.status import job_facts, set_facts, trial_facts, trial_rows

    if service := service_instead(server, runs):
        remote.show(service, job, trial, as_json)
        return
    place = place_of(job, runs)
    with open_store(place) as store:
        if trial is not None:
            found = trial_facts(store, place, trial)
        else:
            found = {**job_facts(store, place), **set_facts(store, place)}
            found["all_trials"] = trial_rows(store, place.job)
    if as_json:
        print_json(found)
    elif trial is not None:
        _show_trial(found)
    else:
        _show_job(found, place)


def _show_job(found: Mapping[str, Any], place: Place) -> None:
    from search import tables
    from search.sets import tables as set_tables
    from search.status import WAITING

    out.print(tables.jobs([found, *found.get("jobs", ())]))
    say(out, f"budget: {found['budget']}")
    for line in set_tables.shares(found):
        say(out, line)
    if found["all_trials"]:
        out.print(tables.trials(found["all_trials"]))
    for line in (*tables.failures(found["all_trials"]), *found["events"]):
        say(out, line)
    if found["state"] in WAITING:
        say(out, f"go on with: prunefront resume {place.folder}")


def _show_trial(found: Mapping[str, Any]) -> None:
    from search import tables
    from search.numbers import amount

    wanted = amount(found["target"], found["target_unit"])
    say(
        out,
        f"trial {found['trial']}: {found['state']}, proposed by {found['origin']} for at most {wanted} "
        f"{found['target_unit']} (seed {found['seed']}, attempts {found['attempts']})",
    )
    if found["reason"]:
        say(out, f"failed: {found['reason']}")
    if found["facts"]:
        out.print(tables.stages(found))
        if found["others"]:
            out.print(tables.others(found))
        for line in tables.answers(found):
            say(out, line)
    out.print(tables.widths(found))
    if "exported" in found["results"]:
        say(out, f"exported to {found['results']['exported']['folder']}")


def ls(server: ServerName = None, runs: Runs = None, as_json: AsJson = False) -> None:
    """List all jobs of the runs folder, or yours at a server."""
    from search import tables
    from search.status import job_facts

    if service := service_instead(server, runs):
        remote.ls(service, as_json)
        return
    place = Place(runs_folder(runs), "")
    found = []
    if place.store.exists():
        with open_store(place) as store:
            found = [job_facts(store, Place(place.runs, record.name)) for record in store.jobs()]
    if as_json:
        print_json(found)
        return
    if not found:
        say(out, f"no jobs in {place.runs}; start one with: prunefront run job.toml")
        return
    out.print(tables.jobs(found))


def rm(job: JobName, server: ServerName = None, runs: Runs = None, as_json: AsJson = False) -> None:
    """Forget a job: its trials, its profile and everything it exported into its run folder."""
    from search.removal import remove

    if service := service_instead(server, runs):
        remote.rm(service, job, as_json)
        return
    place = place_of(job, runs)
    with open_store(place) as store:
        remove(place, store)
    if as_json:
        print_json({"removed": str(place.folder)})
    else:
        say(out, f"removed {place.folder}")
