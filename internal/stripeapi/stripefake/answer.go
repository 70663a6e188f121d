package stripefake

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"webhookd/internal/stripeapi"
)

const (
	sessionsPath     = "/v1/identity/verification_sessions"
	eventsPath       = "/v1/events"
	endpointsPath    = "/v1/webhook_endpoints"
	destinationsPath = "/v2/core/event_destinations"

	retention = 30 * 24 * time.Hour // of events
)

// sensitive are the outputs that are absent unless expanded by themselves.
func sensitive() []string {
	return []string{"dob", "id_number", "sex", "unparsed_place_of_birth", "unparsed_sex"}
}

// answer is the true answer.
func (f *Fake) answer(r *http.Request, call *Call) answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	key, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	a, ok := f.keys[key]
	switch {
	case !ok:
		return failure(http.StatusUnauthorized, "", "Invalid API Key provided: "+stars(key))
	case r.Method != http.MethodGet:
		return failure(http.StatusMethodNotAllowed, "", "This fake only reads.")
	}
	call.Live = a.live
	at := stripeapi.Place{Live: a.live, Account: call.Account, Context: call.Context}
	if at.Context != "" {
		at.Account = ""
	}
	if (at.Account != "" || at.Context != "") && f.places[at] == nil {
		return failure(http.StatusForbidden, "account_invalid",
			fmt.Sprintf("The provided key '%s' does not have access to account '%s'.", stars(key), at.Account+at.Context))
	}
	p, query := f.at(at), r.URL.Query()
	dir, id := r.URL.Path, ""
	for _, collection := range []string{sessionsPath, eventsPath} {
		if rest, ok := strings.CutPrefix(dir, collection+"/"); ok {
			dir, id = collection, rest
		}
	}
	switch {
	case dir == sessionsPath && a.rights.NoSessions, dir == eventsPath && a.rights.NoEvents,
		(dir == endpointsPath || dir == destinationsPath) && a.rights.NoEndpoints:
		return forbidden(key)
	case dir == sessionsPath && id != "":
		return f.session(at, id, key, a.rights, query["expand[]"])
	case dir == sessionsPath:
		return f.list(dir, p.sessions, query, func(i *item) json.RawMessage { return render(i.doc, nil) })
	case dir == eventsPath && id != "":
		for _, i := range f.kept(p.events) {
			if i.id == id {
				return success(i.doc)
			}
		}
		return failure(http.StatusNotFound, "resource_missing", "No such event: '"+id+"'")
	case dir == eventsPath:
		if len(query["types[]"]) > 20 || query.Has("type") && query.Has("types[]") {
			return failure(http.StatusBadRequest, "parameter_invalid", "You may only specify up to 20 types, or one type.")
		}
		return f.list(dir, f.kept(p.events), query, func(i *item) json.RawMessage { return mustEncode(i.doc) })
	case dir == endpointsPath:
		return success(map[string]any{"object": "list", "url": dir, "has_more": false, "data": nonNil(f.endpoints[a.live])})
	case dir == destinationsPath:
		return f.destinationList(a.live, query)
	default:
		return failure(http.StatusNotFound, "", "Unrecognized request URL (GET: "+r.URL.Path+").")
	}
}

func (f *Fake) session(at stripeapi.Place, id, key string, r Rights, expand []string) answer {
	for _, i := range f.at(at).sessions {
		if i.id == id {
			return f.expanded(i, key, r, expand)
		}
	}
	if f.set.Unknown != nil && len(expand) > 0 {
		made := &item{changed: f.set.Now()}
		mustDecode(objectOf(f.set.Unknown(at, id)), &made.doc)
		return f.expanded(made, key, r, expand)
	}
	message := "No such verificationsession: '" + id + "'"
	at.Live = !at.Live
	if p := f.places[at]; p != nil && slices.ContainsFunc(p.sessions, func(i *item) bool { return i.id == id }) {
		message += "; a similar object exists in the other mode"
	}
	return failure(http.StatusNotFound, "resource_missing", message)
}

// expanded is a session with what was asked for, or the refusal of all of it.
func (f *Fake) expanded(i *item, key string, r Rights, expand []string) answer {
	age := f.set.Now().Sub(i.changed)
	for _, path := range expand {
		field, isOutput := strings.CutPrefix(path, "verified_outputs.")
		switch {
		case isOutput && !slices.Contains(sensitive(), field),
			!isOutput && path != "verified_outputs" && path != "provided_details" && path != "last_verification_report":
			return failure(http.StatusBadRequest, "", "This property cannot be expanded ("+path+").")
		case slices.Contains(r.Refuses, path), isOutput && slices.Contains(r.Refuses, "verified_outputs"),
			isOutput && (r.Secret || !r.Sensitive || age > Window && !r.AnyAge):
			return f.refused(key, path)
		}
	}
	return success(render(i.doc, expand))
}

func (f *Fake) refused(key, path string) answer {
	a := forbidden(key)
	if f.set.Refusal.Named {
		a = failure(http.StatusForbidden, "", "This key may not expand `"+path+"` on verified_outputs.")
	}
	a.status = cmp.Or(f.set.Refusal.Status, a.status)
	return a
}

// forbidden is worded as Stripe does (github.com/stripe/stripe-node/issues/2246).
func forbidden(key string) answer {
	return failure(http.StatusForbidden, "", "The provided key '"+stars(key)+"' does not have the required permissions for this endpoint "+
		"on account 'acct_1FAKE'. Having more permissions would allow this request to continue.")
}

// stars is a key as Stripe's messages show it.
func stars(key string) string {
	if len(key) < 14 {
		return "****"
	}
	return key[:8] + strings.Repeat("*", len(key)-12) + key[len(key)-4:]
}

// render leaves out what is absent unless expanded.
func render(doc object, expand []string) json.RawMessage {
	out := maps.Clone(doc)
	if !slices.Contains(expand, "provided_details") {
		delete(out, "provided_details")
	}
	if report := (object{}); !slices.Contains(expand, "last_verification_report") && json.Unmarshal(doc["last_verification_report"], &report) == nil && report != nil {
		out["last_verification_report"] = report["id"]
	}
	var outputs object
	if raw, ok := doc["verified_outputs"]; ok {
		mustDecode(raw, &outputs)
	}
	for _, field := range sensitive() {
		if !slices.Contains(expand, "verified_outputs."+field) {
			delete(outputs, field)
		}
	}
	if asked := func(path string) bool { return strings.HasPrefix(path, "verified_outputs") }; !slices.ContainsFunc(expand, asked) {
		delete(out, "verified_outputs")
	} else if out["verified_outputs"] = json.RawMessage("null"); outputs != nil && string(doc["status"]) == `"`+verified+`"` {
		out["verified_outputs"] = mustEncode(outputs)
	}
	return mustEncode(out)
}

// kept are the events of the last 30 days.
func (f *Fake) kept(items []*item) []*item {
	oldest := f.set.Now().Add(-retention).Unix()
	return slices.DeleteFunc(slices.Clone(items), func(i *item) bool { return i.created < oldest })
}

// list is a page of what fits, newest first.
func (f *Fake) list(path string, items []*item, q url.Values, show func(*item) json.RawMessage) answer {
	sorted := slices.SortedFunc(slices.Values(items), func(a, b *item) int {
		return cmp.Or(cmp.Compare(b.created, a.created), cmp.Compare(b.seq, a.seq))
	})
	limit := 10
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 100 {
			return failure(http.StatusBadRequest, "parameter_invalid_integer", "limit must be from 1 to 100.")
		}
		limit = n
	}
	after, before := q.Get("starting_after"), q.Get("ending_before")
	if after != "" && before != "" {
		return failure(http.StatusBadRequest, "", "You cannot parameterize both starting_after and ending_before.")
	}
	if cursor := after + before; cursor != "" {
		at := slices.IndexFunc(sorted, func(i *item) bool { return i.id == cursor })
		switch {
		case at < 0:
			return failure(http.StatusBadRequest, "resource_missing", "No such object: '"+cursor+"'")
		case after != "":
			sorted = sorted[at+1:]
		default:
			sorted = sorted[:at]
		}
	}
	fits, err := filter(q)
	if err != nil {
		return failure(http.StatusBadRequest, "parameter_invalid_integer", "Invalid created.")
	}
	sorted = slices.DeleteFunc(sorted, func(i *item) bool { return !fits(i) })
	more := len(sorted) > limit
	switch {
	case more && before != "":
		sorted = sorted[len(sorted)-limit:]
	case more:
		sorted = sorted[:limit]
	}
	data := make([]json.RawMessage, 0, limit)
	for _, i := range sorted {
		data = append(data, show(i))
	}
	return success(map[string]any{"object": "list", "url": path, "has_more": more, "data": data})
}

func filter(q url.Values) (func(*item) bool, error) {
	type bound struct {
		fits func(created, limit int64) bool
		at   int64
	}
	var bounds []bound
	for name, fits := range map[string]func(a, b int64) bool{
		"created[gte]": func(a, b int64) bool { return a >= b }, "created[gt]": func(a, b int64) bool { return a > b },
		"created[lte]": func(a, b int64) bool { return a <= b }, "created[lt]": func(a, b int64) bool { return a < b },
	} {
		if !q.Has(name) {
			continue
		}
		n, err := strconv.ParseUint(q.Get(name), 10, 63)
		if err != nil {
			return nil, err
		}
		bounds = append(bounds, bound{fits, int64(n)})
	}
	types := append(q["types[]"], q["type"]...)
	return func(i *item) bool {
		for _, b := range bounds {
			if !b.fits(i.created, b.at) {
				return false
			}
		}
		is := func(field string, values []string) bool {
			var value string
			return len(values) == 0 || json.Unmarshal(i.doc[field], &value) == nil && slices.Contains(values, value)
		}
		return is("type", types) && is("status", q["status"]) && is("client_reference_id", q["client_reference_id"])
	}, nil
}

// destinationList is a page of API v2, which goes on by address.
func (f *Fake) destinationList(live bool, q url.Values) answer {
	all := f.destinations[live]
	limit, _ := strconv.Atoi(q.Get("limit"))
	from, _ := strconv.Atoi(q.Get("page"))
	limit, from = max(limit, 1), min(from, len(all))
	to := min(from+limit, len(all))
	data := make([]json.RawMessage, 0, limit)
	for _, raw := range all[from:to] {
		var o object
		mustDecode(raw, &o)
		if q.Get("include[0]") != "webhook_endpoint.url" && has(o, "webhook_endpoint") {
			o["webhook_endpoint"] = json.RawMessage(`{}`)
		}
		data = append(data, mustEncode(o))
	}
	page := map[string]any{"data": data, "next_page_url": nil, "previous_page_url": nil}
	if to < len(all) {
		next := maps.Clone(q)
		next.Set("page", strconv.Itoa(to))
		page["next_page_url"] = destinationsPath + "?" + next.Encode()
	}
	return success(page)
}

func nonNil(data []json.RawMessage) []json.RawMessage {
	if data == nil {
		return []json.RawMessage{}
	}
	return data
}
