package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"webhookd/internal/repo"
)

// withStore lends the configuration, and the database that it names, or that of dev.
func withStore(cmd *cobra.Command, do func(*Config, *repo.Store) error) error {
	cfg, err := loadOrDev(cmd, needDatabase)
	if err != nil {
		return err
	}
	store, err := repo.Open(cmd.Context(), storeOptions(cfg))
	if err != nil {
		return err
	}
	defer store.Close()
	return do(cfg, store)
}

// storeOptions are those of commands that write events.
func storeOptions(cfg *Config) repo.Options {
	return repo.Options{
		URL: string(cfg.DatabaseURL), Notify: cfg.Notify,
		Outputs: cfg.OutputFields.Wants, NoOutputs: cfg.OutputFields.None(),
	}
}

func unknownSession(id string, err error) error {
	if !errors.Is(err, repo.ErrUnknownSession) {
		return err
	}
	hint := ""
	if !strings.HasPrefix(id, "vs_") {
		hint = "; a session's id begins with vs_"
	}
	return fmt.Errorf("session %s: %w%s", cell(id, 80), err, hint)
}

func addWho(cmd *cobra.Command, who *string) {
	cmd.Flags().StringVar(who, "who", "", "`name` to record in pii_reads (default: the system's user@host)")
}

// readerFor is who is recorded as having looked.
func readerFor(cmd *cobra.Command, who string) (repo.Reader, error) {
	if cmd.Flags().Changed("who") && strings.TrimSpace(who) == "" {
		return repo.Reader{}, usagef("--who is blank")
	}
	if !utf8.ValidString(who) || len(who) > 255 {
		return repo.Reader{}, usagef("--who wants text of up to 255 bytes")
	}
	return repo.Reader{Who: cmp.Or(who, whoami()), Command: cmd.Name()}, nil
}

// whoami is the system's user@host, as far as it is known.
func whoami() string {
	name := "uid " + strconv.Itoa(os.Getuid()) // a container's user may have no name
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}
