package pgdev

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// account is who the server runs as.
type account struct {
	name string
	uid  int
	gid  int
	cred *syscall.Credential // nil: the same user as this process
}

func serverAccount() (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{name: userName(uid), uid: uid, gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
		gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
		if err1 != nil || err2 != nil || uid == 0 {
			continue
		}
		cred := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		return account{name: name, uid: int(uid), gid: int(gid), cred: cred}, nil
	}
	return account{}, errors.New("PostgreSQL refuses to run as root, and there is no user postgres or nobody to run it as: " +
		"run this as an ordinary user, or make such a user")
}

// command is a program run as the account, with nothing of our environment
// that could change what it does or hold a secret.
func (a account) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // runs what was found, and the server outlives the start's context
	cmd.Dir = "/"
	cmd.Env = []string{"LC_ALL=C", "PATH=" + inherited("PATH"), "LD_LIBRARY_PATH=" + inherited("LD_LIBRARY_PATH")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: a.cred}
	return cmd
}

// inherited is a variable that says where programs and libraries are.
func inherited(name string) string {
	return os.Getenv(name) //nolint:forbidigo // the system's settings, not webhookd's
}

// own gives a file to the account, by os.Lchown or a root's.
func (a account) own(lchown func(string, int, int) error, name string) error {
	if a.cred == nil {
		return nil
	}
	return lchown(name, a.uid, a.gid)
}

// reaches tells whether the account can enter a folder. Only trying tells:
// parents, access lists and mounts all have a say.
func (a account) reaches(dir string) bool {
	return a.command("/bin/sh", "-c", `cd "$1"`, "sh", dir).Run() == nil
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return fmt.Sprintf("with id %d", uid)
}
