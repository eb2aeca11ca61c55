package connect

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/postern-auth/postern/server/door"
)

// A stream is a sequence of envelopes: one byte of flags, the length of what follows as
// four bytes, big endian, and so many bytes. The question is one envelope. The status is
// always 200; whether it went well stands in the last envelope, {} or {"error": …}.
const (
	envelopeHead = 5
	flagEnd      = 2 // the last envelope
)

// sendTimeout is how long a client may take to make room for a message. One that does not
// read holds up its own stream, and then loses it.
const sendTimeout = 30 * time.Second

// answer calls a method that answers with a stream.
func (m *Mux) answer(w http.ResponseWriter, r *http.Request, called method, form *form) {
	w.Header().Set("Content-Type", form.contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep it back
	s := &serverStream{to: w, control: http.NewResponseController(w), form: form}
	err := m.stream(w, r, called, s)
	var end struct {
		Error *failure `json:"error,omitempty"`
	}
	if err != nil {
		end.Error = failureOf(status.Convert(err))
	}
	body, err := json.Marshal(end)
	if err != nil {
		body = []byte(`{"error":{"code":"internal"}}`) // strings always marshal
	}
	_ = s.write(flagEnd, body) // the client has gone: nobody is left to tell
}

// stream reads the question and has it answered. A panic is an internal error, whose text
// stays here.
func (m *Mux) stream(w http.ResponseWriter, r *http.Request, called method, s *serverStream) (err error) {
	defer func() {
		if thrown := recover(); thrown != nil {
			door.Recovered(r.Context(), m.log, Name, thrown)
			err = status.Error(codes.Internal, "internal error")
		}
	}()
	ctx, cancel, err := deadline(r)
	if err != nil {
		return err
	}
	defer cancel()
	text, err := m.read(w, r, envelopeHead+m.maxMessage)
	if err != nil {
		return err
	}
	if s.question, err = unwrap(text); err != nil {
		return err
	}
	// The times of the listener are for requests that end.
	_ = s.control.SetReadDeadline(time.Time{})
	s.ctx = ctx
	info := &grpc.StreamServerInfo{FullMethod: r.URL.Path, IsServerStream: true}
	return m.streams(called.service, s, info, called.stream.Handler)
}

// unwrap returns the message of the one envelope that a question is.
func unwrap(text []byte) ([]byte, error) {
	if len(text) < envelopeHead || text[0] != 0 || uint64(binary.BigEndian.Uint32(text[1:])) != uint64(len(text)-envelopeHead) {
		return nil, status.Error(codes.InvalidArgument, "the question is not one envelope")
	}
	return text[envelopeHead:], nil
}

// serverStream implements grpc.ServerStream. What a method sets as header or trailer goes
// nowhere: no method here does.
type serverStream struct {
	ctx      context.Context //nolint:containedctx // it is what grpc.ServerStream asks for
	to       io.Writer
	control  *http.ResponseController
	form     *form
	question []byte
	asked    bool
}

// SetHeader implements grpc.ServerStream.
func (*serverStream) SetHeader(metadata.MD) error { return nil }

// SendHeader implements grpc.ServerStream.
func (*serverStream) SendHeader(metadata.MD) error { return nil }

// SetTrailer implements grpc.ServerStream.
func (*serverStream) SetTrailer(metadata.MD) {}

// Context implements grpc.ServerStream.
func (s *serverStream) Context() context.Context { return s.ctx }

// RecvMsg implements grpc.ServerStream: there is one message to receive.
func (s *serverStream) RecvMsg(into any) error {
	if s.asked {
		return io.EOF
	}
	s.asked = true
	return s.form.read(s.question, into)
}

// SendMsg implements grpc.ServerStream. It waits for a client that is slow to read.
func (s *serverStream) SendMsg(message any) error {
	if err := s.ctx.Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	body, err := s.form.marshal(message.(proto.Message))
	if err != nil {
		return status.Error(codes.Internal, "internal error")
	}
	return s.write(0, body)
}

func (s *serverStream) write(flags byte, body []byte) error {
	_ = s.control.SetWriteDeadline(time.Now().Add(sendTimeout)) // not every writer has one
	var b bytes.Buffer
	b.WriteByte(flags)
	b.Write(binary.BigEndian.AppendUint32(nil, uint32(len(body))))
	b.Write(body)
	_, err := s.to.Write(b.Bytes())
	if err == nil {
		err = s.control.Flush()
	}
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return status.Error(codes.Unavailable, "the client has gone")
	}
	return nil
}
