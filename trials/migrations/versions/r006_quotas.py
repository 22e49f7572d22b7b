"""What forgotten jobs took counts on; how much users may keep."""

import sqlalchemy as sa
from alembic import op

revision = "006"
down_revision = "005"

STORED_BYTES = 256 * 2**30
"""Of those for whom an admin has set a quota when there was none of this."""


def upgrade() -> None:
    op.create_table(
        "forgotten_jobs",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("worked_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("number", name="pk_forgotten_jobs"),
    )
    op.create_index("ix_forgotten_jobs_owner", "forgotten_jobs", ["owner"])
    stored = sa.Column("stored_bytes", sa.BigInteger(), nullable=False, server_default=str(STORED_BYTES))
    with op.batch_alter_table("quotas") as quotas:
        quotas.add_column(stored)
    with op.batch_alter_table("quotas") as quotas:
        quotas.alter_column("stored_bytes", server_default=None)
