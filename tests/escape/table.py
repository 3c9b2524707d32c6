"""README.md's table of attempts: | class | attempt | control | test |."""
import os
import re

HERE = os.path.dirname(os.path.abspath(__file__))
# What a carelessly built container lets through; the table has attempts of each.
CLASSES = (
    "paths of the host", "descriptors", "helpers of the kernel", "device nodes", "mounts", "namespaces", "ptrace", "userfaultfd", "io_uring",
    "keyrings", "bpf", "perf", "raw and packet sockets", "abstract sockets", "netlink", "sysrq", "/sys and /proc", "cgroups", "id maps",
    "races on buckets", "races on file calls", "signals to init", "forged protocol", "exhaustion: inodes", "exhaustion: mounts",
    "exhaustion: processes", "exhaustion: descriptors", "exhaustion: connections", "exhaustion: memory", "exhaustion: what the machine counts",
    "clocks", "deletes", "network", "other calls", "clients",
)


def rows():
    """[(class, attempt, control, test)]"""
    with open(os.path.join(HERE, "README.md"), encoding="utf-8") as f:
        cells = [[c.strip() for c in re.split(r"(?<!\\)\|", line.strip())[1:-1]] for line in f if line.startswith("| ")]
    return [tuple(c) for c in cells if len(c) == 4 and c[0] not in ("class", "---")]


def attempts_of(test):
    return {attempt for _, attempt, _, its in rows() if its == test}
