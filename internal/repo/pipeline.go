package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgtype"

	"webhookd/internal/events"
)

// pipeline is statements that go out together, in one round trip, in
// PostgreSQL's binary form. pgx would look at each value through an interface,
// which costs a third of a delivery's time, and its pgconn makes a new buffer for
// every batch. So messages are written here, and read by pgconn; what is rare goes
// through pgx (postgresql.org/docs/current/protocol-message-formats.html).
type pipeline struct {
	prepares   bool              // or else there is a pooler, which keeps no statements
	words      map[string]string // that need no copy
	names      map[string]string // of statements, by their SQL
	statements []statement
	out        []byte // messages
	bind       int    // where in out the last Bind begins
	counted    int    // where it counts its parameters
	params     int    // how many it has so far
}

type statement struct {
	sql, name string
	read      func(*row) // called for each row
}

// epoch is where PostgreSQL's time begins, in unix seconds.
const epoch = 946_684_800

// keptBytes is the most memory that a pipeline keeps for its next use.
const keptBytes = 4 << 20

// vocabulary is the words that columns mostly hold.
func vocabulary() map[string]string {
	all := map[string]string{}
	for _, words := range [][]string{
		events.Types(), events.SessionTypes(), events.Statuses(), events.Codes(), events.RedactionWords(),
		{events.SourceWebhook, events.SourceReconcile, events.SourceAPI},
	} {
		for _, word := range words {
			all[word] = word
		}
	}
	return all
}

// add begins a statement; its parameters follow.
func (p *pipeline) add(sql string, read func(*row)) {
	p.complete()
	name := ""
	if p.prepares {
		name = p.name(sql)
	} else {
		p.message('P', func() { p.out = append(append(append(p.out, 0), sql...), 0, 0, 0) })
	}
	p.statements = append(p.statements, statement{sql, name, read})
	p.bind, p.params = len(p.out), 0
	p.out = append(p.out, 'B', 0, 0, 0, 0, 0) // type, length, no name for the portal
	p.out = append(append(p.out, name...), 0)
	p.out = append(p.out, 0, 1, 0, pgtype.BinaryFormatCode)
	p.counted = len(p.out)
	p.out = append(p.out, 0, 0)
}

// complete ends the statement that was begun last.
func (p *pipeline) complete() {
	if len(p.statements) == 0 {
		return
	}
	binary.BigEndian.PutUint16(p.out[p.counted:], uint16(p.params))
	p.out = append(p.out, 0, 1, 0, pgtype.BinaryFormatCode)
	binary.BigEndian.PutUint32(p.out[p.bind+1:], uint32(len(p.out)-p.bind-1))
	p.message('E', func() { p.out = append(p.out, 0, 0, 0, 0, 0) }) // that portal, all rows
}

func (p *pipeline) message(kind byte, body func()) {
	at := len(p.out)
	p.out = append(p.out, kind, 0, 0, 0, 0)
	body()
	binary.BigEndian.PutUint32(p.out[at+1:], uint32(len(p.out)-at-1))
}

// name is what a statement is called on each connection.
func (p *pipeline) name(sql string) string {
	name, known := p.names[sql]
	if !known {
		sum := sha256.Sum256([]byte(sql))
		name = "webhookd_" + hex.EncodeToString(sum[:8])
		p.names[sql] = name
	}
	return name
}

// param is a parameter of the statement: put appends it, or answers false for null.
func (p *pipeline) param(put func() bool) {
	at := len(p.out)
	p.out = binary.BigEndian.AppendUint32(p.out, null)
	if put() {
		binary.BigEndian.PutUint32(p.out[at:], uint32(len(p.out)-at-4))
	} else {
		p.out = p.out[:at+4]
	}
	p.params++
}

// null is the length of what is null.
const null = 1<<32 - 1

// text is a parameter by itself.
func (p *pipeline) text(s string) {
	p.param(func() bool {
		p.out = append(p.out, s...)
		return true
	})
}

// flag is likewise.
func (p *pipeline) flag(b bool) {
	p.param(func() bool {
		p.bool(b)
		return true
	})
}

// column is an array with a value of each row: put appends it, or answers false
// for null.
func column[R any](p *pipeline, element uint32, rows []R, put func(R) bool) {
	p.param(func() bool {
		const dimensions, lowerBound = 1, 1
		from, nulls := len(p.out), 0
		for _, word := range [...]uint32{dimensions, 0, element, uint32(len(rows)), lowerBound} {
			p.out = binary.BigEndian.AppendUint32(p.out, word)
		}
		for _, r := range rows {
			at := len(p.out)
			p.out = binary.BigEndian.AppendUint32(p.out, null)
			if put(r) {
				binary.BigEndian.PutUint32(p.out[at:], uint32(len(p.out)-at-4))
			} else {
				nulls++
			}
		}
		if nulls > 0 {
			p.out[from+7] = 1
		}
		return nulls < len(rows) // NULL for an array: unnest fills the column up, for nothing
	})
}

// What is empty is null, but for strs, flags and ranks.

func strs[R any](p *pipeline, rows []R, of func(R) string) {
	column(p, pgtype.TextOID, rows, func(r R) bool {
		p.out = append(p.out, of(r)...)
		return true
	})
}

func optional[R any](p *pipeline, rows []R, of func(R) string) {
	column(p, pgtype.TextOID, rows, func(r R) bool {
		s := of(r)
		p.out = append(p.out, s...)
		return s != ""
	})
}

func texts[R any](p *pipeline, rows []R, of func(R) events.Text) {
	column(p, pgtype.TextOID, rows, func(r R) bool {
		t := of(r)
		p.out = append(p.out, t.Value...) // empty unless present
		return t.Has()
	})
}

func docs[R any](p *pipeline, rows []R, of func(R) []byte)    { octets(p, pgtype.TextOID, rows, of) }
func digests[R any](p *pipeline, rows []R, of func(R) []byte) { octets(p, pgtype.ByteaOID, rows, of) }
func places[R any](p *pipeline, rows []R, of func(R) []byte)  { octets(p, pgtype.TIDOID, rows, of) }

func octets[R any](p *pipeline, element uint32, rows []R, of func(R) []byte) {
	column(p, element, rows, func(r R) bool {
		b := of(r)
		p.out = append(p.out, b...)
		return b != nil
	})
}

func modes[R any](p *pipeline, rows []R, of func(R) events.Mode) {
	column(p, pgtype.BoolOID, rows, func(r R) bool {
		m := of(r)
		if m == events.ModeUnknown {
			return false
		}
		p.bool(m == events.ModeLive)
		return true
	})
}

func flags[R any](p *pipeline, rows []R, of func(R) bool) {
	column(p, pgtype.BoolOID, rows, func(r R) bool {
		p.bool(of(r))
		return true
	})
}

func (p *pipeline) bool(b bool) {
	if b {
		p.out = append(p.out, 1)
	} else {
		p.out = append(p.out, 0)
	}
}

func times[R any](p *pipeline, rows []R, of func(R) time.Time) {
	column(p, pgtype.TimestamptzOID, rows, func(r R) bool {
		t := of(r)
		if t.IsZero() {
			return false
		}
		micros := (t.Unix()-epoch)*1e6 + int64(t.Nanosecond())/1e3
		p.out = binary.BigEndian.AppendUint64(p.out, uint64(micros))
		return true
	})
}

func ranks[R any](p *pipeline, rows []R, of func(R) int) {
	column(p, pgtype.Int2OID, rows, func(r R) bool {
		p.out = binary.BigEndian.AppendUint16(p.out, uint16(of(r)))
		return true
	})
}

// run sends everything, reads the rows, and is ready for other statements. The
// error is that of the first statement that failed; the later ones had no effect.
// After any other error than PostgreSQL's the connection is of no more use.
func (p *pipeline) run(ctx context.Context, conn *pgx.Conn) error {
	defer p.reset()
	if len(p.statements) == 0 {
		return nil
	}
	p.complete()
	p.message('S', func() {})
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.prepares {
		for _, s := range p.statements {
			if _, err := conn.Prepare(ctx, s.name, s.sql); err != nil { // the first time only
				return err
			}
		}
	}
	wire, spoiled := conn.PgConn().Conn(), make(chan error, 1)
	stop := context.AfterFunc(ctx, func() { spoiled <- wire.SetDeadline(longAgo) })
	_, err := wire.Write(p.out)
	if err == nil {
		err = p.receive(conn.PgConn())
	}
	if stop() {
		return err
	}
	if failed := cmp.Or(<-spoiled, wire.SetDeadline(time.Time{})); err == nil {
		return failed
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return err
}

// longAgo is a deadline that has passed: who waits for the connection ends.
var longAgo = time.Unix(1, 0)

var errForm = errors.New("the database holds what webhookd never writes")

// receive reads all answers.
func (p *pipeline) receive(conn *pgconn.PgConn) (failed error) {
	r := row{words: p.words}
	for done := 0; ; {
		message, err := conn.ReceiveMessage(context.Background())
		if err != nil {
			return err
		}
		switch m := message.(type) {
		case *pgproto3.DataRow:
			if read := p.statements[done].read; read != nil {
				r.columns = m.Values
				read(&r)
			}
		case *pgproto3.CommandComplete:
			done++
		case *pgproto3.ErrorResponse:
			failed = pgconn.ErrorResponseToPgError(m)
		case *pgproto3.ReadyForQuery:
			return cmp.Or(failed, r.err)
		}
	}
}

func (p *pipeline) reset() {
	clear(p.statements) // they hold what was read
	p.statements = p.statements[:0]
	if p.out = p.out[:0]; cap(p.out) > keptBytes {
		p.out = nil
	}
}

// row is read column by column, in their order.
type row struct {
	columns [][]byte
	words   map[string]string
	err     error
}

// raw is the next column, nil for null. It stands until the next row.
func (r *row) raw() (column []byte) {
	if len(r.columns) == 0 {
		r.err = errForm
		return nil
	}
	column, r.columns = r.columns[0], r.columns[1:]
	return column
}

// str is a text, empty for null.
func (r *row) str() string {
	column := r.raw()
	if word, known := r.words[string(column)]; known {
		return word
	}
	return string(column)
}

// like is a text that mostly equals another one, which then needs no copy.
func (r *row) like(other string) string {
	if len(r.columns) > 0 && string(r.columns[0]) == other {
		r.raw()
		return other
	}
	return r.str()
}

func (r *row) text() events.Text {
	if len(r.columns) > 0 && r.columns[0] == nil {
		r.raw()
		return events.Text{Presence: events.Null}
	}
	return events.Some(r.str())
}

// number is an integer of any size, or what is sent as one; 0 for null.
func (r *row) number() (n int64, valid bool) {
	switch column := r.raw(); len(column) {
	case 0:
		return 0, false
	case 1:
		return int64(column[0]), true
	case 2:
		return int64(int16(binary.BigEndian.Uint16(column))), true
	case 8:
		return int64(binary.BigEndian.Uint64(column)), true
	default:
		r.err = errForm
		return 0, false
	}
}

func (r *row) int64() int64 {
	n, _ := r.number()
	return n
}

func (r *row) bool() bool { return r.int64() != 0 }

func (r *row) mode() events.Mode {
	live, told := r.number()
	if !told {
		return events.ModeUnknown
	}
	return events.ModeTest + events.Mode(live)
}

// time is in UTC, zero for null.
func (r *row) time() time.Time {
	micros, valid := r.number()
	if !valid {
		return time.Time{}
	}
	return time.UnixMicro(micros + epoch*1e6).UTC()
}
