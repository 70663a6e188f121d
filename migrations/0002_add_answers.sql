-- +goose Up
-- What Stripe's API told of a session's state, and when; nothing personal. A
-- row of history comes and goes with what the events explain, so that what the
-- rows say does not depend on whether an answer or an event came first.
CREATE TABLE stripe_identity.answers (
    session_id             text COLLATE "C" NOT NULL,
    told_until             timestamptz NOT NULL,
    told_from              timestamptz NOT NULL,
    outputs                boolean NOT NULL, -- outputs were asked for
    account                text,
    livemode               boolean,
    event_type             text NOT NULL,
    type                   text,
    status                 text,
    error_code             text,
    verification_report_id text,
    redaction_status       text,
    PRIMARY KEY (session_id, told_until)
);

ALTER TABLE stripe_identity.verification_sessions
    ADD COLUMN told_by text COLLATE "C"; -- own: the event or answer whose content the row has

-- The row of history that an answer made.
CREATE UNIQUE INDEX status_transitions_answer ON stripe_identity.status_transitions (session_id, occurred_at) WHERE event_id IS NULL;
