package main

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTheDashboardsAreWhatTheCodeSays(t *testing.T) {
	t.Parallel()
	for name, d := range dashboards() {
		want, err := d.encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s is behind the code: run make generate (-code +file)\n%.3000s", name, diff)
		}
	}
}
