package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// tuneMemory trades memory for time, unless the operator has decided: a
// delivery's garbage is small beside what a process holds anyway, so the
// collector may run a third as often; a limit keeps it within the container. With
// 400 % 2,000 idle connections take 9 MB more, and no time is saved.
func tuneMemory() {
	if _, set := os.LookupEnv("GOGC"); !set {
		debug.SetGCPercent(300)
	}
	if _, set := os.LookupEnv("GOMEMLIMIT"); !set {
		debug.SetMemoryLimit(memoryLimit("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")) // v2, v1
	}
}

// defaultMemoryLimit guards a process that no container limits.
const defaultMemoryLimit = 1 << 30

// memoryLimit is nine tenths of what the container may use, in bytes; the rest
// is for what the Go runtime does not count.
func memoryLimit(files ...string) int64 {
	const none = 1 << 50 // v1 says some 2^63, v2 the word max
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if limit, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && limit < none {
			return limit / 10 * 9
		}
	}
	return defaultMemoryLimit
}
