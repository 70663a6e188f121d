-- +goose Up
-- The schema of webhookd. Columns that the contract does not name are marked
-- "own" and may change at any time.

-- Ids compare by their bytes, as in Go: the order of events depends on it.
CREATE TABLE stripe_identity.events (
    event_id       text COLLATE "C" PRIMARY KEY,
    type           text NOT NULL,
    session_id     text COLLATE "C" NOT NULL,
    account        text,
    context        text,
    livemode       boolean,
    api_version    text,
    request_id     text,
    snapshot_event text COLLATE "C",
    created_at     timestamptz NOT NULL,
    received_at    timestamptz NOT NULL,
    source         text NOT NULL CHECK (source IN ('webhook', 'reconcile')),
    secret_name    text,
    payload        jsonb,
    resolved_at    timestamptz -- own: when the rest of a thin event was told
);
-- Faster than the default where the server was built with it.
-- +goose StatementBegin
DO $$
BEGIN
    ALTER TABLE stripe_identity.events ALTER COLUMN payload SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;
-- +goose StatementEnd
CREATE INDEX events_session ON stripe_identity.events (session_id);
CREATE INDEX events_received ON stripe_identity.events USING brin (received_at);
CREATE INDEX events_thin ON stripe_identity.events (snapshot_event, event_id) WHERE type LIKE 'v1.%' AND resolved_at IS NULL;

CREATE TABLE stripe_identity.verification_sessions (
    id                          text COLLATE "C" PRIMARY KEY,
    account                     text,
    context                     text,
    livemode                    boolean,
    type                        text,
    status                      text,
    last_error_code             text,
    last_error_reason           text,
    last_verification_report_id text,
    client_reference_id         text,
    related_customer            text,
    related_customer_account    text,
    related_person              text,
    related_person_account      text,
    verification_flow           text,
    options                     jsonb,
    metadata                    jsonb,
    redaction_status            text,
    created_at                  timestamptz,
    status_changed_at           timestamptz,
    last_event_id               text COLLATE "C",
    last_event_created_at       timestamptz,
    needs_refresh               boolean NOT NULL DEFAULT false,
    fetched_from                timestamptz,
    fetched_until               timestamptz,
    outputs_wanted_since        timestamptz,
    first_seen_at               timestamptz NOT NULL DEFAULT now(),
    updated_at                  timestamptz NOT NULL DEFAULT now(),
    births                      text NOT NULL DEFAULT '',       -- own: which event told what is fixed at birth
    redacted                    boolean NOT NULL DEFAULT false, -- own: the tombstone; nothing personal may stand
    hidden                      boolean NOT NULL DEFAULT false, -- own: an unknown redaction word; not in the views
    CONSTRAINT redacted_holds_nothing CHECK (NOT redacted OR (metadata IS NULL AND last_error_reason IS NULL))
) WITH (fillfactor = 60); -- a session changes a few times, soon after it was made
-- A hash holds references of any length; all that is asked of them is equality.
CREATE INDEX verification_sessions_client_reference ON stripe_identity.verification_sessions USING hash (client_reference_id);
CREATE INDEX verification_sessions_needs_refresh ON stripe_identity.verification_sessions (id) WHERE needs_refresh;
CREATE INDEX verification_sessions_outputs_wanted ON stripe_identity.verification_sessions (outputs_wanted_since, id) WHERE outputs_wanted_since IS NOT NULL;

CREATE TABLE stripe_identity.status_transitions (
    id                     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id               text COLLATE "C" UNIQUE,
    session_id             text COLLATE "C" NOT NULL,
    account                text,
    livemode               boolean,
    type                   text,
    event_type             text NOT NULL,
    status                 text,
    error_code             text,
    error_reason           text,
    verification_report_id text,
    redaction_status       text,
    occurred_at            timestamptz NOT NULL,
    recorded_at            timestamptz NOT NULL DEFAULT now(),
    source                 text NOT NULL CHECK (source IN ('webhook', 'reconcile', 'api')),
    xid                    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    rank                   smallint NOT NULL, -- own: order of the event types within a second
    twin                   bytea,             -- own: digest of session, event type, state and second
    options                jsonb,             -- own: of the session when this happened
    metadata               jsonb,             -- own: likewise; gone with a redaction
    previous_status        text,              -- own: of the row before in the session's history
    previous_at            timestamptz        -- own: when that one occurred; null for the first
);
-- One session's history by time, and the rule of twins: one row for each change,
-- however many events tell it.
CREATE UNIQUE INDEX status_transitions_history ON stripe_identity.status_transitions (session_id, occurred_at, twin);
-- All sessions by time, and by commit for those who follow along.
CREATE INDEX status_transitions_occurred ON stripe_identity.status_transitions (occurred_at);
CREATE INDEX status_transitions_xid ON stripe_identity.status_transitions (xid, id);
CREATE INDEX status_transitions_failures ON stripe_identity.status_transitions
    (date_bin('1 hour', occurred_at, timestamptz '2000-01-01 00:00:00+00'))
    WHERE event_type = 'identity.verification_session.requires_input';

CREATE TABLE stripe_identity.verified_outputs (
    session_id              text COLLATE "C" PRIMARY KEY,
    first_name              text,
    last_name               text,
    dob                     date,
    dob_day                 integer,
    dob_month               integer,
    dob_year                integer,
    address_line1           text,
    address_line2           text,
    address_city            text,
    address_state           text,
    address_postal_code     text,
    address_country         text,
    id_number               text,
    id_number_type          text,
    email                   text,
    phone                   text,
    sex                     text,
    unparsed_place_of_birth text,
    unparsed_sex            text,
    verification_report_id  text,
    unreadable_fields       text[],
    extra                   jsonb,
    source                  text NOT NULL CHECK (source IN ('event', 'api')),
    fetched_at              timestamptz NOT NULL,
    told_at                 timestamptz NOT NULL, -- own: with the next three, which event told this
    told_rank               smallint NOT NULL,    -- own
    told_by                 text COLLATE "C",     -- own
    told_twin               bytea                 -- own
);

CREATE TABLE stripe_identity.provided_details (
    session_id text COLLATE "C" PRIMARY KEY,
    email      text,
    phone      text,
    told_at    timestamptz NOT NULL, -- own, as above
    told_rank  smallint NOT NULL,    -- own
    told_by    text COLLATE "C",     -- own
    told_twin  bytea                 -- own
);

CREATE TABLE stripe_identity.quarantined_events (
    event_id    text COLLATE "C" PRIMARY KEY,
    type        text NOT NULL,
    session_id  text COLLATE "C",
    created_at  timestamptz,
    received_at timestamptz NOT NULL,
    reason      text NOT NULL,
    payload     jsonb,
    resolved_at timestamptz,
    account     text,                           -- own
    livemode    boolean,                        -- own
    source      text NOT NULL,                  -- own
    secret_name text,                           -- own
    hides       boolean NOT NULL DEFAULT false  -- own: a redaction can be read in it
);
CREATE INDEX quarantined_events_session ON stripe_identity.quarantined_events (session_id);
CREATE INDEX quarantined_events_open ON stripe_identity.quarantined_events (received_at) WHERE resolved_at IS NULL;

CREATE TABLE stripe_identity.reconcile_runs (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started_at  timestamptz NOT NULL,
    finished_at timestamptz,
    since       timestamptz NOT NULL,
    result      text CHECK (result IN ('ok', 'partial', 'failed')),
    listed      bigint NOT NULL DEFAULT 0,
    recovered   bigint NOT NULL DEFAULT 0,
    detail      text
);

CREATE TABLE stripe_identity.pii_reads (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    who        text NOT NULL,
    command    text NOT NULL,
    session_id text
);

-- Every view runs with its reader's rights, and none selects a personal column
-- but verified_identities.

-- What came before is written with each row: a window function would read all
-- history before it could look at a time filter, and 20,000 lookups take longer
-- than a dashboard should wait.
CREATE VIEW stripe_identity.verification_timeline WITH (security_invoker = true) AS
SELECT t.id, t.event_id, t.session_id, t.account, t.livemode, t.type, t.event_type, t.status, t.error_code,
       t.verification_report_id, t.redaction_status, t.occurred_at, t.recorded_at, t.source, t.xid, t.previous_status,
       date_part('epoch', t.occurred_at) - date_part('epoch', t.previous_at) AS seconds_in_previous_status
FROM stripe_identity.status_transitions t;

CREATE VIEW stripe_identity.verified_identities WITH (security_invoker = true) AS
SELECT s.id AS session_id, s.account, s.livemode, s.client_reference_id, s.type, s.status_changed_at AS verified_at,
       o.first_name, o.last_name, o.dob, o.dob_day, o.dob_month, o.dob_year,
       o.address_line1, o.address_line2, o.address_city, o.address_state, o.address_postal_code, o.address_country,
       o.id_number, o.id_number_type, o.email, o.phone, o.sex, o.unparsed_place_of_birth, o.unparsed_sex,
       o.verification_report_id, o.unreadable_fields, o.extra, o.source, o.fetched_at
FROM stripe_identity.verification_sessions s
LEFT JOIN stripe_identity.verified_outputs o ON o.session_id = s.id
WHERE s.status = 'verified' AND s.redaction_status IS NULL AND NOT s.redacted AND NOT s.hidden;

-- One row for each person, as the application knows them.
CREATE VIEW stripe_identity.subject_status WITH (security_invoker = true) AS
SELECT s.account, s.livemode, s.client_reference_id,
       (array_agg(s.status ORDER BY r.rank, s.redacted, s.created_at DESC NULLS LAST, s.id DESC))[1] AS best_status,
       (array_agg(s.id ORDER BY r.rank, s.redacted, s.created_at DESC NULLS LAST, s.id DESC))[1] AS best_session_id,
       (array_agg(s.id ORDER BY s.created_at DESC NULLS LAST, s.id DESC))[1] AS newest_session_id,
       (array_agg(s.status ORDER BY s.created_at DESC NULLS LAST, s.id DESC))[1] AS newest_status,
       count(*) AS sessions,
       sum(f.failures)::bigint AS failures
FROM stripe_identity.verification_sessions s
CROSS JOIN LATERAL (
    SELECT CASE s.status WHEN 'verified' THEN 1 WHEN 'processing' THEN 2 WHEN 'requires_input' THEN 3 WHEN 'canceled' THEN 4 ELSE 5 END AS rank
) r
CROSS JOIN LATERAL (
    SELECT count(*) AS failures
    FROM stripe_identity.status_transitions t
    WHERE t.session_id = s.id AND t.event_type = 'identity.verification_session.requires_input'
) f
WHERE s.client_reference_id IS NOT NULL AND NOT s.hidden
GROUP BY s.account, s.livemode, s.client_reference_id;

CREATE VIEW stripe_identity.failure_reasons_hourly WITH (security_invoker = true) AS
SELECT date_bin('1 hour', t.occurred_at, timestamptz '2000-01-01 00:00:00+00') AS hour,
       t.account, t.livemode, t.type, coalesce(t.error_code, 'none') AS error_code, count(*) AS failures
FROM stripe_identity.status_transitions t
WHERE t.event_type = 'identity.verification_session.requires_input'
GROUP BY 1, 2, 3, 4, 5;
