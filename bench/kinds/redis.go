package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// sessions is a Redis in which an application keeps its sessions.
type sessions struct {
	what   string // for the table
	socket string
	put    func(ctx context.Context, values map[string]string) error
	close  func()
}

func (s *sessions) url() string { return "unix://" + s.socket }

// newSessions starts redis-server or valkey-server on a socket, or what stands in for
// them.
func newSessions(ctx context.Context, dir, socket string) (*sessions, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if program, err := exec.LookPath(name); err == nil {
			return startRedis(ctx, name, program, dir, socket)
		}
	}
	return fakeRedis(socket)
}

func startRedis(ctx context.Context, name, program, dir, socket string) (*sessions, error) {
	server := exec.CommandContext(ctx, program, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	if err := server.Start(); err != nil {
		return nil, err
	}
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket})
	s := &sessions{what: name, socket: socket}
	s.close = func() {
		_ = client.Close()
		_ = server.Process.Kill()
		_ = server.Wait()
	}
	s.put = func(ctx context.Context, values map[string]string) error {
		pipe := client.Pipeline()
		for key, value := range values {
			pipe.Set(ctx, key, value, time.Hour)
		}
		_, err := pipe.Exec(ctx)
		return err
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := client.Ping(ctx).Err()
		if err == nil {
			return s, nil
		}
		if time.Now().After(deadline) {
			s.close()
			return nil, fmt.Errorf("%s does not answer: %w", name, err)
		}
	}
}

// fakeRedis answers the two commands that sessions are read with, as Redis does.
func fakeRedis(socket string) (*sessions, error) {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	all := map[string]string{}
	s := &sessions{what: "a fake of Redis", socket: socket, close: func() { _ = l.Close() }}
	s.put = func(_ context.Context, values map[string]string) error {
		mu.Lock()
		defer mu.Unlock()
		for key, value := range values {
			all[key] = value
		}
		return nil
	}
	get := func(key string) (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		value, found := all[key]
		return value, found
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go speak(c, get)
		}
	}()
	return s, nil
}

// speak serves a connection until it ends.
func speak(c net.Conn, get func(string) (string, bool)) {
	defer c.Close()
	for r := bufio.NewReader(c); ; {
		command, err := readCommand(r)
		if err != nil {
			return
		}
		if _, err := io.WriteString(c, reply(command, get)); err != nil {
			return
		}
	}
}

func reply(command []string, get func(string) (string, bool)) string {
	name := strings.ToLower(command[0])
	switch {
	case name == "pttl" && len(command) == 2:
		if _, found := get(command[1]); found {
			return ":3600000\r\n"
		}
		return ":-2\r\n"
	case name == "getrange" && len(command) == 4:
		value, _ := get(command[1])
		return fmt.Sprintf("$%d\r\n%s\r\n", len(value), value) // the records here are small
	case name == "hello":
		return "*2\r\n$5\r\nproto\r\n:2\r\n"
	}
	return "-ERR unknown command\r\n"
}

// readCommand reads an array of bulk strings, as clients send commands.
func readCommand(r *bufio.Reader) ([]string, error) {
	n, err := readNumber(r, '*')
	if err != nil || n < 1 || n > 16 {
		return nil, errors.Join(err, errors.New("no command"))
	}
	command := make([]string, n)
	for i := range command {
		length, err := readNumber(r, '$')
		if err != nil || length < 0 || length > 1<<20 {
			return nil, errors.Join(err, errors.New("no argument"))
		}
		text := make([]byte, length+2)
		if _, err := io.ReadFull(r, text); err != nil {
			return nil, err
		}
		command[i] = string(text[:length])
	}
	return command, nil
}

func readNumber(r *bufio.Reader, sort byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil || line[0] != sort {
		return 0, errors.Join(err, errors.New("no number"))
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
