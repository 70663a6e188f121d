package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// proxy stands between one replica and PostgreSQL, and fails as networks do.
type proxy struct {
	listener net.Listener
	upstream string
	delay    atomic.Int64 // nanoseconds, of everything that passes
	deaf     atomic.Bool  // swallows the answers to COMMIT, and cuts the connection
	lost     atomic.Int64 // answers to COMMIT that were swallowed

	mu    sync.Mutex
	hole  chan struct{} // closed: what is sent passes
	links map[*link]struct{}
}

// link is one connection.
type link struct {
	*proxy
	client, server *net.TCPConn
}

func newProxy(upstream string) (*proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // at once
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: l, upstream: upstream, hole: make(chan struct{}), links: map[*link]struct{}{}}
	close(p.hole)
	go p.accept()
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

func (p *proxy) accept() {
	for {
		conn, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		go p.serve(conn.(*net.TCPConn))
	}
}

func (p *proxy) serve(client *net.TCPConn) {
	p.pass()
	conn, err := net.DialTimeout("tcp", p.upstream, 5*time.Second) //nolint:noctx // bounded
	if err != nil {
		reset(client)
		return
	}
	l := &link{p, client, conn.(*net.TCPConn)}
	p.mu.Lock()
	p.links[l] = struct{}{}
	p.mu.Unlock()
	go l.copy(l.server, l.client, nil)
	l.copy(l.client, l.server, &sniffer{})
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// pass waits while everything is swallowed.
func (p *proxy) pass() {
	p.mu.Lock()
	hole := p.hole
	p.mu.Unlock()
	<-hole
}

// copy moves bytes until either side ends.
func (l *link) copy(to, from *net.TCPConn, sniff *sniffer) {
	defer l.end()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if delay := l.delay.Load(); delay > 0 && n > 0 {
			time.Sleep(time.Duration(delay))
		}
		l.pass()
		if sniff != nil && sniff.committed(buffer[:n]) && l.deaf.Load() {
			l.lost.Add(1)
			return
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// end closes both sides; the other copy ends with it.
func (l *link) end() {
	_ = l.client.Close()
	_ = l.server.Close()
}

// swallow lets nothing pass, without a word, until the returned func is called.
func (p *proxy) swallow() (stop func()) {
	hole := make(chan struct{})
	p.mu.Lock()
	p.hole = hole
	p.mu.Unlock()
	return func() { close(hole) }
}

// cut ends all connections, in order or by a reset.
func (p *proxy) cut(hard bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		if hard {
			reset(l.client)
			reset(l.server)
		} else {
			l.end()
		}
	}
}

func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // close sends RST
	_ = conn.Close()
}

func (p *proxy) close() error {
	err := p.listener.Close()
	p.cut(false)
	return err
}

// sniffer follows PostgreSQL's messages to a client: a byte that names the
// kind, four of the length, which counts itself, and the rest
// (postgresql.org/docs/current/protocol-message-formats.html).
type sniffer struct {
	head []byte
	left int
	tag  []byte // of a CommandComplete
}

// committed reports whether these bytes end the answer to a COMMIT.
func (s *sniffer) committed(b []byte) (found bool) {
	for r := bytes.NewReader(b); r.Len() > 0; {
		if s.left == 0 {
			c, _ := r.ReadByte()
			if s.head = append(s.head, c); len(s.head) < 5 {
				continue
			}
			s.left = int(binary.BigEndian.Uint32(s.head[1:])) - 4
			s.tag = s.tag[:0]
		} else {
			n := min(s.left, r.Len())
			if s.head[0] == 'C' {
				rest := make([]byte, n)
				_, _ = io.ReadFull(r, rest) // there are as many
				s.tag = append(s.tag, rest...)
			} else {
				_, _ = r.Seek(int64(n), io.SeekCurrent)
			}
			s.left -= n
		}
		if s.left == 0 && len(s.head) == 5 {
			found = found || s.head[0] == 'C' && string(s.tag) == "COMMIT\x00"
			s.head = s.head[:0]
		}
	}
	return found
}
