package repo

import (
	"context"

	"webhookd/internal/events"
)

// Queue is what waits for a committer, by numbers of events of so many bytes.
type Queue struct{ q *queue }

func NewQueue(most int) Queue { return Queue{newQueue(most)} }

func (q Queue) Put(n, size int) error {
	for range n {
		if err := q.q.put(&order{event: &events.Event{Payload: make([]byte, size)}}); err != nil {
			return err
		}
	}
	return nil
}

// Committer takes from a queue.
type Committer struct {
	q *queue
	c *committer
}

func (q Queue) Join() Committer       { return Committer{q.q, q.q.join()} }
func (c Committer) Take(most int) int { return len(c.q.take(c.c, nil, most)) }
func (q Queue) Close()                { q.q.close() }

// Setting is what a connection of the write road has.
func (s *Store) Setting(ctx context.Context, name string) (value string, err error) {
	err = s.writers.QueryRow(ctx, `SELECT current_setting($1)`, name).Scan(&value)
	return value, err
}

// Caution is how many of the next writes take nothing for granted.
func (s *Store) Caution() int {
	s.caution.mu.Lock()
	defer s.caution.mu.Unlock()
	return max(s.caution.left, 0)
}
