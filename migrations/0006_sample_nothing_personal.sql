-- +goose Up
-- ANALYZE keeps samples of values in pg_statistic, where no redaction reaches
-- them. Nobody searches by what is personal.
ALTER TABLE stripe_identity.verified_outputs
    ALTER COLUMN first_name SET STATISTICS 0, ALTER COLUMN last_name SET STATISTICS 0, ALTER COLUMN dob SET STATISTICS 0,
    ALTER COLUMN dob_day SET STATISTICS 0, ALTER COLUMN dob_month SET STATISTICS 0, ALTER COLUMN dob_year SET STATISTICS 0,
    ALTER COLUMN address_line1 SET STATISTICS 0, ALTER COLUMN address_line2 SET STATISTICS 0,
    ALTER COLUMN address_city SET STATISTICS 0, ALTER COLUMN address_state SET STATISTICS 0,
    ALTER COLUMN address_postal_code SET STATISTICS 0, ALTER COLUMN address_country SET STATISTICS 0,
    ALTER COLUMN id_number SET STATISTICS 0, ALTER COLUMN id_number_type SET STATISTICS 0, ALTER COLUMN email SET STATISTICS 0,
    ALTER COLUMN phone SET STATISTICS 0, ALTER COLUMN sex SET STATISTICS 0,
    ALTER COLUMN unparsed_place_of_birth SET STATISTICS 0, ALTER COLUMN unparsed_sex SET STATISTICS 0,
    ALTER COLUMN extra SET STATISTICS 0;
ALTER TABLE stripe_identity.provided_details ALTER COLUMN email SET STATISTICS 0, ALTER COLUMN phone SET STATISTICS 0;
ALTER TABLE stripe_identity.verification_sessions
    ALTER COLUMN metadata SET STATISTICS 0, ALTER COLUMN last_error_reason SET STATISTICS 0;
ALTER TABLE stripe_identity.status_transitions
    ALTER COLUMN metadata SET STATISTICS 0, ALTER COLUMN error_reason SET STATISTICS 0;
ALTER TABLE stripe_identity.events ALTER COLUMN payload SET STATISTICS 0;
ALTER TABLE stripe_identity.quarantined_events ALTER COLUMN payload SET STATISTICS 0;
