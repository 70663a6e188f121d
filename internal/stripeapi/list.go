package stripeapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// EventQuery says which events to list.
type EventQuery struct {
	Since time.Time // created then or later; Stripe keeps 30 days
	Types []string  // at most 20; none for all
}

// Events calls each with every event that the query fits, oldest first, as
// JSON. It holds one page at a time. Events that are made while it lists are
// listed too. An error ends it, with the events before it told.
//
// Stripe lists newest first. What is newer than a given event can be listed
// page by page in the other direction, so what has to be found is the oldest:
// by halving the time until a page holds all of it.
func (c *Client) Events(ctx context.Context, p Place, q EventQuery, each func(raw []byte) error) error {
	e := eventList{c, p, q}
	l, err := e.oldest(ctx)
	query := e.query(q.Since)
	for err == nil && len(l.Data) > 0 {
		slices.Reverse(l.Data)
		for _, raw := range l.Data {
			if err := each(raw); err != nil {
				return err
			}
		}
		if !l.HasMore {
			return nil
		}
		if err = l.advance(query, "ending_before"); err == nil {
			l, err = c.page(ctx, p, eventsPath, query)
		}
	}
	if err != nil {
		return fmt.Errorf("list events: %w", err)
	}
	return nil
}

const eventsPath = "/v1/events"

type eventList struct {
	c *Client
	p Place
	q EventQuery
}

func (e eventList) query(since time.Time) url.Values {
	query := url.Values{"created[gte]": {strconv.FormatInt(seconds(since), 10)}}
	if len(e.q.Types) > 0 {
		query["types[]"] = e.q.Types
	}
	return query
}

// oldest is the page of the oldest events; HasMore says that there are newer ones.
func (e eventList) oldest(ctx context.Context) (list, error) {
	l, err := e.c.page(ctx, e.p, eventsPath, e.query(e.q.Since))
	if err != nil || !l.HasMore || len(l.Data) == 0 {
		return l, err
	}
	var newest struct {
		Created int64 `json:"created"`
	}
	if json.Unmarshal(l.Data[0], &newest) != nil {
		return list{}, errNotUnderstood
	}
	from, to := seconds(e.q.Since), newest.Created+1 // more than a page is in [from, to)
	for to-from > 1 {
		middle := from + (to-from)/2
		l, err := e.c.page(ctx, e.p, eventsPath, e.between(from, middle))
		switch {
		case err != nil:
			return list{}, err
		case l.HasMore:
			to = middle
		case len(l.Data) == 0:
			from = middle
		default:
			l.HasMore = true
			return l, nil
		}
	}
	// More than a page in one second: walk to its end.
	query := e.between(from, to)
	l, err = e.c.page(ctx, e.p, eventsPath, query)
	for err == nil && l.HasMore && len(l.Data) > 0 {
		if err = l.advance(query, "starting_after"); err == nil {
			l, err = e.c.page(ctx, e.p, eventsPath, query)
		}
	}
	l.HasMore = true
	return l, err
}

func (e eventList) between(from, to int64) url.Values {
	query := e.query(time.Unix(from, 0))
	query.Set("created[lt]", strconv.FormatInt(to, 10))
	return query
}

// seconds is a time as Stripe counts it, whose lists know none before 1970.
func seconds(t time.Time) int64 { return max(t.Unix(), 0) }

// Endpoint is where Stripe sends events to: a webhook endpoint of API v1, or
// an event destination of v2.
type Endpoint struct {
	ID            string   `json:"id"`
	URL           string   `json:"url"`            // empty for what is no webhook
	Status        string   `json:"status"`         // enabled or disabled
	EnabledEvents []string `json:"enabled_events"` // * for all but those that need explicit selection
	APIVersion    string   `json:"api_version"`    // of snapshots; empty for the account's default
	Live          bool     `json:"livemode"`
	Payload       string   `json:"-"` // snapshot or thin
	From          []string `json:"-"` // @self, @accounts, …; nil if not told
}

// Endpoints lists where Stripe sends the events of a mode. An error beside
// endpoints says that event destinations could not be listed: they take a
// permission of their own.
func (c *Client) Endpoints(ctx context.Context, live bool) ([]Endpoint, error) {
	p := Place{Live: live}
	var endpoints []Endpoint
	query := url.Values{}
	for {
		l, err := c.page(ctx, p, "/v1/webhook_endpoints", query)
		if err != nil {
			return nil, fmt.Errorf("list webhook endpoints: %w", err)
		}
		for _, raw := range l.Data {
			e := Endpoint{Payload: "snapshot"}
			if json.Unmarshal(raw, &e) != nil {
				return nil, fmt.Errorf("list webhook endpoints: %w", errNotUnderstood)
			}
			endpoints = append(endpoints, e)
		}
		if !l.HasMore || len(l.Data) == 0 {
			break
		}
		if err := l.advance(query, "starting_after"); err != nil {
			return nil, fmt.Errorf("list webhook endpoints: %w", err)
		}
	}
	destinations, err := c.destinations(ctx, p)
	if err != nil {
		return endpoints, fmt.Errorf("list event destinations: %w", err)
	}
	for _, d := range destinations {
		known := func(e Endpoint) bool { return e.ID == d.ID }
		if i := slices.IndexFunc(endpoints, known); i >= 0 {
			endpoints[i] = d // the same thing, told in more words
			continue
		}
		endpoints = append(endpoints, d)
	}
	return endpoints, nil
}

var errNotUnderstood = errors.New("the answer is not understood")

// list is a page of a list of API v1.
type list struct {
	reply   `json:"-"`
	Data    []json.RawMessage `json:"data"`
	HasMore bool              `json:"has_more"`
}

// page reads up to 100 objects, newest first.
func (c *Client) page(ctx context.Context, p Place, path string, query url.Values) (list, error) {
	if !query.Has("limit") {
		query.Set("limit", "100")
	}
	r, err := c.get(ctx, p, path, query)
	if err != nil {
		return list{}, err
	}
	l := list{reply: r}
	if json.Unmarshal(r.body, &l) != nil {
		return list{}, &RetryError{Reason: "the answer is no list"}
	}
	return l, nil
}

// advance makes the query for the page after the last object of this one.
func (l list) advance(query url.Values, cursor string) error {
	id := idOf(l.Data[len(l.Data)-1])
	if id == "" || id == query.Get(cursor) {
		return errNotUnderstood // it would list for ever
	}
	query.Set(cursor, id)
	return nil
}

// idOf is an object's id, empty if it is none of Stripe's.
func idOf(raw []byte) string {
	var object struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(raw, &object) != nil || strings.ContainsFunc(object.ID, func(r rune) bool { return !isIDRune(r) }) {
		return ""
	}
	return object.ID
}

// destinations lists those of the API v2, whose pages are followed by address.
func (c *Client) destinations(ctx context.Context, p Place) ([]Endpoint, error) {
	const path = "/v2/core/event_destinations"
	query := url.Values{"limit": {"100"}, "include[0]": {"webhook_endpoint.url"}}
	var destinations []Endpoint
	for {
		r, err := c.get(ctx, p, path, query)
		if err != nil {
			return nil, err
		}
		var page struct {
			Data []struct {
				Endpoint
				Version string   `json:"snapshot_api_version"`
				Payload string   `json:"event_payload"`
				From    []string `json:"events_from"`
				Webhook struct {
					URL string `json:"url"`
				} `json:"webhook_endpoint"`
			} `json:"data"`
			Next string `json:"next_page_url"`
		}
		if json.Unmarshal(r.body, &page) != nil {
			return nil, errNotUnderstood
		}
		for _, d := range page.Data {
			e := d.Endpoint
			e.URL, e.APIVersion, e.Payload, e.From = d.Webhook.URL, d.Version, d.Payload, d.From
			destinations = append(destinations, e)
		}
		next, err := url.Parse(page.Next)
		if page.Next == "" || len(page.Data) == 0 {
			return destinations, nil
		}
		if err != nil || next.Path != path {
			return nil, errNotUnderstood
		}
		query = next.Query()
	}
}
