package appsession

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/authn"
	"github.com/postern-auth/postern/server/regular"
)

var (
	errURL        = errors.New("is not the URL of a Redis")
	errParameters = errors.New("holds a user or parameters, which have fields of their own")
)

// quiet keeps the client from writing to standard error: what goes wrong is in the
// errors.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

var silence = sync.OnceFunc(func() { redis.SetLogger(quiet{}) })

// connect makes a client. It connects when it is first asked.
func connect(cfg *Config) (*redis.Client, error) {
	silence()
	if _, err := parseURL(cfg.URL); err != nil {
		return nil, err
	}
	o, err := redis.ParseURL(cfg.URL)
	if err != nil {
		return nil, errURL
	}
	o.Username, o.Password = cfg.Username, cfg.Password.Reveal()
	var secure *tls.Config
	if o.TLSConfig != nil {
		if secure, err = tlsOf(cfg, o.TLSConfig.ServerName); err != nil {
			return nil, err
		}
	}
	most := int(cfg.MaxSize) + 1
	o.Dialer = func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := dial(ctx, network, address, secure)
		if err != nil {
			return nil, err
		}
		return newGuard(c, most), nil
	}
	o.Protocol = 2 // no pushes
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = cfg.Timeout, cfg.Timeout, cfg.Timeout, cfg.Timeout
	o.ContextTimeoutEnabled = true
	o.PoolSize, o.MaxActiveConns, o.PipelinePoolSize = cfg.Connections, cfg.Connections, -1
	// One more try, at once, because a connection that was idle may be dead.
	o.MaxRetries, o.MinRetryBackoff, o.MaxRetryBackoff = 1, -1, -1
	o.DialerRetries = 1
	return redis.NewClient(o), nil
}

// maxCAFile is the size of the largest ca_file in bytes.
const maxCAFile = 1 << 20

func tlsOf(cfg *Config, server string) (*tls.Config, error) {
	t := &tls.Config{ServerName: server, MinVersion: tls.VersionTLS12}
	if cfg.CAFile == "" {
		return t, nil
	}
	pem, err := regular.ReadFile(cfg.CAFile.String(), maxCAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	t.RootCAs = x509.NewCertPool()
	if !t.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("ca_file: there is no certificate in it")
	}
	return t, nil
}

func dial(ctx context.Context, network, address string, secure *tls.Config) (net.Conn, error) {
	var d net.Dialer
	if secure == nil {
		return d.DialContext(ctx, network, address)
	}
	return (&tls.Dialer{NetDialer: &d, Config: secure}).DialContext(ctx, network, address)
}

// fetch reads a record, errUnknown if there is none. What is too large is not read.
func (a *Authenticator) fetch(ctx context.Context, key string) (*record, error) {
	if a.cfg.Format == Hash {
		return a.fetchHash(ctx, key)
	}
	most := int(a.cfg.MaxSize)
	pipe := a.client.Pipeline()
	ttl := pipe.PTTL(ctx, key)
	text := pipe.GetRange(ctx, key, 0, int64(most)) // one byte more than it may have
	_, err := pipe.Exec(ctx)
	switch {
	case missing(ttl):
		return nil, errUnknown
	case err != nil:
		return nil, err
	case len(text.Val()) > most:
		return nil, errTooLarge
	case text.Val() == "":
		return nil, errUnknown // it went between the two commands
	}
	return &record{text: []byte(text.Val()), ttl: ttl.Val()}, nil
}

// missing says that there is no such key. The client gives the two special answers as
// they are, without the unit.
func missing(ttl *redis.DurationCmd) bool { return ttl.Err() == nil && ttl.Val() == -2 }

// fetchHash asks how long the fields are before it asks for them.
func (a *Authenticator) fetchHash(ctx context.Context, key string) (*record, error) {
	pipe := a.client.Pipeline()
	ttl := pipe.PTTL(ctx, key)
	lengths := make([]*redis.IntCmd, len(a.names))
	for i, name := range a.names {
		lengths[i] = pipe.HStrLen(ctx, key, name)
	}
	_, err := pipe.Exec(ctx)
	if missing(ttl) {
		return nil, errUnknown
	}
	if err != nil {
		return nil, err
	}
	var total int64
	for _, n := range lengths {
		if total += n.Val(); n.Val() < 0 || total > int64(a.cfg.MaxSize) {
			return nil, errTooLarge
		}
	}
	values, err := a.client.HMGet(ctx, key, a.names...).Result()
	if err != nil {
		return nil, err
	}
	r := &record{fields: make(map[string]string, len(values)), ttl: ttl.Val()}
	for i, v := range values {
		if s, ok := v.(string); ok && i < len(a.names) {
			r.fields[a.names[i]] = s
		}
	}
	return r, nil
}

// names are the fields of a hash that are read, each once.
func (f *Fields) names() []string {
	var all []string
	seen := map[string]bool{"": true}
	for _, path := range []string{
		f.ID.String(), f.Tenant.String(), f.Roles.String(), f.Scopes.String(), f.Permissions.String(),
		f.Expires.String(), f.AuthTime.String(), f.AMR.String(),
	} {
		if !seen[path] {
			seen[path] = true
			all = append(all, path)
		}
	}
	return all
}

// fault sorts what went wrong with a look-up. Of an answer of the server only the first
// word is shown: the rest may repeat what was sent.
func (a *Authenticator) fault(err error) error {
	var reply redis.Error
	switch {
	case errors.Is(err, errTooLarge):
		return fmt.Errorf("app_sessions %s: %w", a.cfg.Name, errTooLarge)
	case errors.As(err, &reply) && !errors.Is(err, redis.Nil):
		code, _, _ := strings.Cut(reply.Error(), " ")
		if transient[code] {
			return fmt.Errorf("app_sessions %s: %w: redis answered %s", a.cfg.Name, authn.ErrUnreachable, code)
		}
		return fmt.Errorf("app_sessions %s: redis answered %.32q", a.cfg.Name, code)
	}
	return fmt.Errorf("app_sessions %s: %w: %w", a.cfg.Name, authn.ErrUnreachable, err)
}

// transient are the answers of a server that will give others later.
var transient = map[string]bool{
	"LOADING": true, "BUSY": true, "TRYAGAIN": true, "CLUSTERDOWN": true, "MASTERDOWN": true, "ERR": false,
}

// leave bounds a look-up by the configuration and by who waits for it.
func (a *Authenticator) leave(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(ctx, a.cfg.Timeout)
	inner, release := policy.LeaveRoom(ctx)
	return inner, func() { release(); cancel() }
}
