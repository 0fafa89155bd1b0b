package query

import (
	"encoding/json"
	"sync"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/muster-ci/muster/internal/trace"
)

func celType(k kind) *cel.Type {
	switch k {
	case whole:
		return cel.IntType
	case truth:
		return cel.BoolType
	case stamp:
		return cel.TimestampType
	case list:
		return cel.ListType(cel.StringType)
	case tally:
		return cel.MapType(cel.StringType, cel.IntType)
	case open:
		return cel.MapType(cel.StringType, cel.DynType)
	default:
		return cel.StringType
	}
}

// environment is what expressions are checked in; the same for all.
var environment = sync.OnceValues(func() (*cel.Env, error) {
	opts := []cel.EnvOption{
		ext.Strings(ext.StringsVersion(5)),
		cel.EnableMacroCallTracking(),
		cel.ParserRecursionLimit(100),
		cel.ParserExpressionSizeLimit(maxExpression),
	}
	for _, f := range fields {
		opts = append(opts, cel.VariableWithDoc(f.name, celType(f.kind), f.about))
	}
	return cel.NewEnv(append(opts, functions()...)...)
})

// celValue is a field of an event as an expression sees it.
func celValue(f *field, e *trace.Event) ref.Val {
	switch f.kind {
	case text:
		return types.String(f.str(e))
	case whole:
		return types.Int(f.num(e))
	case truth:
		return types.Bool(f.num(e) != 0)
	case stamp:
		return timeOf(f.num(e))
	case list:
		if f.name == "args" {
			return types.NewStringList(types.DefaultTypeAdapter, e.Args)
		}
		return types.NewStringList(types.DefaultTypeAdapter, e.Addresses)
	default:
		return valueOf(f.kind, f.str(e))
	}
}

// valueOf is a textual field's value from its text in the index.
func valueOf(k kind, s string) ref.Val {
	switch k {
	case list:
		var l []string
		if s != "" {
			fromJSON(s, &l)
		}
		return types.NewStringList(types.DefaultTypeAdapter, l)
	case tally:
		m := map[string]int64{}
		if s != "" {
			fromJSON(s, &m)
		}
		return types.DefaultTypeAdapter.NativeToValue(m)
	case open:
		m := map[string]any{}
		if s != "" {
			_ = json.Unmarshal([]byte(s), &m) // as fromJSON
		}
		return types.DefaultTypeAdapter.NativeToValue(m)
	default:
		return types.String(s)
	}
}

// numberOf is another field's value from its number in the index.
func numberOf(k kind, n int64) ref.Val {
	switch k {
	case truth:
		return types.Bool(n != 0)
	case stamp:
		return timeOf(n)
	default:
		return types.Int(n)
	}
}

func timeOf(n int64) ref.Val { return types.Timestamp{Time: time.Unix(0, n).UTC()} }

// bound is the activation of one event, its own or another's.
type bound struct {
	event *trace.Event
	own   trace.Event
}

// ResolveName returns the value of a field.
func (b *bound) ResolveName(name string) (any, bool) {
	i, ok := fieldOf[name]
	if !ok {
		return nil, false
	}
	return celValue(&fields[i], b.event), true
}

// Parent is nil: there is nothing but the event.
func (b *bound) Parent() cel.Activation { return nil }
