package main

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"time"
)

// notify tells the service manager that started the process what it does, by datagrams
// to the socket that NOTIFY_SOCKET names (sd_notify of systemd). Without one, and with
// whoever does not listen, nothing happens.
type notify struct {
	socket   string
	watchdog time.Duration // 0: nobody watches
	log      *slog.Logger
}

// newNotify reads what the manager left in the environment and takes it away, so that
// nothing that Postern might start speaks in its name.
func newNotify(log *slog.Logger) *notify {
	n := &notify{socket: os.Getenv("NOTIFY_SOCKET"), log: log}
	micros, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	pid := os.Getenv("WATCHDOG_PID")
	if err == nil && 0 < micros && micros < int64(24*time.Hour/time.Microsecond) && (pid == "" || pid == strconv.Itoa(os.Getpid())) {
		n.watchdog = time.Duration(micros) * time.Microsecond
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		_ = os.Unsetenv(name)
	}
	return n
}

// ready says that the service has started, when ctx ends that it stops, and, until the
// returned function is called, twice in the watchdog's time that the process is alive.
func (n *notify) ready(ctx context.Context) (end func()) {
	if n.socket == "" {
		return func() {}
	}
	n.say("READY=1\nSTATUS=Answering")
	stopping := context.AfterFunc(ctx, func() { n.say("STOPPING=1\nSTATUS=Finishing what is under way") })
	over := make(chan struct{})
	if n.watchdog > 0 {
		go n.beat(over)
	}
	return func() { stopping(); close(over) }
}

func (n *notify) beat(over <-chan struct{}) {
	ticker := time.NewTicker(n.watchdog / 2)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			n.say("WATCHDOG=1")
		case <-over:
			return
		}
	}
}

func (n *notify) say(state string) {
	name := n.socket
	if name[0] == '@' { // Linux: a socket without a file
		name = "\x00" + name[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: name, Net: "unixgram"})
	if err == nil {
		_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
		_, err = conn.Write([]byte(state))
		_ = conn.Close()
	}
	if err != nil {
		n.log.Warn("the service manager does not hear", "error", err.Error())
	}
}
