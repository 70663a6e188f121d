package signature_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"webhookd/internal/signature"
)

func TestBlankSecretIsRefused(t *testing.T) {
	t.Parallel()
	for name, value := range map[string]string{
		"empty":               "",
		"a space":             " ",
		"blanks and newlines": " \t\r\n",
		"no-break space":      "\u00a0",
		"zero-width space":    "\u200b",
		"byte order mark":     "\ufeff",
		"NUL":                 "\x00", // the same HMAC key as the empty one
		"NULs and newline":    "\x00\x00\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := signature.NewSecret("n", value, false); !errors.Is(err, signature.ErrBlankSecret) {
				t.Errorf("NewSecret(%q): %v, want %v", value, err, signature.ErrBlankSecret)
			}
		})
	}
}

func TestSecretIsNamedByFingerprint(t *testing.T) {
	t.Parallel()
	a, b := newSecret(t, "", live, false), newSecret(t, "", roll, false)
	if got, want := a.Name(), "sha256:7a200eb8"; got != want {
		t.Errorf("Name = %s, want %s", got, want)
	}
	if a.Name() == b.Name() {
		t.Errorf("two secrets are both called %s", a.Name())
	}
	if got := newSecret(t, "primary", live, false).Name(); got != "primary" {
		t.Errorf("Name = %s, want primary", got)
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	s := newSecret(t, "primary", "whsec_hunter2", true)
	v := newVerifier(t, time.Minute, s)
	forms := []any{
		s, &s, []signature.Secret{s}, map[string]signature.Secret{"k": s},
		struct{ S signature.Secret }{s}, struct{ s signature.Secret }{s}, struct{ s *signature.Secret }{&s},
		v, *v, struct{ v *signature.Verifier }{v},
	}

	var out []string
	for _, form := range forms {
		for _, verb := range "vsqxXdtbopeUTcg" {
			for _, flags := range []string{"", "+", "#", "-40", "0"} {
				out = append(out, fmt.Sprintf("%"+flags+string(verb), form))
			}
		}
		out = append(out, fmt.Sprint(form), string(encode(t, form)))
	}
	_, err := v.Verify(body, "t=1,v1="+bad, now)
	out = append(out, err.Error())

	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "s", s, "v", v)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "s", s, "v", v)
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&log), zap.DebugLevel)
	zap.New(core).Info("m", zap.Any("s", s), zap.Reflect("r", s), zap.Any("v", v))
	out = append(out, log.String())

	all := strings.Join(out, "\n")
	for _, leak := range []string{"hunter2", fmt.Sprintf("%x", "hunter2"), fmt.Sprintf("%X", "hunter2"), "104 117 110"} {
		if strings.Contains(all, leak) {
			t.Errorf("printed as %q", leak)
		}
	}
}

func TestSecretPrintsAsItsName(t *testing.T) {
	t.Parallel()
	s := newSecret(t, "primary", live, false)
	for format, want := range map[string]string{
		"%v": "primary", "%+v": "primary", "%s": "primary", "%#v": `"primary"`, "%q": `"primary"`, "%9s": "  primary",
	} {
		if got := fmt.Sprintf(format, s); got != want {
			t.Errorf("%s prints %s, want %s", format, got, want)
		}
	}
	if got := s.String(); got != "primary" {
		t.Errorf("String = %s, want primary", got)
	}
	if got := string(encode(t, s)); got != `"primary"<Secret>primary</Secret>` {
		t.Errorf("encoded as %s", got)
	}
}

// encode is form as JSON and, where it has such a form, as XML.
func encode(tb testing.TB, form any) []byte {
	tb.Helper()
	b, err := json.Marshal(form)
	if err != nil {
		tb.Fatal(err)
	}
	x, err := xml.Marshal(form)
	if err != nil {
		return b
	}
	return append(b, x...)
}
