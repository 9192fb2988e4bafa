"""performance.py BENCH CROWD MACHINE BUDGET >docs/performance.md: the tables and plots of `make bench`; writes docs/performance-*.svg."""
import collections
import datetime
import re
import sys

bench, crowd, machine, budget = (open(name).read() for name in sys.argv[1:5])
COLOURS = {"floor": "#999999", "conex": "#0072b2", "crun": "#e69f00", "runc": "#d55e00"}


def sections(text):
    """Title of each table of bench -> name -> (median, low, high)."""
    out, title = collections.OrderedDict(), None
    for line in text.splitlines():
        found = re.match(r"  (\w+)\s+median\s+([\d.]+) ms\s+10-90 % ([\d.]+) to ([\d.]+) ms", line)
        if found:
            out[title][found[1]] = tuple(float(found[n]) for n in (2, 3, 4))
        elif line.strip() and not line.startswith(" "):
            title = line.strip()
            out.setdefault(title, collections.OrderedDict())
    return collections.OrderedDict((t, rows) for t, rows in out.items() if rows)


figures = {}
for line in crowd.splitlines():
    load, size, runtime, verb, *numbers = line.split("\t")
    figures[load, int(size), runtime, verb] = [float(n) for n in numbers]


def samples(text):
    """Title of each table of bench -> name -> [ms]."""
    out, title = collections.OrderedDict(), None
    for line in text.splitlines():
        words = line.split()
        if line.startswith("  samples "):
            out.setdefault(title, collections.OrderedDict())[words[1]] = sorted(float(w) for w in words[2:])
        elif line.strip() and not line.startswith(" "):
            title = line.strip()
    return out


def svg(name, width, height, parts):
    with open(f"docs/performance-{name}.svg", "w") as file:
        file.write(f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="13">'
                   f'<rect width="{width}" height="{height}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n")


def distribution(name, title, series):
    """How many of a hundred took at most so long: series name -> sorted [ms]; logarithmic across."""
    from math import log
    low = min(ms[0] for ms in series.values()) * 0.9
    high = max(ms[int(len(ms) * 0.99)] for ms in series.values()) * 1.05
    x = lambda ms: 60 + 420 * log(min(ms, high) / low) / log(high / low)
    y = lambda share: 230 - 200 * share
    out = [f'<text x="10" y="18" font-weight="bold">{title}</text>', '<path d="M60 30V230H490" fill="none" stroke="#444"/>']
    out += [f'<text x="54" y="{y(p / 100) + 4:.0f}" text-anchor="end">{p} %</text>' for p in (0, 25, 50, 75, 100)]
    ticks = [t for t in (1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 80, 100, 200) if low <= t <= high]
    out += [f'<text x="{x(t):.0f}" y="248" text-anchor="middle">{t}</text><path d="M{x(t):.0f} 30V230" stroke="#eee"/>' for t in ticks]
    out.append('<text x="275" y="266" text-anchor="middle">ms, logarithmic</text>')
    for n, (which, ms) in enumerate(series.items()):
        path = " ".join(f"{x(t):.1f},{y((i + 1) / len(ms)):.1f}" for i, t in enumerate(ms))
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[which]}" stroke-width="2"/>'
                   f'<text x="500" y="{60 + 20 * n}" fill="{COLOURS[which]}">{which}</text>')
    svg(name, 560, 276, out)


def spent(text):
    """Whose -> [(phase, kernel, own code, off)] in microseconds."""
    out = collections.OrderedDict()
    for line in text.splitlines():
        whose, phase, *numbers = line.split("\t")
        out.setdefault(whose, []).append((phase, *(int(n) for n in numbers)))
    return out


def stacked(name, title, bars):
    """One bar for each program, a piece for each phase: dark in the kernel, middle in its own code, light off the processor."""
    hues = [210, 25, 140, 280, 50, 330, 190, 0]
    order = list(dict.fromkeys(phase for rows in bars.values() for phase, *_ in rows if not phase.startswith("(")))
    longest = max(sum(sum(n) for _, *n in rows) for rows in bars.values())
    out, top = [f'<text x="10" y="18" font-weight="bold">{title}</text>'], 34
    for which, rows in bars.items():
        at = 60.0
        out.append(f'<text x="10" y="{top + 20}">{which}</text>')
        for phase, *numbers in rows:
            for light, n in zip((45, 65, 88), numbers):
                width = 620 * n / longest
                out.append(f'<rect x="{at:.1f}" y="{top}" width="{width:.1f}" height="30" fill="hsl({hues[order.index(phase) % len(hues)]},60%,{light}%)"/>')
                at += width
        out.append(f'<text x="{at + 6:.0f}" y="{top + 20}">{sum(sum(n) for _, *n in rows) / 1000:.2f} ms</text>')
        top += 44
    for n, phase in enumerate(order):
        out.append(f'<rect x="60" y="{top + 20 * n}" width="12" height="12" fill="hsl({hues[n % len(hues)]},60%,55%)"/><text x="80" y="{top + 11 + 20 * n}">{phase}</text>')
    svg(name, 760, top + 20 * len(order) + 8, out)


def plot(name, title, series, across):
    """Lines: series name -> [(x, y)], x by rank, as the loads grow by powers."""
    xs = sorted({x for points in series.values() for x, _ in points})
    top = max(y for points in series.values() for _, y in points) * 1.1
    place = lambda x, y: (60 + 420 * xs.index(x) / max(1, len(xs) - 1), 230 - 200 * y / top)
    out = [f'<text x="10" y="18" font-weight="bold">{title}</text>', '<path d="M60 30V230H490" fill="none" stroke="#444"/>']
    out += [f'<text x="{place(x, 0)[0]}" y="248" text-anchor="middle">{x:,}</text>' for x in xs]
    out += [f'<text x="54" y="{place(xs[0], top * part / 4)[1] + 4:.0f}" text-anchor="end">{top * part / 4:.0f}</text>' for part in range(5)]
    out.append(f'<text x="275" y="266" text-anchor="middle">{across}</text>')
    for which, points in series.items():
        path = " ".join(f"{x:.0f},{y:.0f}" for x, y in (place(*p) for p in sorted(points)))
        x, y = place(*max(points))
        out.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[which]}" stroke-width="2"/>'
                   f'<text x="{x + 8:.0f}" y="{y + 4:.0f}" fill="{COLOURS[which]}">{which}</text>')
    svg(name, 560, 276, out)


print(f"""# Performance

Written by `make bench` on {datetime.date.today()}. Everything was measured interleaved in one run, so compare the columns of a
table; milliseconds of other machines differ. Medians, with the tenth and the ninetieth of a hundred.

{machine.strip()}

The **kernel floor** is a program (tests/src/bin/floor.rs) that asks the kernel for the same namespaces, mounts, cgroups, nodes and
masks by the best calls there are, and for the process's limits, capabilities and keyring, and does nothing else: no document, no
check, no record. Its exec has one process where conex has two: the first closes all that is the host's before the second can be seen
from inside.
""")
for title, rows in sections(bench).items():
    base = next(iter(rows.values()))[0]
    print(f"## {title}\n\n| | median, ms | 10 % | 90 % | × |\n|---|---|---|---|---|")
    for name, (median, low, high) in rows.items():
        print(f"| {name} | {median:.2f} | {low:.2f} | {high:.2f} | {median / base:.2f} |")
    print()
for title, series in samples(bench).items():
    verb = title.split()[0]
    if title.startswith(("run of", "exec of")):
        distribution(f"spread-{verb}", f"{title}: how many took at most so long", series)
        print(f"![how long {verb} takes](performance-spread-{verb}.svg)\n")
print("""## Where the time of a run goes

Each microsecond of a `run` of /bin/true, from the first execution to the end of the runtime, as the kernel wrote it down
(tests/budget.py, ftrace): in system calls, in the program's own code with its page faults, and off the processor. The phases follow
each other; what is in brackets happens beside them. The program itself is the container's. Writing it down makes a run slower by a
fifth, and it was measured on this host as it is, which has both versions of cgroups.
""")
for whose, rows in spent(budget).items():
    print(f"| {whose} | kernel, µs | own code, µs | off, µs |\n|---|---|---|---|")
    for phase, *numbers in rows:
        print(f"| {phase} | " + " | ".join(str(n) for n in numbers) + " |")
    sums = [sum(column) for column in zip(*(n for phase, *n in rows if not phase.startswith("(")))]
    print("| all | " + " | ".join(str(n) for n in sums) + " |\n")
stacked("budget", "where the time of a run goes: kernel, own code, off the processor",
        {whose: [r for r in rows if not r[0].startswith("(")] for whose, rows in spent(budget).items()})
print("![where the time of a run goes](performance-budget.svg)\n")
print("""## A host that is full

What a verb costs beside so many mounts, running containers, cgroups, processes or containers that have ended
(`tests/src/bin/crowd.rs`); the last column is the cost at the top against the cost without a load. What the floor's rows grow by is
the kernel's own.
""")
bottom = {key[2:]: value for key, value in figures.items() if key[0] == "nothing"}
for load in ("mounts", "containers", "cgroups", "processes", "records"):
    sizes = sorted({key[1] for key in figures if key[0] == load})
    if not sizes:
        continue
    print(f"| {load} | 0 | " + " | ".join(f"{s:,}" for s in sizes) + " | top / bottom |")
    print("|---|---|" + "---|" * len(sizes) + "---|")
    for (runtime, verb), base in bottom.items():
        cells = [figures.get((load, size, runtime, verb), [float("nan")])[0] for size in sizes]
        print(f"| {runtime} {verb} | {base[0]:.2f} | " + " | ".join(f"{c:.2f}" for c in cells) + f" | {cells[-1] / base[0]:.2f} |")
    print()
    series = {r: [(0, bottom[r, "run"][0])] + [(s, figures[load, s, r, "run"][0]) for s in sizes] for r in ("floor", "conex", "crun", "runc") if (r, "run") in bottom}
    if len(sizes) > 1:
        plot(load, f"run of /bin/true, ms, beside other {load}", series, f"{load} on the host")
        print(f"![run beside other {load}](performance-{load}.svg)\n")
storms = sorted({key[1] for key in figures if key[0] == "storm"})
if storms:
    print("## Creates at once\n\n| | all are made after, ms | the slowest, ms | failed |\n|---|---|---|---|")
    for size in storms:
        for runtime in ("conex", "crun", "runc"):
            if (key := ("storm", size, runtime, "total")) in figures:
                total, slowest, failed = figures[key]
                print(f"| {size} by {runtime} | {total:.0f} | {slowest:.0f} | {failed:.0f} |")
