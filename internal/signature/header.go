package signature

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
)

const (
	// MaxHeaderBytes is the longest Stripe-Signature value that is looked at.
	// Verify calls a longer one malformed; the HTTP edge answers 431 before that.
	MaxHeaderBytes = 8 << 10

	maxV1     = 16
	maxDigits = 19
	blanks    = " \t"
)

// signed is what a Stripe-Signature value says. It holds all that a header can
// ask for, so that parsing needs no memory of its own.
type signed struct {
	t    string // as received: this text was signed, leading zeros and all
	at   uint64 // t as a number; 19 digits can exceed an int64
	v1   [maxV1][sha256.Size]byte
	macs int // how many of v1 are set: those that were 64 hex digits
}

// parse judges the whole header before any part of it is believed.
func (h *signed) parse(header string) error {
	switch {
	case len(header) > MaxHeaderBytes:
		return ErrMalformedHeader
	case strings.Trim(header, blanks) == "": // HTTP does not know blanks around a value
		return ErrMissingHeader
	}

	v1s := 0
	for element := range strings.SplitSeq(header, ",") {
		key, value, ok := strings.Cut(strings.Trim(element, blanks), "=")
		if !ok || strings.Contains(value, "=") {
			return ErrMalformedHeader
		}
		switch key {
		case "t":
			if h.t != "" || value == "" || len(value) > maxDigits {
				return ErrMalformedHeader
			}
			at, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return ErrMalformedHeader
			}
			h.t, h.at = value, at
		case "v1":
			if v1s++; v1s > maxV1 {
				return ErrMalformedHeader
			}
			if len(value) != hex.EncodedLen(sha256.Size) {
				continue
			}
			if _, err := hex.Decode(h.v1[h.macs][:], []byte(value)); err == nil {
				h.macs++
			}
		}
	}

	switch {
	case h.t == "":
		return ErrMalformedHeader
	case v1s == 0:
		return ErrNoV1Signature
	}
	return nil
}
