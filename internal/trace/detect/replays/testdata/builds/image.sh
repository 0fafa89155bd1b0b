# what: the layers of a container image are made and written as an OCI layout, without an engine
# needs: tar python3
## step: Layers
mkdir -p root/etc root/usr/bin root/root oci/blobs/sha256 && cp /bin/true root/usr/bin/app && echo 'root:x:0:0:root:/root:/bin/sh' > root/etc/passwd && echo '# rc' > root/root/.bashrc
tar --sort=name --mtime=@0 -C root -cf layer.tar . && gzip -nk layer.tar
python3 - <<'X'
import hashlib, json, shutil
data = open('layer.tar.gz', 'rb').read()
d = hashlib.sha256(data).hexdigest()
shutil.copy('layer.tar.gz', 'oci/blobs/sha256/' + d)
json.dump({'schemaVersion': 2, 'manifests': [{'digest': 'sha256:' + d, 'size': len(data)}]}, open('oci/index.json', 'w'))
X
## step: Unpack
mkdir unpacked && tar xzf layer.tar.gz -C unpacked && ls -lR unpacked
