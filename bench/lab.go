package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/postern-auth/postern/bench/rig"
)

// lab holds what one run of the benchmark needs: binaries, fixture, processes.
type lab struct {
	dir            string
	postern, stock string // binaries
	fixture        *fixture
}

func newLab(ctx context.Context) (*lab, error) {
	dir, err := os.MkdirTemp("", "postern-bench-")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, postern: filepath.Join(dir, "postern"), stock: filepath.Join(dir, "stock")}
	if err := l.furnish(ctx); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// fewKeys is the number of keys where it is not what is measured.
const fewKeys = 10

// furnish builds the binaries and writes the fixture.
func (l *lab) furnish(ctx context.Context) (err error) {
	for binary, command := range map[string]string{l.postern: "cmd/postern", l.stock: "bench/stock"} {
		if err := rig.Build(ctx, binary, command, rig.Stripped); err != nil {
			return err
		}
	}
	l.fixture, err = newFixture(filepath.Join(l.dir, "fixture"), fewKeys)
	return err
}

func (l *lab) close() { _ = os.RemoveAll(l.dir) }

func (l *lab) binaryMiB() (float64, error) {
	info, err := os.Stat(l.postern)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()) / (1 << 20), nil
}

func (l *lab) startStock(ctx context.Context) (*rig.Process, error) {
	return rig.Start(ctx, l.stock, func(g, h string) []string { return []string{"-grpc", g, "-http", h} })
}

func (l *lab) startPostern(ctx context.Context, f *fixture) (*rig.Process, error) {
	return rig.Start(ctx, l.postern, func(g, h string) []string { return []string{"serve", "-c", f.config(g, h)} })
}
