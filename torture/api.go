package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/stripeapi"
	"webhookd/internal/stripeapi/stripefake"
)

// api is Stripe's API for the live sessions. It knows each at its end as soon
// as the first of its events may be delivered: what it answers can be ahead of
// all of them.
type api struct {
	*stripefake.Fake
	key    string
	server *http.Server
}

func openAPI() (*api, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		return nil, err
	}
	a := &api{Fake: stripefake.InMemory()}
	a.URL = "http://" + l.Addr().String()
	a.Set(func(s *stripefake.Settings) { s.Limit = 0 }) // the rig has less time than Stripe's limit would need
	a.key = a.Key(true, stripefake.Rights{Sensitive: true, AnyAge: true})
	a.server = &http.Server{Handler: a.Fake, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = a.server.Serve(l) }() // until it is closed
	return a, nil
}

// know takes a tale in. The events after the session: Stripe erases those that
// are there when a session is redacted, and here they are what was delivered.
func (a *api) know(t *tale) {
	a.AddSession(stripeapi.Place{Live: true, Account: t.account}, t.last)
	for _, f := range t.events {
		if json.Valid(f.body) && slices.Contains(events.Types(), f.kind) {
			a.AddEvent(f.body)
		}
	}
}

// outage lets the API fail in one of its ways.
func (a *api) outage(s slot) (end func() error) {
	end = func() error {
		a.Set(func(set *stripefake.Settings) { set.Delay, set.Limit = 0, 0 })
		a.Grant(a.key, stripefake.Rights{Sensitive: true, AnyAge: true})
		return nil
	}
	switch s.seed % 4 {
	case 0:
		a.Set(func(set *stripefake.Settings) { set.Delay = 2 * time.Second })
	case 1:
		a.Set(func(set *stripefake.Settings) { set.Limit = 1 })
	case 2:
		a.Grant(a.key, stripefake.Rights{NoSessions: true, NoEvents: true})
	}
	for i := range 20 {
		a.Next(stripefake.Fault{Reset: i%3 == 0, Status: 500 + i%4})
	}
	return end
}

// vain counts the requests since a moment that were not answered well.
func (a *api) vain(since time.Time) (n int) {
	for _, c := range slices.Backward(a.Calls()) {
		if c.At.Before(since) {
			break
		}
		if c.Status != http.StatusOK {
			n++
		}
	}
	return n
}

// inherited is in the report how long it took until others had ended the work
// that a killed replica had begun.
const inherited = "a killed replica's reads of the API"

// inherit kills while the API is being read, and looks beside what comes next
// that others end what was begun.
func (r *rig) inherit(ctx context.Context, kill func() error) error {
	if r.stripe.api == nil {
		return kill()
	}
	r.stripe.api.Set(func(set *stripefake.Settings) { set.Delay = time.Second })
	time.Sleep(short)
	conn, err := r.db.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // has done its work
	killed := time.Now()
	if err := kill(); err != nil {
		return err
	}
	r.stripe.api.Set(func(set *stripefake.Settings) { set.Delay = 0 })
	// Of those that are read by others it is soon told as well.
	rows, err := conn.Query(ctx, `SELECT session_id FROM stripe_identity.wishes WHERE leased_until > now() AND due_at <= now()`)
	if err != nil {
		return err
	}
	begun, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(begun) == 0 {
		return err
	}
	r.wait.Go(func() {
		for {
			left := len(begun)
			if conn, err := r.db.connect(ctx); err == nil { // it may be away just now
				err = conn.QueryRow(ctx, `SELECT count(*) FROM stripe_identity.wishes WHERE session_id = ANY ($1) AND tried_at < $2`, begun, killed).Scan(&left)
				_ = conn.Close(ctx) // has done its work
				if err == nil && left == 0 {
					r.recovered(inherited, time.Since(killed))
					return
				}
			}
			if time.Since(killed) > 2*within || ctx.Err() != nil { // beside it others are broken
				r.stripe.objectf("%d reads of the API that a killed replica had begun are not ended %v later", left, time.Since(killed).Round(time.Second))
				return
			}
			time.Sleep(short)
		}
	})
	return nil
}

// answers are what the API said, by session, as the tables keep it: when, and
// whether outputs were asked for. What it said the tale knows.
func (o *oracle) answers(ctx context.Context, sessions []string, tales map[string]*tale) (map[string][]events.Answer, error) {
	all := map[string][]events.Answer{}
	rows, _ := o.conn.Query(ctx, `SELECT session_id, account, told_from, told_until, outputs FROM stripe_identity.answers WHERE session_id = ANY ($1)`,
		sessions) // ForEachRow tells the error
	var (
		id      string
		account *string
		a       events.Answer
	)
	_, err := pgx.ForEachRow(rows, []any{&id, &account, &a.From, &a.Until, &a.Outputs}, func() (err error) {
		a.Account = events.TextOf(account)
		if a.Session, err = events.ParseSession(tales[id].last); err != nil {
			return err
		}
		if !a.Outputs || a.Session.Status.Value != events.StatusVerified {
			a.Session.Outputs = nil
		}
		if !a.Outputs {
			a.Session.Details = nil
		}
		all[id] = append(all[id], a)
		return nil
	})
	return all, err
}

// unread counts what is still to be asked of the API.
func unread(ctx context.Context, conn *pgx.Conn) (n int, err error) {
	err = conn.QueryRow(ctx, `
SELECT (SELECT count(*) FROM stripe_identity.verification_sessions
        WHERE livemode AND NOT hidden AND (needs_refresh OR outputs_wanted_since IS NOT NULL))
     + (SELECT count(*) FROM stripe_identity.wishes)`).Scan(&n)
	return n, err
}
