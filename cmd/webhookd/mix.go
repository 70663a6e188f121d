package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
)

// weighted is one thing of several to draw from.
type weighted struct {
	name   string
	weight float64
}

// weightsOf reads name=weight,…; a name alone has the weight 1.
func weightsOf(text string) ([]weighted, error) {
	var all []weighted
	for part := range strings.SplitSeq(text, ",") {
		name, number, given := strings.Cut(strings.TrimSpace(part), "=")
		w := weighted{name, 1}
		if given {
			var err error
			if w.weight, err = strconv.ParseFloat(number, 64); err != nil || !(w.weight >= 0 && w.weight <= 1e9) {
				return nil, fmt.Errorf("the weight of %q is no number from 0 to 1e9", name)
			}
		}
		if name == "" {
			return nil, errors.New("want name=weight,…")
		}
		all = append(all, w)
	}
	if total(all) <= 0 {
		return nil, errors.New("all weights are zero")
	}
	return all, nil
}

func total(all []weighted) (sum float64) {
	for _, w := range all {
		sum += w.weight
	}
	return sum
}

// mix is what simulate tells: lives of sessions, drawn by weight. Each event of
// each life is rendered once, and told in copies with ids and times of their own.
type mix struct {
	run   string // is part of every id
	lives []life
	upTo  []float64 // sums of the lives' weights
}

// life is a story, and for what reason it fails if it does.
type life []form

// form is a body, and where in it stands what differs from copy to copy.
type form struct {
	body                    []byte
	idAt, createdAt, bornAt int
	personAt                int   // whom the session is about; -1 once redacted
	sessionAt               []int // the session's id, also in what is derived from it
}

const (
	idLength     = 23 // of an id after its prefix and a 1
	personLength = 8
	longestLife  = 8
)

// newMix renders the stories, with bodies of about size bytes if that is more
// than they have by themselves. A story that fails has a version for each code.
func newMix(seed uint64, stories, codes []weighted, size int) (*mix, error) {
	source, rng := scenario.New(seed), rand.New(rand.NewPCG(seed, 2))
	m := &mix{}
	for range 9 {
		m.run += string(base62[rng.IntN(len(base62))])
	}
	sum := 0.0
	for _, story := range stories {
		for _, code := range codes {
			l, fails, err := newLife(source, rng, story.name, code.name, size)
			if err != nil {
				return nil, err
			}
			if fails {
				sum += story.weight * code.weight / total(codes)
			} else {
				sum += story.weight
			}
			m.lives, m.upTo = append(m.lives, l), append(m.upTo, sum)
			if !fails {
				break
			}
		}
	}
	return m, nil
}

// newLife tells a story in which whatever fails fails with code.
func newLife(source *scenario.Source, rng *rand.Rand, story, code string, size int) (l life, fails bool, err error) {
	const session, person = "SESSIONSESSIONSESSION+/", "person+/" // what is drawn has no such signs
	start := time.Unix(1e9, 0)                                    // has as many digits as now
	o := scenario.SessionOptions{ID: "vs_1" + session, ClientReferenceID: "user-" + person, Metadata: map[string]string{}}
	told, err := source.Story(story, start, o)
	if err != nil {
		return nil, false, err
	}
	if len(told) > longestLife {
		return nil, false, fmt.Errorf("story %s has more than %d events", story, longestLife)
	}
	fails = slices.ContainsFunc(told, func(e scenario.Event) bool { return e.Type == events.TypeRequiresInput })
	if fails {
		o.Type = scenario.SessionType(code)
	}
	o.Metadata = metadata(rng, size-len(told[len(told)-1].Body))
	if told, err = source.Story(story, start, o); err != nil {
		return nil, false, err
	}
	if code == events.LabelNone {
		code = ""
	}
	again := source.Session(o)
	for _, e := range told {
		if fails {
			what := e.Type[strings.LastIndexByte(e.Type, '.')+1:]
			if e, err = again.Happen(what, code, e.Created); err != nil {
				return nil, false, err
			}
		}
		end := func(of string) int { return bytes.Index(e.Body, []byte(of)) + len(of) }
		l = append(l, form{
			body:      e.Body,
			idAt:      end(e.ID) - idLength,
			createdAt: end("\n  \"created\": "),
			bornAt:    end("\n      \"created\": "),
			personAt:  bytes.Index(e.Body, []byte(person)),
			sessionAt: allIndexes(e.Body, session),
		})
	}
	return l, fails, nil
}

func allIndexes(body []byte, of string) (all []int) {
	for from := 0; ; from += len(of) {
		i := bytes.Index(body[from:], []byte(of))
		if i < 0 {
			return all
		}
		from += i
		all = append(all, from)
	}
}

// metadata is what applications keep with a session, words and numbers, in
// about size bytes.
func metadata(rng *rand.Rand, size int) map[string]string {
	const around = len("\n        \"note_00\": \"\",")
	words := strings.Fields("order invoice plan campaign signup referral tenant region mobile partner review checkout")
	all := map[string]string{"tenant": "acme"}
	for size -= 24; size > 2*around; {
		text := ""
		for len(text) < min(size-around, 400) {
			text += fmt.Sprintf("%s %05d ", words[rng.IntN(len(words))], rng.IntN(1e5))
		}
		all[fmt.Sprintf("note_%02d", len(all))] = text
		size -= around + len(text)
	}
	return all
}

// message is one event of one session. The letters are those of ids after a
// prefix and a 1.
type message struct {
	*form
	id, session   [idLength]byte
	person        [personLength]byte
	created, born int64 // unix
}

// render appends the body to b.
func (m *message) render(b []byte) []byte {
	start := len(b)
	b = append(b, m.body...)
	body := b[start:]
	copy(body[m.idAt:], m.id[:])
	strconv.AppendInt(body[m.createdAt:m.createdAt], m.created, 10)
	strconv.AppendInt(body[m.bornAt:m.bornAt], m.born, 10)
	for _, at := range m.sessionAt {
		copy(body[at:], m.session[:])
	}
	if m.personAt >= 0 {
		copy(body[m.personAt:], m.person[:])
	}
	return b
}

// lived is a session that is being told.
type lived struct {
	life    life
	message message
	order   [longestLife]uint8
	sent    int                // so many of order
	created [longestLife]int64 // of the events that are dated
	dated   int
}

// teller tells sessions of a mix, several in turn, and what it has told again.
// It is one connection's: what is told in order then arrives in order.
type teller struct {
	mix      *mix
	rng      *rand.Rand
	shuffle  float64
	sessions [4]lived
	turn     int
	recent   [32]message
	told     int
	number   uint64 // of the next id; tellers beside this one have others
	step     uint64
}

// newTeller makes teller number n of several.
func newTeller(m *mix, seed uint64, n, of int, shuffle float64) *teller {
	return &teller{
		mix: m, shuffle: shuffle, number: uint64(n), step: uint64(of),
		rng: rand.New(rand.NewPCG(seed, 3+uint64(n))),
	}
}

// next is an event that was not told before, at a unix time. An event of a
// session is dated at least a second after the one before it, which decides
// their order, and the last of them now.
func (t *teller) next(now int64) *message {
	s := &t.sessions[t.turn]
	t.turn = (t.turn + 1) % len(t.sessions)
	if s.sent == len(s.life) {
		t.begin(s, now)
	}
	i := int(s.order[s.sent])
	s.sent++
	for ; s.dated <= i; s.dated++ {
		s.created[s.dated] = now - int64(len(s.life)-1-s.dated)
	}
	m := &t.recent[t.told%len(t.recent)]
	t.told++
	*m = s.message
	m.form, m.created, m.born = &s.life[i], s.created[i], s.created[0]
	m.id = t.id(now)
	return m
}

// again is an event that was told not long ago, or else a new one.
func (t *teller) again(now int64) *message {
	if t.told == 0 {
		return t.next(now)
	}
	return &t.recent[t.rng.IntN(min(t.told, len(t.recent)))]
}

func (t *teller) begin(s *lived, now int64) {
	upTo := t.mix.upTo
	draw := t.rng.Float64() * upTo[len(upTo)-1]
	*s = lived{life: t.mix.lives[min(sort.SearchFloat64s(upTo, draw), len(upTo)-1)]}
	s.message.session = t.id(now)
	const digits = "0123456789abcdef"
	for i := range s.message.person {
		s.message.person[i] = digits[t.rng.IntN(len(digits))]
	}
	order := s.order[:len(s.life)]
	for i := range order {
		order[i] = uint8(i)
	}
	for i := range order {
		if t.shuffle > 0 && t.rng.Float64() < t.shuffle {
			j := t.rng.IntN(len(order))
			order[i], order[j] = order[j], order[i]
		}
	}
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// id is one that nobody else has. Like Stripe's it begins with the second, so
// that ids sort by time roughly, and ends with what looks drawn.
func (t *teller) id(now int64) (id [idLength]byte) {
	const (
		places = 62 * 62 * 62 * 62 * 62 * 62 * 62 * 62
		jump   = 134941606347813 // has no divisor in common with places: every number gets a place of its own
	)
	high, low := bits.Mul64(t.number, jump)
	t.number += t.step
	inBase62(id[:6], uint64(now))
	copy(id[6:], t.mix.run)
	inBase62(id[15:], bits.Rem64(high, low, places))
	return id
}

func inBase62(b []byte, n uint64) {
	for i := range b {
		b[len(b)-1-i] = base62[n%62]
		n /= 62
	}
}
