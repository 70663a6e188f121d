package stripeapi

import (
	"context"
	"crypto/sha256"
	"slices"
	"sync"
	"time"
)

// remembered is how long it holds what a key may read.
const remembered = time.Hour

// rights is what the keys may read, by fingerprint: no key is kept.
type rights struct {
	mu   sync.Mutex
	keys map[fingerprint]*keyRights
}

// fingerprint is of a key for one's own data or for connected accounts': a
// restricted key has separate permissions for these.
type fingerprint struct {
	sum       [sha256.Size]byte
	connected bool
}

func (r *rights) of(key string, p Place) *keyRights {
	f := fingerprint{sha256.Sum256([]byte(key)), p.Account != "" || p.Context != ""}
	r.mu.Lock()
	defer r.mu.Unlock()
	k, ok := r.keys[f]
	if !ok {
		if r.keys == nil {
			r.keys = make(map[fingerprint]*keyRights)
		}
		k = &keyRights{turn: make(chan struct{}, 1), known: make(map[string]verdict)}
		r.keys[f] = k
	}
	return k
}

// keyRights is what one key may read.
type keyRights struct {
	turn chan struct{} // held by the caller who finds out

	mu    sync.Mutex
	known map[string]verdict // by expandable path
}

type verdict struct {
	readable bool
	until    time.Time
}

// recall leaves out the paths that the key may not read; sure tells that it
// may read all the others.
func (k *keyRights) recall(paths []string, now time.Time) (readable []string, sure bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	sure = true
	for _, path := range paths {
		v := k.known[path]
		fresh := now.Before(v.until)
		if fresh && !v.readable || isSensitive(path) && !slices.Contains(readable, outputsPath) {
			continue
		}
		readable = append(readable, path)
		sure = sure && fresh
	}
	return readable, sure
}

// learn takes in which of the paths that were asked for could be read.
//
// A key without an IP restriction reads sensitive fields for 48 hours. So what
// was refused for an older session says nothing of the next one: neither of
// these fields, nor of what was read for another within the hour.
func (k *keyRights) learn(asked, readable []string, recent bool, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, path := range asked {
		ok, v := slices.Contains(readable, path), k.known[path]
		if !ok && !recent && (isSensitive(path) || v.readable && now.Before(v.until)) {
			continue
		}
		k.known[path] = verdict{ok, now.Add(remembered)}
	}
}

func (k *keyRights) take(ctx context.Context) error {
	select {
	case k.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *keyRights) pass() { <-k.turn }
