"""Conversations and turns, ratings in the turn's row."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create both tables."""
    op.create_table(
        "conversation",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("title", sa.String(60), nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
    )
    op.create_index("ix_conversation_owner", "conversation", ["owner"])
    op.create_index("ix_conversation_created_at", "conversation", ["created_at"])
    op.create_table(
        "turn",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column(
            "conversation_id", sa.String(32),
            sa.ForeignKey("conversation.id", ondelete="CASCADE"), nullable=False,
        ),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("created_at", sa.String(32), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("model_version", sa.String(64), nullable=False),
        sa.Column("consent", sa.String(32), nullable=False),
        sa.Column("consent_version", sa.Integer, nullable=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("sections", sa.Text, nullable=False),
        sa.Column("extras", sa.Text, nullable=False),
        sa.Column("rating", sa.Integer, nullable=False),
        sa.Column("rating_reason", sa.Text, nullable=False),
    )  # fmt: skip
    op.create_index("ix_turn_conversation_id", "turn", ["conversation_id"])
    op.create_index("ix_turn_consent", "turn", ["consent"])


def downgrade() -> None:
    """Drop both tables and all they hold."""
    op.drop_table("turn")
    op.drop_table("conversation")
