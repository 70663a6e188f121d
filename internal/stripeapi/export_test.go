package stripeapi

import (
	"net/http"
	"time"
)

// NewTransport is what reads go through.
func NewTransport(quiet time.Duration) *http.Transport { return newTransport(quiet) }
