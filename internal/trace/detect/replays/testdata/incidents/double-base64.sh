# incident: T1132.001: secrets in the log, encoded so that they are not masked
# what: a step prints its environment, encoded twice
# rule: environment-encoded
## step: Test
# what is more than a pipe holds, or the first may have ended before the second begins
export MUCH=$(head -c 100000 /dev/zero | tr '\0' x)
printenv | base64 -w0 | base64 -w0
