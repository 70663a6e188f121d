-- The roles of webhookd, for who does not want one user to do it all:
--
--   webhookd_owner       owns the schema and changes it (webhookd migrate)
--   webhookd_writer      records, redacts and prunes (webhookd serve and the other commands)
--   webhookd_reader      dashboards, support and other services: nothing personal
--   webhookd_pii_reader  all of it; what it reads by SQL is not noted in pii_reads, what
--                        it reads by webhookd session --show-outputs and export is
--
-- Nobody logs in as one of them. Users are yours to make, and to take away:
--
--   CREATE ROLE webhookd_migrator LOGIN PASSWORD '…' IN ROLE webhookd_owner;
--   ALTER ROLE webhookd_migrator SET role = 'webhookd_owner';  -- new tables are the owner's
--   CREATE ROLE webhookd_app LOGIN PASSWORD '…' IN ROLE webhookd_writer;
--   CREATE ROLE grafana LOGIN PASSWORD '…' IN ROLE webhookd_reader;
--
-- The first is for WEBHOOKD_MIGRATE_DATABASE_URL, the second for WEBHOOKD_DATABASE_URL.
--
-- Run this file in webhookd's database, once before the first webhookd migrate
-- up, as a superuser or a user with CREATEROLE and CREATE on the database:
--
--   psql -X -v ON_ERROR_STOP=1 -f deploy/sql/roles.sql "$ADMIN_DATABASE_URL"
--
-- and again after each migrate up, also as the migrator. It may run any number
-- of times, and takes over tables that somebody else made. Until it ran again
-- a new table can be written by the writer, and be read by no reader: a column
-- is hidden until somebody has said that it is not personal.

BEGIN;

DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['webhookd_owner', 'webhookd_writer', 'webhookd_reader', 'webhookd_pii_reader'] LOOP
        IF to_regrole(wanted) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            -- Only a member may give something to the owner; a superuser is one of all.
            IF wanted = 'webhookd_owner' AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
                EXECUTE format('GRANT webhookd_owner TO %I', current_user);
            END IF;
        END IF;
    END LOOP;
    IF NOT pg_has_role('webhookd_pii_reader', 'webhookd_reader', 'MEMBER') THEN
        GRANT webhookd_reader TO webhookd_pii_reader;
    END IF;
END
$$;

-- The schemas, webhookd's own and its job queue's, and what is in them are the
-- owner's, whoever made them.
DO $$
DECLARE
    thing  record;
    schema text;
BEGIN
    FOREACH schema IN ARRAY ARRAY['stripe_identity', 'webhookd_jobs'] LOOP
        IF to_regnamespace(schema) IS NULL THEN
            EXECUTE format('CREATE SCHEMA %I AUTHORIZATION webhookd_owner', schema);
        ELSIF (SELECT nspowner <> 'webhookd_owner'::regrole FROM pg_namespace WHERE nspname = schema) THEN
            EXECUTE format('ALTER SCHEMA %I OWNER TO webhookd_owner', schema);
        END IF;
    END LOOP;
    FOR thing IN -- a sequence of an identity column goes with its table
        SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind, c.oid::regclass::text AS name
        FROM pg_class c
        WHERE c.relnamespace IN ('stripe_identity'::regnamespace, 'webhookd_jobs'::regnamespace) AND c.relkind IN ('r', 'p', 'v')
          AND c.relowner <> 'webhookd_owner'::regrole
        UNION ALL
        SELECT 'TYPE', t.oid::regtype::text
        FROM pg_type t
        WHERE t.typnamespace IN ('stripe_identity'::regnamespace, 'webhookd_jobs'::regnamespace) AND t.typtype = 'e'
          AND t.typowner <> 'webhookd_owner'::regrole
        UNION ALL
        SELECT 'FUNCTION', p.oid::regprocedure::text
        FROM pg_proc p
        WHERE p.pronamespace IN ('stripe_identity'::regnamespace, 'webhookd_jobs'::regnamespace) AND p.proowner <> 'webhookd_owner'::regrole
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO webhookd_owner', thing.kind, thing.name);
    END LOOP;
END
$$;

GRANT USAGE ON SCHEMA stripe_identity TO webhookd_writer, webhookd_reader, webhookd_pii_reader;
GRANT USAGE ON SCHEMA webhookd_jobs TO webhookd_writer;

-- A new version must be able to write before this file runs again.
ALTER DEFAULT PRIVILEGES FOR ROLE webhookd_owner IN SCHEMA stripe_identity, webhookd_jobs
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO webhookd_writer;
ALTER DEFAULT PRIVILEGES FOR ROLE webhookd_owner IN SCHEMA stripe_identity, webhookd_jobs
    GRANT USAGE ON SEQUENCES TO webhookd_writer;

DO $$
BEGIN
    IF to_regclass('stripe_identity.events') IS NULL THEN
        RAISE NOTICE 'there are no tables yet: run this file again after webhookd migrate up';
        RETURN;
    END IF;

    REVOKE ALL ON ALL TABLES IN SCHEMA stripe_identity FROM webhookd_writer, webhookd_reader, webhookd_pii_reader;

    -- The writer: everything, and then less where nobody is to rewrite the past.
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA stripe_identity TO webhookd_writer;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA stripe_identity TO webhookd_writer;
    GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA webhookd_jobs TO webhookd_writer;
    GRANT USAGE ON ALL SEQUENCES IN SCHEMA webhookd_jobs TO webhookd_writer;
    REVOKE INSERT, UPDATE, DELETE ON stripe_identity.schema_migrations FROM webhookd_writer;
    REVOKE UPDATE, DELETE ON stripe_identity.pii_reads FROM webhookd_writer;
    REVOKE UPDATE ON stripe_identity.events, stripe_identity.quarantined_events, stripe_identity.status_transitions
        FROM webhookd_writer;
    GRANT UPDATE (payload, resolved_at) ON stripe_identity.events TO webhookd_writer;
    GRANT UPDATE (payload, resolved_at) ON stripe_identity.quarantined_events TO webhookd_writer;
    -- A redaction takes the reason; a twin, or the event that an answer of the
    -- API was ahead of, takes the row over. What it tells stays.
    GRANT UPDATE (event_id, account, livemode, type, event_type, error_reason, occurred_at, source, rank, twin, options,
                  metadata, previous_status, previous_at)
        ON stripe_identity.status_transitions TO webhookd_writer;

    -- The reader: each column by its name, none that is personal.
    GRANT SELECT (event_id, type, session_id, account, context, livemode, api_version, request_id, snapshot_event,
                  created_at, received_at, source, secret_name, resolved_at)
        ON stripe_identity.events TO webhookd_reader;
    GRANT SELECT (id, account, context, livemode, type, status, last_error_code, last_verification_report_id,
                  client_reference_id, related_customer, related_customer_account, related_person,
                  related_person_account, verification_flow, options, redaction_status, created_at,
                  status_changed_at, last_event_id, last_event_created_at, needs_refresh, fetched_from,
                  fetched_until, outputs_wanted_since, first_seen_at, updated_at, births, redacted, hidden, told_by)
        ON stripe_identity.verification_sessions TO webhookd_reader;
    GRANT SELECT (id, event_id, session_id, account, livemode, type, event_type, status, error_code,
                  verification_report_id, redaction_status, occurred_at, recorded_at, source, xid, rank, twin, options,
                  previous_status, previous_at)
        ON stripe_identity.status_transitions TO webhookd_reader;
    GRANT SELECT (event_id, type, session_id, created_at, received_at, reason, resolved_at, account, livemode,
                  source, secret_name, hides)
        ON stripe_identity.quarantined_events TO webhookd_reader;
    GRANT SELECT ON stripe_identity.answers, stripe_identity.wishes, stripe_identity.leases,
                    stripe_identity.reconcile_runs, stripe_identity.pii_reads, stripe_identity.schema_migrations,
                    stripe_identity.verification_timeline, stripe_identity.subject_status,
                    stripe_identity.failure_reasons_hourly
        TO webhookd_reader;

    GRANT SELECT ON ALL TABLES IN SCHEMA stripe_identity TO webhookd_pii_reader;
    -- For webhookd session --show-outputs and export, which note who reads.
    GRANT INSERT (who, command, session_id) ON stripe_identity.pii_reads TO webhookd_pii_reader;
END
$$;

COMMIT;
