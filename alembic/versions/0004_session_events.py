"""session events: a record of what happens to sessions, in the order of commit"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Numbers are given under a lock that is held until the transaction ends, so that whoever sees an event sees
# all that have smaller numbers. A notification longer than PostgreSQL takes goes without the service ports.
_STATEMENTS = (
    "CREATE SEQUENCE session_event_numbers",
    """
    CREATE FUNCTION number_session_event() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        event jsonb := NEW.notice -> 'event';
        payload text;
    BEGIN
        PERFORM pg_advisory_xact_lock(1702258036);
        NEW.id := nextval('session_event_numbers');
        NEW.session_id := (event ->> 'session_id')::uuid;
        NEW.user_id := (event ->> 'user_id')::uuid;
        NEW.domain_name := event ->> 'domain_name';
        NEW.notice := jsonb_set(NEW.notice, '{event,id}', to_jsonb(NEW.id));
        payload := NEW.notice::text;
        IF octet_length(payload) > 7900 THEN
            payload := (NEW.notice - 'service_ports')::text;
        END IF;
        PERFORM pg_notify('notices', payload);
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER number BEFORE INSERT ON session_events
        FOR EACH ROW EXECUTE FUNCTION number_session_event()
    """,
)


def upgrade() -> None:
    op.create_table(
        "session_events",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("domain_name", sa.String(length=64), nullable=False),
        sa.Column("notice", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_session_events")),
    )
    op.create_index(op.f("ix_session_events_at"), "session_events", ["at"], unique=False)
    for statement in _STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    op.drop_table("session_events")
    op.execute("DROP FUNCTION number_session_event()")
    op.execute("DROP SEQUENCE session_event_numbers")
