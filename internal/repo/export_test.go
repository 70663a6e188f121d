package repo

import "webhookd/internal/events"

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

func (q Queue) Take(most int) int { return len(q.q.take(nil, most)) }
func (q Queue) Done(n int)        { q.q.done(n) }
func (q Queue) Close()            { q.q.close() }
