"""Which jobs have made what is not copied yet."""

import sqlalchemy as sa
from alembic import op

revision = "007"
down_revision = "006"


def upgrade() -> None:
    op.add_column(
        "service_jobs", sa.Column("uncopied", sa.Boolean(), nullable=False, server_default=sa.false())
    )
