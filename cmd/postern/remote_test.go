package main

import (
	"errors"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An error of the admin API is one sentence, with what helps at its end.
func TestExplainedErrors(t *testing.T) {
	t.Parallel()
	st, err := status.New(codes.Unauthenticated, "A credential is required.").WithDetails(&errdetails.ErrorInfo{
		Reason: "UNAUTHENTICATED", Domain: "postern", Metadata: map[string]string{"cause": "credential_missing"},
	})
	if err != nil {
		t.Fatal(err)
	}
	const want = "A credential is required; cause: credential_missing (unauthenticated); show who is asking with --token-file, $POSTERN_TOKEN or --cert; " +
		"`postern store bootstrap` makes the first key (the demo key of `postern init` is no operator's)"
	got := (&remote{}).explain(st.Err())
	if refused, ok := errors.AsType[*refusalError](got); !ok || refused.Error() != want {
		t.Errorf("%v", got)
	}
}
