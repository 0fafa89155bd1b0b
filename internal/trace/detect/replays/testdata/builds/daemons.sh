# what: a suite starts and stops many servers and workers, with sockets, signals, process groups, users and temporary programs
# needs: python3
## step: Test
cat > test_daemons.py <<'Y'
import http.server, multiprocessing, os, shutil, signal, socket, subprocess, sys, tempfile, threading, unittest, urllib.request
def work(n):
    return n * n
class T(unittest.TestCase):
    def test_pool(self):
        with multiprocessing.Pool(4) as p:
            self.assertEqual(p.map(work, range(8))[7], 49)
    def test_servers(self):
        for i in range(5):
            with http.server.ThreadingHTTPServer(('127.0.0.1', 0), http.server.SimpleHTTPRequestHandler) as s:
                threading.Thread(target=s.serve_forever, daemon=True).start()
                urllib.request.urlopen('http://127.0.0.1:%d/Makefile' % s.server_port).read()
                s.shutdown()
    def test_daemon(self):
        for i in range(5):
            p = subprocess.Popen([sys.executable, '-m', 'http.server', '0', '--bind', '127.0.0.1'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            os.killpg(p.pid, signal.SIGTERM)
            p.wait()
    def test_unix(self):
        with tempfile.TemporaryDirectory() as d:
            a = socket.socket(socket.AF_UNIX)
            a.bind(d + '/s')
            a.listen()
            b = socket.socket(socket.AF_UNIX)
            b.connect(d + '/s')
    def test_programs(self):
        with tempfile.TemporaryDirectory() as d:
            tool = shutil.copy('/bin/true', d + '/tool')
            subprocess.run([tool], check=True)
            subprocess.run(['/bin/sh'], input=b'exit 0\n', check=True)
            subprocess.run(['bash', '-s'], input=b'ps -e > /dev/null; ls /proc > /dev/null\n', check=True)
            subprocess.run(['sh', '-c', 'kill -0 $PPID'], check=True)
    def test_others(self):
        os.kill(int(os.environ['AGENT']), 0)
        for pid in filter(str.isdigit, os.listdir('/proc')):
            for name in 'comm', 'cmdline', 'stat', 'status':
                try:
                    open(f'/proc/{pid}/{name}').read()
                except OSError:
                    pass
    def test_users(self):
        if os.geteuid() == 0:
            os.seteuid(65534)
            os.seteuid(0)
            subprocess.run(['id', '-u'], user=65534, check=True, stdout=subprocess.DEVNULL)
if __name__ == '__main__':
    unittest.main()
Y
python3 test_daemons.py
