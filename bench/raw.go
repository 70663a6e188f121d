package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"webhookd/internal/scenario"
)

// serveRaw reads bodies and answers 200: all that HTTP must cost.
func serveRaw(ctx context.Context) error {
	return serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if _, err := io.Copy(io.Discard, q.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
}

// serve says on standard error where it listens, as webhookd does, and ends with
// ctx or with whoever holds the other end of standard input.
func serve(ctx context.Context, h http.Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is all that matters
		cancel()
	}()
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	fmt.Fprintf(os.Stderr, `{"msg":"serving","listen":%q}`+"\n", listener.Addr())
	if err := server.Serve(listener); ctx.Err() == nil {
		return err
	}
	return nil
}

// writer is one way to write rows without HTTP.
type writer struct {
	name, schema       string
	indexed            bool // as webhookd's tables are; or else primary keys alone
	connections, batch int
}

// rawWrites are the limit (six writes an event: three rows, three primary keys),
// what the indexes of our tables leave of it, and the least time of one event.
func rawWrites() []writer {
	return []writer{
		{nameRawWrites, "raw", false, 2, 200},
		{nameRawIndexed, "raw_indexed", true, 2, 200},
		{nameRawOne, "raw", false, 1, 1},
	}
}

// sqlWrite writes a batch in one statement: sessions sorted, each once.
const sqlWrite = `
WITH given AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::text[], $8::text[])
        AS g (event_id, session_id, type, status, created_at, reference, metadata, payload)
), fresh AS (
    INSERT INTO events (event_id, type, session_id, livemode, api_version, created_at, received_at, source, secret_name, payload)
    SELECT event_id, type, session_id, false, '2026-10-28.endive', created_at, now(), 'webhook', 'main', payload::jsonb FROM given
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id
), present AS (
    INSERT INTO verification_sessions AS s (
        id, livemode, type, status, client_reference_id, options, metadata, created_at, status_changed_at, last_event_id, last_event_created_at)
    SELECT session_id, false, 'document', status, reference, '{"document": {"require_matching_selfie": true}}', metadata::jsonb,
           created_at, created_at, event_id, created_at
    FROM given JOIN fresh USING (event_id)
    ORDER BY session_id
    ON CONFLICT (id) DO UPDATE
    SET status = excluded.status, status_changed_at = excluded.status_changed_at, metadata = excluded.metadata,
        last_event_id = excluded.last_event_id, last_event_created_at = excluded.last_event_created_at, updated_at = now()
    WHERE s.last_event_created_at <= excluded.last_event_created_at
)
INSERT INTO status_transitions (event_id, session_id, livemode, type, event_type, status, occurred_at, source, rank, twin, options)
SELECT event_id, session_id, false, 'document', type, status, created_at, 'webhook', 0, sha256(event_id::bytea),
       '{"document": {"require_matching_selfie": true}}'
FROM given JOIN fresh USING (event_id)`

// write fills batches and waits for nothing but PostgreSQL.
func (l *lab) write(ctx context.Context, w writer) (m measurement, err error) {
	if err := l.clear(ctx, w.schema); err != nil {
		return m, err
	}
	lives, err := tellLives()
	if err != nil {
		return m, err
	}
	conns := make([]*pgx.Conn, w.connections)
	for i := range conns {
		if conns[i], err = l.connect(ctx, mainDatabase, w.schema); err != nil {
			return m, err
		}
		defer func() { _ = conns[i].Close(context.WithoutCancel(ctx)) }() // nothing is on its way
	}
	var (
		mu   sync.Mutex
		took []time.Duration
	)
	before, _ := cpu(l.postmaster)
	start := time.Now()
	group, ctx := errgroup.WithContext(ctx)
	for i, conn := range conns {
		group.Go(func() error {
			b := &batch{prefix: fmt.Sprintf("%d%x", i, start.UnixNano()), lives: lives}
			for n := 0; time.Since(start) < l.seconds; n++ {
				begun := time.Now()
				b.fill(n, w.batch)
				if _, err := conn.Exec(ctx, sqlWrite, b.id, b.session, b.typ, b.status, b.created, b.reference, b.metadata, b.payload); err != nil {
					return err
				}
				mu.Lock()
				took = append(took, time.Since(begun))
				mu.Unlock()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return m, err
	}
	events := len(took) * w.batch
	m.PerSecond = float64(events) / time.Since(start).Seconds()
	if after, ok := cpu(l.postmaster); ok {
		m.PostgresCPU = perEvent(after-before, events)
	}
	slices.Sort(took)
	at := func(q float64) float64 {
		return float64(took[min(int(q*float64(len(took))), len(took)-1)].Microseconds()) / 1000
	}
	m.P50, m.P90, m.P99, m.P999 = at(.5), at(.9), at(.99), at(.999)
	return m, nil
}

// batch is the arrays of one statement.
type batch struct {
	prefix string
	lives  []event

	id, session, typ, status, reference, metadata, payload []string
	created                                                []time.Time
}

// event is what is written of one, but for its ids.
type event struct{ typ, status, metadata, payload string }

// tellLives tells a life of three events, with bodies as large as those that
// simulate sends, in the form in which webhookd stores them.
func tellLives() ([]event, error) {
	notes := bytes.Repeat([]byte("order 48213 invoice 10377 campaign 55120 "), 34)
	told, err := scenario.New(1).Story("happy", time.Unix(1e9, 0), scenario.SessionOptions{Metadata: map[string]string{"notes": string(notes)}})
	if err != nil {
		return nil, err
	}
	var lives []event
	for _, e := range told {
		var body struct {
			Data struct {
				Object struct {
					Status   string
					Metadata json.RawMessage
				}
			}
		}
		if err := json.Unmarshal(e.Body, &body); err != nil {
			return nil, err
		}
		var payload bytes.Buffer
		if err := json.Compact(&payload, e.Body); err != nil {
			return nil, err
		}
		o := body.Data.Object
		lives = append(lives, event{e.Type, o.Status, string(o.Metadata), payload.String()})
	}
	return lives, nil
}

// fill makes batch number n: the next step of so many sessions, which are new
// ones in every third batch.
func (b *batch) fill(n, size int) {
	b.id, b.session, b.typ, b.status = b.id[:0], b.session[:0], b.typ[:0], b.status[:0]
	b.reference, b.metadata, b.payload, b.created = b.reference[:0], b.metadata[:0], b.payload[:0], b.created[:0]
	step, now := n%len(b.lives), time.Now()
	e := &b.lives[step]
	for i := range size {
		b.id = append(b.id, fmt.Sprintf("evt_1%s%010d", b.prefix, n*size+i))
		b.session = append(b.session, fmt.Sprintf("vs_1%s%010d", b.prefix, (n-step)*size+i))
		b.typ, b.status = append(b.typ, e.typ), append(b.status, e.status)
		b.reference, b.metadata = append(b.reference, fmt.Sprintf("user-%08x", i)), append(b.metadata, e.metadata)
		b.payload, b.created = append(b.payload, e.payload), append(b.created, now)
	}
}
