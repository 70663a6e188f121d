package events

import (
	"slices"
	"strings"
)

const (
	typePrefix = "identity.verification_session."
	thinPrefix = "v1.identity.verification_session."
)

// The six event types (docs.stripe.com/identity/how-sessions-work).
const (
	TypeCreated       = typePrefix + "created"
	TypeProcessing    = typePrefix + "processing"
	TypeRequiresInput = typePrefix + "requires_input"
	TypeVerified      = typePrefix + "verified"
	TypeCanceled      = typePrefix + "canceled"
	TypeRedacted      = typePrefix + "redacted"
)

// The statuses of a session; open.
const (
	StatusCanceled      = "canceled"
	StatusProcessing    = "processing"
	StatusRequiresInput = "requires_input"
	StatusVerified      = "verified"
)

// The words of redaction.status that mean a redaction; any other one hides the
// session until somebody decides.
const (
	RedactionProcessing = "processing"
	RedactionRedacted   = "redacted"
	RedactionValidated  = "validated"
)

// Types lists the six event types by rank: the order within one second.
func Types() []string {
	return []string{TypeCreated, TypeProcessing, TypeRequiresInput, TypeVerified, TypeCanceled, TypeRedacted}
}

// ThinType is the thin twin's name of one of the six types.
func ThinType(snapshot string) string { return "v1." + snapshot }

// Statuses lists the documented statuses of a session.
func Statuses() []string {
	return []string{StatusCanceled, StatusProcessing, StatusRequiresInput, StatusVerified}
}

// SessionTypes lists the documented types of a session.
func SessionTypes() []string { return []string{"document", "id_number", "verification_flow"} }

// RedactionWords lists the redaction words that are understood.
func RedactionWords() []string {
	return []string{RedactionProcessing, RedactionRedacted, RedactionValidated}
}

// OutputFields lists the fields of verified_outputs, an address and a date of
// birth as one each.
func OutputFields() []string {
	return []string{
		"first_name", "last_name", "dob", "address", "id_number", "id_number_type", "email", "phone",
		"sex", "unparsed_place_of_birth", "unparsed_sex",
	}
}

// Codes lists last_error.code: the 19 of Stripe's schema, then two that its
// documentation names outside of it (handle-verification-outcomes,
// options.document.allowed_types).
func Codes() []string {
	return []string{
		"abandoned", "consent_declined", "country_not_supported", "device_not_supported",
		"document_expired", "document_type_not_supported", "document_unverified_other",
		"email_unverified_other", "email_verification_declined",
		"id_number_insufficient_document_data", "id_number_mismatch", "id_number_unverified_other",
		"phone_unverified_other", "phone_verification_declined",
		"selfie_document_missing_photo", "selfie_face_mismatch", "selfie_manipulated", "selfie_unverified_other",
		"under_supported_age",
		"address_mismatch", "document_type_not_allowed",
	}
}

// Labels for what is outside a closed set.
const (
	LabelOther = "other" // a value that webhookd does not know
	LabelNone  = "none"  // no error code
)

// CodeLabel is the metric label of an error code: a known one, other, or none
// for what the row has as null.
func CodeLabel(code Text) string {
	if code.Value == "" {
		return LabelNone
	}
	return labelOf(code.Value, Codes())
}

// StatusLabel is the metric label of a session's status.
func StatusLabel(status Text) string { return labelOf(status.Value, Statuses()) }

// SessionTypeLabel is the metric label of a session's type.
func SessionTypeLabel(t Text) string { return labelOf(t.Value, SessionTypes()) }

// RedactionLabel is the metric label of a redaction word.
func RedactionLabel(word string) string { return labelOf(word, RedactionWords()) }

// TypeLabel is the metric label of a signed event's type: one of the six, a
// thin twin's own name, or other.
func TypeLabel(t string) string {
	if rankOf(strings.TrimPrefix(t, "v1.")) >= 0 {
		return t
	}
	return LabelOther
}

// KnownRedaction reports whether a redaction word means that data must go.
func KnownRedaction(word string) bool {
	return word == RedactionProcessing || word == RedactionRedacted || word == RedactionValidated
}

func labelOf(s string, known []string) string {
	if slices.Contains(known, s) {
		return s
	}
	return LabelOther
}
