//go:build prometheus && night

package main

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"webhookd/internal/scenario"
	"webhookd/internal/signature"
)

// A night's minute takes a second: every duration of the rules is a sixtieth of
// what it is, and so are the intervals of Prometheus.
const (
	nightBegins = 23 * 60 // minutes of the day
	warmUp      = 75      // minutes
	nightLasts  = 330
)

// hurried divides every duration of the rules by 60.
func hurried(rules string) string {
	return regexp.MustCompile(`(\[|offset |for: )(\d+)([mhdw])\b`).ReplaceAllStringFunc(rules, func(at string) string {
		m := regexp.MustCompile(`^(\D+)(\d+)(.)$`).FindStringSubmatch(at)
		n, err := strconv.Atoi(m[2])
		if err != nil {
			panic(err) // digits
		}
		return fmt.Sprintf("%s%ds", m[1], n*map[string]int{"m": 1, "h": 60, "d": 24 * 60, "w": 7 * 24 * 60}[m[3]])
	})
}

// usual is how many sessions end how in an hour.
var usual = map[string]int{"": 60, "document_unverified_other": 12, "abandoned": 12, "document_expired": 6}

// usualDay is what the recording rules would have recorded in the day before.
func usualDay(now time.Time) string {
	var b strings.Builder
	decisions := 0
	each := func(name, labels string, value int) {
		for at := now.Add(-40 * time.Minute); at.Before(now.Add(-2 * time.Second)); at = at.Add(5 * time.Second) {
			fmt.Fprintf(&b, "%s{job=\"webhookd\",namespace=\"identity\",livemode=\"true\"%s} %d %d\n", name, labels, value, at.Unix())
		}
	}
	b.WriteString("# TYPE job:webhookd_verification_failures:increase1h gauge\n")
	for code, n := range usual {
		decisions += n
		if code != "" {
			each("job:webhookd_verification_failures:increase1h", `,code="`+code+`"`, n)
		}
	}
	b.WriteString("# TYPE job:webhookd_decisions:increase1h gauge\n")
	each("job:webhookd_decisions:increase1h", "", decisions)
	return b.String() + "# EOF\n"
}

// waiting is a delivery that Stripe will repeat.
type waiting struct {
	event scenario.Event
	due   int // minute
	tries int
}

// night tells what happens, by its clock.
type night struct {
	*everything
	prom       *promServer
	start      time.Time
	secret     string // with which Stripe signs
	told, done int
	queue      []waiting
	states     map[string]string
	transcript strings.Builder
}

func (n *night) minute() int { return int(time.Since(n.start)/time.Second) - warmUp }

func (n *night) sayf(who, format string, args ...any) {
	at := ((nightBegins+n.minute())%(24*60) + 24*60) % (24 * 60)
	for i, line := range strings.Split(strings.TrimSpace(fmt.Sprintf(format, args...)), "\n") {
		clock := "     "
		if i == 0 {
			clock = fmt.Sprintf("%02d:%02d", at/60, at%60)
		} else {
			who = ""
		}
		fmt.Fprintf(&n.transcript, "%s  %-8s %s\n", clock, who, line)
	}
}

// attempt is one of Stripe's.
func (n *night) attempt(w waiting) {
	a, err := exchange(n.client, http.MethodPost, n.endpoint(), signature.Sign(w.event.Body, n.secret, time.Now()), w.event.Body)
	if err == nil && a.Status == http.StatusOK {
		n.done++
		return
	}
	w.tries++
	w.due = n.minute() + 10<<min(w.tries, 3)
	n.queue = append(n.queue, w)
}

func (n *night) session(code string) {
	s, at := n.source.Session(scenario.SessionOptions{Livemode: true, CreatedAt: time.Now().Add(-time.Minute)}), time.Now()
	what := []string{"created", "verified"}
	if code != "" {
		what[1] = "requires_input"
	}
	for _, w := range what {
		e, err := s.Happen(w, code, at)
		if err != nil {
			n.Fatal(err)
		}
		n.fake.Tell(s, e)
		n.told++
		n.attempt(waiting{event: e})
	}
}

// look notes which alerts have begun and ceased to fire.
func (n *night) look() {
	now := map[string]string{}
	for _, r := range n.prom.rules() {
		for _, a := range r.Alerts {
			if a.State == "firing" {
				key := strings.TrimSpace(r.Name + " " + a.Labels["code"])
				now[key] = strings.ToUpper(a.Labels["severity"])
				if n.states[key] == "" {
					n.sayf(now[key], "%s: %s\n%s\n%s", r.Name, a.Annotations["summary"], a.Annotations["description"], a.Annotations["runbook_url"])
				}
			}
		}
	}
	for key := range n.states {
		if now[key] == "" {
			n.sayf("resolved", "%s", key)
		}
	}
	n.states = now
}

// runs is a command and what it printed, as far as lines match.
func (n *night) runs(lines string, args ...string) {
	p := launch(n.TB, n.TempDir(), n.vars, args...)
	<-p.ended
	var kept []string
	for line := range strings.Lines(p.stdout.String() + p.log.String()) {
		if regexp.MustCompile(lines).MatchString(line) {
			kept = append(kept, strings.TrimSpace(line))
		}
	}
	n.sayf("on-call", "$ webhookd %s\n%s", strings.Join(args, " "), strings.Join(kept, "\n"))
}

func TestAnImaginedNight(t *testing.T) {
	t.Parallel()
	x := beginEverything(t)
	n := &night{everything: x, secret: whsec, states: map[string]string{}}
	n.prom = startPrometheus(t, x.admin, hurried(repositoryFile(t, "deploy/prometheus/rules.yaml")), usualDay(time.Now()))
	file := x.vars["WEBHOOKD_STRIPE_WEBHOOK_SECRETS_FILE"]
	rolled := "whsec_" + strings.Repeat("n", 32)
	script := map[int]func(){
		0:  func() { n.sayf("", "Nothing is wrong. 90 people an hour finish a check, 60 of them verified.") },
		40: func() { n.sayf("", "(The database stops.)"); x.gate.close() },
		48: func() {
			n.runs(`(?i)failure|database`, "doctor")
			a, err := exchange(n.client, http.MethodGet, "http://"+n.admin+"/readyz", "", nil)
			if err != nil {
				t.Error(err)
			}
			n.sayf("on-call", "$ curl -s http://HOST:9090/readyz\n%s", a.Body)
			n.sayf("", "The runbook, \"database down\": do not restart webhookd; bring the primary back.")
		},
		55: func() {
			n.sayf("", "(The primary is promoted and answers again. Nothing is done to webhookd.)")
			x.gate.open()
		},
		120: func() {
			n.sayf("", "(Somebody rolls the signing secret at Stripe, without overlap, and tells nobody.)")
			n.secret = rolled
		},
		140: func() {
			s := n.source.Session(scenario.SessionOptions{Livemode: true})
			e := s.Created(time.Now())
			body := filepath.Join(t.TempDir(), "event.json")
			n.write(body, string(e.Body))
			header := signature.Sign(e.Body, rolled, time.Now())
			p := launch(t, t.TempDir(), n.vars, "verify", "--body", body, "--header", header)
			<-p.ended
			n.sayf("on-call", "$ webhookd verify --body event.json --header \"$(cat header)\"\n%s%s", p.stdout, p.log)
			n.sayf("", "The runbook, \"roll a secret\": put the secret that the Dashboard shows beside the old one.")
		},
		145: func() {
			n.sayf("on-call", "writes next=whsec_NEW,main=whsec_OLD into the file; no restart")
			n.write(file, "next="+rolled+",main="+whsec)
		},
		210: func() { n.sayf("", "(document_unverified_other triples: 36 people an hour instead of 12.)") },
		290: func() {
			rows := failuresOf(t, n)
			n.sayf("on-call", "$ psql \"$DATABASE_URL\" -c \"SELECT type, failures … WHERE error_code = 'document_unverified_other'\"\n%s", rows)
			n.sayf("", "The page: nothing here heals it. A few session ids go to Stripe's support; a ticket, so nobody was woken.")
		},
		nightLasts - 1: func() {
			n.sayf("", "Morning. Stripe told %d events; %d are recorded, %d wait for a retry of Stripe's.", n.told, n.done, len(n.queue))
		},
	}
	n.start = time.Now()
	due := map[string]float64{}
	for second := range warmUp + nightLasts {
		time.Sleep(time.Until(n.start.Add(time.Duration(second) * time.Second)))
		minute := n.minute()
		if act, ok := script[minute]; ok && minute == second-warmUp {
			act()
			delete(script, minute)
		}
		for _, code := range slices.Sorted(maps.Keys(usual)) {
			perHour := float64(usual[code])
			if code == "document_unverified_other" && minute >= 210 {
				perHour *= 3
			}
			for due[code] += perHour / 60; due[code] >= 1; due[code]-- {
				n.session(code)
			}
		}
		var later []waiting
		retry := n.queue
		n.queue = nil
		for _, w := range retry {
			if w.due <= minute {
				n.attempt(w)
			} else {
				later = append(later, w)
			}
		}
		n.queue = append(n.queue, later...)
		if minute >= 0 {
			n.look()
		}
	}
	if len(script) > 0 {
		t.Errorf("%d steps were missed: the machine is too slow", len(script))
	}
	for _, w := range n.queue { // the morning's retries
		n.done++
		n.deliver(http.StatusOK, w.event.Body, signature.Sign(w.event.Body, n.secret, time.Now()))
	}
	conn := connect(t, n.database)
	if rows := valueOf[int](t, conn, `SELECT count(*)::int FROM stripe_identity.status_transitions WHERE event_id IS NOT NULL`); rows != n.told {
		t.Errorf("%d of %d events are recorded", rows, n.told)
	}
	text := n.transcript.String()
	for _, alert := range []string{"WebhookdDatabaseDown", "WebhookdEventsNotAcknowledged", "WebhookdSignaturesRefused", "WebhookdFailureSpike"} {
		if !strings.Contains(text, alert) {
			t.Errorf("%s did not fire", alert)
		}
	}
	t.Logf("\n%s", text)
	if *update {
		page := repositoryFile(t, "docs/night.md")
		before, rest, _ := strings.Cut(page, "```text\n")
		_, after, _ := strings.Cut(rest, "```")
		if err := os.WriteFile(filepath.Join(repository, "docs/night.md"), []byte(before+"```text\n"+text+"```"+after), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func failuresOf(tb testing.TB, n *night) string {
	tb.Helper()
	conn := connect(tb, n.database)
	var b strings.Builder
	rows, err := conn.Query(tb.Context(), `
SELECT type, sum(failures)::text FROM stripe_identity.failure_reasons_hourly WHERE error_code = 'document_unverified_other' GROUP BY 1`)
	if err != nil {
		tb.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var kind, failures string
		if err := rows.Scan(&kind, &failures); err != nil {
			tb.Fatal(err)
		}
		fmt.Fprintf(&b, "%s | %s\n", kind, failures)
	}
	return b.String()
}
