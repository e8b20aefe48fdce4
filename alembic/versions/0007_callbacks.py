"""callbacks: a queue of what is to be told to the URLs that sessions name"""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# The queue is filled where events are numbered, in the transaction that makes them true.
_WITH_CALLBACKS = """
    CREATE OR REPLACE FUNCTION number_session_event() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        event jsonb := NEW.notice -> 'event';
        payload text;
        told text;
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
        told := CASE
            WHEN event ->> 'name' LIKE 'session\\_%' THEN substr(event ->> 'name', 9)
            WHEN event ->> 'name' = 'kernel_preparing' AND event ->> 'kernel_id' = event ->> 'session_id'
                THEN 'preparing'
        END;
        IF told IS NOT NULL THEN
            INSERT INTO callbacks (id, session_id, event, url)
            SELECT NEW.id, s.id, told, s.callback_url FROM sessions s
            WHERE s.id = NEW.session_id AND s.callback_url IS NOT NULL;
            IF FOUND THEN
                PERFORM pg_notify('notices', '{"type": "CallbackWaits"}');
            END IF;
        END IF;
        RETURN NEW;
    END $$
"""
_WITHOUT_CALLBACKS = """
    CREATE OR REPLACE FUNCTION number_session_event() RETURNS trigger LANGUAGE plpgsql AS $$
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
"""


def upgrade() -> None:
    op.create_table(
        "callbacks",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("session_id", sa.Uuid(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_attempt", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name=op.f("fk_callbacks_session_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_callbacks")),
    )
    op.create_index("ix_callbacks_session_id", "callbacks", ["session_id", "id"], unique=False)
    op.create_index(op.f("ix_callbacks_next_attempt"), "callbacks", ["next_attempt"], unique=False)
    op.execute(_WITH_CALLBACKS)


def downgrade() -> None:
    op.execute(_WITHOUT_CALLBACKS)
    op.drop_table("callbacks")
