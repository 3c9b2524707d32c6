"""The tables: to the terminal while the run ends, and to a file that can be kept."""
import datetime
import os
import re

import gateway
import rollouts
import strangers


def number(v):
    if v is None:
        return ""
    return f"{v:,.0f}" if abs(v) >= 100 else f"{v:.1f}"


class Table:
    """Markdown whose columns also line up in a terminal."""

    def __init__(self, *heads):
        self.rows = [list(heads)]

    def add(self, *cells):
        self.rows.append([str(c) for c in cells])

    def text(self):
        widths = [max(len(r[i]) for r in self.rows) for i in range(len(self.rows[0]))]
        lines = []
        for n, row in enumerate(self.rows):
            cells = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))]
            lines.append("| " + " | ".join(cells) + " |")
            if n == 0:
                rule = ["-" * (w + 2) if i == 0 else "-" * (w + 1) + ":" for i, w in enumerate(widths)]
                lines.append("|" + "|".join(rule) + "|")
        return "\n".join(lines)


def ratio(value, base):
    return f"{value / base:.2f}" if value and base else ""


def by_key(cases):
    return {c.key: c for c in cases if not c.failed and c.rounds}


def groups(cases):
    seen = {}
    for c in cases:
        seen.setdefault(c.group, []).append(c)
    return seen


def latency_tables(cases):
    found, out = by_key(cases), []
    for group, members in groups(cases).items():
        t = Table("µs", "p50", "p99", "per second", "to the floor", "parts, p50")
        for c in members:
            if c.failed:
                t.add(c.label, "failed", "", "", "", "")
                continue
            parts = " + ".join(number(p) for p in c.parts())
            base = found.get(c.base)
            against = ratio(c.p(50), base.p(50) if base else None) if c.base else "1"
            t.add(c.label + (f" ({c.note})" if c.note else ""), number(c.p(50)), number(c.p(99)), number(c.per_second()),
                  against, parts)
        out.append(f"### {group[0].upper() + group[1:]}\n\n{t.text()}")
    return out


def rate_table(rates):
    found = by_key(rates)
    t = Table("create, run a static true, destroy", "per second", "to the floor", "sustained")
    for r in rates:
        base = found.get(r.base)
        if r.failed:
            t.add(r.label, "failed", "", "")
        else:
            against = ratio(r.per_second(), base.per_second() if base else None)
            t.add(r.label, number(r.per_second()), against if r.base else "1", number(r.sustained))
    return "### Many at a time\n\n" + t.text()


def goal(t, what, value, limit, unit, ok):
    if value is not None and limit is not None:
        t.add(what, f"{number(value)} {unit}", f"{'≥' if ok == '>=' else '≤'} {number(limit)} {unit}",
              "yes" if (value >= limit if ok == ">=" else value <= limit) else "no")


def goals_table(cases, rates, idle):
    """The distance to what the runtime is to reach; a "no" is no failure of the run."""
    found, rate = by_key(cases), by_key(rates)
    t = Table("figure", "now", "goal", "reached")

    def p(key, n=50):
        return found[key].p(n) if key in found else None

    def plus(key, us):
        return p(key) + us if key in found else None

    def times(key, f):
        return p(key) * f if key in found else None

    floor = times("floor-prepared-memory", 1.3)
    goal(t, "create + static true + destroy, runtime, p50", p("runtime-static"), floor, "µs", "<=")
    goal(t, "the same, p99", p("runtime-static", 99), 3000, "µs", "<=")
    goal(t, "the same of one that was begun ahead, 20 ms apart, p50", p("begun-paced"), floor, "µs", "<=")
    floor = times("floor-exec-static", 1.3)
    goal(t, "from the pool: made, static true, its answer, runtime, p50",
         found["pool-static"].first_parts(2) if "pool-static" in found else None, floor, "µs", "<=")
    goal(t, "static true in a living sandbox, runtime, p50", p("runtime-exec-static"), floor, "µs", "<=")
    goal(t, "three requests over HTTP, bash -c true, p50", p("http-bash"), plus("bare-bash", 800), "µs", "<=")
    goal(t, "the same, p99", p("http-bash", 99), 6000, "µs", "<=")
    goal(t, "/run of true through bash over HTTP, p50", p("http-exec-bash"), plus("bare-bash", 400), "µs", "<=")
    for key, least in (("rate-runtime-8", 1200), ("rate-runtime-64", 1200), ("rate-memory-8", 1800), ("rate-memory-64", 1800),
                       ("rate-http-8", 1000), ("rate-http-64", 1000)):
        if key in rate:
            goal(t, f"per second, sustained: {rate[key].label}", rate[key].sustained, least, "/s", ">=")
    idle_goal(t, idle)
    return "### Distance to the goals\n\n" + t.text()


def idle_goal(t, idle):
    """Others' memory is in the difference too: where one comes out at nothing, the machine was not quiet."""
    if min(idle.get("floor", 0), idle.get("runtime", 0)) > 0:
        goal(t, f"memory per idle sandbox, {idle['count']} of them", idle["runtime"], min(idle["floor"] * 1.15, 900), "KiB", "<=")


def idle_table(idle):
    t = Table(f"{idle['count']} idle sandboxes", "KiB each", "ms to make each", "ms to end all")
    for name in ("floor", "runtime"):
        if name in idle:
            t.add(name, number(idle[name]), f"{idle[name + '-made']:.1f}", number(idle[name + '-ended']))
    return "### Idle\n\n" + t.text()


def machine():
    """The class of the machine, as in "2-core VM, kernel 6.18, Debian 12"."""
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        text = f.read()
    cpus, kind = len(re.findall(r"^processor", text, re.M)), "VM" if re.search(r"^flags.* hypervisor", text, re.M) else "machine"
    release = {}
    if os.path.exists("/etc/os-release"):
        with open("/etc/os-release", encoding="utf-8") as f:
            release = dict(re.findall(r'^(\w+)="?(.*?)"?$', f.read(), re.M))
    name = f"{release.get('NAME', 'Linux').split()[0]} {release.get('VERSION_ID', '')}".strip()
    kernel = ".".join(os.uname().release.split("-")[0].split(".")[:2])
    return f"{cpus}-core {kind}, kernel {kernel}, {name}"


def sandbox_tables(rounds, cases, rates, idle):
    parts = latency_tables(cases) + [rate_table(rates)]
    if idle:
        parts.append(idle_table(idle))
    return parts + [goals_table(cases, rates, idle), f"Sandboxes: medians of {rounds} rounds; sustained: 30 s at a time."]


def alone_table(rows):
    t = Table("figure", "now", "goal", "reached")
    for what, value, limit, unit in rows:
        goal(t, what, value, limit, unit, "<=")
    return "### Figures that stand alone\n\n" + t.text()


def write(world, boxes, through, logged, alone, beside, shaken, load, held_up):
    parts = [f"# Bench of {datetime.date.today()}", f"{machine()}. Load average before: {load[0]:.2f}. {held_up}"]
    if load[0] > 1:
        parts.append("**The machine was busy when this began: the ratios say something, the figures do not.**")
    if through:
        parts.append(gateway.tables(through, Table, number))
    if logged:
        parts.append(rollouts.tables(logged, Table, number))
    if boxes:
        parts.append("Verified to be a sandbox: " + ", ".join(f"{name} {n} times" for name, n in world.checked.items()) + ".")
        parts += sandbox_tables(*boxes)
    if alone:
        parts.append(alone_table(alone))
    parts += [module.tables(found, Table, number) for module, found in beside]
    if shaken:
        parts.append(strangers.tables(shaken, Table, number))
    failed = [f"- {c.label} ({c.group}): {c.failed}" for c in (boxes[1] + boxes[2] if boxes else []) if c.failed]
    failed += [f"- {what}: {why}" for what, why in world.skipped.items()]
    if failed:
        parts.append("### Not measured, or wrong\n\n" + "\n".join(failed))
    return "\n\n".join(parts) + "\n"
