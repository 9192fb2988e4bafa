"""budget.py ROUNDS BUNDLE CONEX FLOOR >TSV: where the time of a `run` goes, for conex and for the kernel floor.

The kernel writes down each system call, each switch of processes, each execution and end (ftrace, in an instance of its own,
tracefs(5)), of one `run` after the other. Each line of the output: who, phase, and the medians in microseconds of what its process
spent in system calls, in its own code with its page faults, and off the processor. The phases follow each other, but for the one
that is called "meanwhile": what the first process does while the second one is at work. Writing it all down makes a run slower by a
fifth or so.
"""
import collections
import os
import re
import statistics
import subprocess
import sys

rounds, bundle, conex, floor = int(sys.argv[1]), *sys.argv[2:5]
TRACING = "/sys/kernel/tracing"
INSTANCE = f"{TRACING}/instances/conex-budget"
EVENTS = ["raw_syscalls/sys_enter", "raw_syscalls/sys_exit", "sched/sched_switch", "sched/sched_process_exec", "sched/sched_process_exit"]
# Numbers of x86-64.
POLL, GETDENTS, PRCTL, CLONE3, EXECVE, EXECVEAT = 7, 217, 157, 435, 59, 322


def write(file, text):
    with open(f"{INSTANCE}/{file}", "w") as f:
        f.write(text)


def trace(args, env):
    """One run: its pid and [(microseconds, pid, event, rest)]."""
    begin = ["/bin/busybox", "sh", "-c", 'read x; exec "$@"', "sh"]
    process = subprocess.Popen(begin + args, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=bundle, env=env)
    write("trace", "")
    write("set_event_pid", str(process.pid))
    write("tracing_on", "1")
    process.stdin.write(b"x\n")
    process.stdin.close()
    assert process.wait(timeout=20) == 0, args
    write("tracing_on", "0")
    events = []
    with open(f"{INSTANCE}/trace") as text:
        for line in text:
            found = re.match(r"\s*.+-(\d+)\s+\[\d+\] \S+ +([\d.]+): (\w+): ?(.*)", line)
            if found:
                events.append((float(found[2]) * 1e6, int(found[1]), found[3], found[4]))
    return process.pid, events


def spent(events, pid, begin, end):
    """What a process did between two moments: in system calls, in its own code, off the processor."""
    kernel = off = 0.0
    entered = away = None
    for at, who, event, rest in events:
        if event == "sched_switch":
            if who == pid:
                away = at
            elif away is not None and f"next_pid={pid} " in rest:
                off += max(0, min(at, end) - max(away, begin))
                if entered is not None:
                    entered += at - away
                away = None
        elif who != pid:
            continue
        elif event == "sys_enter":
            entered = at
        elif event == "sys_exit" and entered is not None:
            kernel += max(0, min(at, end) - max(entered, begin))
            entered = None
    if away is not None:
        off += max(0, end - max(away, begin))
    elif entered is not None:
        kernel += max(0, end - max(entered, begin))
    return kernel, max(0.0, end - begin - kernel - off), off


def phases(pid, events):
    """[(phase, process, begin, end)] of one run."""
    called = lambda who, number, after: next(
        at for at, p, e, r in events if p == who and e == "sys_enter" and at > after and r.startswith(f"NR {number} ")
    )
    executed = [at for at, p, e, _ in events if e == "sched_process_exec" and p == pid]
    other = [(at, p) for at, p, e, _ in events if e == "sched_process_exec" and p != pid][-1]
    ended = {p: at for at, p, e, _ in events if e == "sched_process_exit"}
    own = len(executed) > 1
    began = called(pid, POLL, executed[-1])
    clone = called(pid, CLONE3, began)
    cloned = next(at for at, p, e, _ in events if p == pid and e == "sys_exit" and at > clone)
    marks = [("executed again, from where nobody can write", pid, executed[0], executed[-1])] if own else []
    marks.append(("execution: until main", pid, executed[-1], began))
    if own:
        read = called(pid, PRCTL, began)
        marks.append(("arguments and document", pid, began, read))
        marks.append(("facts, plan, record, what comes before the clone", pid, read, clone))
    else:
        marks.append(("what comes before the clone", pid, began, clone))
    marks.append(("clone3", pid, clone, cloned))
    marks.append(("the container's side, until its program", other[1], cloned, other[0]))
    marks.append(("the program", other[1], other[0], ended[other[1]]))
    marks.append(("end: waits, removes", pid, ended[other[1]], ended[pid]))
    marks.append(("(meanwhile: the host's side, until the program)", pid, cloned, other[0]))
    return marks


def measure(name, args, env=None):
    table = collections.OrderedDict()
    for n in range(rounds + 3):
        pid, events = trace(args(n), {**os.environ, **(env or {})})
        # The first ones find nothing in any cache.
        for phase, who, begin, end in phases(pid, events) if n >= 3 else []:
            table.setdefault(phase, []).append(spent(events, who, begin, end))
    for phase, rows in table.items():
        print(name, phase, *(f"{statistics.median(column):.0f}" for column in zip(*rows)), sep="\t")


if not os.path.exists(f"{TRACING}/instances"):
    subprocess.run(["mount", "-t", "tracefs", "tracefs", TRACING], check=True)
os.makedirs(INSTANCE, exist_ok=True)
try:
    write("options/event-fork", "1")
    write("trace_clock", "mono")
    write("buffer_size_kb", "8192")
    for event in EVENTS:
        write(f"events/{event}/enable", "1")
    devtmpfs = subprocess.run(["pgrep", "-x", "kdevtmpfs"], capture_output=True, text=True).stdout.strip()
    measure("conex", lambda n: [conex, "run", f"budget-{n}"])
    measure("floor", lambda n: [floor, f"{bundle}/rootfs", "/bin/true"], {"FLOOR_NAMESPACE": f"/proc/{devtmpfs}/ns/mnt"} if devtmpfs else {})
finally:
    os.rmdir(INSTANCE)
