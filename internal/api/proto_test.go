package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	v1 "github.com/muster-ci/muster/gen/muster/v1"
)

// S4-39 S4-40 S4-41: names, numbers and types are kept for ever.
func TestKeptFields(t *testing.T) {
	for _, tc := range []struct {
		message proto.Message
		fields  []string
	}{
		{&v1.Runner{}, []string{"id=1 string", "name=2 string", "namespace=3 string", "runner_offering_id=4 string", "repositories=5 repeated string",
			"status=6 string", "is_custom=7 bool", "cpu=8 string", "memory=9 string"}},
		{&v1.RunnerInstallation{}, []string{"installation_id=1 int64", "workspace_id=2 string", "state=3 string", "github_account_type=4 string", "is_service_enabled=5 bool"}},
		{&v1.RunnerOffering{}, []string{"id=1 string", "name=2 string", "cpu=3 string", "memory=4 string", "image_repository=5 string", "is_autoscale=6 bool"}},
	} {
		d := tc.message.ProtoReflect().Descriptor()
		t.Run(string(d.Name()), func(t *testing.T) {
			var got []string
			for i := range tc.fields {
				f := d.Fields().ByNumber(protoreflect.FieldNumber(i + 1))
				if f == nil {
					t.Fatalf("no field has number %d", i+1)
				}
				got = append(got, field(f))
			}
			if diff := cmp.Diff(tc.fields, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func field(f protoreflect.FieldDescriptor) string {
	kind := f.Kind().String()
	switch {
	case f.IsMap():
		return fmt.Sprintf("%s=%d map<%s, %s>", f.Name(), f.Number(), f.MapKey().Kind(), f.MapValue().Kind())
	case f.Message() != nil:
		kind = string(f.Message().FullName())
	}
	switch {
	case f.IsList():
		kind = "repeated " + kind
	case f.HasOptionalKeyword():
		kind = "optional " + kind
	}
	return fmt.Sprintf("%s=%d %s", f.Name(), f.Number(), kind)
}

// S4-39 S4-40 S4-41: the JSON of the three messages.
func TestKeptJSON(t *testing.T) {
	var b strings.Builder
	for _, m := range []proto.Message{
		&v1.Runner{Id: "r-1", Name: "linux-1", Namespace: "default", RunnerOfferingId: "small", Repositories: []string{"octo/app"}, Status: "active", IsCustom: true, Cpu: "2", Memory: "4096Mi"},
		&v1.RunnerInstallation{InstallationId: 1 << 60, WorkspaceId: "default", State: "active", GithubAccountType: "Organization", IsServiceEnabled: true},
		&v1.RunnerOffering{Id: "small", Name: "small", Cpu: "2", Memory: "4096Mi", ImageRepository: "ghcr.io/octo/ci", IsAutoscale: true},
	} {
		raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer // protojson's own spaces differ from build to build
		if err := json.Indent(&out, raw, "", "  "); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %s\n", m.ProtoReflect().Descriptor().Name(), &out)
	}
	golden(t, "kept.json.golden", b.String())
}

// The whole API, field by field: a change that would break a client shows as a
// changed or missing line.
func TestAPIGolden(t *testing.T) {
	var b strings.Builder
	for _, file := range []protoreflect.FileDescriptor{v1.File_muster_v1_pool_proto, v1.File_muster_v1_runner_proto, v1.File_muster_v1_job_proto, v1.File_muster_v1_delivery_proto,
		v1.File_muster_v1_usage_proto, v1.File_muster_v1_installation_proto, v1.File_muster_v1_system_proto, v1.File_muster_v1_machine_proto, v1.File_muster_v1_provider_proto, v1.File_muster_v1_trace_proto} {
		for i := range file.Services().Len() {
			s := file.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				stream := ""
				if m.IsStreamingServer() {
					stream = "stream "
				}
				fmt.Fprintf(&b, "%s.%s(%s) %s%s\n", s.Name(), m.Name(), m.Input().Name(), stream, m.Output().Name())
			}
		}
		for i := range file.Messages().Len() {
			m := file.Messages().Get(i)
			for j := range m.Fields().Len() {
				fmt.Fprintf(&b, "%s.%s\n", m.Name(), field(m.Fields().Get(j)))
			}
		}
	}
	golden(t, "api.golden", b.String())
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (UPDATE_GOLDEN=1 rewrites it):\n%s", path, d)
	}
}
