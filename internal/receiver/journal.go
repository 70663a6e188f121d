package receiver

import (
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"webhookd/internal/events"
)

const (
	maxLines = 10  // of one reason within a second
	maxText  = 255 // bytes of a value from outside
	maxError = 1 << 10
)

// journal writes one line per delivery, and bounds those that strangers or a
// broken database could make without end.
type journal struct {
	log    *zap.Logger
	limits map[string]*limit // by reason
}

func newJournal(log *zap.Logger, refusals map[string]*refusal) *journal {
	j := &journal{log: log, limits: make(map[string]*limit)}
	for code := range refusals {
		j.limits[code] = newLimit(log, code)
	}
	j.limits[string(events.Quarantined)] = newLimit(log, string(events.Quarantined))
	return j
}

// delivery writes the line of one delivery.
func (j *journal) delivery(v *verdict) {
	level, reason := zapcore.InfoLevel, v.code
	switch v.outcome {
	case events.Applied, events.Duplicate, events.Ignored:
		level = zapcore.DebugLevel
	case events.Quarantined:
		level, reason = zapcore.WarnLevel, string(events.Quarantined)
	case refused, unavailable:
		level = zapcore.WarnLevel
	}
	if !j.log.Core().Enabled(level) || reason != "" && !j.limits[reason].allow(time.Now()) {
		return
	}

	fields := make([]zap.Field, 0, 11)
	text := func(key, value string) {
		if value != "" {
			fields = append(fields, zap.String(key, printable(value, maxText)))
		}
	}
	text("outcome", string(v.outcome))
	text("reason", v.code)
	if e := v.event; e != nil {
		text("event_id", e.ID)
		text("type", e.Type)
		text("session_id", e.SessionID)
		text("status", e.Session.Status.Value)
		text("error_code", e.Session.ErrorCode.Value)
		text("request_id", e.RequestID.Value)
		text("fault", e.Fault)
	}
	if v.err != nil {
		fields = append(fields, zap.String("error", printable(v.err.Error(), maxError)))
	}
	j.log.Log(level, "delivery", append(fields, zap.Duration("duration", v.took))...)
}

// panicked tells of a fault of ours by the type of its value and its stack,
// which has no values.
func (j *journal) panicked(p any) {
	j.log.Error("delivery panicked", zap.String("panic", fmt.Sprintf("%T", p)), zap.StackSkip("stack", 1))
}

// flush tells what was left out so far.
func (j *journal) flush() {
	for _, l := range j.limits {
		l.report()
	}
}

// printable bounds a value from outside and takes out what a terminal would obey.
func printable(s string, most int) string {
	if len(s) > most {
		s = s[:most]
	}
	hidden := func(r rune) bool { return !unicode.IsPrint(r) }
	if s = strings.ToValidUTF8(s, ""); strings.IndexFunc(s, hidden) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if hidden(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// limit lets maxLines pass within any second. A second after the first that it
// holds back, it writes how many there were.
type limit struct {
	log    *zap.Logger
	reason string

	mu      sync.Mutex
	passed  [maxLines]time.Time // a ring of when the last ones passed
	oldest  int
	leftOut int
}

func newLimit(log *zap.Logger, reason string) *limit { return &limit{log: log, reason: reason} }

func (l *limit) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.passed[l.oldest]) < time.Second {
		if l.leftOut++; l.leftOut == 1 {
			time.AfterFunc(time.Second, l.report)
		}
		return false
	}
	l.passed[l.oldest] = now
	l.oldest = (l.oldest + 1) % maxLines
	return true
}

func (l *limit) report() {
	l.mu.Lock()
	n := l.leftOut
	l.leftOut = 0
	l.mu.Unlock()
	if n > 0 {
		l.log.Warn("lines left out", zap.String("reason", l.reason), zap.Int("left_out", n))
	}
}
