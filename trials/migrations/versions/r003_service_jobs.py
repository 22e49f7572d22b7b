"""Jobs of the service: owners, wishes and leases."""

import sqlalchemy as sa
from alembic import op

revision = "003"
down_revision = "002"


def upgrade() -> None:
    op.create_table(
        "service_jobs",
        sa.Column("job", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=True),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("wish", sa.String(), nullable=False),
        sa.Column("exports", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("lease_until_s", sa.Float(), nullable=False),
        sa.Column("taken_s", sa.Float(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("deaths", sa.Integer(), nullable=False),
        sa.Column("worked_s", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("job", name="pk_service_jobs"),
        sa.ForeignKeyConstraint(["job"], ["jobs.name"], name="fk_service_jobs_jobs"),
        sa.UniqueConstraint("owner", "key", name="uq_service_jobs_owner_key"),
    )
    op.create_index("ix_service_jobs_owner", "service_jobs", ["owner"])
    op.create_index("ix_service_jobs_lease_until_s", "service_jobs", ["lease_until_s"])
