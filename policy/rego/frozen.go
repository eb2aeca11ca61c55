package rego

import (
	"context"
	"errors"
	"strconv"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage"
)

// frozen is a storage.Store over one AST object that never changes: reading takes
// no lock, makes no transaction and copies nothing.
type frozen struct {
	storage.PolicyNotSupported
	storage.TriggersNotSupported
	root ast.Object
}

// theTransaction stands for all transactions on frozen stores.
var theTransaction storage.Transaction = frozenTransaction{}

type frozenTransaction struct{}

func (frozenTransaction) ID() uint64 { return 0 }

var errReadOnly = errors.New("policy data is read-only")

func newFrozen(data map[string]any) (*frozen, error) {
	root, err := ast.InterfaceToValue(data)
	if err != nil {
		return nil, err
	}
	return &frozen{root: root.(ast.Object)}, nil
}

// NewTransaction implements storage.Store.
func (f *frozen) NewTransaction(_ context.Context, params ...storage.TransactionParams) (storage.Transaction, error) {
	if len(params) > 0 && params[0].Write {
		return nil, errReadOnly
	}
	return theTransaction, nil
}

// Read implements storage.Store. It returns an ast.Value, which topdown takes as
// it is.
func (f *frozen) Read(_ context.Context, _ storage.Transaction, path storage.Path) (any, error) {
	at := ast.Value(f.root)
	for _, step := range path {
		below := f.below(at, step)
		if below == nil {
			return nil, &storage.Error{Code: storage.NotFoundErr, Message: path.String()}
		}
		at = below.Value
	}
	return at, nil
}

func (*frozen) below(at ast.Value, step string) *ast.Term {
	switch at := at.(type) {
	case ast.Object:
		return at.Get(ast.InternedTerm(step))
	case *ast.Array:
		if i, err := strconv.Atoi(step); err == nil && i >= 0 && i < at.Len() {
			return at.Elem(i)
		}
	}
	return nil
}

// Write implements storage.Store.
func (*frozen) Write(context.Context, storage.Transaction, storage.PatchOp, storage.Path, any) error {
	return errReadOnly
}

// Truncate implements storage.Store.
func (*frozen) Truncate(context.Context, storage.Transaction, storage.TransactionParams, storage.Iterator) error {
	return errReadOnly
}

// Commit implements storage.Store.
func (*frozen) Commit(context.Context, storage.Transaction) error { return nil }

// Abort implements storage.Store.
func (*frozen) Abort(context.Context, storage.Transaction) {}
