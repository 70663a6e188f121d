package stripeapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/stripe/stripe-go/v85"
)

// Reasons for which trying again does not help.
var (
	// ErrNoKey says that there is no API key for the mode.
	ErrNoKey = errors.New("no API key for this mode")
	// ErrUnauthorized says that Stripe does not accept the key: wrong, expired or rolled.
	ErrUnauthorized = errors.New("stripe does not accept the API key")
	// ErrForbidden says that the key may not read this at all.
	ErrForbidden = errors.New("the API key may not read this")
	// ErrNotFound says that there is no such thing for this key, mode and account.
	ErrNotFound = errors.New("stripe does not know this")
	// ErrUseless says that Stripe answered, and that nothing can be done with it: it
	// does not take the request, or says more than is read.
	ErrUseless = errors.New("stripe's answer is of no use")
)

var errTooLarge = useless(fmt.Sprintf("the answer is over %d MiB", maxAnswer>>20))

// useless is an [ErrUseless], in our own words.
type useless string

func (u useless) Error() string { return string(u) }

func (u useless) Is(target error) bool { return target == ErrUseless }

// RetryError says that the same request may succeed later: 429, 409, 5xx, no
// answer in time, or none that is Stripe's.
type RetryError struct {
	After  time.Duration // what Stripe asked for by Retry-After, at most an hour; zero if it did not
	Reason string        // our own words
}

func (e *RetryError) Error() string {
	if e.After > 0 {
		return fmt.Sprintf("%s, again in %s", e.Reason, e.After.Round(time.Second))
	}
	return e.Reason
}

// refusal is a 400 or 403. Its message is looked at and never told: it may
// quote data.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string {
	if code := wordRE.FindString(r.code); code != "" {
		return fmt.Sprintf("stripe refused the request with status %d, %s", r.status, code)
	}
	return fmt.Sprintf("stripe refused the request with status %d", r.status)
}

// Is makes a 403 an ErrForbidden, and a 400 an ErrUseless.
func (r *refusal) Is(target error) bool {
	if r.status == http.StatusForbidden {
		return target == ErrForbidden
	}
	return target == ErrUseless
}

var (
	wordRE = regexp.MustCompile(`^[a-z_]{1,64}$`)
	pathRE = regexp.MustCompile(`[a-z_]+(\.[a-z_]+)*`)
)

// names is which of the paths the refusal is about, as far as it says so. The
// outputs beside another name are only where that stands: the next refusal
// will tell.
func (r *refusal) names(paths []string) []string {
	var named []string
	for _, word := range pathRE.FindAllString(r.message, -1) {
		if slices.Contains(paths, word) && !slices.Contains(named, word) {
			named = append(named, word)
		}
	}
	if len(named) > 1 {
		named = slices.DeleteFunc(named, func(path string) bool { return path == outputsPath })
	}
	return named
}

// explain says in our own words why a request did not succeed.
func explain(ctx context.Context, x exchange, err error) error {
	var wait *RetryError
	switch s := x.status; {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.As(err, &wait):
		return wait
	case errors.Is(err, errTooLarge):
		return errTooLarge
	case x.sent.IsZero():
		return fmt.Errorf("wait for the limiter: %w", context.DeadlineExceeded)
	case s == 0:
		return &RetryError{Reason: silence(err)}
	case s == http.StatusUnauthorized:
		return ErrUnauthorized
	case s == http.StatusNotFound:
		return ErrNotFound
	case s == http.StatusBadRequest || s == http.StatusForbidden:
		r := &refusal{status: s}
		if told, ok := errors.AsType[*stripe.Error](err); ok {
			r.code, r.message = string(told.Code), told.Param+" "+told.Msg
		}
		return r
	case s == http.StatusConflict || s == http.StatusTooManyRequests || s >= http.StatusInternalServerError:
		return &RetryError{After: x.after, Reason: fmt.Sprintf("stripe answered with status %d", s)}
	default:
		return useless(fmt.Sprintf("stripe answered with status %d", s))
	}
}

// silence says why there was no answer, without addresses.
func silence(err error) string {
	var (
		name *net.DNSError
		cert *tls.CertificateVerificationError
		slow net.Error
	)
	switch {
	case errors.As(err, &name):
		return "no answer from stripe: its name does not resolve"
	case errors.As(err, &cert):
		return "no answer from stripe: its certificate is not trusted"
	case errors.As(err, &slow) && slow.Timeout():
		return "no answer from stripe in time"
	default:
		return "no answer from stripe: the connection failed"
	}
}

// isSensitive reports whether a path is one of the five fields that need a
// restricted key of their own right.
func isSensitive(path string) bool { return strings.HasPrefix(path, outputsPath+".") }
