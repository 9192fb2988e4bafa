"""The tests of pods.py. A test with one class returns what must be the same with every runtime."""
import json
import os
import re
import subprocess
import time

from pods import Wrong, figure, run, sh, sleeper, until, until_is
from under_load import ALONE, LOAD_SECONDS, ready_since


def phases(k):
    """a pod that ends well, one that does not, one that cannot start: phase, reason, exit code."""
    k.pod("well", sh("echo hello"), restartPolicy="Never")
    k.pod("ill", sh("echo no >&2; exit 3"), restartPolicy="Never")
    k.pod("missing", sh("true", command=["/nonexistent"]), restartPolicy="Never")
    out = []
    for name, phase in [("well", "Succeeded"), ("ill", "Failed"), ("missing", "Failed")]:
        k.phase(name, phase)
        end = k.status(name)["containerStatuses"][0]["state"]["terminated"]
        out.append((name, end["reason"], end["exitCode"], k.logs(name) if name != "missing" else ""))
    return out


def deployment(k):
    """a Deployment, its rolling update, its scaling down."""
    k.workload("Deployment", "d", k.spec(sleeper(env=[{"name": "V", "value": "1"}])) | {"restartPolicy": "Always"}, replicas=3)
    k.kubectl("rollout", "status", "deployment/d", "--timeout=90s", timeout=100)
    first = {p["metadata"]["name"] for p in k.pods()}
    k.kubectl("set", "env", "deployment/d", "V=2")
    k.kubectl("rollout", "status", "deployment/d", "--timeout=90s", timeout=100)
    until(lambda: len(k.pods()) == 3)
    second = {p["metadata"]["name"] for p in k.pods()}
    if first & second:
        raise Wrong("old pods are there")
    values = [k.exec(p, "sh", "-c", "echo $V").strip() for p in second]
    k.kubectl("scale", "deployment/d", "--replicas=1")
    until(lambda: len(k.pods()) == 1)
    return values


def daemonset(k):
    """a DaemonSet."""
    k.workload("DaemonSet", "d", k.spec(sleeper()))
    until_is(1, lambda: k.get("daemonset", "d")["status"].get("numberReady"))


def job(k):
    """a Job of 20 pods, 10 in parallel."""
    k.workload("Job", "j", k.spec(sh("echo done"), restartPolicy="Never"), completions=20, parallelism=10)
    until_is(20, lambda: k.get("job", "j")["status"].get("succeeded"), 180)


def cronjob(k):
    """a CronJob."""
    job = {"spec": {"template": {"spec": k.spec(sh("echo now"), restartPolicy="Never")}}}
    k.apply({"apiVersion": "batch/v1beta1", "kind": "CronJob", "metadata": {"name": "c"},
             "spec": {"schedule": "* * * * *", "jobTemplate": job}})
    until(lambda: any(p["status"]["phase"] == "Succeeded" for p in k.pods()), 100)


def probe(kind, **more):
    action = {"exec": {"exec": {"command": more.pop("command", ["true"])}}, "http": {"httpGet": {"port": 80, "path": "/"}},
              "tcp": {"tcpSocket": {"port": 80}}}[kind]
    return action | {"periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 1} | more


def probes(k):
    """probes by exec, HTTP and TCP: those that pass, fail and time out."""
    web = "mkdir /tmp/w; echo hi >/tmp/w/index.html; httpd -f -p 80 -h /tmp/w"
    for kind in ["exec", "http", "tcp"]:
        k.pod(f"good-{kind}", sh(web, readinessProbe=probe(kind), livenessProbe=probe(kind, initialDelaySeconds=2)))
        bad = {"command": ["false"]} if kind == "exec" else {}
        k.pod(f"bad-{kind}", sleeper(readinessProbe=probe(kind, **bad), livenessProbe=probe(kind, **bad, failureThreshold=3)))
    slow = probe("exec", command=["sleep", "60"])
    k.pod("slow", sleeper(readinessProbe=slow, livenessProbe=slow | {"failureThreshold": 2}))
    out = []
    for kind in ["exec", "http", "tcp"]:
        k.ready(f"good-{kind}")
    for name in ["bad-exec", "bad-http", "bad-tcp", "slow"]:
        until(lambda: k.status(name)["containerStatuses"][0]["restartCount"] > 0)
        out.append((name, k.status(name)["containerStatuses"][0]["ready"]))
    return out + [k.status(f"good-{kind}")["containerStatuses"][0]["restartCount"] for kind in ["exec", "http", "tcp"]]


def all_probes(k):
    """20 pods with a probe a second of every kind that pass, fail and time out: each stays as it is, and none is left out."""
    web = "mkdir /tmp/w; echo hi >/tmp/w/index.html; httpd -f -p 80 -h /tmp/w"
    silent = "while :; do nc -l -p 80 -e sleep 60; done"
    counted = probe("exec", command=["sh", "-c", "printf x >>/tmp/n"])
    patient = {"timeoutSeconds": 5}
    kinds = {
        "good-exec": (4, sleeper(readinessProbe=counted | patient)),
        "good-http": (3, sh(web, readinessProbe=probe("http") | patient)),
        "good-tcp": (3, sh(web, readinessProbe=probe("tcp") | patient)),
        "bad-exec": (3, sleeper(readinessProbe=probe("exec", command=["sh", "-c", "printf x >>/tmp/n; false"]))),
        "bad-http": (2, sleeper(readinessProbe=probe("http"))),
        "bad-tcp": (2, sleeper(readinessProbe=probe("tcp"))),
        "slow-exec": (2, sleeper(readinessProbe=probe("exec", command=["sleep", "60"]))),
        "slow-http": (1, sh(silent, readinessProbe=probe("http"))),
    }
    names = [f"{kind}-{n}" for kind, (count, _) in kinds.items() for n in range(count)]
    for name in names:
        k.pod(name, kinds[name.rsplit("-", 1)[0]][1])
    for name in names:
        k.ready(name) if name.startswith("good") else k.phase(name, "Running")
    time.sleep(5)
    begun = time.monotonic()
    before = {p["metadata"]["name"]: ready_since(p) for p in k.pods()}
    time.sleep(LOAD_SECONDS)
    after = {p["metadata"]["name"]: ready_since(p) for p in k.pods()}
    if before != after:
        raise Wrong(f"a pod has changed: {before} {after}")
    if any(state[0] != str(name.startswith("good")) for name, state in after.items()):
        raise Wrong(f"a probe that says the contrary: {after}")
    if any(p["status"]["containerStatuses"][0]["restartCount"] for p in k.pods()):
        raise Wrong("a container was restarted")
    probed = [len(k.exec(name, "cat", "/tmp/n")) for name in names if name.startswith(("good-exec", "bad-exec"))]
    seconds = time.monotonic() - begun
    if min(probed) < 0.8 * seconds:
        raise Wrong(f"{probed} probes in {seconds:.0f} s")
    figure(f"20 pods, a probe a second of every kind, {LOAD_SECONDS} s\t{k.name}\t{min(probed)} exec probes of one pod at least")


all_probes.long = True


def crash_loop(k):
    """CrashLoopBackOff."""
    k.pod("p", sh("exit 7"))
    state = until(lambda: k.status("p")["containerStatuses"][0]["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff"
                  and k.status("p")["containerStatuses"][0])
    return state["lastState"]["terminated"]["exitCode"]


def out_of_memory(k):
    """OOMKilled: of a pod's only process, and of a child of it."""
    limit = {"resources": {"limits": {"memory": "24Mi"}}}
    k.pod("all", sh("exec tail /dev/zero", **limit), restartPolicy="Never")
    k.pod("child", sh("tail /dev/zero; echo child $?", **limit), restartPolicy="Never")
    k.phase("all", "Failed")
    k.phase("child", "Succeeded")
    end = k.status("all")["containerStatuses"][0]["state"]["terminated"]
    return end["reason"], end["exitCode"], sorted(k.logs("child").split("\n"))


def init_containers(k):
    """init containers, in their order; one that fails; containers side by side with a volume."""
    mount = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
    volumes = [{"name": "v", "emptyDir": {}}]
    k.pod("p", sh("cat /v/a; until [ -e /v/side ]; do sleep 0.1; done; cat /v/side", **mount),
          sh("echo side >/v/side; sleep 3", "side", **mount), volumes=volumes, restartPolicy="Never",
          initContainers=[sh("echo one >>/v/a", "one", **mount), sh("echo two >>/v/a", "two", **mount)])
    k.pod("bad", sh("true"), restartPolicy="Never", initContainers=[sh("exit 4", "one")])
    k.phase("p", "Succeeded")
    k.phase("bad", "Failed")
    return k.logs("p", "-c", "c"), k.status("bad")["initContainerStatuses"][0]["state"]["terminated"]["exitCode"]


def shared_processes(k):
    """a shared process namespace; an ephemeral container that joins it."""
    k.pod("p", sleeper("a"), sh("exec sleep 4321", "b"), shareProcessNamespace=True)
    k.ready("p")
    seen = k.exec("p", "ps", container="a")
    k.kubectl("debug", "p", "--image=local/probe:1", "--image-pull-policy=Never", "--container=dbg", "--", "sh", "-c", "ps; echo seen")
    until(lambda: "seen" in k.logs("p", "-c", "dbg"))
    debug = k.logs("p", "-c", "dbg")
    return "sleep 4321" in seen, "sleep 4321" in debug, "sleep 2147483647" in seen


def debug_target(k):
    """an ephemeral container in the process namespace of another one."""
    k.pod("p", sh("exec sleep 4321"))
    k.ready("p")
    k.kubectl("debug", "p", "--image=local/probe:1", "--image-pull-policy=Never", "--target=c", "--container=dbg", "--", "sh", "-c", "ps | grep -c 'slee[p] 4321'; echo seen")
    until(lambda: "seen" in k.logs("p", "-c", "dbg"))
    return k.logs("p", "-c", "dbg")


def static_pod(k):
    """a static pod, and its restart."""
    name = f"static-{k.name}"
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": k.ns}, "spec": k.spec(sleeper())}
    path = f"/etc/kubernetes/manifests/{name}.json"
    with open(path, "w") as f:
        json.dump(pod, f)
    mirror = f"{name}-node"
    try:
        k.ready(mirror, 60)
        # The end of init can be that of this command as well, before it has ended by itself.
        k.kubectl("exec", mirror, "--", "kill", "-TERM", "1", check=False)
        until(lambda: k.status(mirror)["containerStatuses"][0]["restartCount"] == 1)
    finally:
        os.unlink(path)
    until(lambda: not k.pods(), 60)


def volumes(k):
    """volumes: emptyDir on disk and in memory, hostPath, subPath, projected, ConfigMap, Secret, the downward API; updates."""
    k.kubectl("create", "configmap", "m", "--from-literal=key=old")
    k.kubectl("create", "secret", "generic", "s", "--from-literal=key=hidden")
    host = f"/tmp/host-{k.ns}"
    os.makedirs(f"{host}/sub")
    with open(f"{host}/sub/file", "w") as f:
        f.write("from the host\n")
    names = {"disk": {"emptyDir": {}}, "memory": {"emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
             "host": {"hostPath": {"path": host}}, "map": {"configMap": {"name": "m"}},
             "secret": {"secret": {"secretName": "s", "defaultMode": 0o400}},
             "all": {"projected": {"sources": [{"configMap": {"name": "m", "items": [{"key": "key", "path": "m"}]}},
                                               {"secret": {"name": "s", "items": [{"key": "key", "path": "s"}]}},
                                               {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}}]}}}
    mounts = [{"name": n, "mountPath": f"/v/{n}"} for n in names]
    mounts += [{"name": "host", "mountPath": "/one", "subPath": "sub/file"}, {"name": "host", "mountPath": "/ro", "readOnly": True}]
    k.pod("p", sleeper(volumeMounts=mounts), volumes=[{"name": n} | v for n, v in names.items()])
    k.ready("p")
    script = ("echo x >/v/disk/f; echo x >/v/memory/f; cat /v/host/sub/file /one /v/map/key /v/secret/key /v/all/m /v/all/s /v/all/name;"
              "stat -L -c %a /v/secret/key; echo y >/v/host/back; touch /ro/f 2>&1;"
              "grep -E ' (/v/|/one|/ro)' /proc/self/mounts | cut -d' ' -f2,3 | sort")
    out = k.exec("p", "sh", "-c", script + "; true")
    with open(f"{host}/back") as f:
        out += f.read()
    k.kubectl("patch", "configmap", "m", "-p", '{"data": {"key": "new"}}')
    until(lambda: k.exec("p", "cat", "/v/map/key") == "new" and k.exec("p", "cat", "/v/all/m") == "new", 120)
    return out


def security(k):
    """securityContext: ids, groups, capabilities, seccomp, a read-only root, no new privileges, privileged, sysctls."""
    show = ("id; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; touch /x 2>&1; stat -c '%u %g %a' /v;"
            "grep -cE ' /(proc|sys)' /proc/self/mounts; cat /proc/sys/net/ipv4/ip_local_port_range; ls /dev | wc -l; true")
    made = {
        "plain": ({}, {}),
        "user": ({"runAsUser": 1000, "runAsGroup": 2000, "fsGroup": 3000, "supplementalGroups": [4000], "runAsNonRoot": True}, {}),
        "caps": ({}, {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE", "SYS_TIME"]}}),
        "strict": ({"seccompProfile": {"type": "RuntimeDefault"}}, {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}),
        "open": ({}, {"privileged": True}),
        "sysctl": ({"sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "7777 8888"}]}, {}),
    }
    for name, (pod, container) in made.items():
        k.pod(name, sh(show, securityContext=container, volumeMounts=[{"name": "v", "mountPath": "/v"}]), securityContext=pod,
              volumes=[{"name": "v", "emptyDir": {}}], restartPolicy="Never")
    out = {}
    for name in made:
        k.phase(name, "Succeeded")
        out[name] = k.logs(name)
    k.pod("root", sh("true", securityContext={"runAsNonRoot": True}), restartPolicy="Never")
    until_is("CreateContainerConfigError", lambda: k.status("root")["containerStatuses"][0]["state"].get("waiting", {}).get("reason"))
    return out


def limits(k):
    """requests and limits as the cgroups have them, in each class of service."""
    show = ("for f in memory/memory.limit_in_bytes cpu/cpu.shares cpu/cpu.cfs_quota_us pids/pids.max; do cat /sys/fs/cgroup/$f; done;"
            "cut -d: -f2- /proc/self/cgroup | sort | sed 's/pod[-0-9a-f_]\\{36\\}/pod/; s/[0-9a-f]\\{64\\}/id/'; cat /proc/self/oom_score_adj")
    made = {"best": {}, "burst": {"requests": {"memory": "16Mi", "cpu": "50m"}, "limits": {"memory": "64Mi"}},
            "sure": {"limits": {"memory": "32Mi", "cpu": "100m"}}}
    out = {}
    for name, resources in made.items():
        k.pod(name, sh(show, resources=resources), restartPolicy="Never")
    for name in made:
        k.phase(name, "Succeeded")
        out[name] = (k.status(name)["qosClass"], k.logs(name))
    return out


def lifecycle(k):
    """hooks, grace periods, forced deletion."""
    path = f"/tmp/hooks-{k.ns}"
    os.makedirs(path)
    hooks = {"lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo started >>/h/log"]}},
                           "preStop": {"exec": {"command": ["sh", "-c", "echo stopping >>/h/log"]}}},
             "volumeMounts": [{"name": "h", "mountPath": "/h"}]}
    shared = {"volumes": [{"name": "h", "hostPath": {"path": path}}]}
    k.pod("hooks", sh("trap 'echo term >>/h/log; exit' TERM; sleep 1000 & wait", **hooks), **shared)
    k.pod("deaf", sh("trap '' TERM; while :; do sleep 1; done"), terminationGracePeriodSeconds=3)
    k.pod("forced", sh("trap '' TERM; while :; do sleep 1; done"), terminationGracePeriodSeconds=300)
    k.pod("bad", sleeper(lifecycle={"postStart": {"exec": {"command": ["false"]}}}))
    for name in ["hooks", "deaf", "forced"]:
        k.ready(name)
    until(lambda: k.status("bad")["containerStatuses"][0]["restartCount"] > 0)
    k.kubectl("delete", "pod", "hooks")
    start = time.monotonic()
    k.kubectl("delete", "pod", "deaf")
    took = time.monotonic() - start
    if not 2.5 < took < 15:
        raise Wrong(f"a grace period of 3 s took {took:.1f}")
    k.kubectl("delete", "pod", "forced", "--grace-period=0", "--force")
    with open(f"{path}/log") as f:
        return f.read()


def streams(k):
    """exec with a terminal, input, output, exit codes; attach; logs -f; cp; port-forward."""
    k.pod("p", sh("mkdir /tmp/w; echo served >/tmp/w/index.html; httpd -p 8080 -h /tmp/w; while read x; do echo got $x; done; sleep 1000", stdin=True))
    k.ready("p")
    out = [k.exec("p", "sh", "-c", "cat; echo end", given=b"a line\n", flags=["-i"])]
    codes = [subprocess.run(["kubectl", "-n", k.ns, "exec", "p", "--", "sh", "-c", f"exit {n}"], capture_output=True).returncode for n in (0, 1, 42)]
    big = k.exec("p", "sh", "-c", "yes conex | head -c 5000000 | md5sum; yes conex | head -c 5000000")
    out += [codes, len(big), big[:36]]
    tty = ["script", "-qec", f"kubectl -n {k.ns} exec -it p -- sh -c 'tty; exit 5'", "/dev/null"]
    open_end, other_end = os.pipe()
    terminal = subprocess.run(tty, capture_output=True, stdin=open_end, timeout=30)
    os.close(open_end)
    os.close(other_end)
    out.append((terminal.returncode, re.sub(r"[\r\n]+", " ", terminal.stdout.decode())))
    attach = subprocess.Popen(["kubectl", "-n", k.ns, "attach", "-i", "p"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    attach.stdin.write(b"attached\n")
    attach.stdin.flush()
    until(lambda: "got attached" in k.logs("p"))
    follow = subprocess.Popen(["kubectl", "-n", k.ns, "logs", "-f", "p"], stdout=subprocess.PIPE)
    attach.stdin.write(b"again\n")
    attach.stdin.close()
    lines = [follow.stdout.readline().decode(), follow.stdout.readline().decode()]
    follow.kill()
    attach.kill()
    out.append(lines)
    here, back = f"/tmp/cp-{k.ns}", f"/tmp/back-{k.ns}"
    with open(here, "wb") as f:
        f.write(os.urandom(300_000))
    k.kubectl("cp", here, "p:/tmp/f")
    k.kubectl("cp", "p:/tmp/f", back)
    out.append(open(here, "rb").read() == open(back, "rb").read())
    forward = subprocess.Popen(["kubectl", "-n", k.ns, "port-forward", "p", ":8080"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    port = re.search(r":(\d+) ->", forward.stdout.readline().decode())
    out.append(run("busybox", "wget", "-q", "-O-", f"http://127.0.0.1:{port.group(1)}/"))
    forward.kill()
    return out


def host_namespaces(k):
    """hostNetwork, hostPID, hostIPC."""
    show = "for n in net pid ipc uts; do readlink /proc/self/ns/$n; done"
    for name, more in {"none": {}, "net": {"hostNetwork": True}, "pid": {"hostPID": True}, "ipc": {"hostIPC": True}}.items():
        k.pod(name, sh(show), restartPolicy="Never", **more)
    own = {os.readlink(f"/proc/self/ns/{n}") for n in ["net", "pid", "ipc", "uts"]}
    out = []
    for name in ["none", "net", "pid", "ipc"]:
        k.phase(name, "Succeeded")
        out.append([line in own for line in k.logs(name).split()])
    return out


def services(k):
    """a Service through kube-proxy, from a pod and from the node."""
    k.workload("Deployment", "web", k.spec(sh("mkdir /tmp/w; hostname >/tmp/w/index.html; httpd -f -p 80 -h /tmp/w")) | {"restartPolicy": "Always"}, replicas=2)
    k.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 8000, "targetPort": 80}]}})
    k.kubectl("rollout", "status", "deployment/web", "--timeout=90s", timeout=100)
    address = k.get("service", "web")["spec"]["clusterIP"]
    k.pod("client", sleeper())
    k.ready("client")
    until(lambda: len(k.get("endpoints", "web")["subsets"][0]["addresses"]) == 2)
    seen = set()

    def both():
        seen.add(k.exec("client", "wget", "-q", "-O-", f"http://{address}:8000/").strip())
        return len(seen) == 2

    until(both)
    node = until(lambda: run("busybox", "wget", "-q", "-O-", f"http://{address}:8000/").startswith("web-"))
    return len(seen), node


def failing(k):
    """600 failing exec probes of one pod: exec, logs and deletion as before."""
    probe = {"exec": {"command": ["/nonexistent"]}, "periodSeconds": 1, "failureThreshold": 1}
    k.pod("p", *[sleeper(f"c{n}", readinessProbe=probe) for n in range(10)])
    k.phase("p", "Running")
    time.sleep(62)
    for n in range(10):
        if k.exec("p", "echo", "here", container=f"c{n}") != "here\n":
            raise Wrong("exec")
    # All ten end; the pod itself goes when the kubelet's garbage collector comes by.
    k.kubectl("delete", "pod", "p", "--wait=false")
    until(lambda: not [c for c in k.pods() if any("running" in s["state"] for s in c["status"]["containerStatuses"])], 60)
    until(lambda: not k.pods(), 150)


LIST = [cronjob, phases, deployment, daemonset, job, probes, crash_loop, out_of_memory, init_containers, shared_processes, debug_target,
        static_pod, volumes, security, limits, lifecycle, streams, host_namespaces, services, failing, all_probes, *ALONE]
