package jobs

// Backoff is the pause after an attempt, for a test of its bounds.
var Backoff = backoff
