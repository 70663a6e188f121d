// Command grafana writes the dashboards beside it: webhookd.json, from
// Prometheus, and postgres.json, from the database as the role webhookd_reader.
//
// What they show stands in webhookd.go and postgres.go; model.go is as much of
// Grafana's format as they need (schemaVersion 41). Run it by make generate.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

func main() {
	_, self, _, _ := runtime.Caller(0)
	for name, d := range dashboards() {
		text, err := d.encode()
		if err == nil {
			err = os.WriteFile(filepath.Join(filepath.Dir(self), name), text, 0o644) //nolint:gosec // it is published
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

func dashboards() map[string]dashboard {
	return map[string]dashboard{"webhookd.json": mainDashboard(), "postgres.json": postgresDashboard()}
}

func (d dashboard) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	err := e.Encode(d)
	return b.Bytes(), err
}
