package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

// measureIdle holds connections that have each delivered one event and now wait
// for the next. What is resident is that of the default configuration; what one
// connection takes is told by a process that collects its garbage at once.
func (p *plan) measureIdle(ctx context.Context, l *lab, r *results) error {
	if !p.idle {
		return nil
	}
	i := &idle{Connections: p.idlers}
	if err := l.clear(ctx, ourSchema); err != nil {
		return err
	}
	s, err := l.startWebhookd(ctx, mainDatabase)
	if err != nil {
		return err
	}
	i.ResidentAlone = float64(resident(s.pid())) / (1 << 20)
	err = s.hold(ctx, p.idlers, 1, func() error {
		i.ResidentMB = float64(resident(s.pid())) / (1 << 20)
		return nil
	})
	if err != nil {
		return err
	}

	if s, err = l.startWebhookd(ctx, mainDatabase, "GOGC=5"); err != nil {
		return err
	}
	before, err := s.live(ctx)
	if err != nil {
		return err
	}
	var after float64
	err = s.hold(ctx, p.idlers, 2, func() (err error) {
		after, err = s.live(ctx)
		return err
	})
	if err != nil {
		return err
	}
	i.ConnectionKB = (after - before) / float64(p.idlers) / 1024
	l.sayf("%d idle connections: %.1f KB each, %.1f MB resident", i.Connections, i.ConnectionKB, i.ResidentMB)
	r.Idle = i
	return nil
}

// hold opens connections, delivers an event over each, and calls do while they
// are idle.
func (s *server) hold(ctx context.Context, connections int, seed uint64, do func() error) (err error) {
	source := scenario.New(seed)
	address, path, _ := strings.Cut(strings.TrimPrefix(s.url, "http://"), "/")
	for range connections {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		body := source.Session(scenario.SessionOptions{}).Created(time.Now()).Body
		if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return err
		}
		_, err = fmt.Fprintf(conn, "POST /%s HTTP/1.1\r\nHost: %s\r\nStripe-Signature: %s\r\nContent-Length: %d\r\n\r\n%s",
			path, address, signature.Sign(body, secret, time.Now()), len(body), body)
		if err != nil {
			return err
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode != http.StatusOK {
			return fmt.Errorf("deliver: %s: %w", resp.Status, err)
		}
	}
	return do()
}

// live is what a process holds in heap and stack, in bytes: the least of what
// it says while the scrapes themselves make its collector run.
func (s *server) live(ctx context.Context) (least float64, err error) {
	for range 100 {
		all, err := s.metrics(ctx)
		if err != nil {
			return 0, err
		}
		held := all["go_memstats_heap_alloc_bytes"] + all["go_memstats_stack_inuse_bytes"]
		if least == 0 || held < least {
			least = held
		}
	}
	return least, nil
}
