package receiver

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"webhookd/internal/signature"
)

const (
	maxHeaders = 16 << 10 // of all of a request's headers, as sent

	usualBody = 8 << 10  // Stripe's events have some 3 KB; what more needed is not kept for others
	minHeld   = 32 << 20 // see Receiver.maxHeld; the collector lets five times as much stand
)

// admit judges what can be judged before the body is asked for, and answers the
// signature header, or the code of a refusal.
func (r *Receiver) admit(q *http.Request) (header, code string) {
	if headerBytes(q) > maxHeaders {
		return "", headerTooLarge
	}
	// A proxy may part a header at its commas; parts are joined again (RFC 9110, 5.3).
	header = strings.Join(q.Header["Stripe-Signature"], ",")
	switch {
	case len(header) > signature.MaxHeaderBytes:
		return "", headerTooLarge
	case encoded(q.Header["Content-Encoding"]):
		return "", contentEncoding
	case q.ContentLength > r.maxBody:
		return "", bodyTooLarge
	}
	return header, signature.Reason(signature.CheckHeader(header))
}

func headerBytes(q *http.Request) int {
	n := len(q.Host)
	for name, values := range q.Header {
		for _, value := range values {
			n += len(name) + len(": ") + len(value) + len("\r\n")
		}
	}
	return n
}

func encoded(values []string) bool {
	for _, v := range values {
		if v != "" && !strings.EqualFold(v, "identity") {
			return true
		}
	}
	return false
}

// read appends the body to b. It grows with what has arrived, not with what a
// header promises, and with what all bodies together may hold: nobody has
// proven yet who they are. The code is that of a refusal.
func (r *Receiver) read(body io.Reader, b []byte) (whole []byte, code string) {
	var held int64
	defer func() { r.held.Add(-held) }()
	for {
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
			if grown := int64(cap(b)); grown > usualBody {
				if r.held.Add(grown-held) > r.maxHeld {
					held = grown
					return b, queueFull
				}
				held = grown
			}
		}
		n, err := body.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		switch {
		case int64(len(b)) > r.maxBody:
			return b, bodyTooLarge
		case errors.Is(err, io.EOF):
			return b, ""
		case err != nil: // too slow, or cut off: then nobody reads the answer
			return b, bodyTooSlow
		}
	}
}
