package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// disk is where PostgreSQL keeps its data, which can be full. Root gets a file
// system in memory that is made as small as what is in it. Others get a limit
// on the length of files, which PostgreSQL meets as another error of writing.
type disk struct {
	dir, how string
	size     int64
	mounted  bool
}

func newDisk(dir string, size int64) *disk {
	d := &disk{dir: dir, size: size, how: "a limit of file lengths (no tmpfs could be mounted)"}
	if err := os.Mkdir(dir, 0o755); err != nil {
		d.how = "nothing: " + err.Error()
		return d
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=755,size="+strconv.FormatInt(size, 10)); err == nil {
		d.mounted, d.how = true, "a small tmpfs"
	}
	return d
}

func (d *disk) fill(db *database) error {
	if !d.mounted {
		return d.limit(db, 0)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &st); err != nil {
		return fmt.Errorf("look at the disk: %w", err)
	}
	used := int64(st.Blocks-st.Bfree) * st.Bsize
	return d.resize(used + 64<<10)
}

func (d *disk) free(db *database) error {
	if !d.mounted {
		return d.limit(db, ^uint64(0))
	}
	return d.resize(d.size)
}

func (d *disk) resize(size int64) error {
	for { // it may have grown meanwhile
		err := syscall.Mount("tmpfs", d.dir, "tmpfs", syscall.MS_REMOUNT, "mode=755,size="+strconv.FormatInt(size, 10))
		if !errors.Is(err, syscall.EINVAL) || size >= d.size {
			return err
		}
		size += 256 << 10
	}
}

// limit bounds the length of files that the server's processes, and those
// which they make, may write.
func (d *disk) limit(db *database, length uint64) error {
	text, err := os.ReadFile(filepath.Join(db.now().Dir(), "data", "postmaster.pid")) //nolint:gosec // our own server's
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has ended, and the next one has no limit
	}
	if err != nil {
		return err
	}
	line, _, _ := strings.Cut(string(text), "\n")
	children, err := os.ReadFile("/proc/" + line + "/task/" + line + "/children") //nolint:gosec // likewise
	if err != nil {
		return nil //nolint:nilerr // likewise
	}
	for _, pid := range append(strings.Fields(string(children)), line) {
		n, err := strconv.Atoi(pid)
		if err != nil {
			return err
		}
		soft := struct{ now, most uint64 }{length, ^uint64(0)}
		_, _, errno := syscall.RawSyscall6(syscall.SYS_PRLIMIT64, uintptr(n), 1 /* RLIMIT_FSIZE */, uintptr(unsafe.Pointer(&soft)), 0, 0, 0) //nolint:gosec // as the call wants it
		if errno != 0 && errno != syscall.ESRCH {
			return fmt.Errorf("limit the files of process %d: %w", n, errno)
		}
	}
	return nil
}

func (d *disk) close() error {
	if !d.mounted {
		return nil
	}
	return syscall.Unmount(d.dir, syscall.MNT_DETACH)
}
