// Package events is the vocabulary of webhookd: what Stripe Identity says, in
// which order it counts, and what a redaction leaves of it.
//
// [Parse] turns the bytes of one delivery into an [Event]. An event is a
// snapshot (one of the six identity.verification_session types, with the
// session's present content), thin (its twin without content), foreign (no
// business of ours) or broken (ours, but not understood; Fault says why).
//
// A session is the fold of its events. [Standing] folds one event at a time,
// as the database does under the lock of the session's row; [Model] computes
// the same rows from the whole set at once, and is what tests compare with.
// Both agree whatever the order, number and timing of deliveries, because
// everything is decided by [Key], by the rule of twins ([TwinKey]) and by what
// is fixed at birth, and never by what came first.
//
// Three things are kept apart everywhere: a field that is absent, one that is
// null and one that Stripe has redacted ([Text]).
package events
