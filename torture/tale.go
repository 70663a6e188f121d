package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"webhookd/internal/events"
	"webhookd/internal/scenario"
)

// author tells the tales of a run. Each is drawn from the seed and its number
// alone, so that nothing of a million deliveries has to be remembered: what a
// tale said is told again to whoever judges it.
type author struct {
	seed uint64
	now  time.Time // everything happened before
	live int       // percent of the sessions that are live, for which there is an API key
}

// tale is the life of one session, as it is delivered.
type tale struct {
	number     int
	session    string
	account    string
	events     []fact
	deliveries []int // indexes of events, shuffled, some repeated
	erased     bool  // by an operator
	live       bool
	last       []byte // of a live one: the session at its end, with its outputs, as the API knows it
}

// fact is an event of a tale.
type fact struct {
	id, kind string
	body     []byte
	foreign  bool // none of Identity's: not kept
}

// probes are tales of one event, numbered from here on, that ask whether a
// replica works.
const probes = 1 << 40

func (a *author) tale(number int) *tale {
	h := fnv.New64a()
	fmt.Fprintf(h, "%d/%d", a.seed, number)
	rng := rand.New(rand.NewPCG(h.Sum64(), 1))
	t := &tale{number: number, session: fmt.Sprintf("vs_1torture%014d", number), live: rng.IntN(100) < a.live}
	o := scenario.SessionOptions{
		ID: t.session, Livemode: t.live, Type: events.SessionTypes()[rng.IntN(3)],
		// Some people try more than once.
		ClientReferenceID: fmt.Sprintf("user-%d", number-number%5+rng.IntN(5)),
		Metadata:          map[string]string{"tenant": "acme", "name": scenario.Marker},
	}
	if rng.IntN(8) == 0 || t.live {
		o.Account = fmt.Sprintf("acct_1torture%06d", number/100)
	}
	t.account = o.Account
	w := &writer{tale: t, rng: rng, session: scenario.New(h.Sum64()).Session(o)}
	w.at = a.now.Add(-time.Duration(6*24*3600+rng.IntN(20*24*3600)) * time.Second)
	if number >= probes {
		w.tell(w.session.Created(w.at))
		return t
	}
	if usual := courses(); rng.IntN(3) > 0 {
		w.course(usual[rng.IntN(len(usual))])
	} else {
		w.life()
	}
	t.erased = rng.IntN(16) == 0
	w.deliver()
	return t
}

// writer writes a tale.
type writer struct {
	*tale
	rng     *rand.Rand
	session *scenario.Session
	at      time.Time
}

// courses are what usually happens to a session.
func courses() []string {
	return []string{
		"created processing verified", "created processing requires_input processing verified", "created requires_input",
		"created processing requires_input processing requires_input requires_input canceled", "created canceled",
		"created processing requires_input verified requires_input", // by a reviewer, both ways
		"created processing verified redacted", "created redacting redacted",
	}
}

func (w *writer) course(steps string) {
	for what := range strings.FieldsSeq(steps) {
		w.at = w.at.Add(time.Duration(1+w.rng.IntN(600)) * time.Second)
		w.happen(what)
	}
}

// life is anything in any order, often within one second.
func (w *writer) life() {
	all := strings.Fields("created created processing processing processing requires_input requires_input requires_input requires_input " +
		"verified verified verified verified canceled redacting redacted")
	for range 2 + w.rng.IntN(6) {
		w.happen(all[w.rng.IntN(len(all))])
		w.at = w.at.Add(time.Duration(w.rng.IntN(3)) * time.Second)
	}
}

func (w *writer) happen(what string) {
	code := ""
	if codes := events.Codes(); what == "requires_input" && w.rng.IntN(6) > 0 {
		code = codes[w.rng.IntN(len(codes))]
	}
	e, err := w.session.Happen(what, code, w.at)
	if err != nil {
		panic(err) // a word of our own
	}
	if w.rng.IntN(6) == 0 {
		e = w.session.Expanded(e)
	}
	w.tell(e)
	if w.live {
		var said struct {
			Data struct{ Object json.RawMessage }
		}
		if err := json.Unmarshal(w.session.Expanded(e).Body, &said); err != nil {
			panic(err) // made by us
		}
		w.last = w.marked(said.Data.Object)
	}
	if w.rng.IntN(10) == 0 {
		w.tell(w.session.Twin(e))
	}
	if w.rng.IntN(10) == 0 {
		w.tell(w.session.Thin(e))
	}
	switch w.rng.IntN(40) {
	case 0: // of tomorrow, or broken
		broken := w.session.Twin(e)
		broken.Body = bytes.Replace(broken.Body, []byte(`"status": "`), []byte(`"status": 7, "was": "`), 1)
		w.tell(broken)
	case 1:
		foreign := w.session.Twin(e)
		w.events = append(w.events, fact{foreign.ID, "charge.updated", bytes.Replace(foreign.Body, []byte(foreign.Type), []byte("charge.updated"), 1), true})
	}
}

// tell adds an event, with the tale's number in every personal word, so that
// what is found anywhere can be traced.
func (w *writer) tell(e scenario.Event) {
	w.events = append(w.events, fact{id: e.ID, kind: e.Type, body: w.marked(e.Body)})
}

func (w *writer) marked(body []byte) []byte {
	mark := []byte(scenario.Marker + "-" + strconv.Itoa(w.number) + "-")
	body = bytes.ReplaceAll(body, []byte(scenario.Marker), mark)
	body = bytes.ReplaceAll(body, []byte(`"reason": "`), append([]byte(`"reason": "`), mark...))
	return bytes.ReplaceAll(body, append(mark, "[redacted]"...), []byte("[redacted]"))
}

// deliver shuffles the events, some of them doubled.
func (w *writer) deliver() {
	for i := range w.events {
		w.deliveries = append(w.deliveries, i)
		for w.rng.IntN(5) == 0 {
			w.deliveries = append(w.deliveries, i)
		}
	}
	w.rng.Shuffle(len(w.deliveries), func(i, j int) { w.deliveries[i], w.deliveries[j] = w.deliveries[j], w.deliveries[i] })
}

// set is what the tale says, as the model takes it.
func (t *tale) set() (set []*events.Event, err error) {
	for _, f := range t.events {
		if f.foreign {
			continue
		}
		e, err := events.Parse(f.body)
		if err != nil {
			return nil, fmt.Errorf("tale %d, event %s: %w", t.number, f.id, err)
		}
		set = append(set, e)
	}
	return set, nil
}
