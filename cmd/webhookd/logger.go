package main

import (
	"io"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// newLogger writes lines of the given format, "json" or "console", to w: times in UTC with
// milliseconds, no stack traces, every line that it is given. Who may be flooded limits its own lines.
func newLogger(w io.Writer, level zapcore.Level, format string) *zap.Logger {
	keys := zap.NewProductionEncoderConfig()
	keys.TimeKey = "time"
	keys.StacktraceKey = zapcore.OmitKey
	keys.EncodeTime = func(t time.Time, enc zapcore.PrimitiveArrayEncoder) {
		enc.AppendString(t.UTC().Format("2006-01-02T15:04:05.000Z07:00"))
	}

	encoder := zapcore.NewJSONEncoder(keys)
	if format == "console" {
		keys.EncodeDuration = zapcore.StringDurationEncoder
		encoder = zapcore.NewConsoleEncoder(keys)
	}
	out := zapcore.Lock(zapcore.AddSync(w))
	return zap.New(zapcore.NewCore(encoder, out, level), zap.ErrorOutput(out))
}
