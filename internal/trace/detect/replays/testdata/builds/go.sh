# what: go vet, build and test of a module with an empty build cache
# needs: go
## step: Module
mkdir -p m && cd m
printf 'module example.com/m\n\ngo 1.21\n' > go.mod
printf 'package main\n\nfunc add(a, b int) int { return a + b }\n\nfunc main() { println(add(1, 2)) }\n' > main.go
printf 'package main\n\nimport "testing"\n\nfunc TestAdd(t *testing.T) {\n\tif add(1, 2) != 3 {\n\t\tt.Fatal()\n\t}\n}\n' > main_test.go
gofmt -l -w .
## step: Build
cd m && go build -o app . && ./app
## step: Test
cd m && go vet . && go test . && go test -count=1 .
