package repo

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"webhookd/internal/events"
)

// pipeline is statements that go out together, in one round trip, in
// PostgreSQL's binary form. pgx would look at each value through an interface,
// which costs a third of a delivery's time. What is rare goes through pgx.
type pipeline struct {
	prepares   bool              // or else there is a pooler, which keeps no statements
	words      map[string]string // that need no copy
	statements []statement
	params     []span
	data       []byte // of all parameters

	described []*pgconn.StatementDescription
	values    [][]byte
}

type statement struct {
	sql    string
	params int        // how many
	read   func(*row) // called for each row
}

// span is where a parameter stands in the data; a null one begins at -1.
type span struct{ from, to int }

var allBinary = []int16{pgtype.BinaryFormatCode}

// epoch is where PostgreSQL's time begins, in unix seconds.
const epoch = 946_684_800

// keptData is the most memory that a pipeline keeps for its next use.
const keptData = 4 << 20

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
	p.statements = append(p.statements, statement{sql: sql, read: read})
}

func (p *pipeline) param(s span) {
	p.params = append(p.params, s)
	p.statements[len(p.statements)-1].params++
}

// text is a parameter by itself; all others are columns.
func (p *pipeline) text(s string) {
	from := len(p.data)
	p.data = append(p.data, s...)
	p.param(span{from, len(p.data)})
}

func (p *pipeline) uint32(n uint32) { p.data = binary.BigEndian.AppendUint32(p.data, n) }

// column is an array with a value of each row: put appends it to the data, or
// answers false for null.
func column[R any](p *pipeline, element uint32, rows []R, put func(R) bool) {
	const dimensions, lowerBound = 1, 1
	from, nulls := len(p.data), 0
	for _, word := range [...]uint32{dimensions, 0, element, uint32(len(rows)), lowerBound} {
		p.uint32(word)
	}
	for _, r := range rows {
		at := len(p.data)
		p.uint32(1<<32 - 1)
		if put(r) {
			binary.BigEndian.PutUint32(p.data[at:], uint32(len(p.data)-at-4))
		} else {
			nulls++
		}
	}
	if nulls == len(rows) { // NULL for an array: unnest fills the column up, for nothing
		p.data = p.data[:from]
		p.param(span{from: -1})
		return
	}
	if nulls > 0 {
		p.data[from+7] = 1
	}
	p.param(span{from, len(p.data)})
}

// What is empty is null, but for strs, flags and ranks.

func strs[R any](p *pipeline, rows []R, of func(R) string) {
	column(p, pgtype.TextOID, rows, func(r R) bool {
		p.data = append(p.data, of(r)...)
		return true
	})
}

func optional[R any](p *pipeline, rows []R, of func(R) string) {
	column(p, pgtype.TextOID, rows, func(r R) bool {
		s := of(r)
		p.data = append(p.data, s...)
		return s != ""
	})
}

func texts[R any](p *pipeline, rows []R, of func(R) events.Text) {
	column(p, pgtype.TextOID, rows, func(r R) bool {
		t := of(r)
		p.data = append(p.data, t.Value...) // empty unless present
		return t.Has()
	})
}

func docs[R any](p *pipeline, rows []R, of func(R) []byte)    { octets(p, pgtype.TextOID, rows, of) }
func digests[R any](p *pipeline, rows []R, of func(R) []byte) { octets(p, pgtype.ByteaOID, rows, of) }
func places[R any](p *pipeline, rows []R, of func(R) []byte)  { octets(p, pgtype.TIDOID, rows, of) }

func octets[R any](p *pipeline, element uint32, rows []R, of func(R) []byte) {
	column(p, element, rows, func(r R) bool {
		b := of(r)
		p.data = append(p.data, b...)
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
		p.data = append(p.data, 1)
	} else {
		p.data = append(p.data, 0)
	}
}

func times[R any](p *pipeline, rows []R, of func(R) time.Time) {
	column(p, pgtype.TimestamptzOID, rows, func(r R) bool {
		t := of(r)
		if t.IsZero() {
			return false
		}
		micros := (t.Unix()-epoch)*1e6 + int64(t.Nanosecond())/1e3
		p.data = binary.BigEndian.AppendUint64(p.data, uint64(micros))
		return true
	})
}

func ranks[R any](p *pipeline, rows []R, of func(R) int) {
	column(p, pgtype.Int2OID, rows, func(r R) bool {
		p.data = binary.BigEndian.AppendUint16(p.data, uint16(of(r)))
		return true
	})
}

// run sends everything, reads the rows, and is ready for other statements. The
// error is that of the first statement that failed; the later ones had no effect.
func (p *pipeline) run(ctx context.Context, conn *pgx.Conn) error {
	defer p.reset()
	if len(p.statements) == 0 {
		return nil
	}
	if p.prepares {
		for _, s := range p.statements {
			sd, err := conn.Prepare(ctx, s.sql, s.sql) // the first time only
			if err != nil {
				return err
			}
			p.described = append(p.described, sd)
		}
	}
	for _, s := range p.params {
		if s.from < 0 {
			p.values = append(p.values, nil)
		} else {
			p.values = append(p.values, p.data[s.from:s.to:s.to])
		}
	}
	out, values := conn.PgConn().StartPipeline(ctx), p.values
	for i, s := range p.statements {
		if p.prepares {
			out.SendQueryStatement(p.described[i], values[:s.params], allBinary, allBinary)
		} else {
			out.SendQueryParams(s.sql, values[:s.params], nil, allBinary, allBinary)
		}
		values = values[s.params:]
	}
	err := out.Sync()
	for i := 0; i < len(p.statements) && err == nil; i++ {
		err = p.read(out, p.statements[i].read)
	}
	if closed := out.Close(); err == nil {
		err = closed
	}
	return err
}

var errForm = errors.New("a column is not of the form asked for")

func (p *pipeline) read(out *pgconn.Pipeline, each func(*row)) error {
	results, err := out.GetResults()
	if err != nil {
		return err
	}
	reader, ok := results.(*pgconn.ResultReader)
	if !ok {
		return errForm
	}
	r := row{words: p.words}
	for reader.NextRow() {
		if each != nil {
			r.columns = reader.Values()
			each(&r)
		}
	}
	if _, err := reader.Close(); err != nil {
		return err
	}
	return r.err
}

func (p *pipeline) reset() {
	clear(p.values)
	p.statements, p.params, p.described, p.values = p.statements[:0], p.params[:0], p.described[:0], p.values[:0]
	if p.data = p.data[:0]; cap(p.data) > keptData {
		p.data = nil
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
