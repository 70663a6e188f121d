package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc, on every Linux.
const tick = 10 * time.Millisecond

// stat is what /proc says of a process.
type stat struct {
	pid, parent int
	used        time.Duration // user and system, and those of its children that have ended
}

// cpu is the CPU time that a process and its descendants have used, those that
// have ended included. It is false where there is no /proc.
func cpu(pid int) (used time.Duration, ok bool) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(files) == 0 {
		return 0, false
	}
	children := map[int][]stat{}
	for _, file := range files {
		if s, err := readStat(file); err == nil { // others end while we look
			children[s.parent] = append(children[s.parent], s)
			if s.pid == pid {
				used, ok = s.used, true
			}
		}
	}
	var add func(parent int)
	add = func(parent int) {
		for _, child := range children[parent] {
			used += child.used
			add(child.pid)
		}
	}
	add(pid)
	return used, ok
}

var errStat = errors.New("not of the form of /proc/PID/stat")

// readStat reads a process (man 5 proc): its name is in parentheses and may hold
// any sign.
func readStat(file string) (s stat, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return stat{}, err
	}
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 15 {
		return stat{}, errStat
	}
	var errs []error
	number := func(text string) int {
		n, err := strconv.Atoi(text)
		errs = append(errs, err)
		return n
	}
	s.pid, s.parent = number(filepath.Base(filepath.Dir(file))), number(fields[1])
	for _, ticks := range fields[11:15] { // utime, stime, cutime, cstime
		s.used += time.Duration(number(ticks)) * tick
	}
	return s, errors.Join(errs...)
}

// resident is the memory of a process in bytes, 0 where there is no /proc.
func resident(pid int) int64 {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "statm")) //nolint:gosec // of /proc
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

// memory is that of the machine in bytes, 0 if it is not known.
func memory() int64 {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "MemTotal:" {
			n, _ := strconv.ParseInt(fields[1], 10, 64) // KiB
			return n << 10
		}
	}
	return 0
}
