package events_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/events"
)

func TestEveryCraftedFixtureDecodesAsTheManifestSays(t *testing.T) {
	t.Parallel()
	var manifest struct {
		Files []struct {
			File string
			Kind string
			Type string
			Code string `json:"last_error_code"`
		}
	}
	if err := json.Unmarshal(fixture(t, "manifest"), &manifest); err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, f := range manifest.Files {
		if !strings.HasPrefix(f.Kind, "crafted event") {
			continue
		}
		seen++
		t.Run(f.File, func(t *testing.T) {
			t.Parallel()
			e := parse(t, string(fixture(t, strings.TrimSuffix(f.File, ".json"))))
			want := events.Snapshot
			switch {
			case strings.HasPrefix(f.Type, "v1.identity."):
				want = events.Thin
			case !strings.HasPrefix(f.Type, "identity."):
				want = events.Foreign
			}
			if e.Kind != want || e.Fault != "" {
				t.Errorf("kind %d, fault %q, want kind %d", e.Kind, e.Fault, want)
			}
			if e.Type != f.Type {
				t.Errorf("type %q, want %q", e.Type, f.Type)
			}
			if f.Code != "" && e.Session.ErrorCode != some(f.Code) {
				t.Errorf("code %+v, want %q", e.Session.ErrorCode, f.Code)
			}
			if want == events.Foreign {
				if e.Payload != nil {
					t.Errorf("a foreign event keeps a payload: %s", e.Payload)
				}
				return
			}
			checkPayload(t, e.Payload)
		})
	}
	if seen != 45 {
		t.Errorf("%d events in the manifest, want 45", seen)
	}
}

var (
	null     = events.Text{Presence: events.Null}
	absent   = events.Text{}
	redacted = events.Text{Presence: events.Redacted}
	some     = events.Some
)

// usual is what most of the crafted events tell.
func usual() events.Event {
	return events.Event{
		Kind: events.Snapshot, APIVersion: some("2026-10-28.endive"), RequestID: null, Livemode: events.ModeTest,
		SessionID: "vs_1CRAFTED0000000000000001", Source: events.SourceWebhook,
		Session: events.Session{
			ID: "vs_1CRAFTED0000000000000001", Created: at(1699998400), Livemode: events.ModeTest,
			Type: some("document"), Status: some("verified"), ErrorCode: absent, ErrorReason: absent,
			ReportID: some("vr_1CRAFTED0000000000000001"), ClientReferenceID: some("user-7f3a"),
			RelatedCustomer: null, RelatedCustomerAccount: null,
			Options:  []byte(`{"document":{"require_matching_selfie":true}}`),
			Metadata: []byte(`{"user_id":"7f3a","tenant":"acme"}`),
			// redaction:null tells no status, and neither is it one.
			Redaction: absent,
		},
	}
}

func at(unix int64) time.Time { return time.Unix(unix, 0).UTC() }

func TestFixturesFieldByField(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(e *events.Event, s *events.Session){
		"created": func(e *events.Event, s *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000001", events.TypeCreated, at(1699998400)
			e.RequestID = some("req_CRAFTED00000001")
			s.Status, s.ReportID = some("requires_input"), null
		},
		"verified.expanded": func(e *events.Event, s *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000005", events.TypeVerified, at(1699998750)
			s.RelatedCustomer = some("cus_CRAFTED0000001")
			s.RelatedPerson, s.RelatedPersonAccount = some("person_1CRAFTED00000001"), some("acct_1CRAFTED00000001")
			s.Outputs = &events.Outputs{
				FirstName: some("Jenny"), LastName: some("Rosen"),
				DobDay: new(int32(29)), DobMonth: new(int32(2)), DobYear: new(int32(1992)),
				Line1: some("1234 Main St."), Line2: some("Apt 5"), City: some("San Francisco"), State: some("CA"),
				PostalCode: some("94111"), Country: some("US"), IDNumber: some("1234"), IDNumberType: some("us_ssn"),
				Email: some("jenny.rosen@example.com"), Phone: some("+14155550123"), Sex: some("female"),
				UnparsedPlaceOfBirth: some("SAN FRANCISCO, CA"), UnparsedSex: some("F"),
			}
			s.Details = &events.Details{Email: some("jenny.rosen@example.com"), Phone: some("+14155550123")}
		},
		"redacted.expanded": func(e *events.Event, s *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000036", events.TypeRedacted, at(1700344600)
			s.Metadata, s.Redaction = []byte(`{}`), some("redacted")
			// The country and the kind of number survive a redaction.
			s.Outputs = &events.Outputs{
				FirstName: redacted, LastName: redacted, Line1: redacted, Line2: redacted, City: redacted, State: redacted,
				PostalCode: redacted, Country: some("US"), IDNumber: redacted, IDNumberType: some("us_ssn"),
				Email: redacted, Phone: redacted, Sex: redacted, UnparsedPlaceOfBirth: redacted, UnparsedSex: redacted,
			}
		},
		"verified.expanded_report": func(e *events.Event, _ *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000045", events.TypeVerified, at(1699998750)
		},
		"connect.verified": func(e *events.Event, s *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000041", events.TypeVerified, at(1699999041)
			e.Account, e.Livemode, s.Livemode = some("acct_1CRAFTEDCONNECTED"), events.ModeLive, events.ModeLive
			e.SessionID, s.ID = "vs_1CRAFTEDCONNECT00000001", "vs_1CRAFTEDCONNECT00000001"
			s.ReportID = some("vr_1CRAFTEDCONNECT00000001")
		},
		"verified.old_api_version": func(e *events.Event, s *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000047", events.TypeVerified, at(1699999047)
			e.APIVersion = some("2020-08-27")
			e.SessionID, s.ID = "vs_1CRAFTEDOLD0000000001", "vs_1CRAFTEDOLD0000000001"
			s.ReportID = some("vr_1CRAFTEDOLD0000000001")
			s.ClientReferenceID, s.RelatedCustomer, s.RelatedCustomerAccount = absent, absent, absent
		},
		"requires_input.null_last_error": func(e *events.Event, s *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000030", events.TypeRequiresInput, at(1699999030)
			e.SessionID, s.ID = "vs_1CRAFTEDERR00000000000094", "vs_1CRAFTEDERR00000000000094"
			s.Status, s.ReportID = some("requires_input"), null
		},
		"canceled.by_redaction": func(e *events.Event, s *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000034", events.TypeCanceled, at(1699998810)
			e.RequestID = some("req_CRAFTED00000001")
			e.SessionID, s.ID = "vs_1CRAFTED0000000000000003", "vs_1CRAFTED0000000000000003"
			s.Status, s.ReportID, s.Metadata, s.Redaction = some("canceled"), null, []byte(`{}`), some("processing")
		},
		"redaction_status_validated": func(e *events.Event, s *events.Session) {
			e.ID, e.Type, e.Created = "evt_1CRAFTED0000000000000039", events.TypeCanceled, at(1699999039)
			e.SessionID, s.ID = "vs_1CRAFTED0000000000000004", "vs_1CRAFTED0000000000000004"
			s.Status, s.ReportID, s.Metadata, s.Redaction = some("canceled"), null, []byte(`{}`), some("validated")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			want := usual()
			change(&want, &want.Session)
			got := understood(t, string(fixture(t, "crafted/"+name)))
			want.Payload = got.Payload // of its own tests
			if diff := cmp.Diff(&want, got); diff != "" {
				t.Errorf("event differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheThinFixtureFieldByField(t *testing.T) {
	t.Parallel()
	got := parse(t, string(fixture(t, "crafted/thin.v1.identity.verification_session.verified")))
	want := &events.Event{
		ID: "evt_test_65CRAFTED0001", Type: events.ThinType(events.TypeVerified), Kind: events.Thin,
		SnapshotEvent: some("evt_1CRAFTED0000000000000003"), Livemode: events.ModeTest, Created: at(1700000000),
		SessionID: "vs_1CRAFTED0000000000000001", Source: events.SourceWebhook,
		Payload: []byte(`{"id":"evt_test_65CRAFTED0001","object":"v2.core.event","type":"v1.identity.verification_session.verified",` +
			`"livemode":false,"created":"2023-11-14T22:13:20.000Z","related_object":{"id":"vs_1CRAFTED0000000000000001",` +
			`"type":"identity.verification_session"},"reason":{"type":"request","request":{"id":"req_CRAFTED00000002",` +
			`"idempotency_key":"k-2"}},"snapshot_event":"evt_1CRAFTED0000000000000003"}`),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("event differs (-want +got):\n%s", diff)
	}
}

func TestTheSessionsOfStripesDocsDecode(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]events.Session{
		"docs.session.requires_input_new": {
			ID: "vs_1NuNAILkdIwHu7ixh7OtGMLw", Created: at(1695680526), Status: some("requires_input"), ReportID: null,
			Options: []byte(`{"document":{"require_matching_selfie":true}}`),
		},
		"docs.session.canceled": {
			ID: "vs_1NuN3kLkdIwHu7ixk5OvTq3b", Created: at(1695680120), Status: some("canceled"), ReportID: null,
			Options: []byte(`{"document":{"require_matching_selfie":true}}`),
		},
		"docs.session.redact_answer": {
			ID: "vs_1NuN3kLkdIwHu7ixk5OvTq3b", Created: at(1695680120), Status: some("canceled"), ReportID: null,
			Options: []byte(`{"document":{"require_matching_selfie":true}}`), Redaction: some("processing"),
		},
		"docs.session.requires_input_failed": {
			ID: "vs_", Created: at(1610744321), Status: some("requires_input"), ReportID: some("vr_"),
			ErrorCode: some("document_expired"), ErrorReason: some("The document is expired."), Options: []byte(`{}`),
		},
		"docs.session.redacted_expanded": {
			ID: "vs_", Created: at(1610744321), Status: some("verified"), ReportID: some("vr_"), Redaction: some("redacted"),
			Options: []byte(`{}`),
			Outputs: &events.Outputs{
				FirstName: redacted, LastName: redacted, Line1: redacted, City: redacted, State: redacted,
				PostalCode: redacted, Country: some("US"), IDNumberType: null,
			},
		},
		"identity.verification_session": {
			ID: "vs_1Pgc76B7WZ01zgkWBdQi8PTU", Created: at(1234567890), Status: some("verified"),
			ReportID: some("vr_QXhW13B2hsHOm43JtUgs0f0w"), ErrorCode: null, ErrorReason: null,
			ClientReferenceID: null, RelatedCustomer: null, RelatedCustomerAccount: null,
			Options: []byte(`{"document":{"require_matching_selfie":true}}`), Redaction: some("processing"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := understood(t, snapshot("requires_input", string(fixture(t, "stripe/"+name))))
			want.Type, want.Metadata, want.Livemode = some("document"), []byte(`{}`), events.ModeLive // by the envelope
			if diff := cmp.Diff(want, got.Session); diff != "" {
				t.Errorf("session differs (-want +got):\n%s", diff)
			}
		})
	}
}
