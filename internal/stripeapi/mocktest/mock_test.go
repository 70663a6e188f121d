// Package mocktest holds the requests of stripeapi against stripe-mock, which
// checks them by Stripe's own OpenAPI description and answers its fixtures. It
// is a module of its own, so that the product does not depend on stripe-mock:
//
//	cd internal/stripeapi/mocktest && go test ./...
package mocktest

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stripe/stripe-mock/embedded"
	"github.com/stripe/stripe-mock/server"

	"webhookd/internal/stripeapi"
)

func TestRequestsAreThoseOfStripesDescription(t *testing.T) {
	t.Parallel()
	spec, err := server.LoadSpec(embedded.OpenAPISpec, "")
	if err != nil {
		t.Fatalf("load description: %v", err)
	}
	fixtures, err := server.LoadFixtures(embedded.OpenAPIFixtures, "")
	if err != nil {
		t.Fatalf("load fixtures: %v", err)
	}
	stub, err := server.NewStubServer(fixtures, spec, false, false)
	if err != nil {
		t.Fatalf("make stripe-mock: %v", err)
	}
	mock := httptest.NewServer(http.HandlerFunc(stub.HandleRequest))
	t.Cleanup(mock.Close)
	c := stripeapi.New(stripeapi.Options{
		Base: mock.URL, Rate: 1000,
		Key: func(bool) (string, bool) { return "rk_test_123", true },
		// Of the five sensitive fields the mock can expand only what is an object.
		Wants: func(field string) bool { return field == "first_name" || field == "dob" || field == "email" },
	})
	t.Cleanup(c.Close)
	p, ctx, since := stripeapi.Place{Account: "acct_123"}, t.Context(), time.Unix(1_700_000_000, 0)
	for name, read := range map[string]func() error{
		"a session with outputs": func() error {
			a, err := c.Session(ctx, p, "vs_123", true, true)
			if err == nil && (!a.Expanded || a.Unreadable != nil) {
				err = fmt.Errorf("expanded %v, unreadable %v", a.Expanded, a.Unreadable)
			}
			return err
		},
		"a session": func() error { _, err := c.Session(ctx, p, "vs_123", false, false); return err },
		"an event":  func() error { _, err := c.Event(ctx, p, "evt_123"); return err },
		"events": func() error {
			return c.Events(ctx, p, stripeapi.EventQuery{Since: since, Types: []string{"identity.verification_session.verified"}}, func([]byte) error { return nil })
		},
		"sessions": func() error { return c.Sessions(ctx, p, since, func(stripeapi.Answer) error { return nil }) },
		"endpoints, of API v1 only: the mock knows no v2": func() error {
			if endpoints, err := c.Endpoints(ctx, false); !errors.Is(err, stripeapi.ErrNotFound) || len(endpoints) == 0 {
				return fmt.Errorf("%d endpoints: %w", len(endpoints), err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := read(); err != nil {
				t.Error(err)
			}
		})
	}
}
