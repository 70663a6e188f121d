package pgdev

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What stands in a folder. All of it is ours, and Reset removes nothing else.
const (
	dataName     = "data"
	unfinished   = "initdb" // becomes data when initdb is through
	passwordName = "password"
	logName      = "postgres.log"
	lockName     = "lock"
)

// errUnreachable is a folder that the server's account cannot enter.
var errUnreachable = errors.New("cannot be entered")

// home is the folder of one server, locked by us. Files are opened through
// root, so that no link leads out of it while we are privileged.
type home struct {
	acct      account
	dir       string
	temporary bool
	root      *os.Root
	lock      *os.File
}

func (h *home) path(name string) string { return filepath.Join(h.dir, name) }

// openHome makes or opens the folder dir, or where the server's account cannot
// enter it (only root has another account) its stand-in, and locks it.
func openHome(ctx context.Context, acct account, o Options) (*home, error) {
	if o.Dir == "" {
		return openTemporary(ctx, acct, o.Ephemeral)
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("find the working folder: %w", err)
	}
	h, err := claim(acct, dir)
	if errors.Is(err, errUnreachable) {
		_ = os.Remove(dir) // removes it only if it is empty
		place := standIn(dir)
		fmt.Fprintf(o.Log, "PostgreSQL runs as user %s, who cannot enter %s: its data are in %s\n", acct.name, dir, place)
		h, err = claim(acct, place)
	}
	if err != nil {
		return nil, err
	}
	if err := h.acquire(ctx); err != nil {
		return nil, errors.Join(err, h.close())
	}
	return h, nil
}

// standIn names the place for what cannot be in dir, always the same one. Only
// root needs it, and only root can make it: no stranger is there before us.
func standIn(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return fmt.Sprintf("/var/lib/webhookd-%x", sum[:6])
}

// openTemporary prefers memory for what is ephemeral (a clone of a database
// then takes a tenth of the time), and else the usual place, unless root has
// set that to one that the server's account cannot enter.
func openTemporary(ctx context.Context, acct account, ephemeral bool) (*home, error) {
	parents := []string{os.TempDir(), "/tmp", "/var/tmp"}
	if ephemeral && free(memory) >= enough {
		parents = append([]string{memory}, parents...)
	}
	var errs []error
	for _, parent := range parents {
		dir, err := os.MkdirTemp(parent, "webhookd-postgres-")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		// The server's account owns it, so that the supervisor can remove it.
		if err = acct.own(os.Lchown, dir); err == nil {
			var h *home
			if h, err = claim(acct, dir); err == nil {
				h.temporary = true
				if err = h.acquire(ctx); err == nil {
					return h, nil
				}
				err = errors.Join(err, h.close())
			}
		}
		errs = append(errs, err, os.RemoveAll(dir))
	}
	return nil, fmt.Errorf("make a temporary folder: %w", errors.Join(errs...))
}

const (
	memory = "/dev/shm" // a file system in memory, on Linux
	enough = 2 << 30    // of a container's usual 64 MiB there is none to spare
)

// free is the number of bytes that a file system has left, 0 if there is none.
func free(dir string) uint64 {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0
	}
	return uint64(st.Bavail) * uint64(st.Bsize) //nolint:unconvert // types differ between systems, and none is negative
}

// claim makes or opens a folder that is ours and that the account can enter.
func claim(acct account, dir string) (*home, error) {
	mode := fs.FileMode(0o700)
	if acct.cred != nil {
		mode = 0o711
	}
	err := os.MkdirAll(filepath.Dir(dir), 0o755)
	if err == nil {
		err = os.Mkdir(dir, mode)
	}
	if err == nil {
		err = os.Chmod(dir, mode) // the umask had a say
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make a folder for PostgreSQL's data (choose one that you can write to): %w", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder of PostgreSQL's data: %w", err)
	}
	h := &home{acct: acct, dir: dir, root: root}
	if err := h.check(); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return h, nil
}

// check refuses what belongs to others, also a link that they laid, before
// anything in it is made, given away or removed.
func (h *home) check() error {
	named, err1 := os.Lstat(h.dir)
	opened, err2 := h.root.Stat(".")
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("look at the folder of PostgreSQL's data: %w", err)
	}
	if !os.SameFile(named, opened) {
		return fmt.Errorf("%s is a link: name the folder itself", h.dir)
	}
	uid := uidOf(opened)
	if uid != os.Geteuid() && uid != h.acct.uid {
		return fmt.Errorf("%s belongs to user %s: run this as that user, or choose another folder", h.dir, userName(uid))
	}
	if h.acct.cred != nil && !h.acct.reaches(h.dir) {
		return fmt.Errorf("%s by user %s: %w", h.dir, h.acct.name, errUnreachable)
	}
	return nil
}

func uidOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// acquire takes the lock. It waits a moment: a server whose parent was killed
// needs that to end.
func (h *home) acquire(ctx context.Context) error {
	lock, err := h.root.OpenFile(lockName, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open the lock: %w", err)
	}
	tooLong := time.After(2 * time.Second)
	for {
		err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			h.lock = lock
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return errors.Join(fmt.Errorf("lock %s: %w", h.path(lockName), err), lock.Close())
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("lock %s: %w", h.path(lockName), context.Cause(ctx)), lock.Close())
		case <-tooLong:
			return errors.Join(fmt.Errorf("PostgreSQL is already running on %s: stop the other webhookd dev, or choose another folder", h.dir), lock.Close())
		}
	}
}

// prepare leaves data that a server can start on, and says which programs and
// which password go with them.
func (h *home) prepare(ctx context.Context, found []installation, o Options) (installation, string, error) {
	inst := found[0]
	info, err := h.root.Lstat(dataName)
	if errors.Is(err, fs.ErrNotExist) {
		password := rand.Text()
		return inst, password, h.initialize(ctx, inst, password, o.Ephemeral)
	}
	if err != nil {
		return inst, "", fmt.Errorf("look at PostgreSQL's data: %w", err)
	}
	if uid := uidOf(info); uid != h.acct.uid {
		return inst, "", fmt.Errorf("%s belongs to user %s, PostgreSQL would run as user %s: run this as before, or remove the data with --reset",
			h.path(dataName), userName(uid), h.acct.name)
	}
	inst, err = h.matching(found)
	if err != nil {
		return inst, "", err
	}
	password, err := h.root.ReadFile(passwordName)
	if err != nil {
		return inst, "", fmt.Errorf("read the password of the data (remove them with --reset to start anew): %w", err)
	}
	// We hold the lock that every process of a server holds: none runs, and
	// the process that this file names by number is somebody else's by now.
	if err := h.root.Remove(filepath.Join(dataName, "postmaster.pid")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return inst, "", fmt.Errorf("remove a stale postmaster.pid: %w", err)
	}
	return inst, string(bytes.TrimSpace(password)), nil
}

// matching picks the programs of the major version that made the data.
func (h *home) matching(found []installation) (installation, error) {
	text, err := h.root.ReadFile(filepath.Join(dataName, "PG_VERSION"))
	if err != nil {
		return installation{}, fmt.Errorf("read the version of the data (remove them with --reset to start anew): %w", err)
	}
	version := strings.TrimSpace(string(text))
	var have []string
	for _, inst := range found {
		if strconv.Itoa(inst.major) == version {
			return inst, nil
		}
		have = append(have, fmt.Sprintf("%s in %s", inst.version, inst.dir))
	}
	return installation{}, fmt.Errorf("the data in %s were made by PostgreSQL %s, and found is %s: install PostgreSQL %s, or remove the data with --reset",
		h.path(dataName), version, strings.Join(have, ", "), version)
}

// initialize makes data under another name first: what an interrupted run left
// is never taken for whole.
func (h *home) initialize(ctx context.Context, inst installation, password string, ephemeral bool) error {
	for _, name := range []string{unfinished, passwordName} {
		if err := h.root.RemoveAll(name); err != nil {
			return fmt.Errorf("remove what an interrupted run left: %w", err)
		}
	}
	err := errors.Join(
		h.root.WriteFile(passwordName, []byte(password+"\n"), 0o600),
		h.root.Mkdir(unfinished, 0o700),
		h.acct.own(h.root.Lchown, passwordName), // initdb reads it
		h.acct.own(h.root.Lchown, unfinished),
	)
	if err != nil {
		return fmt.Errorf("make a folder for PostgreSQL's data: %w", err)
	}
	argv := []string{
		inst.bin("initdb"), "--pgdata", h.path(unfinished), "--username", owner, "--pwfile", h.path(passwordName),
		"--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-instructions",
	}
	if ephemeral {
		argv = append(argv, "--no-sync")
	}
	p, err := h.spawn(argv)
	if err != nil {
		return err
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		_ = p.end(ctx, "QUIT")
		return fmt.Errorf("wait for initdb: %w", context.Cause(ctx))
	}
	if p.err != nil {
		return p.failure("initdb ended")
	}
	if err := h.root.Rename(unfinished, dataName); err != nil {
		return fmt.Errorf("name PostgreSQL's data: %w", err)
	}
	return nil
}

// tail is the end of the log, blank lines left out.
func (h *home) tail() []string {
	text, err := os.ReadFile(h.path(logName))
	if err != nil {
		return nil
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-10):]
}

// letGo closes our hold on the folder. While a server runs, its processes keep
// the lock.
func (h *home) letGo() error {
	err := h.root.Close()
	if h.lock != nil {
		err = errors.Join(err, h.lock.Close())
	}
	return err
}

// close gives the folder up, a temporary one altogether.
func (h *home) close() error { return errors.Join(h.letGo(), h.remove()) }

func (h *home) remove() error {
	if !h.temporary {
		return nil
	}
	return os.RemoveAll(h.dir)
}

// Reset removes what a server kept in dir, or in the place it moved to for
// root, and dir itself if nothing else is in it. It fails while the server runs.
func Reset(ctx context.Context, dir string) error {
	acct, err := serverAccount()
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return fmt.Errorf("find the working folder: %w", err)
	}
	places := []string{dir}
	if acct.cred != nil {
		places = append(places, standIn(dir))
	}
	for _, place := range places {
		if err := reset(ctx, acct, place); err != nil {
			return fmt.Errorf("remove the data in %s: %w", place, err)
		}
	}
	return nil
}

func reset(ctx context.Context, acct account, dir string) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h := &home{acct: acct, dir: dir, root: root}
	if err := h.check(); err != nil && !errors.Is(err, errUnreachable) {
		return errors.Join(err, h.close())
	}
	if err := h.acquire(ctx); err != nil {
		return errors.Join(err, h.close())
	}
	var errs []error
	for _, name := range []string{dataName, unfinished, passwordName, logName, lockName} {
		errs = append(errs, root.RemoveAll(name))
	}
	errs = append(errs, h.close())
	if err := os.Remove(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EEXIST) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
