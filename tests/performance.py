"""performance.py BENCH CROWD MACHINE >docs/performance.md: the tables and plots of `make bench`; writes docs/performance-*.svg."""
import collections
import datetime
import re
import sys

bench, crowd, machine = (open(name).read() for name in sys.argv[1:4])
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
    with open(f"docs/performance-{name}.svg", "w") as file:
        file.write('<svg xmlns="http://www.w3.org/2000/svg" width="560" height="276" font-family="sans-serif" font-size="13">'
                   '<rect width="560" height="276" fill="#fff"/>\n' + "\n".join(out) + "\n</svg>\n")


print(f"""# Performance

Written by `make bench` on {datetime.date.today()}. Everything was measured interleaved in one run, so compare the columns of a
table; milliseconds of other machines differ. Medians, with the tenth and the ninetieth of a hundred.

{machine.strip()}

The **kernel floor** is a program (tests/src/bin/floor.rs) that asks the kernel for the same namespaces, mounts, cgroups, nodes and
masks by the best calls there are, and does nothing else: no document, no check, no record.
""")
for title, rows in sections(bench).items():
    base = next(iter(rows.values()))[0]
    print(f"## {title}\n\n| | median, ms | 10 % | 90 % | × |\n|---|---|---|---|---|")
    for name, (median, low, high) in rows.items():
        print(f"| {name} | {median:.2f} | {low:.2f} | {high:.2f} | {median / base:.2f} |")
    print()
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
