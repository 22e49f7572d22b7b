"""Every example job can be read, its checkpoint is as good as its README says, and its budgets can be met."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from search.inspection import measure_candidates
from search.job import Job
from search.model import open_coupling, open_model
from search.profiling import make_space, narrowest, open_device
from search.sets import asked as of_sets
from trials.data import load
from trials.evaluate import evaluate
from trials.factory import call_factory

EXAMPLES = Path(__file__).parents[1] / "examples"
FILES = sorted(EXAMPLES.glob("*/*.toml"))
SETS = [path for path in FILES if "[[models]]" in path.read_text()]
JOBS = [path for path in FILES if path not in SETS]

each_job = pytest.mark.parametrize("path", JOBS, ids=[str(path.relative_to(EXAMPLES)) for path in JOBS])


@each_job
def test_the_checkpoint_fits_its_network_and_its_data(path: Path) -> None:
    job = Job.load(path)
    model = call_factory(job.model.factory, job.folder, "[model] factory", job.model.args)
    model.load_state_dict(load_file(job.folder / job.model.checkpoint))
    splits = load(job.data_spec(), job.folder, seed=job.search.seed)
    splits.check_model([each.shape for each in job.model.input_specs], outputs=10)
    assert splits.test is not None
    assert evaluate(model, splits.test).accuracy > 0.97
    assert model.training  # as the factory made it


@each_job
def test_the_lowest_budget_can_be_met_with_room_for_an_error_bar(path: Path) -> None:
    job = Job.load(path)
    bundle = open_model(job)
    coupling = open_coupling(bundle, seed=job.search.seed, whole=job.search.whole)
    runtime, device = open_device(job.device)
    space = make_space(job, coupling, [device])
    # Both take turns, so that a busy machine slows them alike.
    least, dense = measure_candidates(bundle, coupling, [narrowest(space), space.dense], runtime, device)
    budget = min(level.value for level in job.budget.leading.levels if level.relative)
    assert 1.1 * least.latency_ms < budget * dense.latency_ms


def test_a_set_is_made_of_models_of_the_other_examples() -> None:
    models = [Job.load(path).model for path in JOBS]
    for path in SETS:
        asked = of_sets.load(path)
        assert isinstance(asked, of_sets.ModelSet)
        assert all(member.model in models for member in asked.models)
    assert SETS
