package admin

import (
	"context"

	adminv1 "github.com/postern-auth/postern/gen/postern/admin/v1"
	"github.com/postern-auth/postern/policy"
	"github.com/postern-auth/postern/server/registry"
	"github.com/postern-auth/postern/server/store"
)

// sessions serves postern.admin.v1.SessionService.
type sessions struct {
	adminv1.UnimplementedSessionServiceServer
	registry *registry.Registry
	browser  func(*store.Session, policy.Secret) (setCookie, csrfToken string)
}

// newSession is all that a browser has to be told. A call that was only to validate
// has made no secret.
func (s *sessions) newSession(n *registry.NewSession) *adminv1.NewSession {
	m := &adminv1.NewSession{Session: sessionProto(n.Session), Secret: n.Secret.Reveal()}
	if s.browser != nil && !n.Secret.IsZero() {
		m.SetCookie, m.CsrfToken = s.browser(n.Session, n.Secret)
	}
	return m
}

// CreateSession implements the service.
func (s *sessions) CreateSession(ctx context.Context, req *adminv1.CreateSessionRequest) (*adminv1.CreateSessionResponse, error) {
	var v invalid
	m := req.GetSession()
	spec := registry.SessionSpec{
		Tenant: m.GetTenant(), Principal: m.GetPrincipalId(), AMR: m.GetAmr(), ACR: m.GetAcr(),
		AuthTime: v.time("auth_time", m.GetAuthTime()), Idle: v.duration("idle_timeout", m.GetIdleTimeout()),
		ExpiresAt: v.time("expire_time", m.GetExpireTime()), Metadata: m.GetMetadata(),
	}
	if err := v.err(); err != nil {
		return nil, err
	}
	created, change, err := s.start(ctx, spec, req.GetPassword())
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateSessionResponse{Created: s.newSession(created), Change: changeProto(change)}, nil
}

// start logs the user in where the password is there, and believes the caller where
// it is not; the gate has asked for the permission to vouch then.
func (s *sessions) start(ctx context.Context, spec registry.SessionSpec, password string) (*registry.NewSession, registry.Change, error) {
	if password == "" {
		return s.registry.CreateSession(ctx, callOf(ctx).Call, spec)
	}
	return s.registry.Login(ctx, callOf(ctx).Call, spec, policy.NewSecret(password))
}

// GetSession implements the service.
func (s *sessions) GetSession(ctx context.Context, req *adminv1.GetSessionRequest) (*adminv1.GetSessionResponse, error) {
	found, err := s.registry.GetSession(ctx, callOf(ctx).Actor, req.GetId())
	if err != nil {
		return nil, err
	}
	return &adminv1.GetSessionResponse{Session: sessionProto(found)}, nil
}

// ListSessions implements the service.
func (s *sessions) ListSessions(ctx context.Context, req *adminv1.ListSessionsRequest) (*adminv1.ListSessionsResponse, error) {
	var v invalid
	call := callOf(ctx)
	q := registry.SessionQuery{Page: v.page(req), Tenant: call.tenant(req.GetTenant()), Principal: req.GetPrincipalId()}
	if err := v.err(); err != nil {
		return nil, err
	}
	list, next, err := s.registry.ListSessions(ctx, call.Actor, q)
	if err != nil {
		return nil, err
	}
	return &adminv1.ListSessionsResponse{Sessions: each(list, sessionProto), NextPageToken: next}, nil
}

// RotateSession implements the service.
func (s *sessions) RotateSession(ctx context.Context, req *adminv1.RotateSessionRequest) (*adminv1.RotateSessionResponse, error) {
	created, change, err := s.registry.RotateSession(ctx, callOf(ctx).Call, registry.RotateSessionRequest{ID: req.GetId(), AMR: req.GetAmr(), ACR: req.GetAcr()})
	if err != nil {
		return nil, err
	}
	return &adminv1.RotateSessionResponse{Created: s.newSession(created), Change: changeProto(change)}, nil
}

// DeleteSession implements the service.
func (s *sessions) DeleteSession(ctx context.Context, req *adminv1.DeleteSessionRequest) (*adminv1.DeleteSessionResponse, error) {
	n, change, err := s.end(ctx, req)
	if err != nil {
		return nil, err
	}
	return &adminv1.DeleteSessionResponse{Sessions: int32(n), Change: changeProto(change)}, nil
}

// end ends one session or all of a user; the gate has seen to it that the request
// says which.
func (s *sessions) end(ctx context.Context, req *adminv1.DeleteSessionRequest) (int, registry.Change, error) {
	if id := req.GetId(); id != "" {
		change, err := s.registry.DeleteSession(ctx, callOf(ctx).Call, id)
		return 1, change, err
	}
	return s.registry.DeleteSessionsOf(ctx, callOf(ctx).Call, req.GetTenant(), req.GetPrincipalId())
}
