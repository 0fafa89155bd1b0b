module github.com/muster-ci/muster/internal/tools/garmproviders

go 1.26.0

require (
	github.com/cloudbase/garm-provider-common v0.1.7
	gopkg.in/yaml.v3 v3.0.1
)

require (
	github.com/felixge/httpsnoop v1.0.4 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/gorilla/handlers v1.5.2 // indirect
	github.com/mattn/go-isatty v0.0.20 // indirect
	github.com/minio/sio v0.4.1 // indirect
	github.com/pkg/errors v0.9.1 // indirect
	github.com/teris-io/shortid v0.0.0-20220617161101-71ec9f2aa569 // indirect
	golang.org/x/crypto v0.39.0 // indirect
	golang.org/x/sys v0.33.0 // indirect
	gopkg.in/natefinch/lumberjack.v2 v2.2.1 // indirect
)
