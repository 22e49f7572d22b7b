"""Runs the revisions on the connection that `trials.database` hands over.

To change a table: change it in `trials/tables.py` or in the companion of the store that has it, add a
revision beside the last one under `versions/`, and run `tests/trials/test_store.py`, which compares the two.
"""

from alembic import context

from trials import audit, inputs, measurements, quotas, service_jobs, tokens  # noqa: F401 (for their tables)
from trials.database import metadata

# SQLite cannot alter most of a table: in batch mode it is copied.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
