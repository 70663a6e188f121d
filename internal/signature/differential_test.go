package signature_test

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stripe/stripe-go/v85/webhook"
	"pgregory.net/rapid"

	"webhookd/internal/signature"
)

// delivery is one attempt, judged at now, which a bubble of synctest gives to
// stripe-go as well: it reads the clock itself.
type delivery struct {
	header    string
	now       time.Time
	tolerance time.Duration
}

// bubble is the time at which a bubble of synctest begins.
var bubble = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (d delivery) ours(tb testing.TB) bool {
	tb.Helper()
	v := newVerifier(tb, d.tolerance, newSecret(tb, "", live, false))
	_, err := v.Verify(body, d.header, d.now)
	return word(tb, err) == "accepted"
}

func (d delivery) theirs(t *testing.T) (ok bool) {
	t.Helper()
	synctest.Test(t, func(*testing.T) {
		time.Sleep(d.now.Sub(bubble))
		ok = webhook.ValidatePayloadWithTolerance(body, d.header, live, d.tolerance) == nil
	})
	return ok
}

// values lists what stands behind key, blanks around elements trimmed or not.
func (d delivery) values(key string, trim bool) (vs []string) {
	for element := range strings.SplitSeq(d.header, ",") {
		if trim {
			element = strings.Trim(element, " \t")
		}
		if v, ok := strings.CutPrefix(element, key+"="); ok {
			vs = append(vs, v)
		}
	}
	return vs
}

// differences are all those between stripe-go and the contract, each with where
// it may show and one delivery that shows it.
var differences = map[string]struct {
	why     string
	applies func(delivery) bool
	example delivery
	ours    bool
}{
	"future": {
		why: "stripe-go accepts what was signed at any later time: a leaked header would be good for ever",
		applies: func(d delivery) bool {
			for _, v := range d.values("t", true) {
				at, err := strconv.ParseInt(v, 10, 64)
				if err == nil && at > d.now.Unix()+int64(d.tolerance/time.Second) {
					return true
				}
			}
			return false
		},
		example: delivery{signature.Sign(body, live, bubble.Add(11*time.Second)), bubble, 10 * time.Second},
		ours:    false,
	},
	"fraction": {
		why: "stripe-go adds the fraction of now to the age: t has whole seconds, so must the age",
		applies: func(d delivery) bool {
			for _, v := range d.values("t", true) {
				at, err := strconv.ParseInt(v, 10, 64)
				if err == nil && at == d.now.Unix()-int64(d.tolerance/time.Second) && d.now.Nanosecond() > 0 {
					return true
				}
			}
			return false
		},
		example: delivery{signature.Sign(body, live, bubble), bubble.Add(10*time.Second + 1), 10 * time.Second},
		ours:    true,
	},
	"blanks": {
		why:     "stripe-go takes blanks around elements for parts of them: HTTP allows them in lists, so a proxy may add them",
		applies: func(d delivery) bool { return strings.ContainsAny(d.header, " \t") },
		example: delivery{strings.ReplaceAll(signature.Sign(body, live, bubble), ",", ", "), bubble, 10 * time.Second},
		ours:    true,
	},
	"two times": {
		why:     "stripe-go takes the last t, other libraries the first: what is ambiguous is refused",
		applies: func(d delivery) bool { return len(d.values("t", true)) > 1 },
		example: delivery{"t=1," + signature.Sign(body, live, bubble), bubble, 10 * time.Second},
		ours:    false,
	},
	"seventeen signatures": {
		why:     "stripe-go compares any number of them: the contract bounds the work",
		applies: func(d delivery) bool { return len(d.values("v1", true)) > 16 },
		example: delivery{signature.Sign(body, live, bubble) + strings.Repeat(",v1=", 16), bubble, 10 * time.Second},
		ours:    false,
	},
	"time written otherwise": {
		why: "stripe-go signs the number that it read from t: the contract hashes the text, and knows no sign",
		applies: func(d delivery) bool {
			for _, v := range d.values("t", true) {
				at, err := strconv.ParseInt(v, 10, 64)
				if err == nil && (strconv.FormatInt(at, 10) != v || at < 0) {
					return true
				}
			}
			return false
		},
		example: delivery{
			"t=0" + strconv.FormatInt(bubble.Unix(), 10) + ",v1=" + macOf(live, "0"+strconv.FormatInt(bubble.Unix(), 10), body),
			bubble, 10 * time.Second,
		},
		ours: true,
	},
	"long header": {
		why:     "stripe-go reads headers of any length: the edge refuses those over 8 KiB",
		applies: func(d delivery) bool { return len(d.header) > signature.MaxHeaderBytes },
		example: delivery{
			signature.Sign(body, live, bubble) + ",a=" + strings.Repeat("b", signature.MaxHeaderBytes),
			bubble, 10 * time.Second,
		},
		ours: false,
	},
}

func TestKnownDifferencesFromStripeGo(t *testing.T) {
	t.Parallel()
	for name, d := range differences {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !d.applies(d.example) {
				t.Errorf("does not apply to its own example")
			}
			ours, theirs := d.example.ours(t), d.example.theirs(t)
			if ours != d.ours || theirs == d.ours {
				t.Errorf("accepted by us: %t, by stripe-go: %t; want %t and the contrary: %s", ours, theirs, d.ours, d.why)
			}
		})
	}
}

func TestElsewhereStripeGoAgrees(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		d := drawDelivery(r)
		ours, theirs := d.ours(t), d.theirs(t)
		if ours == theirs {
			return
		}
		for _, difference := range differences {
			if difference.applies(d) {
				return
			}
		}
		r.Errorf("%q at %v, tolerance %v: accepted by us: %t, by stripe-go: %t", d.header, d.now, d.tolerance, ours, theirs)
	})
}

// drawDelivery draws headers near to good ones: most differ from one in a detail or none.
func drawDelivery(r *rapid.T) delivery {
	tolerance := time.Duration(rapid.IntRange(1, 5).Draw(r, "tolerance")) * time.Second
	now := bubble.Add(time.Hour)
	if rapid.IntRange(0, 3).Draw(r, "fraction") == 0 {
		now = now.Add(time.Duration(rapid.IntRange(1, 999_999_999).Draw(r, "ns")))
	}

	// Mostly within the tolerance, often on its edges.
	at := strconv.FormatInt(now.Unix()+rapid.Int64Range(-7, 7).Draw(r, "ahead"), 10)
	if rapid.IntRange(0, 9).Draw(r, "odd") == 0 {
		at = rapid.SampledFrom([]string{"", "0", "-5", "x", "0" + at, "+" + at, at + ".0", "9223372036854775807", "9999999999999999999"}).Draw(r, "t")
	}
	mac := macOf(live, at, body)
	signatures := []string{mac, mac, mac, strings.ToUpper(mac), macOf(roll, at, body), mac[:62], mac + "00", "zz", ""}

	elements := []string{"t=" + at}
	for range rapid.SampledFrom([]int{0, 1, 1, 1, 2, 3, 16, 17}).Draw(r, "v1s") {
		elements = append(elements, "v1="+rapid.SampledFrom(signatures).Draw(r, "v1"))
	}
	if rapid.IntRange(0, 3).Draw(r, "more") == 0 {
		elements = append(elements, rapid.SampledFrom([]string{
			"v0=" + mac, "v2=" + mac, "V1=" + mac, "a=", "=", "t=" + at, "t=1", "", "a", "v1", "a=b=c", "v1=" + mac + "=",
		}).Draw(r, "other"))
	}
	if rapid.IntRange(0, 9).Draw(r, "drop") == 0 {
		elements = elements[1:]
	}
	elements = rapid.Permutation(elements).Draw(r, "order")
	separator := rapid.SampledFrom([]string{",", ",", ",", ",", ", ", ",\t", " ,", ";"}).Draw(r, "separator")
	return delivery{strings.Join(elements, separator), now, tolerance}
}
