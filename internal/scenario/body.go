package scenario

import (
	"encoding/json"
	"regexp"
	"strings"
	"time"
)

// envelope is a snapshot event (docs.stripe.com/api/events/object), its fields
// in the order in which Stripe sends them.
type envelope struct {
	ID         string `json:"id"`
	Object     string `json:"object"`
	Account    string `json:"account,omitempty"`
	APIVersion string `json:"api_version"`
	Context    string `json:"context,omitempty"`
	Created    int64  `json:"created"`
	Data       struct {
		Object content `json:"object"`
	} `json:"data"`
	Livemode        bool    `json:"livemode"`
	PendingWebhooks int     `json:"pending_webhooks"`
	Request         request `json:"request"`
	Type            string  `json:"type"`
}

func (e envelope) encode(at time.Time) Event {
	return Event{ID: e.ID, Type: e.Type, SessionID: e.Data.Object.ID, Created: at, Body: encode(e), doc: e}
}

// content is a VerificationSession (docs.stripe.com/api/identity/verification_sessions/object).
// Copies share what it points to: replace, never write through.
type content struct {
	ID                     string            `json:"id"`
	Object                 string            `json:"object"`
	ClientReferenceID      *string           `json:"client_reference_id"`
	ClientSecret           *string           `json:"client_secret"`
	Created                int64             `json:"created"`
	LastError              *lastError        `json:"last_error"`
	Report                 *string           `json:"last_verification_report"`
	Livemode               bool              `json:"livemode"`
	Metadata               map[string]string `json:"metadata"`
	Options                json.RawMessage   `json:"options"`
	ProvidedDetails        json.RawMessage   `json:"provided_details,omitempty"`
	Redaction              *redaction        `json:"redaction"`
	RelatedCustomer        *string           `json:"related_customer"`
	RelatedCustomerAccount *string           `json:"related_customer_account"`
	Status                 string            `json:"status"`
	Type                   string            `json:"type"`
	URL                    *string           `json:"url"`
	VerificationFlow       string            `json:"verification_flow,omitempty"`
	VerifiedOutputs        json.RawMessage   `json:"verified_outputs,omitempty"`
}

type lastError struct {
	Code   string `json:"code"`
	Reason string `json:"reason"`
}

type redaction struct {
	Status string `json:"status"`
}

type request struct {
	ID             *string `json:"id"`
	IdempotencyKey *string `json:"idempotency_key"`
}

// outputs and details are what only an answer of the API holds. The words that
// are personal stand between % signs.
const (
	outputs = `{"address":{"city":"%San Francisco%","country":"US","line1":"%1234 Main St.%","line2":"%Apt 5%","postal_code":"%94111%","state":"%CA%"},` +
		`"dob":{"day":29,"month":2,"year":1904},"email":"%jenny@example.com%","first_name":"%Jenny%","id_number":"%1234%","id_number_type":"us_ssn",` +
		`"last_name":"%Rosen%","phone":"%+14155550123%","sex":"female","unparsed_place_of_birth":"%SAN FRANCISCO%","unparsed_sex":"%F%"}`
	details = `{"email":"%jenny.rosen@example.com%","phone":"%+14155550199%"}`
)

func marked(text, mark string) json.RawMessage {
	return json.RawMessage(regexp.MustCompile(`%([^%]+)%`).ReplaceAllString(text, "${1} "+mark))
}

// redacted is what a redaction leaves (docs.stripe.com/identity/verification-sessions#redact).
func redacted(text string) json.RawMessage {
	text = regexp.MustCompile(`%[^%]+%`).ReplaceAllString(text, placeholder)
	return json.RawMessage(strings.NewReplacer(
		`"day":29,"month":2,"year":1904`, `"day":1,"month":1,"year":1`,
		`"us_ssn"`, `null`, `"female"`, `"`+placeholder+`"`,
	).Replace(text))
}

// notification is a thin event (docs.stripe.com/changelog/endive/2026-09-30/thin-events-for-api-v1-resources-generally-available).
type notification struct {
	ID       string  `json:"id"`
	Object   string  `json:"object"`
	Type     string  `json:"type"`
	Livemode bool    `json:"livemode"`
	Created  string  `json:"created"`
	Context  string  `json:"context,omitempty"`
	Related  related `json:"related_object"`
	Reason   *reason `json:"reason,omitempty"`
	Twin     string  `json:"snapshot_event"`
}

type related struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	URL  string `json:"url"`
}

type reason struct {
	Type    string  `json:"type"`
	Request request `json:"request"`
}

func optionsOf(sessionType string) json.RawMessage {
	switch sessionType {
	case "document":
		return json.RawMessage(`{"document":{"allowed_types":["driving_license","id_card","passport"],"require_live_capture":true,"require_matching_selfie":true}}`)
	case "id_number":
		return json.RawMessage(`{"id_number":{}}`)
	case "verification_flow":
		return json.RawMessage(`{"document":{"require_matching_selfie":true},"email":{"require_verification":true},"phone":{"require_verification":true}}`)
	default:
		return json.RawMessage(`{}`)
	}
}

// SessionType is the type of the sessions in which an error code occurs.
func SessionType(code string) string {
	switch {
	case strings.HasPrefix(code, "email_"), strings.HasPrefix(code, "phone_"):
		return "verification_flow"
	case code == "id_number_mismatch", code == "id_number_unverified_other":
		return "id_number"
	default:
		return "document"
	}
}

// explain gives last_error.reason for a code, and whether a check failed,
// which leaves a report, or the session ended before any check.
func explain(code string) (check bool, reason string) {
	switch code {
	case "abandoned":
		return false, "The user began the verification but didn't submit it."
	case "consent_declined":
		return false, "The user declined to be verified."
	case "country_not_supported":
		return false, "The country is not supported."
	case "device_not_supported":
		return false, "The device has no camera."
	case "under_supported_age":
		return false, "The user is under the supported age."
	case "document_expired":
		return true, "The document is expired."
	case "selfie_face_mismatch":
		return true, "The selfie did not match the document."
	default:
		return true, "The check failed: " + strings.ReplaceAll(code, "_", " ") + "."
	}
}
