-- +goose Up
-- Most events of a session repeat its options and metadata: what is equal to
-- what stands is neither parsed nor written again.
ALTER TABLE stripe_identity.verification_sessions
    ADD COLUMN content_digest bytea; -- own: of options and metadata as they were told; gone with a redaction

-- The metadata of an event stand in its payload. status_transitions.metadata has
-- them only where the payload leaves a part of them out, and is null otherwise.

-- As for payloads.
-- +goose StatementBegin
DO $$
BEGIN
    ALTER TABLE stripe_identity.verification_sessions ALTER COLUMN metadata SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;
-- +goose StatementEnd
