package server

import (
	"google.golang.org/grpc"

	"github.com/postern-auth/postern/server/admin"
	"github.com/postern-auth/postern/server/door/connect"
	"github.com/postern-auth/postern/server/door/console"
)

// maxAdminJSON bounds a call of the admin API as JSON, in bytes.
const maxAdminJSON = 1 << 20

// forBrowsers adds what of the admin API can be reached without a gRPC client.
func (s *Server) forBrowsers(c *admin.Config, cfg *Config) {
	c.Local, c.Hosts = cfg.Listen.Admin.Local(), cfg.AdminAPI.Hosts
	c.JSON = func(unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor) admin.Calls {
		return connect.New(unary, maxAdminJSON, s.log, connect.JSONOnly(), connect.WithStreams(stream))
	}
	c.Policy = s.policyState
	if cfg.AdminAPI.Console {
		c.Console = console.Handler()
	}
}

// policyState is the policy in force, for those who operate it.
func (s *Server) policyState() admin.PolicyState {
	p := s.current.Load().policy
	ready, err := p.condition()
	return admin.PolicyState{Snapshot: p.Snapshot(), Ready: ready, Err: err, Config: p.cfg.Config}
}
