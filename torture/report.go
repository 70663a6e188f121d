package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// result is what a run found.
type result struct {
	plan        *plan
	took        time.Duration
	counts      counts
	recoveries  map[string][]time.Duration
	felt        map[string]int
	faults      int
	apiRest     time.Duration
	lostCommits int
	verdict     verdict
	wrong       []string // what must not have been, in words
	wrongs      int
	disk        string
}

func (r *result) ok() bool { return r.verdict.ok() && r.wrongs == 0 }

func (r *result) print(w io.Writer) {
	c, v := r.counts, r.verdict
	fmt.Fprintf(w, "seed %d: %d faults of %d kinds under %d deliveries to %d replicas, %v\n\n",
		r.plan.seed, r.faults, len(r.plan.kinds), c.Acked, r.plan.replicas, r.took.Round(time.Second))
	if len(r.recoveries) > 0 {
		fmt.Fprintf(w, "| fault | times | attempts that failed | recovered in: median | worst |\n|---|---|---|---|---|\n")
		for _, name := range slices.Sorted(maps.Keys(r.recoveries)) {
			all := slices.Sorted(slices.Values(r.recoveries[name]))
			fmt.Fprintf(w, "| %s | %d | %d | %.2f s | %.2f s |\n", name, len(all), r.felt[name], all[(len(all)-1)/2].Seconds(), all[len(all)-1].Seconds())
		}
		fmt.Fprintf(w, "\nThe disk was filled by %s.\n", r.disk)
	}
	fmt.Fprintf(w, "%d deliveries acknowledged: %d events that were new, %d duplicates; %d forged ones refused.\n", c.Acked, c.Events, c.Duplicates, c.Forged)
	fmt.Fprintf(w, "%d attempts were answered 503, %d not at all, %d refused for their clock; %d answers to COMMIT were lost.\n", c.Unavailable, c.Broken, c.Skewed, r.lostCommits)
	if r.plan.api {
		fmt.Fprintf(w, "What was wanted of the API was read %.2f s after the last acknowledgment.\n", r.apiRest.Seconds())
	}
	fmt.Fprintf(w, "\n%d rows compared with the model, %d personal ones looked at:\nlost %d, twice %d, different %d, resurrected after redaction %d, other broken promises %d\n",
		v.Compared, v.Marked, v.Lost, v.Twice, v.Different, v.Resurrected, r.wrongs)
	for _, sample := range append(v.Samples, r.wrong...) {
		fmt.Fprintf(w, "  %s\n", sample)
	}
}
