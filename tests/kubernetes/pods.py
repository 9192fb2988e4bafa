"""pods.py RESULTS FIGURES: what people do with a cluster, with a runtime class for each runtime; one line a test."""
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

RESULTS, FIGURES = sys.argv[1:3]
# conex-runc is conex below containerd's shim; conex, with its own shim, is the class that `conex setup` writes.
CLASSES = ["runc", "conex-runc", "conex"]
WORK = "/run/cluster"
PARTS = os.environ.get("PARTS", "").split()
lock = threading.Lock()


class Wrong(Exception):
    """What was seen is not what must be."""


def run(*command, given=None, timeout=60, check=True):
    """Its standard output."""
    done = subprocess.run(command, input=given, capture_output=True, timeout=timeout)
    if check and done.returncode:
        raise Wrong(f"{' '.join(command)}: {done.returncode}: {done.stderr.decode(errors='replace')[-600:]}")
    return done.stdout.decode(errors="replace")


def kubectl(*args, **more):
    return run("kubectl", *args, **more)


def until(what, seconds=90, every=0.2):
    """The first true value of a function; a failure of it counts as false."""
    last, end = None, time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            value = what()
            if value:
                return value
        except (Wrong, KeyError, IndexError, TypeError, subprocess.TimeoutExpired) as e:
            last = e
        time.sleep(every)
    raise Wrong(f"not within {seconds} seconds: {getattr(what, '__doc__', None) or ''} {last or ''}")


def until_is(wanted, what, seconds=90):
    """Waits until a function has this value."""
    seen = [None]

    def same():
        seen[0] = what()
        return seen[0] == wanted

    try:
        until(same, seconds)
    except Wrong as e:
        raise Wrong(f"wanted {wanted!r}, last seen {seen[0]!r}: {e}") from None


class Class:
    """A runtime class, with a namespace for each test."""

    def __init__(self, name, test):
        self.name, self.ns = name, f"{test}-{name}".replace("_", "-")
        kubectl("create", "namespace", self.ns)
        until(lambda: kubectl("get", "serviceaccount", "default", "-n", self.ns))

    def kubectl(self, *args, **more):
        # What comes after `--` is the container's.
        at = args.index("--") if "--" in args else len(args)
        return kubectl(*args[:at], "-n", self.ns, *args[at:], **more)

    def get(self, *what):
        return json.loads(self.kubectl("get", *what, "-o", "json"))

    def apply(self, *objects):
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "-f", "-", given=text.encode())

    def spec(self, *containers, **more):
        made = {"runtimeClassName": self.name, "terminationGracePeriodSeconds": 2, "containers": list(containers)}
        return made | more

    def pod(self, name, *containers, labels=None, **more):
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels or {}},
                    "spec": self.spec(*containers, **more)})

    def workload(self, kind, name, template, **spec):
        labels = {"app": name}
        selector = {} if kind == "Job" else {"selector": {"matchLabels": labels}}
        self.apply({"apiVersion": "batch/v1" if kind == "Job" else "apps/v1", "kind": kind, "metadata": {"name": name},
                    "spec": spec | selector | {"template": {"metadata": {"labels": labels}, "spec": template}}})

    def status(self, name):
        return self.get("pod", name)["status"]

    def phase(self, name, phase, seconds=90):
        until_is(phase, lambda: self.status(name)["phase"], seconds)

    def ready(self, name, seconds=90):
        until(lambda: all(c["ready"] for c in self.status(name)["containerStatuses"]), seconds)

    def pods(self, *more):
        return self.get("pods", *more)["items"]

    def exec(self, pod, *command, container=None, given=None, flags=(), timeout=30):
        where = ("-c", container) if container else ()
        return self.kubectl("exec", *flags, pod, *where, "--", *command, given=given, timeout=timeout)

    def logs(self, pod, *more):
        return self.kubectl("logs", pod, *more)

    def address(self, pod):
        return until(lambda: self.status(pod)["podIP"])

    def end(self):
        # Nobody waits here: the kubelet forgets a pod when its garbage collector comes by, which is once a minute.
        self.kubectl("delete", "deployments,daemonsets,jobs,cronjobs,pods", "--all", "--wait=false", "--ignore-not-found", timeout=120)
        kubectl("delete", "namespace", self.ns, "--wait=false")


def sh(script, name="c", **more):
    """A container that runs a script."""
    return {"name": name, "image": "local/probe:1", "imagePullPolicy": "Never", "command": ["sh", "-c", script]} | more


SLEEP = "trap 'exit 0' TERM; sleep 10000 & wait"


def sleeper(name="c", **more):
    return sh(SLEEP, name, **more)


def record(test, name, verdict):
    with lock, open(RESULTS, "a") as f:
        f.write(f"{test}\t{name}\t{verdict}\n")


def figure(text):
    with lock, open(FIGURES, "a") as f:
        f.write(text + "\n")
    print(text, flush=True)


def one(test, name, values):
    """A test with one class."""
    verdict = "pass"
    k = None
    try:
        k = Class(name, test.__name__)
        values[name] = test(k)
        k.end()
    except Exception as e:  # whatever it is, the others go on
        verdict = "fail"
        detail = str(e) if isinstance(e, Wrong) else traceback.format_exc()
        print(f"{test.__name__} with {name}: {detail}", flush=True)
        if k:
            events = kubectl("get", "events", "-n", k.ns, check=False).splitlines()[-6:]
            print("\n".join(["", *events]), flush=True)
            kubectl("delete", "pods", "--all", "-n", k.ns, "--force", "--grace-period=0", "--wait=false", check=False)
    return verdict


def all_classes(test):
    """A test with all of them at once; what it returns must be what it returns with runc."""
    values, verdicts, start = {}, {}, time.monotonic()

    def work(name):
        verdicts[name] = one(test, name, values)

    threads = [threading.Thread(target=work, args=(n,)) for n in CLASSES]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for name in CLASSES:
        if verdicts[name] == "pass" and "runc" in values and values[name] != values["runc"]:
            verdicts[name] = "fail"
            print(f"{test.__name__} with {name}: {values[name]!r} where runc has {values['runc']!r}", flush=True)
        record(test.__doc__.rstrip("."), name, verdicts[name])
    print(f"{test.__name__}: {' '.join(verdicts[n] for n in CLASSES)}, {time.monotonic() - start:.0f} s", flush=True)
    return verdicts


def shims():
    """The shims' processes: command lines by number."""
    return {p: line for p, line in processes().items() if "containerd-shim-" in line.split("\0")[0]}


def processes():
    """Command lines by number."""
    out = {}
    for p in os.listdir("/proc"):
        if p.isdigit():
            try:
                with open(f"/proc/{p}/cmdline") as f:
                    out[int(p)] = f.read()
            except OSError:
                pass
    return out


def stop(name, sig=signal.SIGKILL):
    """Ends a daemon of the node."""
    with open(f"{WORK}/{name}.pid") as f:
        pid = int(f.read())
    os.kill(pid, sig)
    # The zombie of a shell's child has no command line.
    until(lambda: not processes().get(pid), 30)


def start(name):
    with open(f"/tmp/{name}.log", "a") as log:
        child = subprocess.Popen([f"{WORK}/start-{name}"], stdout=log, stderr=log)
    with open(f"{WORK}/{name}.pid", "w") as f:
        f.write(str(child.pid))


# Sockets of shims of containerd's own that were killed.
left_by_others = set()


def sockets():
    return {f"/run/containerd/s/{e}" for e in os.listdir("/run/containerd/s")}


def nothing_left():
    """Pods, shims and the runtimes' state are gone, and the containers' mounts: 1 if not."""
    def left():
        pods = json.loads(kubectl("get", "pods", "--all-namespaces", "-o", "json"))["items"]
        with open("/proc/self/mounts") as f:
            mounts = [m.split()[1] for m in f if "/io.containerd.runtime.v2.task/" in m or "/kubelet/pods/" in m]
        roots = ["/run/containerd/runc/k8s.io", "/run/containerd/conex/k8s.io"]
        # What begins with a dot is of no container: compiled filters, the journal of the ends.
        state = [f"{d}/{e}" for d in roots if os.path.isdir(d) for e in os.listdir(d) if not e.startswith(".")]
        state += sockets() - left_by_others
        names = [p["metadata"]["namespace"] + "/" + p["metadata"]["name"] for p in pods]
        return names + list(shims().values()) + mounts + state

    try:
        until(lambda: not left(), 150)
        return 0
    except Wrong:
        print("left behind:", left())
        return 1


def main():
    import tests
    for name in ["runc", "conex-runc"]:
        text = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}, "handler": name}
        kubectl("apply", "-f", "-", given=json.dumps(text).encode())
    bad = 0
    for test in tests.LIST:
        alone = getattr(test, "alone", False)
        # "together": those that all classes do at once, and that take no longer than what they wait for.
        apart = alone or getattr(test, "long", False)
        if PARTS and test.__name__ not in PARTS and (apart or "together" not in PARTS):
            continue
        verdicts = test() if alone else all_classes(test)
        bad += sum(verdicts["runc"] == "pass" and verdicts[n] == "fail" for n in CLASSES)
    bad += nothing_left()
    sys.exit(min(bad, 100))


if __name__ == "__main__":
    sys.modules["pods"] = sys.modules["__main__"]
    main()
