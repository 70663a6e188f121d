package repotest_test

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"webhookd/internal/events"
	"webhookd/internal/pgdev/pgtest"
	"webhookd/internal/repo"
	"webhookd/internal/repo/repotest"
	"webhookd/internal/scenario"
)

func TestMain(m *testing.M) {
	os.Exit(pgtest.Main(m, func(ctx context.Context, url string) error {
		_, err := repo.Migrate(ctx, url)
		return err
	}))
}

// told records a verified and a broken event of each session.
func told(tb testing.TB, url string, sessions ...string) (set []*events.Event) {
	tb.Helper()
	s, err := repo.Open(tb.Context(), repo.Options{URL: url})
	if err != nil {
		tb.Fatal(err)
	}
	defer s.Close()
	for n, id := range sessions {
		session := scenario.New(uint64(n)).Session(scenario.SessionOptions{ID: id, Livemode: true})
		verified := session.Expanded(session.Verified(time.Unix(1_790_000_000, 0)))
		broken := strings.Replace(string(session.Twin(verified).Body), `"status": "`, `"status": 7, "was": "`, 1)
		for _, body := range []string{string(verified.Body), broken} {
			e, err := events.Parse([]byte(body))
			if err != nil {
				tb.Fatal(err)
			}
			e.ReceivedAt = time.Now()
			if _, err := s.Record(tb.Context(), e); err != nil {
				tb.Fatal(err)
			}
			set = append(set, e)
		}
	}
	return set
}

func TestReadTellsOfTheSessionsThatAreAskedFor(t *testing.T) {
	t.Parallel()
	url := pgtest.Database(t)
	set := told(t, url, "vs_1", "vs_2", "vs_3")
	of := func(sessions ...string) events.Rows {
		return repotest.Canonical(t, events.Model(slices.DeleteFunc(slices.Clone(set), func(e *events.Event) bool {
			return !slices.Contains(sessions, e.SessionID)
		})))
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		sessions []string
		want     events.Rows
	}{
		"some":            {[]string{"vs_1", "vs_3", "vs_unknown"}, of("vs_1", "vs_3")},
		"none":            {[]string{}, of()},
		"all, as nil":     {nil, of("vs_1", "vs_2", "vs_3")},
		"all, one by one": {[]string{"vs_1", "vs_2", "vs_3"}, of("vs_1", "vs_2", "vs_3")},
	} {
		got, err := repotest.Read(t.Context(), conn, c.sessions)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := repotest.Read(t.Context(), conn, nil); err == nil {
		t.Error("a closed connection is read without an error")
	}
	all := of("vs_1", "vs_2", "vs_3")
	if len(all.Events) != 3 || len(all.Sessions) != 3 || len(all.Transitions) != 3 || len(all.Outputs) != 3 || len(all.Details) != 3 || len(all.Quarantined) != 3 {
		t.Errorf("a table is empty, and was not read: %v", all)
	}
}

func TestCanonicalizeSortsAndChangesNothingThatItIsGiven(t *testing.T) {
	t.Parallel()
	model := events.Rows{Events: map[string]events.EventRow{"evt_1": {Payload: `{"b": 1.0, "a": 12345678901234567890}`}}}
	before := maps.Clone(model.Events)
	got, err := repotest.Canonicalize(model)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"a":12345678901234567890,"b":1.0}`; got.Events["evt_1"].Payload != want {
		t.Errorf("the payload is %s, want %s", got.Events["evt_1"].Payload, want)
	}
	if diff := cmp.Diff(before, model.Events); diff != "" {
		t.Errorf("what was given has changed (-before +after):\n%s", diff)
	}
}

func TestCanonicalizeTellsOfJSONThatIsBroken(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]events.Rows{
		"payload":               {Events: map[string]events.EventRow{"evt_1": {Payload: `{"a":`}}},
		"options":               {Sessions: map[string]events.SessionRow{"vs_1": {Options: `{"a":`, Metadata: `{}`}}},
		"extra":                 {Outputs: map[string]events.OutputsRow{"vs_1": {Outputs: events.Outputs{Extra: []byte(`{"a":`)}}}},
		"payload in quarantine": {Quarantined: map[string]events.QuarantinedRow{"evt_1": {Payload: `{"a":`}}},
	} {
		if _, err := repotest.Canonicalize(r); err == nil || !strings.Contains(err.Error(), `"{\"a\":"`) {
			t.Errorf("%s: the error is %v", name, err)
		}
	}
}
