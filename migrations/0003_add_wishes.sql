-- +goose Up
-- Who is to be asked about at Stripe's API, and how that stands. What is wanted
-- stands in verification_sessions and events; a wish says that somebody must
-- see to it, and who does at present.
CREATE TABLE stripe_identity.wishes (
    session_id   text COLLATE "C" PRIMARY KEY,
    generation   bigint NOT NULL DEFAULT 1, -- grows with everything new that is wanted
    attempts     integer NOT NULL DEFAULT 0,
    tried_at     timestamptz, -- the first attempt of this generation
    due_at       timestamptz NOT NULL DEFAULT now(), -- infinity: given up
    leased_until timestamptz -- somebody sees to it until then
);
CREATE INDEX wishes_due ON stripe_identity.wishes (due_at);
