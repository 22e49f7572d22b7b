"""Trains a trial by a recipe of its own: searched, kept, and used for whatever is made of the trial."""

from __future__ import annotations

from collections.abc import Mapping

from search.export import holds_whole
from search.finish import finish_trial
from search.outcome import export_trial, write_report
from search.plan import Prepared
from search.progress import Listener
from search.recipes import Ended, best_recipe, own_choice
from search.results import EXPORTED, TUNED, results
from trials.store import Store


def tune_trial(
    prepared: Prepared, store: Store, number: int, *, count: int, minutes: float, listener: Listener
) -> Mapping[int, Ended]:
    """Search the recipe that trains a trial best, and train it by that; returns all recipes that have ended.

    One that the job's own recipe trains best stays as it is. An export of the winner follows what it exports.

    Raises:
        RequestError: the job trains no finalists, or no recipe came to its end in time.
        TrialError: its training failed.
    """
    job, place = prepared.job.name, prepared.place
    trial = {trial.number: trial for trial in store.trials(job)}[number]
    best, ended = best_recipe(prepared, trial, count=count, minutes=minutes, listener=listener)
    exported = holds_whole(place.export, number)
    known = results(store, job, TUNED).get(number, {"recipe": own_choice(prepared.recipe)})
    if known["recipe"] != best.choice:
        store.remove_results(job, number)
        store.add_result(job, number, TUNED, {"recipe": best.choice, "merit": best.merit})
    finish_trial(prepared, store, number, listener)
    if exported and number not in results(store, job, EXPORTED):
        export_trial(prepared, store, number, place.export, replace=True)
        store.add_result(job, number, EXPORTED, {"folder": str(place.export)})
    write_report(prepared, store)
    return ended
