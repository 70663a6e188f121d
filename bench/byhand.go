package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stripe/stripe-go/v85"
	"github.com/stripe/stripe-go/v85/webhook"

	"webhookd/internal/events"
)

// byHand is the receiver that a team writes in an afternoon, with care: Stripe's
// library verifies and decodes, and a transaction of four statements for each
// event writes rows like webhookd's into tables like webhookd's.
type byHand struct {
	pool   *pgxpool.Pool
	secret string
}

const byHandSchema = "by_hand"

func serveByHand(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("serve-by-hand", flag.ContinueOnError)
	database := f.String("database", "", "URL")
	size := f.Int("pool", 16, "connections")
	secret := f.String("secret", "", "signing secret")
	if err := f.Parse(args); err != nil {
		return err
	}
	cfg, err := pgxpool.ParseConfig(*database)
	if err != nil {
		return err
	}
	cfg.MaxConns = int32(*size)
	cfg.ConnConfig.RuntimeParams["search_path"] = byHandSchema
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer pool.Close()
	return serve(ctx, &byHand{pool, *secret})
}

func (b *byHand) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, 1<<20))
	if err != nil {
		http.Error(w, "read", http.StatusServiceUnavailable)
		return
	}
	event, err := webhook.ConstructEventWithOptions(body, q.Header.Get("Stripe-Signature"), b.secret,
		webhook.ConstructEventOptions{IgnoreAPIVersionMismatch: true})
	if err != nil {
		http.Error(w, "signature", http.StatusBadRequest)
		return
	}
	var session stripe.IdentityVerificationSession
	if err := json.Unmarshal(event.Data.Raw, &session); err != nil {
		http.Error(w, "session", http.StatusBadRequest)
		return
	}
	if err := b.record(q.Context(), body, &event, &session); err != nil {
		log.Printf("record %s: %v", event.ID, err)
		http.Error(w, "database", http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (b *byHand) record(ctx context.Context, body []byte, e *stripe.Event, s *stripe.IdentityVerificationSession) error {
	var code, reason, report, redaction, metadata, options any
	if s.LastError != nil {
		code, reason = string(s.LastError.Code), s.LastError.Reason
	}
	if s.LastVerificationReport != nil {
		report = s.LastVerificationReport.ID
	}
	if s.Redaction != nil {
		redaction = string(s.Redaction.Status)
	}
	if text, err := json.Marshal(s.Metadata); err == nil {
		metadata = string(text)
	}
	if text, err := json.Marshal(s.Options); err == nil {
		options = string(text)
	}
	at, now := time.Unix(e.Created, 0), time.Now()
	return pgx.BeginFunc(ctx, b.pool, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
INSERT INTO events (event_id, type, session_id, livemode, api_version, created_at, received_at, source, secret_name, payload)
VALUES ($1, $2, $3, $4, $5, $6, $7, 'webhook', 'main', $8::text::jsonb)
ON CONFLICT (event_id) DO NOTHING`,
			e.ID, string(e.Type), s.ID, e.Livemode, e.APIVersion, at, now, string(body))
		if err != nil || tag.RowsAffected() == 0 {
			return err
		}
		_, err = tx.Exec(ctx, `
INSERT INTO verification_sessions AS s (
    id, livemode, type, status, last_error_code, last_error_reason, last_verification_report_id, client_reference_id,
    options, metadata, redaction_status, created_at, status_changed_at, last_event_id, last_event_created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text::jsonb, $10::text::jsonb, $11, $12, $13, $14, $13)
ON CONFLICT (id) DO UPDATE
SET status = excluded.status, last_error_code = excluded.last_error_code, last_error_reason = excluded.last_error_reason,
    last_verification_report_id = excluded.last_verification_report_id, client_reference_id = excluded.client_reference_id,
    options = excluded.options, metadata = excluded.metadata, redaction_status = excluded.redaction_status,
    status_changed_at = excluded.status_changed_at, last_event_id = excluded.last_event_id,
    last_event_created_at = excluded.last_event_created_at, updated_at = now()
WHERE s.last_event_created_at <= excluded.last_event_created_at`,
			s.ID, s.Livemode, string(s.Type), string(s.Status), code, reason, report, s.ClientReferenceID,
			options, metadata, redaction, time.Unix(s.Created, 0), at, e.ID)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
INSERT INTO status_transitions (
    event_id, session_id, livemode, type, event_type, status, error_code, error_reason, verification_report_id,
    redaction_status, occurred_at, source, rank, twin, options)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'webhook', $12, sha256($1::text::bytea), $13::text::jsonb)`,
			e.ID, s.ID, s.Livemode, string(s.Type), string(e.Type), string(s.Status), code, reason, report, redaction,
			at, slices.Index(events.Types(), string(e.Type)), options)
		return err
	})
}
