package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryLimitIsNineTenthsOfTheContainers(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		file string
		want int64
	}{
		"a container with 256 MiB":    {"268435456\n", 241591905 / 10 * 10},
		"a container without a limit": {"max\n", defaultMemoryLimit},
		"likewise, of cgroup v1":      {"9223372036854771712\n", defaultMemoryLimit},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "memory.max")
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := memoryLimit(filepath.Join(t.TempDir(), "none"), file); got/100 != c.want/100 {
				t.Errorf("limit %d, want about %d", got, c.want)
			}
		})
	}
	if got := memoryLimit(filepath.Join(t.TempDir(), "none")); got != defaultMemoryLimit {
		t.Errorf("without a cgroup: %d, want %d", got, int64(defaultMemoryLimit))
	}
}
