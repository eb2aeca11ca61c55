package trace

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/postern-auth/postern/server/outbound"
)

// receiver takes exports (OTLP 1.11).
type receiver interface {
	// export returns how many spans the receiver says that it refused. An error is an
	// *exportError if it is known whether another attempt may help.
	export(ctx context.Context, m *tracepb.TracesData) (refused uint64, err error)
	close()
}

// exportError says why an export failed, in words of our own.
type exportError struct {
	text  string
	retry bool
	after time.Duration // what the receiver asks to be spared; 0 if it does not say
}

func (e *exportError) Error() string { return e.text }

// maxAnswer is how much of an answer is read, in bytes. A good one is empty.
const maxAnswer = 64 << 10

func newReceiver(cfg *Config) (receiver, error) {
	to, err := cfg.parseEndpoint()
	if err != nil {
		return nil, fmt.Errorf("endpoint %w", err)
	}
	asks := outbound.Config{
		Timeout: cfg.Timeout, CAFile: string(cfg.CAFile), ClientCertFile: string(cfg.ClientCertFile), ClientKeyFile: string(cfg.ClientKeyFile),
		InsecureAllowHTTP: true, InsecureAllowPrivateAddresses: true, // parseEndpoint has looked
		KeepConnections: 1,
	}
	if cfg.Protocol == ProtocolHTTP {
		client, err := outbound.NewClient(asks)
		if err != nil {
			return nil, err
		}
		return &overHTTP{client, to, cfg}, nil
	}
	secured, err := asks.TLS()
	if err != nil {
		return nil, err
	}
	return newOverGRPC(cfg, to, secured)
}

// overGRPC calls opentelemetry.proto.collector.trace.v1.TraceService.
type overGRPC struct {
	conn *grpc.ClientConn
	cfg  *Config
}

const exportMethod = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"

func newOverGRPC(cfg *Config, to *url.URL, secured *tls.Config) (*overGRPC, error) {
	creds := credentials.NewTLS(secured)
	if to.Scheme == "http" {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient("dns:///"+to.Host,
		grpc.WithTransportCredentials(creds), grpc.WithNoProxy(), grpc.WithUserAgent("postern"),
		grpc.WithDisableServiceConfig(), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithMaxHeaderListSize(maxAnswer),
	)
	if err != nil {
		return nil, err
	}
	return &overGRPC{conn, cfg}, nil
}

func (g *overGRPC) close() { _ = g.conn.Close() }

func (g *overGRPC) export(ctx context.Context, m *tracepb.TracesData) (uint64, error) {
	for name, value := range g.cfg.Headers {
		ctx = metadata.AppendToOutgoingContext(ctx, name, value.Reveal())
	}
	var answer emptypb.Empty // its fields are read by refusedIn
	if err := g.conn.Invoke(ctx, exportMethod, m, &answer); err != nil {
		return 0, callError(status.Convert(err))
	}
	return refusedIn(answer.ProtoReflect().GetUnknown()), nil
}

// retried are the codes after which the protocol wants another attempt.
var retried = map[codes.Code]bool{
	codes.Canceled: true, codes.DeadlineExceeded: true, codes.Aborted: true,
	codes.OutOfRange: true, codes.Unavailable: true, codes.DataLoss: true,
}

// symptoms are what is said in this process when there is no connection. A receiver that
// uses these words gains nothing.
var symptoms = []string{
	"connection refused", "no such host", "certificate", "first record does not look like a TLS handshake",
	"network is unreachable", "i/o timeout", "connection reset", "deadline exceeded",
}

// symptom is the known one in a text that may quote the receiver, with a colon before it;
// or "".
func symptom(text string) string {
	for _, known := range symptoms {
		if strings.Contains(text, known) {
			return ": " + known
		}
	}
	return ""
}

func callError(s *status.Status) error {
	e := &exportError{text: "the receiver answers " + s.Code().String() + symptom(s.Message()), retry: retried[s.Code()]}
	if s.Code() == codes.Unavailable || s.Code() == codes.ResourceExhausted {
		for _, d := range s.Details() {
			if info, ok := d.(*errdetails.RetryInfo); ok {
				e.retry, e.after = true, info.GetRetryDelay().AsDuration()
			}
		}
	}
	return e
}

// overHTTP posts protobuf.
type overHTTP struct {
	client *http.Client
	to     *url.URL
	cfg    *Config
}

func (h *overHTTP) close() { h.client.CloseIdleConnections() }

func (h *overHTTP) export(ctx context.Context, m *tracepb.TracesData) (uint64, error) {
	body, err := proto.Marshal(m)
	if err != nil {
		return 0, errors.New("the spans cannot be written as protobuf")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, h.to.String(), bytes.NewReader(body))
	if err != nil {
		return 0, errors.New("the endpoint cannot be asked")
	}
	for name, value := range h.cfg.Headers {
		request.Header.Set(name, value.Reveal())
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	response, err := outbound.Do(h.client, request)
	if err != nil {
		return 0, &exportError{text: "the receiver does not answer" + symptom(err.Error()), retry: outbound.IsNetwork(err)}
	}
	defer func() { _ = response.Body.Close() }()
	answer, err := outbound.ReadBody(response, maxAnswer)
	switch code := response.StatusCode; {
	case code < 200 || code > 299:
		return 0, statusError(response)
	case err != nil:
		return 0, &exportError{text: "the receiver's answer cannot be read"} // it may have the spans
	}
	return refusedIn(answer), nil
}

func statusError(r *http.Response) error {
	e := &exportError{text: fmt.Sprintf("the receiver answers with status %d", r.StatusCode)}
	switch r.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.retry = true
	}
	if seconds, err := strconv.ParseUint(r.Header.Get("Retry-After"), 10, 16); err == nil {
		e.after = time.Duration(seconds) * time.Second
	}
	return e
}

// refusedIn reads ExportTraceServiceResponse.partial_success.rejected_spans. An answer
// that is no such message refuses nothing: a status has said that it was taken.
func refusedIn(answer []byte) (n uint64) {
	const partialSuccess, rejectedSpans = 1, 1
	for part := range fieldsOf(answer, partialSuccess, protowire.BytesType) {
		inner, _ := protowire.ConsumeBytes(part)
		for value := range fieldsOf(inner, rejectedSpans, protowire.VarintType) {
			if v, _ := protowire.ConsumeVarint(value); int64(v) > 0 {
				n = v
			}
		}
	}
	return n
}

// fieldsOf yields the values of one field of a message, as they stand on the wire, up to
// where it is none.
func fieldsOf(message []byte, number protowire.Number, kind protowire.Type) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(message) > 0 {
			num, typ, n := protowire.ConsumeTag(message)
			if n < 0 {
				return
			}
			size := protowire.ConsumeFieldValue(num, typ, message[n:])
			if size < 0 {
				return
			}
			if num == number && typ == kind && !yield(message[n:n+size]) {
				return
			}
			message = message[n+size:]
		}
	}
}
