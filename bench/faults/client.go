package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/proto"

	"github.com/postern-auth/postern/bench/rig"
)

// client asks several servers in turns as a good gateway does: it honours GOAWAY, which
// is grpc-go's business; what a server does not answer in time it asks another one, if
// there is one; and it leaves one alone for a while that did not answer.
type client struct {
	conns   []*grpc.ClientConn
	shunned []atomic.Int64 // until when, Unix nanoseconds
	next    atomic.Int64
	retried atomic.Int64
	// patience is how long one server may take.
	patience time.Duration
}

// shun is how long a server is left alone that has not answered.
const shun = 500 * time.Millisecond

func dial(address string) (*grpc.ClientConn, error) {
	quick := backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond}
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: quick, MinConnectTimeout: time.Second}))
}

// newClient connects to each of some addresses.
func newClient(patience time.Duration, addresses ...string) (*client, error) {
	c := &client{patience: patience, shunned: make([]atomic.Int64, len(addresses))}
	for _, a := range addresses {
		conn, err := dial(a)
		if err != nil {
			c.close()
			return nil, err
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

func (c *client) close() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

// rounds is how often all servers are asked before the client gives up, and pause what it
// waits between two rounds.
const (
	rounds = 3
	pause  = 50 * time.Millisecond
)

// ask returns the answer as it came. A server that does not answer is asked once a round;
// where there is only one, it is asked once.
func (c *client) ask(ctx context.Context, request []byte) (answer []byte, err error) {
	if len(c.conns) == 1 {
		err = c.once(ctx, 0, request, &answer)
		return answer, err
	}
	first := int(c.next.Add(1))
	for range rounds {
		for _, i := range c.order(first) {
			if err = c.once(ctx, i, request, &answer); err == nil || ctx.Err() != nil {
				return answer, err
			}
			c.shunned[i].Store(time.Now().Add(shun).UnixNano())
			c.retried.Add(1)
		}
		time.Sleep(pause)
	}
	return nil, err
}

// order is the one in which servers are asked: the n-th first, and last those that are
// shunned.
func (c *client) order(n int) (all []int) {
	now := time.Now().UnixNano()
	var last []int
	for i := range c.conns {
		at := (n + i) % len(c.conns)
		if c.shunned[at].Load() <= now {
			all = append(all, at)
		} else {
			last = append(last, at)
		}
	}
	return append(all, last...)
}

func (c *client) once(ctx context.Context, i int, request []byte, answer *[]byte) error {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	return rig.Call(ctx, c.conns[i], request, answer)
}

// load is honest load: an open loop of questions in turns.
type load struct {
	ask       func(context.Context, []byte) ([]byte, error)
	questions []*question
	rate      int
	tally     *tally
	// gate, if set, is closed by who must not have questions under way.
	gate *sync.RWMutex
	// most is how many questions may be under way; more count as failed at once, as
	// with a gateway's own limit. It keeps this process alive.
	most int
}

var errTooMany = errors.New("the client has too many questions under way")

// run asks until ctx ends, and returns when all is answered.
func (l *load) run(ctx context.Context) {
	var all sync.WaitGroup
	most := l.most
	if most == 0 {
		most = 4096
	}
	room := make(chan struct{}, most)
	rig.Pace{Rate: l.rate}.Each(ctx, func(n int, _ time.Time) {
		q := l.questions[n%len(l.questions)]
		if l.gate != nil {
			l.gate.RLock()
		}
		open := func() {
			if l.gate != nil {
				l.gate.RUnlock()
			}
		}
		select {
		case room <- struct{}{}:
		default:
			l.tally.note(q, failed, time.Now(), errTooMany)
			open()
			return
		}
		all.Go(func() {
			defer func() { open(); <-room }()
			l.one(context.WithoutCancel(ctx), q)
		})
	})
	all.Wait()
}

// one asks one question and counts the answer.
func (l *load) one(ctx context.Context, q *question) outcome {
	asked, sent := q.right(), time.Now()
	answer, err := l.ask(ctx, q.raw)
	allowed := err == nil && rig.IsAllow(answer)
	o := judge(asked, q.right(), allowed, err)
	if o == failed && err == nil {
		err = whyNot(answer)
	}
	l.tally.note(q, o, sent, err)
	return o
}

// whyNot is the reason of a deny.
func whyNot(answer []byte) error {
	var res authv3.CheckResponse
	if err := proto.Unmarshal(answer, &res); err != nil {
		return err
	}
	reason := rig.Reason(&res)
	if reason == errBusy.Error() {
		return errBusy
	}
	return fmt.Errorf("denied: %s", reason)
}
