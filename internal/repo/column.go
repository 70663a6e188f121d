package repo

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"webhookd/internal/events"
)

// column is an array parameter in PostgreSQL's binary form, written element by
// element: pgx would look at each through an interface, which costs a third of
// a delivery's time.
type column struct {
	n, nulls int
	data     []byte // each element behind its length
}

// epoch is where PostgreSQL's time begins.
var epoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (c *column) null() {
	c.n, c.nulls = c.n+1, c.nulls+1
	c.data = binary.BigEndian.AppendUint32(c.data, 1<<32-1)
}

func (c *column) text(s string) {
	c.n++
	c.data = append(binary.BigEndian.AppendUint32(c.data, uint32(len(s))), s...)
}

func (c *column) bool(b bool) {
	c.n++
	c.data = binary.BigEndian.AppendUint32(c.data, 1)
	if b {
		c.data = append(c.data, 1)
	} else {
		c.data = append(c.data, 0)
	}
}

func (c *column) time(t time.Time) {
	c.n++
	c.data = binary.BigEndian.AppendUint32(c.data, 8)
	micros := (t.Unix()-epoch.Unix())*1e6 + int64(t.Nanosecond())/1e3
	c.data = binary.BigEndian.AppendUint64(c.data, uint64(micros))
}

func (c *column) smallint(n int) {
	c.n++
	c.data = binary.BigEndian.AppendUint32(c.data, 2)
	c.data = binary.BigEndian.AppendUint16(c.data, uint16(n))
}

// The constructors take a value from each row. What is empty is null, but for
// strs, flags and ranks.

func collect[R any](rows []R, width int, put func(*column, R)) *column {
	c := &column{data: make([]byte, 0, len(rows)*width)}
	for _, r := range rows {
		put(c, r)
	}
	return c
}

func strs[R any](rows []R, of func(R) string) *column {
	return collect(rows, 40, func(c *column, r R) { c.text(of(r)) })
}

func optional[R any](rows []R, of func(R) string) *column {
	return collect(rows, 24, func(c *column, r R) {
		if s := of(r); s != "" {
			c.text(s)
		} else {
			c.null()
		}
	})
}

func texts[R any](rows []R, of func(R) events.Text) *column {
	return collect(rows, 24, func(c *column, r R) {
		if t := of(r); t.Has() {
			c.text(t.Value)
		} else {
			c.null()
		}
	})
}

func docs[R any](rows []R, of func(R) []byte) *column {
	return collect(rows, 64, func(c *column, r R) {
		if b := of(r); b != nil {
			c.n++
			c.data = append(binary.BigEndian.AppendUint32(c.data, uint32(len(b))), b...)
		} else {
			c.null()
		}
	})
}

func modes[R any](rows []R, of func(R) events.Mode) *column {
	return collect(rows, 5, func(c *column, r R) {
		if m := of(r); m == events.ModeUnknown {
			c.null()
		} else {
			c.bool(m == events.ModeLive)
		}
	})
}

func times[R any](rows []R, of func(R) time.Time) *column {
	return collect(rows, 12, func(c *column, r R) {
		if t := of(r); t.IsZero() {
			c.null()
		} else {
			c.time(t)
		}
	})
}

func flags[R any](rows []R, of func(R) bool) *column {
	return collect(rows, 5, func(c *column, r R) { c.bool(of(r)) })
}

func ranks[R any](rows []R, of func(R) int) *column {
	return collect(rows, 6, func(c *column, r R) { c.smallint(of(r)) })
}

// columnCodec is pgx's array codec, which takes a column as well.
type columnCodec struct{ *pgtype.ArrayCodec }

// PlanEncode implements [pgtype.Codec].
func (c columnCodec) PlanEncode(m *pgtype.Map, oid uint32, format int16, value any) pgtype.EncodePlan {
	if _, ok := value.(*column); ok && format == pgtype.BinaryFormatCode {
		return columnPlan{c.ElementType.OID}
	}
	return c.ArrayCodec.PlanEncode(m, oid, format, value)
}

type columnPlan struct{ element uint32 }

// Encode implements [pgtype.EncodePlan].
func (p columnPlan) Encode(value any, buf []byte) ([]byte, error) {
	c := value.(*column) // PlanEncode has looked
	if c.nulls == c.n {
		return nil, nil // NULL for an array: unnest fills the column up, for nothing
	}
	hasNull := uint32(0)
	if c.nulls > 0 {
		hasNull = 1
	}
	const dimensions, lowerBound = 1, 1
	for _, word := range [...]uint32{dimensions, hasNull, p.element, uint32(c.n), lowerBound} {
		buf = binary.BigEndian.AppendUint32(buf, word)
	}
	return append(buf, c.data...), nil
}

// takeColumns teaches a connection to take columns.
func takeColumns(_ context.Context, conn *pgx.Conn) error {
	m := conn.TypeMap()
	for _, oid := range []uint32{
		pgtype.TextArrayOID, pgtype.BoolArrayOID, pgtype.TimestamptzArrayOID, pgtype.Int2ArrayOID, pgtype.ByteaArrayOID,
	} {
		t, ok := m.TypeForOID(oid)
		if !ok {
			continue
		}
		if arrays, ok := t.Codec.(*pgtype.ArrayCodec); ok {
			m.RegisterType(&pgtype.Type{Name: t.Name, OID: oid, Codec: columnCodec{arrays}})
		}
	}
	return nil
}
