package signature_test

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"webhookd/internal/signature"
)

// good is the signature of body by the secret live at now, without its key.
var (
	body = []byte(`{"id":"evt_1"}`)
	good = macOf(live, "1700000000", body)
	bad  = strings.Repeat("ab", 32)
)

func TestHeaderGrammar(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, 5*time.Minute, newSecret(t, "", live, false), newSecret(t, "", roll, false))

	for name, c := range map[string]struct{ header, want string }{
		"as Stripe sends it":                    {"t=1700000000,v1=" + good, "accepted"},
		"with a fake v0":                        {"t=1700000000,v1=" + good + ",v0=" + bad, "accepted"},
		"signature before the time":             {"v1=" + good + ",t=1700000000", "accepted"},
		"spaces and tabs around elements":       {" \tt=1700000000 ,\t v1=" + good + " \t", "accepted"},
		"other keys, empty ones and values too": {"a=,=b,=,T=1,V1=x,t=1700000000,v1=" + good, "accepted"},
		"upper case hex":                        {"t=1700000000,v1=" + strings.ToUpper(good), "accepted"},
		"the match is the sixteenth":            {"t=1700000000" + strings.Repeat(",v1="+bad, 15) + ",v1=" + good, "accepted"},
		"unreadable ones before the match":      {"t=1700000000,v1=,v1=zz,v1=" + good[:62] + ",v1=" + good + "00,v1=" + good, "accepted"},
		"many other keys":                       {"t=1700000000,v1=" + good + strings.Repeat(",a=b", 1000), "accepted"},
		"leading zeros are hashed":              {"t=00001700000000,v1=" + macOf(live, "00001700000000", body), "accepted"},
		"nineteen digits":                       {"t=0000000001700000000,v1=" + macOf(live, "0000000001700000000", body), "accepted"},

		"empty":       {"", "missing_header"},
		"only blanks": {" \t ", "missing_header"},

		"leading zeros are not dropped":   {"t=00001700000000,v1=" + good, "no_match"},
		"only unreadable signatures":      {"t=1700000000,v1=,v1=zz", "no_match"},
		"a signature of 63 digits":        {"t=1700000000,v1=" + good[:63], "no_match"},
		"a signature of 65 digits":        {"t=1700000000,v1=" + good + "0", "no_match"},
		"the last digit is no hex":        {"t=1700000000,v1=" + good[:63] + "g", "no_match"},
		"a signature that reads as zeros": {"t=1700000000,v1=" + strings.Repeat("0", 64), "no_match"},
		"blank within a signature":        {"t=1700000000,v1= " + good, "no_match"},
		"no-break space is no blank":      {"t=1700000000,v1=" + good + "\u00a0", "no_match"},
		"another body's":                  {"t=1700000000,v1=" + macOf(live, "1700000000", []byte("{}")), "no_match"},
		"no dot between time and body":    {"t=1700000000,v1=" + macOf(live, "170000000", append([]byte("0"), body...)), "no_match"},

		"right mac under v0":           {"t=1700000000,v0=" + good, "no_v1_signature"},
		"right mac under V1":           {"t=1700000000,V1=" + good, "no_v1_signature"},
		"blank between key and equals": {"t=1700000000,v1 =" + good, "no_v1_signature"},

		"no time":                      {"v1=" + good, "malformed_header"},
		"neither time nor signature":   {"a=b", "malformed_header"},
		"time twice":                   {"t=1700000000,v1=" + good + ",t=1700000000", "malformed_header"},
		"time is empty":                {"t=,v1=" + good, "malformed_header"},
		"empty time before a good one": {"t=,t=1700000000,v1=" + good, "malformed_header"},
		"time of twenty digits":        {"t=00000000001700000000,v1=" + good, "malformed_header"},
		"time with a sign":             {"t=+1700000000,v1=" + good, "malformed_header"},
		"negative time":                {"t=-1,v1=" + good, "malformed_header"},
		"time with a fraction":         {"t=1700000000.0,v1=" + good, "malformed_header"},
		"time with an underscore":      {"t=1_700_000_000,v1=" + good, "malformed_header"},
		"time in other digits":         {"t=１７,v1=" + good, "malformed_header"},
		"blank before the time's digits": {
			"t= 1700000000,v1=" + good, "malformed_header"},
		"newline around an element": {"t=1700000000\n,v1=" + good, "malformed_header"},
		"element without equals":    {"t=1700000000,v1=" + good + ",v0", "malformed_header"},
		"element with two":          {"t=1700000000,v1=" + good + ",a=b=c", "malformed_header"},
		"equals after a signature":  {"t=1700000000,v1=" + good + "=", "malformed_header"},
		"comma at the end":          {"t=1700000000,v1=" + good + ",", "malformed_header"},
		"comma and blank at the end": {
			"t=1700000000,v1=" + good + ", ", "malformed_header"},
		"comma at the start":           {",t=1700000000,v1=" + good, "malformed_header"},
		"two commas":                   {"t=1700000000,,v1=" + good, "malformed_header"},
		"seventeen signatures":         {"t=1700000000" + strings.Repeat(",v1="+good, 17), "malformed_header"},
		"seventeen, none readable":     {"t=1700000000" + strings.Repeat(",v1=", 17), "malformed_header"},
		"longer than is looked at":     {"t=1700000000,v1=" + good + ",a=" + strings.Repeat("b", signature.MaxHeaderBytes), "malformed_header"},
		"malformed and no signature":   {"t=1700000000,a", "malformed_header"},
		"fault after a good beginning": {"t=1700000000,v1=" + good + ",a=b,c", "malformed_header"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := v.Verify(body, c.header, now)
			if got := word(t, err); got != c.want {
				t.Errorf("%q is %s, want %s", c.header, got, c.want)
			}
		})
	}
}

// A decoder that gives up at the last digits leaves zeros there.
func TestHalfReadSignatureMatchesNothing(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, time.Hour, newSecret(t, "", live, false))
	at, mac := now.Unix(), ""
	for !strings.HasSuffix(mac, "00") {
		at++
		mac = macOf(live, strconv.FormatInt(at, 10), body)
	}
	header := fmt.Sprintf("t=%d,v1=%szz", at, mac[:62])
	if _, err := v.Verify(body, header, time.Unix(at, 0)); !errors.Is(err, signature.ErrNoMatch) {
		t.Errorf("%s: %v, want %v", header, err, signature.ErrNoMatch)
	}
}

func TestHeaderOfExactlyTheLimitIsRead(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, time.Minute, newSecret(t, "", live, false))
	header := signature.Sign(body, live, now) + ",a="
	header += strings.Repeat("b", signature.MaxHeaderBytes-len(header))
	if _, err := v.Verify(body, header, now); err != nil {
		t.Errorf("%d bytes: %v", len(header), err)
	}
	if _, err := v.Verify(body, header+"b", now); !errors.Is(err, signature.ErrMalformedHeader) {
		t.Errorf("one byte more: %v, want %v", err, signature.ErrMalformedHeader)
	}
}

func TestAgeIsWholeSecondsBothWays(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		at        string
		now       time.Time
		tolerance time.Duration
		want      string
	}{
		"as old as the tolerance":           {"1700000000", time.Unix(1_700_000_300, 0), 5 * time.Minute, "accepted"},
		"as old, and a fraction":            {"1700000000", time.Unix(1_700_000_300, 999_999_999), 5 * time.Minute, "accepted"},
		"a second older":                    {"1700000000", time.Unix(1_700_000_301, 0), 5 * time.Minute, "too_old"},
		"as new as the tolerance":           {"1700000300", time.Unix(1_700_000_000, 0), 5 * time.Minute, "accepted"},
		"a second newer":                    {"1700000301", time.Unix(1_700_000_000, 999_999_999), 5 * time.Minute, "too_new"},
		"tolerance below a second, at once": {"1700000000", time.Unix(1_700_000_000, 0), time.Millisecond, "accepted"},
		"tolerance below a second, later":   {"1700000000", time.Unix(1_700_000_001, 0), time.Millisecond, "too_old"},
		"a fraction in the tolerance":       {"1700000000", time.Unix(1_700_000_002, 0), 1900 * time.Millisecond, "too_old"},
		"the beginning of time":             {"0", now, math.MaxInt64, "accepted"},
		"the beginning, usual tolerance":    {"0", now, 5 * time.Minute, "too_old"},
		"largest int64":                     {"9223372036854775807", now, math.MaxInt64, "too_new"},
		"largest int64, now as well":        {"9223372036854775807", time.Unix(math.MaxInt64, 0), time.Second, "accepted"},
		"more than an int64":                {"9223372036854775808", now, math.MaxInt64, "too_new"},
		"more than an int64, now is not":    {"9223372036854775808", time.Unix(math.MaxInt64, 0), time.Second, "too_new"},
		"largest of nineteen digits":        {"9999999999999999999", now, math.MaxInt64, "too_new"},
		"largest, long before 1970":         {"9999999999999999999", time.Unix(math.MinInt64, 0), math.MaxInt64, "too_new"},
		"now before 1970":                   {"10", time.Unix(-10, 0), 20 * time.Second, "accepted"},
		"now longer before 1970":            {"10", time.Unix(-11, 0), 20 * time.Second, "too_new"},
		"long after":                        {"0", time.Unix(math.MaxInt64, 0), time.Second, "too_old"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, c.tolerance, newSecret(t, "", live, false))
			_, err := v.Verify(body, "t="+c.at+",v1="+macOf(live, c.at, body), c.now)
			if got := word(t, err); got != c.want {
				t.Errorf("t=%s at %d is %s, want %s", c.at, c.now.Unix(), got, c.want)
			}
		})
	}
}

func TestMACIsJudgedBeforeAge(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, time.Minute, newSecret(t, "", live, false))
	for _, at := range []string{"0", "1", "1699999000", "1700001000", "9999999999999999999"} {
		if _, err := v.Verify(body, "t="+at+",v1="+bad, now); !errors.Is(err, signature.ErrNoMatch) {
			t.Errorf("a stranger's t=%s: %v, want %v", at, err, signature.ErrNoMatch)
		}
	}
}

func TestAnyV1OfAnySecret(t *testing.T) {
	t.Parallel()
	a, b := newSecret(t, "a", live, false), newSecret(t, "b", roll, false)
	for name, c := range map[string]struct {
		signed  []string
		secrets []signature.Secret
		want    string
	}{
		"the only one":                 {[]string{live}, []signature.Secret{a}, "a"},
		"rolled, we hold the old":      {[]string{live, roll}, []signature.Secret{a}, "a"},
		"rolled, we hold the new":      {[]string{live, roll}, []signature.Secret{b}, "b"},
		"we hold two, Stripe one":      {[]string{roll}, []signature.Secret{a, b}, "b"},
		"both hold two: ours in order": {[]string{roll, live}, []signature.Secret{a, b}, "a"},
		"a stranger's first":           {[]string{"whsec_x", live}, []signature.Secret{b, a}, "a"},
		"test secret":                  {[]string{live}, []signature.Secret{newSecret(t, "t", live, true)}, "t"},
		"live and test: the live one":  {[]string{live, roll}, []signature.Secret{newSecret(t, "t", live, true), b}, "b"},
		"one value under both modes":   {[]string{live}, []signature.Secret{newSecret(t, "t", live, true), a}, "a"},
		"test matches beside a live":   {[]string{live}, []signature.Secret{b, newSecret(t, "t", live, true)}, "t"},
		"a key of more than one block": {[]string{strings.Repeat("k", 65)}, []signature.Secret{newSecret(t, "l", strings.Repeat("k", 65), false)}, "l"},
		"blanks in a value count":      {[]string{" " + live}, []signature.Secret{a, newSecret(t, "s", " "+live, false)}, "s"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newVerifier(t, time.Minute, c.secrets...).Verify(body, signature.SignAll(body, now, c.signed...), now)
			if err != nil {
				t.Fatal(err)
			}
			if got.Name() != c.want || got.Test() != (c.want == "t") {
				t.Errorf("matched %s (test: %t), want %s", got.Name(), got.Test(), c.want)
			}
		})
	}
}

func TestRefusalReturnsNoSecret(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, time.Minute, newSecret(t, "a", live, false))
	for _, header := range []string{"", "t", "t=1,v0=", "t=1,v1=" + bad, signature.Sign(body, live, now.Add(-time.Hour))} {
		if s, err := v.Verify(body, header, now); err == nil || s != (signature.Secret{}) {
			t.Errorf("%q: secret %q, error %v", header, s, err)
		}
	}
}

func TestBodyIsBytes(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, time.Minute, newSecret(t, "", live, false))
	for name, body := range map[string][]byte{
		"nil":              nil,
		"NUL":              {0},
		"invalid UTF-8":    {0xff, 0xfe, '{'},
		"byte order mark":  []byte("\ufeff{}"),
		"a mebibyte":       make([]byte, 1<<20),
		"carriage returns": []byte("{\r\n}\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := signature.Sign(body, live, now)
			if _, err := v.Verify(body, header, now); err != nil {
				t.Errorf("Verify: %v", err)
			}
			if _, err := v.Verify(append(slices.Clip(body), '\n'), header, now); !errors.Is(err, signature.ErrNoMatch) {
				t.Errorf("one byte more: %v, want %v", err, signature.ErrNoMatch)
			}
		})
	}
}

func TestVerifierRefusesWhatProvesNothing(t *testing.T) {
	t.Parallel()
	s := newSecret(t, "", live, false)
	for name, c := range map[string]struct {
		tolerance time.Duration
		secrets   []signature.Secret
	}{
		"no tolerance":       {0, []signature.Secret{s}},
		"negative tolerance": {-time.Second, []signature.Secret{s}},
		"no secrets":         {time.Minute, nil},
		"the zero secret":    {time.Minute, []signature.Secret{s, {}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if v, err := signature.NewVerifier(c.tolerance, c.secrets...); err == nil || v != nil {
				t.Errorf("NewVerifier = %v, %v, want an error", v, err)
			}
		})
	}

	_, err := signature.NewVerifier(0)
	for _, fault := range []string{"tolerance", "no signing secret"} {
		if err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("NewVerifier(0) = %v, does not tell %q", err, fault)
		}
	}
}

func TestVerifierKeepsItsOwnSecrets(t *testing.T) {
	t.Parallel()
	secrets := []signature.Secret{newSecret(t, "t", roll, true), newSecret(t, "a", live, false)}
	v := newVerifier(t, time.Minute, secrets...)
	if got := secrets[0].Name(); got != "t" {
		t.Errorf("the caller's slice was sorted: %s is first", got)
	}
	secrets[1] = secrets[0]
	if _, err := v.Verify(body, signature.Sign(body, live, now), now); err != nil {
		t.Errorf("after the caller's slice changed: %v", err)
	}
}

func TestVerifyIsSafeForConcurrentUse(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, time.Minute, newSecret(t, "a", live, false), newSecret(t, "b", roll, false))
	var wg sync.WaitGroup
	for g := range 8 {
		value, name := live, "a"
		if g%2 == 1 {
			value, name = roll, "b"
		}
		wg.Go(func() {
			for i := range 500 {
				body := []byte(strconv.Itoa(g*1000 + i))
				header := signature.Sign(body, value, now)
				if s, err := v.Verify(body, header, now); err != nil || s.Name() != name {
					t.Errorf("signed by %s: matched %q, %v", name, s, err)
				}
				if _, err := v.Verify(append(body, 'x'), header, now); !errors.Is(err, signature.ErrNoMatch) {
					t.Errorf("a forgery: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func TestReasons(t *testing.T) {
	t.Parallel()
	// The words of the metric webhookd_signature_failures_total.
	want := []string{"missing_header", "malformed_header", "no_v1_signature", "no_match", "too_old", "too_new", "wrong_mode"}
	if diff := cmp.Diff(want, signature.Reasons()); diff != "" {
		t.Errorf("Reasons (-want +got):\n%s", diff)
	}
	signature.Reasons()[0] = "changed"
	if diff := cmp.Diff(want, signature.Reasons()); diff != "" {
		t.Errorf("Reasons after a caller changed its copy (-want +got):\n%s", diff)
	}

	var got []string
	for _, err := range []error{
		signature.ErrMissingHeader,
		signature.ErrMalformedHeader,
		signature.ErrNoV1Signature,
		signature.ErrNoMatch,
		signature.ErrTooOld,
		signature.ErrTooNew,
		signature.ErrWrongMode,
	} {
		got = append(got, signature.Reason(fmt.Errorf("verify: %w", err)))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Reason of each error (-want +got):\n%s", diff)
	}
	for _, err := range []error{nil, errors.New("no_match"), signature.ErrBlankSecret} {
		if r := signature.Reason(err); r != "" {
			t.Errorf("Reason(%v) = %q, want none", err, r)
		}
	}
}

func TestAgeRefusalTellsHowFar(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, time.Minute, newSecret(t, "", live, false))
	for ahead, want := range map[time.Duration]string{-61 * time.Second: "61 s ago", time.Hour: "3600 s ahead"} {
		_, err := v.Verify(body, signature.Sign(body, live, now.Add(ahead)), now)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "60 s") {
			t.Errorf("%v ahead: %v, want it to tell %q", ahead, err, want)
		}
	}
}

func TestSignAll(t *testing.T) {
	t.Parallel()
	want := "t=1700000000,v1=" + good + ",v1=" + macOf(roll, "1700000000", body)
	if got := signature.SignAll(body, now, live, roll); got != want {
		t.Errorf("SignAll = %s, want %s", got, want)
	}
}
