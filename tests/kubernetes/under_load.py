"""Tests that are alone on the node: figures, and daemons that are killed."""
import os
import signal
import time

from pods import CLASSES, Wrong, figure, kubectl, left_by_others, one, record, sh, shims, sleeper, sockets, start, stop, until

LOAD_SECONDS = int(os.environ.get("LOAD_SECONDS", "60"))


def alone(test):
    """One class after the other."""

    def work():
        verdicts, values = {}, {}
        for name in CLASSES:
            verdicts[name] = one(test, name, values)
            record(test.__doc__.rstrip("."), name, verdicts[name])
        print(f"{test.__name__}: {' '.join(verdicts[n] for n in CLASSES)}", flush=True)
        return verdicts

    work.__name__, work.alone = test.__name__, True
    return work


def cpu():
    """Seconds that the node's processes have used."""
    with open("/sys/fs/cgroup/cpuacct/cpuacct.usage") as f:
        return int(f.read()) / 1e9


def memory(pids):
    """Proportional set size of processes, in MiB."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as f:
            total += next(int(line.split()[1]) for line in f if line.startswith("Pss:"))
    return total / 1024


@alone
def crowd(k):
    """60 pods at once, up and down."""
    begun = time.monotonic()
    objects = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{n}"}, "spec": k.spec(sleeper())} for n in range(60)]
    k.apply(*objects)
    until(lambda: sum(p["status"]["phase"] == "Running" for p in k.pods()) == 60, 240)
    up = time.monotonic() - begun
    begun = time.monotonic()
    k.kubectl("delete", "pods", "--all", "--wait=false")
    until(lambda: not [s for s in shims().values() if "k8s.io" in s], 240)
    ended = time.monotonic() - begun
    until(lambda: not k.pods(), 240)
    figure(f"60 pods\t{k.name}\tup {up:.1f} s; down: processes gone after {ended:.1f} s, pods after {time.monotonic() - begun:.1f} s")


@alone
def load(k):
    """20 pods with an exec probe a second: nobody is found unready, nothing restarts."""
    until(lambda: not shims(), 60)
    begun, used = time.monotonic(), cpu()
    time.sleep(15)
    idle = (cpu() - used) / (time.monotonic() - begun)
    probe = {"exec": {"command": ["true"]}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 1}
    k.workload("Deployment", "d", k.spec(sleeper(readinessProbe=probe)) | {"restartPolicy": "Always"}, replicas=20)
    k.kubectl("rollout", "status", "deployment/d", "--timeout=120s", timeout=130)
    time.sleep(5)
    since = {p["metadata"]["name"]: ready_since(p) for p in k.pods()}
    begun, used = time.monotonic(), cpu()
    time.sleep(LOAD_SECONDS)
    share = (cpu() - used) / (time.monotonic() - begun) - idle
    size = memory(shims()) / 20
    after = {p["metadata"]["name"]: ready_since(p) for p in k.pods()}
    if since != after or any(p["status"]["containerStatuses"][0]["restartCount"] for p in k.pods()):
        raise Wrong(f"a pod was not ready, or restarted: {since} {after}")
    figure(f"20 pods, an exec probe a second, {LOAD_SECONDS} s\t{k.name}\t{100 * share:.0f} % of a CPU more than idle; shims of a pod {size:.2f} MiB (PSS)")


@alone
def many_probes(k):
    """PROBES exec probes of 300 containers, one a second each: none fails, none hangs."""
    wanted = int(os.environ["PROBES"])
    if k.name != "conex":
        # containerd's shim cannot keep up on two cores: nothing to compare.
        return
    probe = {"exec": {"command": ["sh", "-c", "printf x >>/count"]}, "periodSeconds": 1, "timeoutSeconds": 10, "failureThreshold": 1}
    one = sleeper(readinessProbe=probe)
    spec = k.spec(one) | {"restartPolicy": "Always"}
    first = spec["containers"][0]
    spec["containers"] = [first | {"name": f"c{n}"} for n in range(5)]
    k.workload("Deployment", "d", spec, replicas=60)
    k.kubectl("rollout", "status", "deployment/d", "--timeout=400s", timeout=410)
    time.sleep(5)
    since = {p["metadata"]["name"]: ready_since(p) for p in k.pods()}

    def ran():
        """As many as the probes have written, by the processes' roots."""
        total = 0
        for pid in [int(p) for p in os.listdir("/proc") if p.isdigit()]:
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    if f.read().startswith(b"sleep\x00"):
                        total += os.stat(f"/proc/{pid}/root/count").st_size
            except OSError:
                pass
        return total

    begun = time.monotonic()
    until(lambda: ran() >= wanted, 2400, every=5)
    after = {p["metadata"]["name"]: ready_since(p) for p in k.pods()}
    if since != after or any(c["restartCount"] for p in k.pods() for c in p["status"]["containerStatuses"]):
        raise Wrong(f"a pod was not ready, or restarted: {since} {after}")
    figure(f"exec probes of 300 containers\t{k.name}\t{ran()} in {time.monotonic() - begun:.0f} s, none failed")


def ready_since(pod):
    return next((c["status"], c["lastTransitionTime"]) for c in pod["status"]["conditions"] if c["type"] == "Ready")


def steady(k, names):
    """Pods that go on: no restart, exec answers, and what they write is in their logs."""
    for name in names:
        k.ready(name)
        status = k.status(name)["containerStatuses"][0]
        if status["restartCount"]:
            raise Wrong(f"{name} was restarted: {status['lastState']}")
        if k.exec(name, "echo", "here") != "here\n":
            raise Wrong("exec")
        before = k.logs(name).count("\n")
        until(lambda: k.logs(name).count("\n") > before, 30)


TICK = "trap 'exit 0' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"


def in_order(k, name):
    lines = k.logs(name).split()
    if lines != [str(n) for n in range(len(lines))]:
        raise Wrong("lines are missing or double")


@alone
def node_daemons(k):
    """kill -9 of the kubelet, of containerd, and of both: pods go on, no line of output is lost."""
    k.pod("p", sh(TICK))
    k.ready("p")
    for names in [["kubelet"], ["containerd"], ["kubelet", "containerd"]]:
        for name in names:
            stop(name)
        for name in reversed(names):
            start(name)
        until(lambda: kubectl("get", "--raw", "/api/v1/nodes/node/proxy/healthz") == "ok", 60)
        until(lambda: k.exec("p", "echo", "here") == "here\n", 60)
        steady(k, ["p"])
    in_order(k, "p")


@alone
def killed_shim(k):
    """kill -9 of a pod's shim: the kubelet starts the pod again."""
    until(lambda: not shims(), 150)
    before = sockets()
    k.pod("p", sh(TICK))
    k.ready("p")
    for pid, line in shims().items():
        if line.rstrip("\0").endswith("serve") or "runc" in line.split("\0")[0]:
            os.kill(pid, signal.SIGKILL)
    until(lambda: k.status("p")["containerStatuses"][0]["restartCount"] > 0, 120)
    k.ready("p", 120)
    if k.exec("p", "echo", "here") != "here\n":
        raise Wrong("exec")
    k.kubectl("delete", "pod", "p", "--wait=false")
    until(lambda: not shims(), 60)
    if k.name == "conex":
        until(lambda: sockets() <= before, 10)
    else:
        left_by_others.update(sockets() - before)


def only_conex(test):
    def work():
        values = {}
        verdict = one(test, "conex", values)
        record(test.__doc__.rstrip("."), "conex", verdict)
        print(f"{test.__name__}: conex {verdict}", flush=True)
        # No control: it must hold by itself.
        return {"runc": "pass", "conex-runc": "pass", "conex": verdict}

    work.__name__, work.alone = test.__name__, True
    return work


def servers():
    return [p for p, line in shims().items() if line.rstrip("\0").endswith("serve")]


@only_conex
def survivors(k):
    """the shim's server killed while containerd is away, its keeper killed, its program upgraded: pods go on."""
    k.pod("p", sh(TICK))
    k.pod("q", sh(TICK))
    for name in ["p", "q"]:
        k.ready(name)
    until(lambda: len(servers()) == 2, 150)
    stop("containerd")
    before = servers()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(servers()) == len(before) and not set(before) & set(servers()), 20)
    start("containerd")
    until(lambda: k.exec("p", "echo", "here") == "here\n", 60)
    steady(k, ["p", "q"])
    for pid in servers():
        os.kill(pid, signal.SIGUSR2)
    steady(k, ["p", "q"])
    keepers = [p for p in shims() if p not in servers()]
    if not keepers:
        raise Wrong("no keeper")
    for pid in keepers:
        os.kill(pid, signal.SIGKILL)
    steady(k, ["p", "q"])
    for name in ["p", "q"]:
        in_order(k, name)


ALONE = [crowd, load, node_daemons, killed_shim, survivors]
if os.environ.get("PROBES"):
    ALONE.append(many_probes)
