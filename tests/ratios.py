"""ratios.py BENCH CROWD [landed]: three ratios of conex, from what bench and crowd printed. With a third argument they also have those
of the build that landed last, measured in turn with this one: exits with 1 if one is more than 15 % worse than there."""
import re
import sys

medians, title = {}, ""
for line in open(sys.argv[1]):
    if found := re.match(r"  (\w+)\s+median\s+([\d.]+) ms", line):
        medians.setdefault((title, found[1]), float(found[2]))
    elif not line.startswith(" "):
        title = line.split(" ")[0]
crowd = {tuple(line.split("\t")[:4]): float(line.split("\t")[4]) for line in open(sys.argv[2])}


def ratios(build):
    return {
        "run, by the kernel floor": medians["run", build] / medians["run", "floor"],
        "exec, by its kernel floor": medians["exec", build] / medians["exec", "floor"],
        "run beside 3,000 mounts, by run beside none": crowd["mounts", "3000", build, "run"] / crowd["nothing", "0", build, "run"],
    }


now = ratios("conex")
if len(sys.argv) < 4:
    for name, ratio in now.items():
        print(f"{name}\t{ratio:.3f}")
    sys.exit()
before, worse = ratios("landed"), False
for name, ratio in now.items():
    bad = ratio > 1.15 * before[name]
    worse |= bad
    print(f"{name}: {ratio:.2f} (landed {before[name]:.2f})" + (": more than 15 % worse" if bad else ""))
sys.exit(worse)
