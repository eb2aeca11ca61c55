package memory_test

import (
	"testing"
	"time"

	"github.com/postern-auth/postern/server/store"
	"github.com/postern-auth/postern/server/store/memory"
	"github.com/postern-auth/postern/server/store/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t testing.TB, now func() time.Time) store.Store {
		s := memory.New(now)
		t.Cleanup(func() { s.Close() })
		return s
	})
}
