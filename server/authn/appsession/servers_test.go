package appsession_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-auth/postern/server/authn/appsession/redistest"
)

// database is where an application keeps its sessions: a real Redis, or a fake one.
type database struct {
	url string
	// text and hash put a session under a key, for a time; 0 for ever.
	text func(key, value string, ttl time.Duration)
	hash func(key string, fields map[string]string, ttl time.Duration)
	drop func(key string)
}

// databases runs a test with each.
func databases(t *testing.T, test func(t *testing.T, db database)) {
	t.Run("fake", func(t *testing.T) {
		t.Parallel()
		f := newFake(t)
		test(t, database{
			url:  f.url,
			text: func(key, value string, ttl time.Duration) { f.put(key, entry{text: value, ttl: ttl}) },
			hash: func(key string, fields map[string]string, ttl time.Duration) {
				f.put(key, entry{fields: fields, ttl: ttl})
			},
			drop: func(key string) { f.put(key, entry{}) },
		})
	})
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		client := redistest.Start(t)
		ctx := t.Context()
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		test(t, database{
			url:  client.URL,
			text: func(key, value string, ttl time.Duration) { check(client.Set(ctx, key, value, ttl).Err()) },
			hash: func(key string, fields map[string]string, ttl time.Duration) {
				check(client.Del(ctx, key).Err())
				check(client.HSet(ctx, key, fields).Err())
				if ttl > 0 {
					check(client.PExpire(ctx, key, ttl).Err())
				}
			},
			drop: func(key string) { check(client.Del(ctx, key).Err()) },
		})
	})
}

// fake is a Redis that knows four commands, and does with each what a test wants.
type fake struct {
	url string
	// password is what a client must bring.
	password string
	// answer may return a whole reply in place of the fake's own; "" for that. It is
	// set before the first connection.
	answer func(command []string, own string) string
	// hang makes it read and never answer.
	hang bool

	mu       sync.Mutex
	keys     map[string]entry
	commands [][]string
}

type entry struct {
	text   string
	fields map[string]string
	ttl    time.Duration
}

func newFake(t *testing.T) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveFake(t, l)
}

func serveFake(t *testing.T, l net.Listener) *fake {
	t.Helper()
	f := &fake{url: "redis://" + l.Addr().String() + "/0", password: "hunter2", keys: map[string]entry{}}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			all.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return f
}

func (f *fake) put(key string, e entry) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.keys[key] = e; e.text == "" && e.fields == nil {
		delete(f.keys, key)
	}
}

// asked returns the commands so far, without those that begin a connection.
func (f *fake) asked() [][]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.commands
}

func (f *fake) serve(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		command, err := readCommand(r)
		if err != nil {
			return
		}
		reply := f.reply(command)
		if f.answer != nil {
			if other := f.answer(command, reply); other != "" {
				reply = other
			}
		}
		if f.hang && command[0] != "hello" {
			_, _ = io.Copy(io.Discard, r)
			return
		}
		if _, err := io.WriteString(c, reply); err != nil || strings.HasSuffix(reply, cutOff) {
			return
		}
	}
}

// cutOff at the end of a reply ends the connection.
const cutOff = "\x00"

func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readNumber(r, '*')
	if err != nil {
		return nil, err
	}
	command := make([]string, n)
	for i := range command {
		length, err := readNumber(r, '$')
		if err != nil {
			return nil, err
		}
		text := make([]byte, length+2)
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, err
		}
		command[i] = string(text[:length])
	}
	command[0] = strings.ToLower(command[0])
	return command, nil
}

func readNumber(r *bufio.Reader, sort byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil || line[0] != sort {
		return 0, fmt.Errorf("%q, %w", line, err)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s\r\n", len(s), s) }

func (f *fake) reply(command []string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if command[0] == "hello" {
		if len(command) == 5 && command[4] == f.password {
			return "*2\r\n$5\r\nproto\r\n:2\r\n"
		}
		return "-WRONGPASS invalid username-password pair hunter3\r\n"
	}
	f.commands = append(f.commands, command)
	if len(command) < 2 {
		return "-ERR unknown command\r\n"
	}
	e, found := f.keys[command[1]]
	wrongType := "-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
	switch command[0] {
	case "pttl":
		switch {
		case !found:
			return ":-2\r\n"
		case e.ttl == 0:
			return ":-1\r\n"
		}
		return fmt.Sprintf(":%d\r\n", e.ttl.Milliseconds())
	case "getrange":
		if e.fields != nil {
			return wrongType
		}
		last, _ := strconv.Atoi(command[3])
		return bulk(e.text[:min(len(e.text), last+1)])
	case "hstrlen":
		if e.text != "" {
			return wrongType
		}
		return fmt.Sprintf(":%d\r\n", len(e.fields[command[2]]))
	case "hmget":
		var b strings.Builder
		fmt.Fprintf(&b, "*%d\r\n", len(command)-2)
		for _, name := range command[2:] {
			if v, ok := e.fields[name]; ok {
				b.WriteString(bulk(v))
			} else {
				b.WriteString("$-1\r\n")
			}
		}
		return b.String()
	}
	return "-ERR unknown command\r\n"
}
