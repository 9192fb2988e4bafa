"""cri.py ENGINE RESULTS: plays a kubelet towards containerd, with a runtime class for each runtime; one line a feature."""
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import traceback

import api_pb2 as api
import grpc
import websocket

ENGINE, RESULTS = sys.argv[1:3]
OLD = bool(os.environ.get("OLD"))
SOCKET = "/run/containerd/containerd.sock"
PARENT = "/conex-test-cri"
# A host with cgroup v2 alone and the systemd driver, without a network for pods.
V2 = "V2" in os.environ
POD, CONTAINER, NODE = api.POD, api.CONTAINER, api.NODE


class Containerd:
    """containerd and a client of its CRI services."""

    def __init__(self):
        self.up()

    def up(self):
        log = open("/tmp/containerd.log", "a")
        self.child = subprocess.Popen(["containerd", "-c", "/tmp/cri/config.toml"], stdout=log, stderr=log)
        self.channel = grpc.insecure_channel("unix://" + SOCKET)
        until(lambda: self.ask("Status").status.conditions[0].status, "containerd is ready")

    def down(self, sig=signal.SIGTERM):
        self.channel.close()
        self.child.send_signal(sig)
        self.child.wait()

    def ask(self, method, request=None, service="RuntimeService", timeout=60, **fields):
        made = request or getattr(api, method + "Request")(**fields)
        call = self.channel.unary_unary(
            f"/runtime.v1.{service}/{method}",
            request_serializer=type(made).SerializeToString,
            response_deserializer=getattr(api, method + "Response").FromString,
        )
        return call(made, timeout=timeout)


class Pod:
    """A pod sandbox, and the containers in it."""

    numbers = itertools.count(1)

    def __init__(self, c, handler, host_network=False, pid=CONTAINER, userns=None, sysctls=None, ports=(), privileged=False):
        name = f"pod{next(Pod.numbers)}"
        host_network = host_network or V2
        self.c, self.logs = c, f"/tmp/cri/{name}"
        os.makedirs(self.logs, exist_ok=True)
        self.config = api.PodSandboxConfig(hostname="" if host_network else name, log_directory=self.logs)
        self.config.metadata.name = self.config.metadata.uid = name
        self.config.metadata.namespace = "default"
        linux = self.config.linux
        linux.cgroup_parent = f"/conextest.slice/conextest-{name}.slice" if V2 else f"{PARENT}/{name}"
        options = linux.security_context.namespace_options
        options.network, options.pid = (NODE if host_network else POD), pid
        linux.security_context.privileged = privileged
        self.options = options
        if userns:
            idmap = [api.IDMapping(host_id=userns, container_id=0, length=65536)]
            options.userns_options.mode = POD
            options.userns_options.uids.extend(idmap)
            options.userns_options.gids.extend(idmap)
        for key, value in (sysctls or {}).items():
            linux.sysctls[key] = value
        for inside, outside in ports:
            self.config.port_mappings.append(api.PortMapping(container_port=inside, host_port=outside))
        self.id = c.ask("RunPodSandbox", config=self.config, runtime_handler=handler).pod_sandbox_id

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.c.ask("StopPodSandbox", pod_sandbox_id=self.id)
        self.c.ask("RemovePodSandbox", pod_sandbox_id=self.id)

    def status(self):
        return self.c.ask("PodSandboxStatus", pod_sandbox_id=self.id).status

    def run(self, name, command, mounts=(), resources=None, security=None, envs=()):
        config = api.ContainerConfig(command=command, log_path=name + ".log", mounts=mounts)
        config.metadata.name = name
        config.image.image = "local/bb:1"
        config.envs.extend(api.KeyValue(key=k, value=v.encode()) for k, v in envs)
        context = config.linux.security_context
        if resources:
            config.linux.resources.CopyFrom(resources)
        if security:
            context.CopyFrom(security)
        if not context.namespace_options.target_id:
            context.namespace_options.CopyFrom(self.options)
        made = self.c.ask("CreateContainer", pod_sandbox_id=self.id, config=config, sandbox_config=self.config)
        self.c.ask("StartContainer", container_id=made.container_id)
        return Container(self, made.container_id, name)


class Container:
    def __init__(self, pod, ident, name):
        self.pod, self.c, self.id, self.name = pod, pod.c, ident, name

    def status(self):
        return self.c.ask("ContainerStatus", container_id=self.id).status

    def wait(self):
        until(lambda: self.status().state == api.CONTAINER_EXITED, "the container ends")
        return self.status()

    def log(self):
        """The text of the log file, without time, stream and tag."""
        with open(f"{self.pod.logs}/{self.name}.log") as f:
            return "".join(line.split(" ", 3)[3] for line in f)

    def output(self):
        assert self.wait().exit_code == 0, self.log()
        return self.log()

    def sh(self, command):
        answer = self.c.ask("ExecSync", container_id=self.id, cmd=["sh", "-c", command], timeout=20)
        return answer.exit_code, answer.stdout.decode()

    def remove(self):
        self.c.ask("StopContainer", container_id=self.id, timeout=1)
        self.c.ask("RemoveContainer", container_id=self.id)


def until(ready, what, seconds=20):
    end = time.time() + seconds
    while True:
        try:
            if ready():
                return
        except grpc.RpcError:
            pass
        if time.time() > end:
            raise AssertionError("waited for: " + what)
        time.sleep(0.05)


def equal(got, want):
    assert got == want, f"wanted {want!r}, got {got!r}"


def output_status_log(c, handler):
    with Pod(c, handler) as pod:
        one = pod.run("one", ["sh", "-c", "echo out; echo err >&2; exit 7"])
        equal(one.wait().exit_code, 7)
        equal(sorted(one.log().split()), ["err", "out"])
        equal(one.status().reason, "Error")


def the_class_is_used(c, handler):
    with Pod(c, handler) as pod:
        equal(c.ask("PodSandboxStatus", pod_sandbox_id=pod.id).status.runtime_handler, handler)
        try:
            Pod(c, "no-such-class")
            raise AssertionError("an unknown class was accepted")
        except grpc.RpcError as e:
            assert "no-such-class" in e.details(), e.details()


def missing_command(c, handler):
    with Pod(c, handler) as pod:
        try:
            pod.run("one", ["/nope"])
            raise AssertionError("a missing command was run")
        except grpc.RpcError as e:
            assert "/nope" in e.details() and "no such file" in e.details(), e.details()


def network(c, handler):
    with Pod(c, handler) as one, Pod(c, handler) as two:
        web = one.run("web", ["sh", "-c", "echo page >/tmp/index.html; exec httpd -f -p 80 -h /tmp"])
        del web
        address = one.status().network.ip
        assert address.startswith("10.99."), address
        get = two.run("get", ["sh", "-c", f"until wget -qO- http://{address}/; do sleep 0.1; done"])
        equal(get.output(), "page\n")


def host_port(c, handler):
    with Pod(c, handler, ports=[(80, 8095)]) as pod:
        pod.run("web", ["sh", "-c", "echo page >/tmp/index.html; exec httpd -f -p 80 -h /tmp"])
        address = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.split()[0]
        until(lambda: fetch(address, 8095) == "page\n", "the page by the host's port")


def fetch(address, port):
    done = subprocess.run(["busybox", "wget", "-qO-", f"http://{address}:{port}/"], capture_output=True, text=True)
    return done.stdout


def one_network_for_the_pod(c, handler):
    with Pod(c, handler) as pod:
        pod.run("web", ["sh", "-c", "echo page >/tmp/index.html; exec httpd -f -p 80 -h /tmp"])
        get = pod.run("get", ["sh", "-c", "until wget -qO- http://127.0.0.1/; do sleep 0.1; done; hostname"])
        equal(get.output(), f"page\n{pod.config.hostname}\n")


def host_network(c, handler):
    with Pod(c, handler, host_network=True) as pod:
        equal(pod.run("one", ["sh", "-c", "ls /sys/class/net | grep -c cni0"]).output(), "1\n")


def limits(c, handler):
    with Pod(c, handler) as pod:
        r = api.LinuxContainerResources(memory_limit_in_bytes=64 << 20, cpu_quota=50000, cpu_period=100000, cpu_shares=512, oom_score_adj=500)
        one = pod.run("one", ["sleep", "1000"], resources=r)
        read = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares; cat /proc/1/oom_score_adj"
        equal(one.sh(read), (0, "67108864\n50000\n512\n500\n"))
        more = api.LinuxContainerResources(memory_limit_in_bytes=96 << 20, cpu_quota=30000, cpu_period=100000, cpu_shares=256)
        c.ask("UpdateContainerResources", container_id=one.id, linux=more)
        equal(one.sh(read), (0, "100663296\n30000\n256\n500\n"))


def limits_v2(c, handler):
    """Memory QoS of a kubelet, its swap, and the resize of a running pod: `unified` beside the fields, and again by an update."""
    with Pod(c, handler) as pod:
        r = api.LinuxContainerResources(memory_limit_in_bytes=64 << 20, memory_swap_limit_in_bytes=96 << 20, cpu_quota=50000, cpu_period=100000, cpu_shares=512)
        for key, value in [("memory.high", str(48 << 20)), ("memory.min", str(1 << 20)), ("memory.oom.group", "1")]:
            r.unified[key] = value
        one = pod.run("one", ["sleep", "1000"], resources=r)
        names = "memory.max memory.swap.max memory.high memory.min memory.oom.group cpu.max cpu.weight"
        read = f"cd /sys/fs/cgroup && cat {names}"
        equal(one.sh(read), (0, f"{64 << 20}\n{32 << 20}\n{48 << 20}\n{1 << 20}\n1\n50000 100000\n{cpu_weight(512)}\n"))
        for size, quota, shares in [(96 << 20, 30000, 256), (40 << 20, 70000, 1024)]:
            more = api.LinuxContainerResources(memory_limit_in_bytes=size, memory_swap_limit_in_bytes=size, cpu_quota=quota, cpu_period=100000, cpu_shares=shares)
            more.unified["memory.high"] = str(size // 2)
            c.ask("UpdateContainerResources", container_id=one.id, linux=more)
            equal(one.sh(read), (0, f"{size}\n0\n{size // 2}\n{1 << 20}\n1\n{quota} 100000\n{cpu_weight(shares)}\n"))


def cpu_weight(shares):
    """runc's conversion since 1.3.2 (opencontainers/cgroups, ConvertCPUSharesToCgroupV2Value)."""
    exponent = (math.log2(shares) ** 2 + 125 * math.log2(shares)) / 612 - 7 / 34
    return math.ceil(10**exponent)


def unknown_limit(c, handler):
    with Pod(c, handler) as pod:
        r = api.LinuxContainerResources()
        r.unified["memory.nope"] = "1"
        try:
            pod.run("one", ["true"], resources=r)
        except grpc.RpcError as e:
            assert "memory.nope" in e.details(), e.details()
        else:
            raise AssertionError("a file that no cgroup has was taken")


def pressure(c, handler):
    """Of the container and its pod, where a kubelet with PSI reads it."""
    with Pod(c, handler) as pod:
        one = pod.run("one", ["sleep", "1000"])
        equal(one.sh("cd /sys/fs/cgroup && head -qn 1 cpu.pressure memory.pressure io.pressure | cut -c 1-10"), (0, "some avg10\n" * 3))


def exec_sync(c, handler):
    with Pod(c, handler) as pod:
        one = pod.run("one", ["sleep", "1000"], envs=[("WORD", "here")])
        equal(one.sh("echo $WORD; exit 3"), (3, "here\n"))
        try:
            c.ask("ExecSync", container_id=one.id, cmd=["sleep", "100"], timeout=1)
            raise AssertionError("no time limit")
        except grpc.RpcError as e:
            assert e.code() == grpc.StatusCode.DEADLINE_EXCEEDED, e
        try:
            c.ask("ExecSync", container_id=one.id, cmd=["/nope"], timeout=5)
            raise AssertionError("a missing command was run")
        except grpc.RpcError as e:
            assert "/nope" in e.details(), e.details()


def stream(url):
    return websocket.create_connection(url.replace("http://", "ws://"), subprotocols=["v4.channel.k8s.io"], timeout=10)


def frames(socket, want):
    """What comes on each channel, until the channel `want` has something that is whole, or the end."""
    seen = {}
    while True:
        try:
            data = socket.recv()
        except websocket.WebSocketException:
            return seen
        if not data:
            return seen
        data = data.encode() if isinstance(data, str) else data
        seen[data[0]] = seen.get(data[0], b"") + data[1:]
        if want(seen):
            return seen


def exec_stream(c, handler):
    with Pod(c, handler) as pod:
        one = pod.run("one", ["sleep", "1000"])
        url = c.ask("Exec", container_id=one.id, cmd=["sh", "-c", "read x; echo got $x; echo bad >&2; exit 4"], stdin=True, stdout=True, stderr=True).url
        s = stream(url)
        s.send_binary(b"\x00typed\n")
        seen = frames(s, lambda f: 3 in f)
        equal((seen[1], seen[2]), (b"got typed\n", b"bad\n"))
        assert b'"4"' in seen[3] or b"exit code 4" in seen[3], seen[3]
        url = c.ask("Exec", container_id=one.id, cmd=["sh", "-c", "stty size; tty"], stdin=True, stdout=True, tty=True).url
        s = stream(url)
        s.send_binary(b'\x04{"Width": 77, "Height": 33}')
        seen = frames(s, lambda f: 3 in f)
        assert b"/dev/pts/" in seen[1] and b"\r\n" in seen[1], seen


def attach(c, handler):
    with Pod(c, handler) as pod:
        one = pod.run("one", ["sh", "-c", "while ! [ -e /go ]; do sleep 0.05; done; echo attached; sleep 1000"])
        s = stream(c.ask("Attach", container_id=one.id, stdout=True, stderr=True).url)
        one.sh("touch /go")
        equal(frames(s, lambda f: b"\n" in f.get(1, b""))[1], b"attached\n")
        s.close()


def port_forward(c, handler):
    with Pod(c, handler) as pod:
        pod.run("web", ["sh", "-c", "echo page >/tmp/index.html; exec httpd -f -p 80 -h /tmp"])
        address = pod.status().network.ip
        until(lambda: fetch(address, 80) == "page\n", "the page")
        s = stream(c.ask("PortForward", pod_sandbox_id=pod.id, port=[80]).url + "?port=80")
        s.send_binary(b"\x00GET / HTTP/1.0\r\n\r\n")
        seen = frames(s, lambda f: b"page\n" in f.get(0, b""))
        assert b"page\n" in seen[0], seen


def stats(c, handler):
    with Pod(c, handler) as pod:
        one = pod.run("one", ["sh", "-c", "x=$(head -c 5000000 /dev/zero | tr '\\0' x); while :; do sleep 1; done"])
        until(lambda: c.ask("ContainerStats", container_id=one.id).stats.memory.working_set_bytes.value > 5000000, "memory in the stats")
        s = c.ask("ContainerStats", container_id=one.id).stats
        assert s.cpu.usage_core_nano_seconds.value > 0, s
        listed = c.ask("ListContainerStats").stats
        assert one.id in [x.attributes.id for x in listed]
        sandbox = c.ask("PodSandboxStats", pod_sandbox_id=pod.id).stats.linux
        assert sandbox.process.process_count.value >= 1 or sandbox.memory.usage_bytes.value > 0, sandbox


def user_namespace(c, handler):
    with Pod(c, handler, userns=1 << 20) as pod:
        os.makedirs("/tmp/cri/owned", exist_ok=True)
        os.chmod("/tmp/cri/owned", 0o777)
        idmap = [api.IDMapping(host_id=1 << 20, container_id=0, length=65536)]
        mount = api.Mount(container_path="/owned", host_path="/tmp/cri/owned", uidMappings=idmap, gidMappings=idmap)
        one = pod.run("one", ["sh", "-c", "cat /proc/self/uid_map; touch /owned/f; stat -c %u /owned/f /bin"], mounts=[mount])
        equal(one.output().split(), ["0", "1048576", "65536", "0", "0"])
        equal(os.stat("/tmp/cri/owned/f").st_uid, 0)
        os.unlink("/tmp/cri/owned/f")


def user_namespace_shapes(c, handler):
    host = os.readlink("/proc/self/ns/user")
    for shared in (False, True):
        with Pod(c, handler, userns=1 << 20, pid=POD if shared else CONTAINER) as pod:
            one = pod.run("one", ["sh", "-c", "exec sleep 4321"])
            side = pod.run("side", ["sleep", "1234"])
            look = "readlink /proc/self/ns/user; read a b c </proc/self/uid_map; echo $b; ps -o args | grep -c '^sleep 4321$'"
            first, second = one.sh(look)[1].split(), side.sh(look)[1].split()
            assert first[0] == second[0] != host, (first, second)
            equal((first[1:], second[1:]), (["1048576", "1"], ["1048576", "1" if shared else "0"]))
            # kubectl debug --target
            context = api.LinuxContainerSecurityContext()
            context.namespace_options.CopyFrom(pod.options)
            context.namespace_options.pid, context.namespace_options.target_id = api.TARGET, one.id
            debug = pod.run("debug", ["sh", "-c", look + "; kill -0 $(ps -o pid,args | sed -n 's/^ *\\([0-9]*\\) sleep 4321$/\\1/p') && echo reached"], security=context)
            equal(debug.output().split(), [first[0], "1048576", "1", "reached"])
            one.remove()
            equal(side.sh("echo on")[1], "on\n")


def shared_pid(c, handler):
    with Pod(c, handler, pid=POD) as pod:
        one = pod.run("one", ["sleep", "4321"])
        two = pod.run("two", ["sleep", "1000"])
        code, out = two.sh("ps -o args")
        assert code == 0 and "sleep 4321" in out, out
        one.remove()
        assert "sleep 4321" not in two.sh("ps -o args")[1]
        equal(two.status().state, api.CONTAINER_RUNNING)


def recursive_read_only(c, handler):
    os.makedirs("/tmp/cri/rro/sub", exist_ok=True)
    subprocess.run("mountpoint -q /tmp/cri/rro/sub || mount -t tmpfs x /tmp/cri/rro/sub", shell=True, check=True)
    with Pod(c, handler) as pod:
        mount = api.Mount(container_path="/r", host_path="/tmp/cri/rro", readonly=True, recursive_read_only=True)
        one = pod.run("one", ["sh", "-c", "touch /r/sub/x 2>&1 | grep -o 'Read-only file system'; touch /r/x 2>&1 | grep -o 'Read-only file system'"], mounts=[mount])
        equal(one.output().count("Read-only"), 2)


def image_volume(c, handler):
    with Pod(c, handler) as pod:
        mount = api.Mount(container_path="/volume", readonly=True)
        mount.image.image = "local/bb:1"
        one = pod.run("one", ["sh", "-c", "ls /volume/bin/busybox; touch /volume/x 2>&1 | grep -o 'Read-only file system'"], mounts=[mount])
        equal(one.output(), "/volume/bin/busybox\nRead-only file system\n")


def checkpoint(c, handler):
    path = f"/tmp/cri/{handler}.tar"
    counted = lambda container: int(container.sh("cat /n")[1] or 0)
    with Pod(c, handler) as pod:
        one = pod.run("one", ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i >/n; sleep 0.05; done"])
        until(lambda: counted(one) > 5, "it counts")
        c.ask("CheckpointContainer", api.CheckpointContainerRequest(container_id=one.id, location=path, timeout=30))
        with tarfile.open(path) as tar:
            assert any("pages-1.img" in name for name in tar.getnames()), tar.getnames()
        # The kubelet's container goes on.
        before = counted(one)
        until(lambda: counted(one) > before, "it goes on")
    os.unlink(path)


def oom_killed(c, handler):
    with Pod(c, handler) as pod:
        r = api.LinuxContainerResources(memory_limit_in_bytes=16 << 20, memory_swap_limit_in_bytes=16 << 20)
        one = pod.run("one", ["sh", "-c", "x=$(head -c 100000000 /dev/zero | tr '\\0' x)"], resources=r)
        status = one.wait()
        equal((status.exit_code, status.reason), (137, "OOMKilled"))


def security(c, handler):
    with Pod(c, handler, sysctls={"net.ipv4.ip_unprivileged_port_start": "80"}) as pod:
        context = api.LinuxContainerSecurityContext(no_new_privs=True, readonly_rootfs=True)
        context.run_as_user.value = 1000
        context.run_as_group.value = 1000
        context.supplemental_groups.append(5)
        context.capabilities.drop_capabilities.append("ALL")
        context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
        context.masked_paths.append("/proc/keys")
        text = "id -u; id -g; id -G; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | cut -f2; cat /proc/keys | wc -c; touch /x 2>/dev/null || echo read-only; cat /proc/sys/net/ipv4/ip_unprivileged_port_start"
        one = pod.run("one", ["sh", "-c", text], security=context)
        equal(one.output().split("\n")[:-1], ["1000", "1000", "1000 5", "0000000000000000", "1", "2", "0", "read-only", "80"])


def privileged(c, handler):
    with Pod(c, handler, privileged=True) as pod:
        one = pod.run("one", ["sh", "-c", "mount -t tmpfs x /tmp && echo mounted"], security=api.LinuxContainerSecurityContext(privileged=True))
        equal(one.output(), "mounted\n")


def thirty_pods(c, handler):
    pods, problems = [], []

    def one():
        try:
            pod = Pod(c, handler)
            pods.append(pod)
            equal(pod.run("one", ["sh", "-c", "echo ok"]).output(), "ok\n")
        except Exception as e:  # told by the main thread
            problems.append(e)

    threads = [threading.Thread(target=one) for _ in range(30)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for pod in pods:
        pod.__exit__()
    assert not problems, problems[0]
    equal(len(pods), 30)


def restart_of_containerd(c, handler):
    with Pod(c, handler) as pod:
        one = pod.run("one", ["sh", "-c", "while ! [ -e /go ]; do sleep 0.05; done; echo seen; exit 6"])
        c.down(signal.SIGKILL)
        c.up()
        equal(one.status().state, api.CONTAINER_RUNNING)
        equal(one.sh("touch /go")[0], 0)
        equal(one.wait().exit_code, 6)
        equal(one.log(), "seen\n")


def nothing_left(c, _):
    equal(len(c.ask("ListPodSandbox").items), 0)
    shims = subprocess.run("ps -eo args | grep -c '[c]ontainerd-shim-.*-namespace k8s.io'", shell=True, capture_output=True, text=True).stdout
    until(lambda: shims.strip() == "0", "no shim is left", 5)
    mounts = open("/proc/self/mountinfo").read()
    assert not re.search(r"/run/containerd/io.containerd.(runtime|grpc).*rootfs", mounts), mounts


FEATURES = [
    ("RuntimeClass: used, an unknown one refused", the_class_is_used),
    ("output, exit status, log file", output_status_log),
    ("missing command told", missing_command),
    ("pods reach each other", network),
    ("containers of a pod share network and host name", one_network_for_the_pod),
    ("a port of the host", host_port),
    ("host network", host_network),
    ("limits, and their update", limits),
    ("exec sync: status, time limit, missing command", exec_sync),
    ("exec streamed: input, status, terminal", exec_stream),
    ("attach", attach),
    ("port forward", port_forward),
    ("stats of container and pod", stats),
    ("user namespace of the pod, idmapped volume", user_namespace),
    ("user namespace of the pod: shared processes, sidecar, exec, ephemeral container", user_namespace_shapes),
    ("shared process namespace", shared_pid),
    ("mount, recursive read-only", recursive_read_only),
    ("an image as a volume", image_volume),
    ("checkpoint of a container, which goes on", checkpoint),
    ("OOMKilled told", oom_killed),
    ("user, groups, capabilities, seccomp, sysctl, read-only root", security),
    ("privileged", privileged),
    ("30 pods at once", thirty_pods),
    ("containerd killed -9 and started again", restart_of_containerd),
    ("nothing left", nothing_left),
]
if V2:
    FEATURES = [
        ("limits, memory QoS, swap, their update in place", limits_v2),
        ("a limit that no cgroup has, told", unknown_limit),
        ("exec sync: status, time limit, missing command", exec_sync),
        ("stats of container and pod", stats),
        ("shared process namespace", shared_pid),
        ("mount, recursive read-only", recursive_read_only),
        ("an image as a volume", image_volume),
        ("nothing left", nothing_left),
    ]
    # Not every kernel has it; Debian's does.
    if os.path.exists("/proc/pressure/cpu"):
        FEATURES.insert(0, ("pressure (PSI)", pressure))
RRO = "mount, recursive read-only"
USERNS = "user namespace of the pod, idmapped volume"
SHAPES = "user namespace of the pod: shared processes, sidecar, exec, ephemeral container"
NOT = {
    # containerd asks only shims of the type runc.v2 what they can, and 2.1 crashes where it has no answer. The shim is the
    # pod: it can give no process and no user namespace to all containers, and says so. containerd 2.1 crashes, before it
    # calls the shim, on a pod with the host's network.
    "conex-sandbox": {RRO, USERNS, SHAPES, "shared process namespace", "host network"},
}
NOT_YET = {USERNS, SHAPES, RRO, "an image as a volume", "checkpoint of a container, which goes on"} if OLD else set()


def main():
    c = Containerd()
    for name, command in [("local/pause:1", ["sleep", "1000000"]), ("local/bb:1", ["sh"])]:
        tar = subprocess.run([sys.executable, "image.py", os.environ["CRI_ROOT"], name] + command, stdout=subprocess.PIPE, check=True).stdout
        subprocess.run(["ctr", "-n", "k8s.io", "images", "import", "-"], input=tar, check=True, stdout=subprocess.DEVNULL)
        tagged = "docker.io/" + name
        subprocess.run(["ctr", "-n", "k8s.io", "images", "tag", tagged, name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    handlers = ["runc", "conex", "conex-shim"] + ([] if OLD or V2 else ["conex-sandbox"])
    with open(RESULTS, "a") as out:
        for handler in handlers:
            for name, test in FEATURES:
                if name in NOT_YET or name in NOT.get(handler, ()) or os.environ.get("ONLY", "") not in name:
                    continue
                verdict = "pass"
                try:
                    test(c, handler)
                except Exception:
                    verdict = "fail"
                    print(f"{ENGINE}: {name} with {handler}: {traceback.format_exc()[-900:]}", file=sys.stderr)
                    clear(c)
                engine, column = (ENGINE + ", sandboxer shim", "conex-shim") if handler == "conex-sandbox" else (ENGINE, handler)
                print(engine, name, column, verdict, sep="\t", file=out, flush=True)
    c.down()


def clear(c):
    """What a failed feature left."""
    for pod in c.ask("ListPodSandbox").items:
        try:
            c.ask("StopPodSandbox", pod_sandbox_id=pod.id)
            c.ask("RemovePodSandbox", pod_sandbox_id=pod.id)
        except grpc.RpcError as e:
            print("left:", e.details(), file=sys.stderr)


main()
