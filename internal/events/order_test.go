package events_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"webhookd/internal/events"
)

var keys = rapid.Custom(func(t *rapid.T) events.Key {
	return events.Key{
		Second: rapid.Int64Range(-2, 2).Draw(t, "second"),
		Rank:   rapid.IntRange(-1, 5).Draw(t, "rank"),
		ID:     rapid.OneOf(rapid.SampledFrom([]string{"", "evt_1", "evt_10", "evt_2", "evt_é", "EVT_1"}), rapid.String()).Draw(t, "id"),
	}
})

func TestKeysAreInTotalOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := keys.Draw(t, "a"), keys.Draw(t, "b"), keys.Draw(t, "c")
		if a.Compare(b) != -b.Compare(a) {
			t.Errorf("not antisymmetric: %v %v", a, b)
		}
		if (a.Compare(b) == 0) != (a == b) {
			t.Errorf("equal in the order but not the same, or the reverse: %v %v", a, b)
		}
		if a.Compare(b) <= 0 && b.Compare(c) <= 0 && a.Compare(c) > 0 {
			t.Errorf("not transitive: %v %v %v", a, b, c)
		}
	})
}

func TestTheOrderIsSecondThenRankThenId(t *testing.T) {
	t.Parallel()
	inOrder := []events.Key{{1, 5, "z"}, {2, 0, "z"}, {2, 1, "b"}, {2, 1, "bb"}, {2, 1, "c"}, {2, 5, "a"}, {10, 0, ""}}
	mixed := slices.Clone(inOrder)
	slices.Reverse(mixed)
	slices.SortFunc(mixed, events.Key.Compare)
	if diff := cmp.Diff(inOrder, mixed); diff != "" {
		t.Errorf("order differs (-want +got):\n%s", diff)
	}
}

func TestRanks(t *testing.T) {
	t.Parallel()
	for rank, kind := range []string{"created", "processing", "requires_input", "verified", "canceled", "redacted"} {
		e := understood(t, snapshot(kind, `{"id":"vs_1"}`))
		if want := (events.Key{Second: second, Rank: rank, ID: "evt_1"}); e.Key() != want {
			t.Errorf("%s has key %v, want %v", kind, e.Key(), want)
		}
	}
}

func TestTwinKeysAreEqualExactlyForOneChange(t *testing.T) {
	t.Parallel()
	type change struct {
		session, eventType, status, code, report, redaction string
		created                                             int64
	}
	words := rapid.SampledFrom([]string{"", "a", "aa", "\x01a"})
	sometimes := func(t *rapid.T, field *string, of *rapid.Generator[string]) {
		if rapid.Bool().Draw(t, "redraw") {
			*field = of.Draw(t, "field")
		}
	}
	redraw := func(t *rapid.T, c change) change {
		for _, field := range []*string{&c.session, &c.status, &c.code, &c.report, &c.redaction} {
			sometimes(t, field, words)
		}
		sometimes(t, &c.eventType, rapid.SampledFrom(events.Types()))
		c.created += int64(rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(t, "later"))
		return c
	}
	twin := func(c change, id string) events.TwinKey {
		return (&events.Event{
			ID: id, Type: c.eventType, SessionID: c.session, Created: at(c.created),
			Session: events.Session{Status: some(c.status), ErrorCode: some(c.code), ReportID: some(c.report), Redaction: some(c.redaction)},
		}).Twin()
	}
	rapid.Check(t, func(t *rapid.T) {
		a := redraw(t, change{eventType: events.TypeVerified})
		b := redraw(t, a)
		if (twin(a, "evt_1") == twin(b, "evt_2")) != (a == b) {
			t.Errorf("twins %t: %+v %+v", twin(a, "evt_1") == twin(b, "evt_2"), a, b)
		}
	})
}

func TestTwinsMayDifferInWhatIsNoStateOfTheSession(t *testing.T) {
	t.Parallel()
	a := understood(t, string(fixture(t, "crafted/verified.unexpanded")))
	b := understood(t, string(fixture(t, "crafted/verified.same_change_other_event_id")))
	if a.ID == b.ID || a.Twin() != b.Twin() {
		t.Errorf("%s and %s are no twins", a.ID, b.ID)
	}
	c := understood(t, snapshot("verified", `{"id":"vs_1","status":"verified","metadata":{"a":"1"},"last_error":{"reason":"x"}}`))
	d := understood(t, snapshot("verified", `{"id":"vs_1","status":"verified","metadata":{"a":"2"},"last_error":{"code":null},"redaction":null}`))
	if c.Twin() != d.Twin() {
		t.Error("null, absent and content that is no state make no twins")
	}
}

func TestBirthsRoundTrip(t *testing.T) {
	t.Parallel()
	ids := rapid.OneOf(rapid.SampledFrom([]string{"", "evt_1", " ", "0 1.2.3:4", ":", ".", "-1", "é:😀", "evt_1 2.3.4:5", "\n"}), rapid.String())
	told := rapid.Custom(func(t *rapid.T) events.Key {
		return events.Key{Second: rapid.Int64().Draw(t, "second"), Rank: rapid.IntRange(0, 5).Draw(t, "rank"), ID: ids.Draw(t, "id")}
	})
	rapid.Check(t, func(t *rapid.T) {
		// Few events tell many fields.
		from := append(rapid.SliceOfN(told, 1, 10).Draw(t, "keys"), events.Key{})
		var b events.Births
		for i := range b {
			b[i] = rapid.SampledFrom(from).Draw(t, "field")
		}
		got, err := events.ParseBirths(string(b.Append(nil)))
		if err != nil || got != b {
			t.Errorf("%v became %q became %v, %v", b, string(b.Append(nil)), got, err)
		}
	})
}

func TestNoBirthsAreAnEmptyColumnOrDashes(t *testing.T) {
	t.Parallel()
	if s := string(events.Births{}.Append(nil)); s != "----------" {
		t.Errorf("births of nothing are %q", s)
	}
	for _, s := range []string{"", "----------"} {
		if b, err := events.ParseBirths(s); err != nil || b != (events.Births{}) {
			t.Errorf("%q became %v, %v", s, b, err)
		}
	}
}

func TestGarbageIsNoBirths(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]string{
		"too short":            "---------",
		"a field too many":     "-----------",
		"no key":               "0---------",
		"a key that is not":    "1--------- 1.2.1:x",
		"a letter":             "a--------- 1.2.1:x",
		"a slash":              "/--------- 1.2.1:x",
		"no space":             "0---------1.2.1:x",
		"two spaces":           "0---------  1.2.1:x",
		"no colon":             "0--------- 1.2.1",
		"two numbers":          "0--------- 1.2:x",
		"four numbers":         "0--------- 1.2.1.1:x",
		"letters for numbers":  "0--------- a.b.c:x",
		"more than numbers":    "0--------- 1.2.1x:x",
		"a rank too large":     "0--------- 1.99999999999999999999.1:x",
		"an id cut short":      "0--------- 1.2.3:xy",
		"an id of less than 0": "0--------- 1.2.-1:xy",
		"more after the id":    "0--------- 1.2.1:xy",
		"a second key cut":     "0--------- 1.2.1:x 1",
		"a newline":            "0---------\n1.2.1:x",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if b, err := events.ParseBirths(s); err == nil || !strings.Contains(err.Error(), "births") {
				t.Errorf("%q became %v, %v", s, b, err)
			}
		})
	}
}

func TestACarrierIsSupersededByTheNewerOrBySmallerTwin(t *testing.T) {
	t.Parallel()
	carrier := func(second int64, id string, twin byte) events.Carrier {
		return events.Carrier{Key: events.Key{Second: second, Rank: 3, ID: id}, Twin: events.TwinKey{twin}}
	}
	for name, c := range map[string]struct {
		a, b events.Carrier
		want bool
	}{
		"newer":          {carrier(2, "b", 1), carrier(1, "a", 2), true},
		"older":          {carrier(1, "b", 1), carrier(2, "a", 2), false},
		"same second":    {carrier(1, "a", 2), carrier(1, "b", 1), true},
		"same, reversed": {carrier(1, "b", 1), carrier(1, "a", 2), false},
		"twin, smaller":  {carrier(1, "a", 1), carrier(1, "b", 1), true},
		"twin, larger":   {carrier(1, "b", 1), carrier(1, "a", 1), false},
		"the same event": {carrier(1, "a", 1), carrier(1, "a", 1), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := c.a.Supersedes(c.b); got != c.want {
				t.Errorf("supersedes %t, want %t", got, c.want)
			}
		})
	}
}
