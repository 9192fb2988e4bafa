"""picture.py <BENCH >SVG: what `make bench` printed, as the bar chart of the README."""
import re
import sys

TITLES = {"run": "run of /bin/true, ms", "exec": "exec of /bin/true, ms"}
charts, kind = {}, None
for line in sys.stdin:
    for name in TITLES:
        if re.match(rf"{name}\b.*", line) and "rest" not in line:
            kind = name
    found = re.match(r"  (\w+)\s+median\s+([\d.]+) ms", line)
    if found and kind:
        charts.setdefault(kind, {}).setdefault(found[1], float(found[2]))
    elif not line.strip() or "rest" in line:
        kind = None if "rest" in line else kind
COLOURS = {"floor": "#999", "conex": "#0072b2", "crun": "#e69f00", "runc": "#d55e00"}
rows, y, out = sum(len(c) + 2 for c in charts.values()), 20, []
for kind, bars in charts.items():
    out.append(f'<text x="10" y="{y}" font-weight="bold">{TITLES[kind]}</text>')
    for name, value in bars.items():
        y += 22
        width = 420 * value / max(bars.values())
        label = "kernel floor" if name == "floor" else name
        out.append(f'<text x="10" y="{y}">{label}</text><rect x="110" y="{y - 12}" width="{width:.0f}" height="15" fill="{COLOURS.get(name, "#555")}"/>'
                   f'<text x="{116 + width:.0f}" y="{y}">{value:.1f}</text>')
    y += 34
print(f'<svg xmlns="http://www.w3.org/2000/svg" width="600" height="{y}" font-family="sans-serif" font-size="13">'
      f'<rect width="600" height="{y}" fill="#fff"/>\n' + "\n".join(out) + "\n</svg>")
