-- +goose Up
-- Who does at present what one replica at a time does. A row instead of an
-- advisory lock, which a pooler in transaction mode does not keep.
CREATE TABLE stripe_identity.leases (
    name   text PRIMARY KEY,
    holder text NOT NULL,
    until  timestamptz NOT NULL
);

ALTER TABLE stripe_identity.reconcile_runs
    ADD COLUMN daily boolean NOT NULL DEFAULT false; -- own: it read again what is read again once a day
CREATE INDEX events_reconciled ON stripe_identity.events (received_at) WHERE source = 'reconcile';

-- A database that was restored to an older state does not know what was
-- redacted since. What is unconfirmed is not shown until Stripe was asked.
ALTER TABLE stripe_identity.verified_outputs ADD COLUMN unconfirmed boolean NOT NULL DEFAULT false; -- own
ALTER TABLE stripe_identity.provided_details ADD COLUMN unconfirmed boolean NOT NULL DEFAULT false; -- own
CREATE INDEX verified_outputs_unconfirmed ON stripe_identity.verified_outputs (session_id) WHERE unconfirmed;
CREATE INDEX provided_details_unconfirmed ON stripe_identity.provided_details (session_id) WHERE unconfirmed;

CREATE OR REPLACE VIEW stripe_identity.verified_identities WITH (security_invoker = true) AS
SELECT s.id AS session_id, s.account, s.livemode, s.client_reference_id, s.type, s.status_changed_at AS verified_at,
       o.first_name, o.last_name, o.dob, o.dob_day, o.dob_month, o.dob_year,
       o.address_line1, o.address_line2, o.address_city, o.address_state, o.address_postal_code, o.address_country,
       o.id_number, o.id_number_type, o.email, o.phone, o.sex, o.unparsed_place_of_birth, o.unparsed_sex,
       o.verification_report_id, o.unreadable_fields, o.extra, o.source, o.fetched_at
FROM stripe_identity.verification_sessions s
LEFT JOIN stripe_identity.verified_outputs o ON o.session_id = s.id
WHERE s.status = 'verified' AND s.redaction_status IS NULL AND NOT s.redacted AND NOT s.hidden
  AND o.unconfirmed IS NOT TRUE;
