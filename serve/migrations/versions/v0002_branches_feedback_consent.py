"""Turns become a tree; feedback, consent records, pictures and tombstones get tables.

Going down keeps every turn, so branches lie one after another in the old, linear order. Tombstones
and consent records stay where they are: the promises behind them outlive a schema.
"""

import json

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_BATCH_ROWS = 500
_EMPTY = sa.text("''")
_LINEAR_PARENT = """
    UPDATE turn SET parent_id = (
        SELECT earlier.id FROM turn AS earlier
        WHERE earlier.conversation_id = turn.conversation_id
        AND earlier.position < turn.position ORDER BY earlier.position DESC LIMIT 1
    )
"""
_HEAD_AND_TIME = """
    UPDATE conversation SET
        head_id = (
            SELECT turn.id FROM turn WHERE turn.conversation_id = conversation.id
            ORDER BY turn.position DESC LIMIT 1
        ),
        updated_at = COALESCE(
            (SELECT max(turn.created_at) FROM turn WHERE turn.conversation_id = conversation.id),
            conversation.created_at
        )
"""
_RATINGS_OUT = """
    INSERT INTO feedback (turn_id, rating, reason, comment, updated_at)
    SELECT id, rating, rating_reason, '', created_at FROM turn
    WHERE rating <> 0 OR rating_reason <> ''
"""
_RATINGS_BACK = """
    UPDATE turn SET
        rating = COALESCE((SELECT rating FROM feedback WHERE turn_id = turn.id), 0),
        rating_reason = COALESCE(
            (SELECT reason || CASE WHEN reason <> '' AND comment <> '' THEN ' ' ELSE '' END
             || comment FROM feedback WHERE turn_id = turn.id), ''
        )
"""


def upgrade() -> None:
    """Add what is new, fill it from what is there, drop what moved."""
    time = sa.String(32)
    op.add_column(
        "conversation", sa.Column("updated_at", time, nullable=False, server_default=_EMPTY)
    )
    op.add_column("conversation", sa.Column("head_id", sa.String(32)))
    op.create_index("ix_conversation_updated_at", "conversation", ["updated_at"])
    op.add_column("turn", sa.Column("parent_id", sa.String(32)))
    op.add_column("turn", sa.Column("withdrawn_at", time))
    _create_turn_tables()
    present = set(sa.inspect(op.get_bind()).get_table_names())
    if "tombstone" not in present:
        op.create_table(
            "tombstone",
            sa.Column("digest", sa.String(64), primary_key=True),
            sa.Column("deleted_at", time, nullable=False),
        )
    if "consent_record" not in present:
        op.create_table(
            "consent_record",
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("owner", sa.String(64), nullable=False),
            sa.Column("consent", sa.String(32), nullable=False),
            sa.Column("version", sa.Integer, nullable=False),
            sa.Column("recorded_at", time, nullable=False),
        )
        op.create_index("ix_consent_record_owner", "consent_record", ["owner"])
    for statement in (_LINEAR_PARENT, _HEAD_AND_TIME, _RATINGS_OUT):
        op.execute(statement)
    _fill_images()
    op.drop_column("turn", "rating")
    op.drop_column("turn", "rating_reason")


def _create_turn_tables() -> None:
    op.create_table(
        "feedback",
        sa.Column(
            "turn_id", sa.String(32), sa.ForeignKey("turn.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("rating", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("updated_at", sa.String(32), nullable=False),
    )  # fmt: skip
    op.create_table(
        "turn_image",
        sa.Column(
            "turn_id", sa.String(32), sa.ForeignKey("turn.id", ondelete="CASCADE"),
            primary_key=True,
        ),
        sa.Column("image_id", sa.String(64), primary_key=True),
    )  # fmt: skip
    op.create_index("ix_turn_image_image_id", "turn_image", ["image_id"])


def _fill_images() -> None:
    """Pictures are named in `extras` only; rows are read in batches, as a store may be large."""
    connection, last = op.get_bind(), ""
    page = sa.text(
        "SELECT id, extras FROM turn WHERE id > :last AND extras LIKE '%\"images\"%' "
        f"ORDER BY id LIMIT {_BATCH_ROWS}"
    )
    insert = sa.text("INSERT INTO turn_image (turn_id, image_id) VALUES (:turn_id, :image_id)")
    while rows := connection.execute(page, {"last": last}).all():
        found = [
            {"turn_id": turn_id, "image_id": image}
            for turn_id, extras in rows
            for image in sorted(set(json.loads(extras).get("images", [])))
        ]
        if found:
            connection.execute(insert, found)
        last = rows[-1][0]


def downgrade() -> None:
    """Bring ratings back into the turn's row; drop the tables that only the new code reads."""
    op.add_column("turn", sa.Column("rating", sa.Integer, nullable=False, server_default="0"))
    op.add_column(
        "turn", sa.Column("rating_reason", sa.Text, nullable=False, server_default=_EMPTY)
    )
    op.execute(_RATINGS_BACK)
    op.drop_table("turn_image")
    op.drop_table("feedback")
    op.drop_column("turn", "withdrawn_at")
    op.drop_column("turn", "parent_id")
    op.drop_index("ix_conversation_updated_at", "conversation")
    op.drop_column("conversation", "head_id")
    op.drop_column("conversation", "updated_at")
