package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/bits"
	"net"
	"net/http/httputil"
	"net/url"
	"strconv"
	"time"
)

// patience is how long Stripe would wait for an answer, more or less.
const patience = 30 * time.Second

// link is one kept-alive connection to an endpoint. It speaks just enough
// HTTP/1.1: net/http's client costs three times as much, on cores that the
// server under load may share.
type link struct {
	addr string
	head string // of every request, up to the length of its body
	key  hash.Hash

	conn net.Conn
	in   *bufio.Reader
	out  []byte
	body []byte
	sum  []byte
}

// reply is what came back. Its word stays valid until the next delivery.
type reply struct {
	status int
	word   []byte // the outcome, or the code of a problem; empty if there is none
}

func newLink(u *url.URL, secret string) *link {
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	return &link{
		addr: host,
		head: "POST " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host +
			"\r\nUser-Agent: Stripe/1.0 (+https://stripe.com/docs/webhooks)" +
			"\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ",
		key: hmac.New(sha256.New, []byte(secret)),
	}
}

func (l *link) dial(ctx context.Context) (err error) {
	if l.conn != nil {
		return nil
	}
	dialer := net.Dialer{Timeout: patience}
	if l.conn, err = dialer.DialContext(ctx, "tcp", l.addr); err != nil {
		l.conn = nil
		return err
	}
	l.in = bufio.NewReaderSize(l.conn, 8<<10)
	return nil
}

func (l *link) close() {
	if l.conn != nil {
		_ = l.conn.Close() // nothing is on its way
		l.conn = nil
	}
}

// deliver is one attempt at a message, with a signature that is wrong if it is
// to be forged. After an error the next attempt connects anew.
func (l *link) deliver(ctx context.Context, m *message, forged bool, now time.Time) (a reply, err error) {
	if err := l.dial(ctx); err != nil {
		return reply{}, err
	}
	l.write(m, forged, now)
	keep := false
	if err = l.conn.SetDeadline(now.Add(patience)); err == nil {
		if _, err = l.conn.Write(l.out); err == nil {
			a, keep, err = l.read()
		}
	}
	if !keep {
		l.close()
	}
	return a, err
}

// write makes the request.
func (l *link) write(m *message, forged bool, now time.Time) {
	l.body = m.render(l.body[:0])
	l.out = strconv.AppendInt(append(l.out[:0], l.head...), int64(len(l.body)), 10)
	l.out = append(l.out, "\r\nStripe-Signature: t="...)
	at := len(l.out)
	l.out = append(strconv.AppendInt(l.out, now.Unix(), 10), '.')
	l.key.Reset()
	l.key.Write(l.out[at:])
	l.key.Write(l.body)
	l.sum = l.key.Sum(l.sum[:0])
	if forged {
		l.sum[0] ^= 1
	}
	l.out = hex.AppendEncode(append(l.out[:len(l.out)-1], ",v1="...), l.sum)
	l.out = append(append(l.out, "\r\n\r\n"...), l.body...)
}

var errNotHTTP = errors.New("the answer is not HTTP/1.1")

// read takes one whole answer. keep says that the connection goes on.
func (l *link) read() (a reply, keep bool, err error) {
	var length int64
	var chunked bool
	for {
		line, err := l.line()
		if err != nil {
			return reply{}, false, err
		}
		// HTTP/1.1 200 OK
		if len(line) < len("HTTP/1.1 200") || !bytes.HasPrefix(line, []byte("HTTP/1.")) {
			return reply{}, false, errNotHTTP
		}
		if a.status, err = strconv.Atoi(string(line[9:12])); err != nil {
			return reply{}, false, errNotHTTP
		}
		keep = line[7] == '1'
		if length, chunked, err = l.headers(&keep); err != nil {
			return reply{}, false, err
		}
		if a.status >= 200 { // others come before the answer itself
			break
		}
	}
	switch {
	case chunked:
		if _, err := io.Copy(io.Discard, httputil.NewChunkedReader(l.in)); err != nil {
			return reply{}, false, err
		}
		_, _, err = l.headers(&keep) // trailers
	case a.status == 204 || a.status == 304:
	case length < 0:
		keep = false
		_, err = io.Copy(io.Discard, l.in)
	case length <= int64(l.in.Size()):
		var body []byte
		if body, err = l.in.Peek(int(length)); err == nil {
			a.word = wordOf(body)
			_, err = l.in.Discard(int(length)) // leaves the word where it is
		}
	default:
		_, err = io.CopyN(io.Discard, l.in, length)
	}
	return a, keep && err == nil, err
}

func (l *link) line() ([]byte, error) {
	line, err := l.in.ReadSlice('\n')
	if err != nil {
		return nil, err
	}
	return bytes.TrimRight(line, "\r\n"), nil
}

// headers reads up to the empty line.
func (l *link) headers(keep *bool) (length int64, chunked bool, err error) {
	length = -1
	for {
		line, err := l.line()
		if err != nil || len(line) == 0 {
			return length, chunked, err
		}
		name, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.ParseInt(string(value), 10, 64); err != nil || length < 0 {
				return 0, false, errNotHTTP
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = true
		case bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close")):
			*keep = false
		}
	}
}

// wordOf finds the outcome in an answer of webhookd's, or the code of a problem.
func wordOf(body []byte) []byte {
	for _, name := range []string{`"outcome":"`, `"code":"`} {
		if _, rest, ok := bytes.Cut(body, []byte(name)); ok {
			if word, _, ok := bytes.Cut(rest, []byte{'"'}); ok && len(word) <= 32 {
				return word
			}
		}
	}
	return nil
}

// cause is an error without what differs from connection to connection.
func cause(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "the server closed the connection"
	case errors.As(err, &op):
		return fmt.Sprintf("%s: %v", op.Op, op.Err)
	}
	return err.Error()
}

// latencies counts durations, in buckets that are a 64th of their place wide:
// a quantile is at most 1.6% too high or too low.
type latencies struct {
	counts [21<<6 + 64]uint32
	total  uint64
	max    time.Duration
}

const (
	unit   = 10      // durations are counted in 1024 ns
	finest = 1 << 6  // below so many units a bucket is one
	top    = 1 << 27 // units, some two minutes: what takes longer counts as this long
)

func (h *latencies) add(d time.Duration) {
	v := min(uint64(max(d, 0))>>unit, top-1)
	shift := max(bits.Len64(v)-bits.Len64(2*finest-1), 0)
	h.counts[shift*finest+int(v>>shift)]++
	h.total++
	h.max = max(h.max, d)
}

func (h *latencies) merge(other *latencies) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.max = max(h.max, other.max)
}

// quantile is the middle of the bucket in which it lies, or 0 if nothing was added.
func (h *latencies) quantile(q float64) time.Duration {
	rank, seen := uint64(q*float64(h.total)), uint64(0)
	for i, n := range h.counts {
		if seen += uint64(n); n > 0 && seen > rank {
			shift := max(i/finest-1, 0)
			v := uint64(i - shift*finest)
			return min(time.Duration((2*v+1)<<shift<<unit/2), h.max)
		}
	}
	return h.max
}
