"""Every example job can be read, and its checkpoint is as good as its README says."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from search.job import Job
from trials.data import load
from trials.evaluate import evaluate
from trials.factory import call_factory

EXAMPLES = Path(__file__).parents[1] / "examples"
JOBS = sorted(EXAMPLES.glob("*/*.toml"))


@pytest.mark.parametrize("path", JOBS, ids=[str(path.relative_to(EXAMPLES)) for path in JOBS])
def test_the_checkpoint_fits_its_network_and_its_data(path: Path) -> None:
    job = Job.load(path)
    model = call_factory(job.model.factory, job.folder, "[model] factory", job.model.args)
    model.load_state_dict(load_file(job.folder / job.model.checkpoint))
    splits = load(job.data_spec(), job.folder, seed=job.search.seed)
    splits.check_model([each.shape for each in job.model.input_specs], outputs=10)
    assert splits.test is not None
    assert evaluate(model, splits.test).accuracy > 0.97
    assert model.training  # as the factory made it
