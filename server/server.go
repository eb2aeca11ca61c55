// Package server runs Postern: it reads the configuration, assembles the parts,
// listens, and swaps in what changes while it runs.
//
// Two things are in force at any time, each behind one atomic pointer: the parts
// (with the Checker that every request loads once) and the TLS material. A change
// of the configuration, the keys file, the policy or a certificate is built and
// checked aside and swapped whole; if it is wrong, what was in force stays, and
// the log and /readyz say why. What a listener is bound to does not change before
// a restart.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/audit"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/check"
	"github.com/postern-auth/postern/server/door"
	"github.com/postern-auth/postern/server/door/extauthz"
	grpcdoor "github.com/postern-auth/postern/server/door/grpc"
	"github.com/postern-auth/postern/server/door/wellknown"
	"github.com/postern-auth/postern/server/store/table"
)

// Options are what a Server takes from whoever starts it.
type Options struct {
	// Load reads the configuration; it is called again for each reload.
	Load func() (*Config, error)
	// ConfigPath is the file to watch; empty for none.
	ConfigPath string
	// Logger takes the server's log; discarded if nil.
	Logger *slog.Logger
	// OnReady, if set, is called once when all listeners take connections.
	OnReady func(Addresses)
}

// Addresses are where a Server listens.
type Addresses struct {
	GRPC, Admin, HTTP, Gateway net.Addr // all but GRPC are nil if they are off
}

// Server is one replica.
type Server struct {
	opts      Options
	boot      *Config // that the listeners were made from
	log       *slog.Logger
	now       func() time.Time
	live      check.Live
	callers   callers
	checks    underWay // questions of gateways and services
	people    underWay // requests to listen.http, where strangers come
	operate   underWay // requests to listen.admin
	streams   underWay // subscriptions of gRPC
	strangers strangers
	crowded   atomic.Uint64 // connections of addresses that had too many
	certs     *certificates
	registry  *prometheus.Registry
	ring      *audit.Ring
	decLog    *audit.Log
	events    *eventLog    // nil: there are none
	lines     *audit.Async // under log
	plane     *plane       // nil: there is no store
	charges   charges      // by budget, for metrics
	env       surroundings
	health    *health.Server
	config    lastLoad // of the configuration

	mu       sync.Mutex    // orders reloads
	reloaded chan struct{} // tells watch of a reload
	current  atomic.Pointer[parts]
	draining atomic.Bool
	ending   context.Context // ends when draining begins
	end      context.CancelFunc
}

// New reads the configuration and assembles a Server. It listens nowhere yet.
func New(ctx context.Context, opts Options) (_ *Server, err error) {
	cfg, err := opts.Load()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opts: opts, boot: cfg, log: opts.Logger, now: time.Now, registry: prometheus.NewRegistry(),
		ring: audit.NewRing(cfg.Decisions.Keep), health: health.NewServer(), reloaded: make(chan struct{}, 1),
	}
	s.ending, s.end = context.WithCancel(context.Background())
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.lines = audit.NewAsync(s.log.Handler())
	s.log = slog.New(s.lines)
	s.strangers.log, s.strangers.now = s.log, s.now
	s.operate.most.Store(maxOperators)
	s.streams.most.Store(int64(cfg.Limits.Connections))
	recorders := audit.Tee{audit.NewMetrics(s.registry), s.ring}
	if cfg.Decisions.Log != LogNone {
		s.decLog = audit.NewLog(s.log, cfg.Decisions.Log == LogAll)
		recorders = append(recorders, s.decLog)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if cfg.Decisions.Events != nil {
		if s.events, err = newEventLog(cfg.Decisions.Events, s.policyInForce, s.log, s.now); err != nil {
			return nil, err
		}
		recorders = append(recorders, s.events)
	}
	if s.plane, err = newPlane(ctx, cfg, table.Options{Now: s.now, Alone: true}, s.log); err != nil {
		return nil, err
	}
	if s.plane != nil {
		recorders = append(recorders, s.plane, &s.charges)
	}
	s.env = surroundings{plane: s.plane, spender: s.plane.spender(), recorder: recorders, log: s.log, now: s.now, effort: authn.NewEffort(s.now)}
	if cfg.TLS != nil {
		if s.certs, err = newCertificates(*cfg.TLS); err != nil {
			return nil, err
		}
	}
	if err := s.Swap(ctx, cfg); err != nil {
		return nil, err
	}
	s.registerMetrics()
	return s, nil
}

// Swap assembles a configuration and puts it in force, whole or not at all. The
// listeners stay where they are, so the callers in it must guard them there.
func (s *Server) Swap(ctx context.Context, cfg *Config) error {
	prev := s.current.Load()
	if prev != nil {
		if err := cfg.guards(s.boot.Listen, s.boot.TLS); err != nil {
			return fmt.Errorf("until a restart the listeners stay where they are: %w", err)
		}
	}
	next, err := assemble(ctx, cfg, prev, s.env)
	if err != nil {
		return err
	}
	if prev != nil && s.plane != nil {
		if err := s.plane.budgets.Swap(cfg.Budgeting); err != nil {
			next.closeUnlessIn(prev)
			return fmt.Errorf("budgets: %w", err)
		}
	}
	s.callers.set(cfg.Callers)
	s.checks.most.Store(int64(cfg.Limits.Requests))
	s.people.most.Store(int64(cfg.Limits.Requests))
	s.charges.set(&cfg.Budgeting)
	s.live.Swap(next.checker)
	s.plane.sign(next.signer)
	next.policy.run()
	next.shadow.run()
	s.current.Store(next)
	if prev != nil {
		prev.closeUnlessIn(next)
	}
	s.log.Info("configuration in force", "policy", next.policy.Revision(), "api_keys", next.keys.Status().Keys, "issuers", len(next.sources))
	return nil
}

// Close ends what New started. Call it when Run has returned, or instead of it.
func (s *Server) Close() error {
	s.end()
	if p := s.current.Load(); p != nil {
		p.closeUnlessIn(nil)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.plane.close()
	if s.events != nil {
		err = errors.Join(err, s.events.Close(ctx))
	}
	if s.decLog != nil {
		err = errors.Join(err, s.decLog.Close(ctx))
	}
	return errors.Join(err, s.lines.Close(ctx))
}

// Run listens and serves until ctx ends, then drains and returns.
func (s *Server) Run(ctx context.Context) error {
	cfg := s.current.Load().cfg
	on, err := s.listenAll(ctx, cfg)
	if err != nil {
		return err
	}
	defer on.close()
	rpc := s.rpcServer(cfg)
	pages, err := s.pages(ctx, cfg)
	if err != nil {
		return err
	}
	failed := make(chan error, 4)
	serve := func(l net.Listener, serve func(net.Listener) error) {
		if l != nil {
			go func() { failed <- serve(l) }()
		}
	}
	serve(on.grpc, rpc.Serve)
	serve(on.admin, pages.admin.Serve)
	serve(on.http, pages.login.Serve)
	serve(on.gateway, pages.gateway.Serve)
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var all sync.WaitGroup
	all.Go(func() { s.watch(background) })
	if s.plane != nil {
		all.Go(func() { s.plane.run(background) }) // until the last request is answered
	}
	defer all.Wait()
	defer stop()
	if s.opts.OnReady != nil {
		s.opts.OnReady(on.addresses())
	}
	select {
	case <-ctx.Done():
		s.drain(rpc, pages, cfg.Shutdown.Drain)
		return nil
	case err := <-failed:
		rpc.Stop()
		pages.close()
		return err
	}
}

// drain lets requests under way finish: first the world is told, then new
// connections are refused, and after the time is over what is left is cut.
func (s *Server) drain(rpc *grpc.Server, pages pages, limit time.Duration) {
	s.log.Info("draining", "for", limit.String())
	s.draining.Store(true)
	s.health.Shutdown()
	s.end()
	done := make(chan struct{})
	ctx, cut := context.WithTimeout(context.Background(), limit)
	defer cut()
	go func() {
		var both sync.WaitGroup
		both.Go(func() { _ = pages.gateway.Shutdown(ctx) })
		both.Go(rpc.GracefulStop)
		both.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(limit):
		s.log.Warn("requests were still under way when the time to drain was over")
		rpc.Stop()
	}
	pages.close()
}

// rpcServer is the data plane: both doors, health, and reflection if wanted.
func (s *Server) rpcServer(cfg *Config) *grpc.Server {
	to := s.entrance(nil)
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(int(cfg.Limits.MessageSize)),
		grpc.MaxConcurrentStreams(cfg.Limits.Streams),
		grpc.MaxHeaderListSize(uint32(cfg.Limits.HeaderList)),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: time.Minute, Timeout: 20 * time.Second,
			MaxConnectionIdle: 5 * time.Minute,
			MaxConnectionAge:  30 * time.Minute, MaxConnectionAgeGrace: 30 * time.Second, // certificates are looked at again
		}),
		grpc.InTapHandle(to.arrive(receiveTimeout + cfg.Limits.Deadline)),
		grpc.ChainStreamInterceptor(recovery.StreamServerInterceptor(s.recovered()), to.stream(&s.streams), s.untilDrain),
		grpc.WaitForHandlers(true),
	}
	if s.certs != nil {
		opts = append(opts, grpc.Creds(greetedTLS{credentials.NewTLS(s.certs.config()), &s.strangers}))
	}
	rpc := grpc.NewServer(opts...)
	to.to = rpc
	extauthz.New(&s.live, extauthz.Config{
		OnFault:       cfg.OnFault,
		StatusProfile: cfg.StatusProfile,
		KeyHeaders:    keyHeaders(cfg.Credentials),
	}, s.log).Register(to)
	grpcdoor.New(&s.live, &s.live, s.log).Register(to)
	grpcdoor.NewUsage(s.settler, s.believesCost, s.log).Register(to)
	healthpb.RegisterHealthServer(rpc, s.health)
	if cfg.Reflection {
		reflection.Register(rpc)
	}
	return rpc
}

// untilDrain ends streams when draining begins. They are subscriptions to health,
// and would last until the time to drain is over.
func (s *Server) untilDrain(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ending, cancel)()
	return next(srv, endingStream{stream, ctx})
}

type endingStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s endingStream) Context() context.Context { return s.ctx }

// entrance is what stands before the doors.
func (s *Server) entrance(to grpc.ServiceRegistrar) entrance {
	return entrance{to: to, callers: &s.callers, underWay: &s.checks, methods: map[string]bool{}, log: s.log}
}

// handshakeTimeout is how long a connection may take for TLS and the beginning of HTTP.
const handshakeTimeout = 5 * time.Second

// recovered answers a panic outside of the doors, which have guards of their own
// and deny: without its text, which may hold anything.
func (s *Server) recovered() recovery.Option {
	return recovery.WithRecoveryHandlerContext(func(ctx context.Context, thrown any) error {
		door.Recovered(ctx, s.log, "grpc", thrown)
		return status.Error(codes.Internal, "internal error")
	})
}

// pages are the servers of HTTP: the admin listener's, that of people's logins, and that
// of gateways.
type pages struct{ admin, login, gateway *http.Server }

func (p pages) close() {
	_ = p.admin.Close()
	_ = p.login.Close()
	_ = p.gateway.Close()
}

func (s *Server) pages(ctx context.Context, cfg *Config) (p pages, err error) {
	p.login = s.httpServer(cfg, http.NotFoundHandler())
	p.gateway = s.httpServer(cfg, s.gatewayHandler(cfg))
	if cfg.Listen.HTTP.Network() != "" {
		if p.login.Handler, err = s.publicHandler(cfg); err != nil {
			return p, err
		}
		p.login.Handler = s.people.atMost(p.login.Handler)
	}
	p.admin, err = s.adminServer(ctx, cfg)
	return p, err
}

// publicHandler serves what people and upstreams ask Postern for itself: logins, and
// the keys that verify its tokens.
func (s *Server) publicHandler(cfg *Config) (http.Handler, error) {
	mux := http.NewServeMux()
	mux.Handle(wellknown.KeySetPath, wellknown.KeySet(func() []byte {
		if signs := s.current.Load().signer; signs != nil {
			return signs.KeySet()
		}
		return nil
	}))
	if !cfg.servesLogin() {
		return mux, nil
	}
	people, err := s.loginHandler(cfg)
	if err != nil {
		return nil, err
	}
	mux.Handle("/", people)
	return mux, nil
}

// adminServer is the control plane, HTTP and gRPC on one listener.
func (s *Server) adminServer(ctx context.Context, cfg *Config) (*http.Server, error) {
	serves := admin.Config{
		Conditions: s.conditions,
		Metrics:    promhttp.HandlerFor(s.registry, promhttp.HandlerOpts{EnableOpenMetrics: true}),
		Decisions:  &admin.Decisions{Ring: s.ring, Shadow: s.shadowStats, Ending: s.ending.Done()},
		Register: func(rpc *grpc.Server) {
			if cfg.Reflection {
				reflection.Register(rpc)
			}
		},
	}
	if err := s.adminAPI(ctx, &serves, cfg); err != nil {
		return nil, err
	}
	s.forBrowsers(&serves, cfg)
	handler := admin.Handler(serves, grpc.UnaryInterceptor(recovery.UnaryServerInterceptor(s.recovered())), grpc.StreamInterceptor(recovery.StreamServerInterceptor(s.recovered())))
	if cfg.Listen.Admin.Local() {
		handler = thisMachineOnly(handler, cfg.AdminAPI.Hosts)
	} else {
		handler = s.callers.http(handler)
	}
	return s.httpServer(cfg, probed(handler, s.operate.atMost(handler))), nil
}

// probed answers probes whatever else is under way: a replica is not restarted for being
// busy. They are told from streams, of which one connection could hold many.
func probed(probes, others http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && (r.URL.Path == "/healthz" || r.URL.Path == "/readyz") {
			probes.ServeHTTP(w, r)
			return
		}
		others.ServeHTTP(w, r)
	})
}

func (s *Server) httpServer(cfg *Config, handler http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler: handler, Protocols: protocols, ReadHeaderTimeout: handshakeTimeout, ReadTimeout: 30 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: int(cfg.Limits.HeaderList), ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: min(int(cfg.Limits.Streams), maxPageStreams), MaxReadFrameSize: 16 << 10,
			SendPingTimeout: time.Minute, PingTimeout: stall, WriteByteTimeout: stall,
		},
	}
}

const (
	// maxPageStreams is how many requests a connection of HTTP may have under way.
	maxPageStreams = 100
	// maxOperators is how many requests the admin listener answers at once, all
	// connections together.
	maxOperators = 1_000
)

// Offline assembles a configuration for decisions in this process. Nothing is
// listened on or recorded.
func Offline(ctx context.Context, cfg *Config) (*check.Checker, func(), error) {
	quiet := surroundings{log: slog.New(slog.DiscardHandler), now: time.Now, spender: free{}, offline: true}
	var err error
	if quiet.plane, err = newPlane(ctx, cfg, table.Options{Now: quiet.now}, quiet.log); err != nil {
		return nil, nil, err
	}
	enforced := *cfg
	enforced.Policy.Shadow, enforced.Rates = nil, nil // decisions here compare and count nothing
	p, err := assemble(ctx, &enforced, nil, quiet)
	if err != nil {
		return nil, nil, errors.Join(err, quiet.plane.close())
	}
	if p.policy.bundles != nil {
		if err := p.policy.bundles.Poll(ctx); err != nil && p.policy.Snapshot() == nil {
			p.closeUnlessIn(nil)
			return nil, nil, errors.Join(err, quiet.plane.close())
		}
		p.policy.look()
	}
	following, end := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	if quiet.plane != nil { // or it would be blind after a second
		ended.Go(func() {
			every(following, 250*time.Millisecond, func() { _ = quiet.plane.mirror.Poll(following) })
		})
	}
	return p.checker, func() {
		end()
		ended.Wait()
		p.closeUnlessIn(nil)
		_ = quiet.plane.close()
	}, nil
}
