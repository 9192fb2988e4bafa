"""image.py ROOT NAME COMMAND… >TAR: a root file system as an image in Docker's archive format, for ctr and CRI to import.

IMAGE_ENTRYPOINT, IMAGE_USER: the program that gets the command as its arguments, and the user of both."""
import hashlib
import io
import json
import os
import sys
import tarfile

root, name, command = sys.argv[1], sys.argv[2], sys.argv[3:]
layer = io.BytesIO()
with tarfile.open(fileobj=layer, mode="w") as tar:
    for entry in sorted(os.listdir(root)):
        tar.add(os.path.join(root, entry), entry)
digest = hashlib.sha256(layer.getvalue()).hexdigest()
config = {
    "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
    "os": "linux",
    "config": {
        "Cmd": command,
        "Env": ["PATH=/bin:/usr/local/bin"],
        "User": os.environ.get("IMAGE_USER", ""),
        "Entrypoint": os.environ.get("IMAGE_ENTRYPOINT", "").split() or None,
    },
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
}
manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as out:
    for path, data in [
        ("layer.tar", layer.getvalue()),
        ("config.json", json.dumps(config).encode()),
        ("manifest.json", json.dumps(manifest).encode()),
    ]:
        info = tarfile.TarInfo(path)
        info.size = len(data)
        out.addfile(info, io.BytesIO(data))
