package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestLoggerWritesJSONInUTCWithMilliseconds(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	newLogger(&out, zapcore.InfoLevel, "json").Error("hello", zap.Duration("duration", 1500*time.Millisecond), zap.Error(errors.New("oops")))

	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%q: %v", out.String(), err)
	}
	if at, _ := line["time"].(string); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`).MatchString(at) {
		t.Errorf("time is %q", at)
	}
	delete(line, "time")
	want := map[string]any{"level": "error", "msg": "hello", "duration": 1.5, "error": "oops"}
	diff(t, want, line)
}

func TestLoggerWritesConsole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	newLogger(&out, zapcore.InfoLevel, "console").Warn("hello", zap.Duration("duration", 1500*time.Millisecond))

	line := out.String()
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT[\d:.]+Z\twarn\thello\t\{"duration": "1.5s"\}\n$`).MatchString(line) {
		t.Errorf("line is %q", line)
	}
}

func TestLoggerKeepsToItsLevelAndDropsNothing(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := newLogger(&out, zapcore.InfoLevel, "json")
	for range 1000 {
		log.Debug("no")
		log.Info("yes")
	}
	if yes, no := strings.Count(out.String(), "yes"), strings.Count(out.String(), "no"); yes != 1000 || no != 0 {
		t.Errorf("%d lines of info, %d of debug", yes, no)
	}
}
