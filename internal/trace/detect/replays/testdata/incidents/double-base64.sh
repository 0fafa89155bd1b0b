# incident: T1132.001: secrets in the log, encoded so that they are not masked
# what: a step prints its environment, encoded twice
# rule: environment-encoded
## step: Test
printenv | base64 -w0 | base64 -w0
