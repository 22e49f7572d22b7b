"""Runs the revisions on the connection that `trials.store` hands over.

To change a table: change it in `trials/store.py`, `trials/tokens.py` or `trials/measurements.py`, add a
revision beside the last one under `versions/`, and run `tests/trials/test_store.py`, which compares the two.
"""

from alembic import context

from trials import measurements, tokens  # noqa: F401 (their tables are part of the metadata)
from trials.store import metadata

# SQLite cannot alter most of a table: in batch mode it is copied.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
