package repo_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/repo"
)

// Committers are goroutines of a bubble, in which time stands until all wait.
func TestQueue(t *testing.T) {
	t.Parallel()
	put := func(t *testing.T, q repo.Queue, n int) {
		t.Helper()
		if err := q.Put(n, 100); err != nil {
			t.Fatalf("put %d: %v", n, err)
		}
	}
	// takes lets a committer take, and tells how much that was; nothing while it waits.
	takes := func(c repo.Committer, most int) <-chan int {
		taken := make(chan int, 1)
		go func() { taken <- c.Take(most) }()
		synctest.Wait()
		return taken
	}
	waits := func(t *testing.T, taken <-chan int) {
		t.Helper()
		synctest.Wait()
		select {
		case n := <-taken:
			t.Fatalf("took %d, and should wait", n)
		default:
		}
	}
	took := func(t *testing.T, taken <-chan int, want int) {
		t.Helper()
		synctest.Wait()
		select {
		case n := <-taken:
			if n != want {
				t.Fatalf("took %d, want %d", n, want)
			}
		default:
			t.Fatalf("waits, and should take %d", want)
		}
	}
	for name, test := range map[string]func(*testing.T){
		"who is free takes all that waits": func(t *testing.T) {
			q := repo.NewQueue(10)
			put(t, q, 3)
			took(t, takes(q.Join(), 10), 3)
		},
		"who is free waits for nothing but an event": func(t *testing.T) {
			q := repo.NewQueue(10)
			taken := takes(q.Join(), 10)
			waits(t, taken)
			put(t, q, 1)
			took(t, taken, 1)
		},
		"a second one begins when as many wait as are under way": func(t *testing.T) {
			q := repo.NewQueue(10)
			put(t, q, 3)
			took(t, takes(q.Join(), 10), 3)
			second := takes(q.Join(), 10)
			put(t, q, 2)
			waits(t, second)
			put(t, q, 1)
			took(t, second, 3)
		},
		"or when 32 wait": func(t *testing.T) {
			q := repo.NewQueue(200)
			put(t, q, 100)
			took(t, takes(q.Join(), 100), 100)
			put(t, q, 31)
			second := takes(q.Join(), 100)
			waits(t, second)
			put(t, q, 1)
			took(t, second, 32)
		},
		"or when a commit takes long": func(t *testing.T) {
			q := repo.NewQueue(10)
			put(t, q, 3)
			took(t, takes(q.Join(), 10), 3)
			time.Sleep(5 * time.Millisecond)
			put(t, q, 1)
			second := takes(q.Join(), 10)
			time.Sleep(14 * time.Millisecond)
			waits(t, second)
			time.Sleep(time.Millisecond)
			took(t, second, 1)
		},
		"also when another one is quick meanwhile": func(t *testing.T) {
			q := repo.NewQueue(10)
			put(t, q, 3)
			took(t, takes(q.Join(), 10), 3)
			time.Sleep(30 * time.Millisecond)
			quick := q.Join()
			for range 3 {
				put(t, q, 1)
				took(t, takes(quick, 10), 1)
				time.Sleep(time.Millisecond)
			}
		},
		"what a batch left is not forgotten": func(t *testing.T) {
			q := repo.NewQueue(10)
			put(t, q, 7)
			took(t, takes(q.Join(), 4), 4)
			second := takes(q.Join(), 4)
			waits(t, second)
			time.Sleep(20 * time.Millisecond)
			took(t, second, 3)
		},
		"or goes with the one that ends": func(t *testing.T) {
			q := repo.NewQueue(10)
			put(t, q, 3)
			first := q.Join()
			took(t, takes(first, 10), 3)
			put(t, q, 1)
			waits(t, takes(q.Join(), 10))
			took(t, takes(first, 10), 1)
			q.Close()
		},
		"what a committer that is freed leaves waiting goes before the other's long commit": func(t *testing.T) {
			q := repo.NewQueue(100)
			long, freed := q.Join(), q.Join()
			put(t, q, 10)
			took(t, takes(freed, 100), 10)
			time.Sleep(15 * time.Millisecond)
			put(t, q, 10)
			took(t, takes(long, 100), 10)
			time.Sleep(time.Millisecond)
			put(t, q, 1)
			time.Sleep(9 * time.Millisecond) // when it looked again, both were busy
			waiting := takes(freed, 100)
			time.Sleep(100 * time.Millisecond)
			took(t, waiting, 1)
			q.Close()
		},
		"no batch is over its most": func(t *testing.T) {
			q := repo.NewQueue(10)
			put(t, q, 7)
			one := q.Join()
			took(t, takes(one, 4), 4)
			took(t, takes(one, 4), 3)
		},
		"no batch takes more when it has 16 MiB": func(t *testing.T) {
			q := repo.NewQueue(100)
			if err := q.Put(20, 1<<20); err != nil {
				t.Fatal(err)
			}
			took(t, takes(q.Join(), 100), 16)
		},
		"a full one takes nothing in": func(t *testing.T) {
			q := repo.NewQueue(2)
			put(t, q, 2)
			if err := q.Put(1, 100); !errors.Is(err, events.ErrQueueFull) {
				t.Fatalf("got %v", err)
			}
		},
		"a closed one gives out what waits, and takes nothing in": func(t *testing.T) {
			q := repo.NewQueue(10)
			put(t, q, 3)
			took(t, takes(q.Join(), 10), 3)
			second, third := takes(q.Join(), 10), takes(q.Join(), 10)
			put(t, q, 1)
			waits(t, second)
			q.Close()
			synctest.Wait()
			if n := <-second + <-third; n != 1 {
				t.Fatalf("took %d, want 1", n)
			}
			if err := q.Put(1, 100); !errors.Is(err, events.ErrDraining) {
				t.Fatalf("got %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, test)
		})
	}
}
