"""Whether what is measured is a sandbox: judged from inside, by what probe.c printed there, and from outside, by /proc and
the cgroups of a process in it. A bench that measured something weaker than it says would be worse than none."""
import base64
import json
import os
import re

CAPABILITIES = "00000000a80425fb"  # the fourteen that package managers, su and servers need


class NotASandbox(Exception):
    pass


def need(what, found, expected):
    if found != expected:
        raise NotASandbox(f"{what}: found {found!r}, expected {expected!r}")


def sections(lines):
    out, name = {}, ""
    for line in lines:
        if line.startswith("== "):
            name = line[3:]
            out[name] = []
        else:
            out.setdefault(name, []).append(line)
    return out


def status_of(lines):
    return dict(line.split(":", 1) for line in lines if ":" in line)


def check_map(where, lines):
    words = " ".join(lines).split()
    need(f"{where}: words of the id map", len(words), 3)
    need(f"{where}: ids", words[2], "65536")
    need(f"{where}: first id inside", words[0], "0")
    if int(words[1]) < 65536:
        raise NotASandbox(f"{where}: id 0 is the host's {words[1]}")


def check_status(where, status):
    need(f"{where}: Seccomp", status["Seccomp"].strip(), "2")


def check_inside(lines):
    s = sections(lines)
    status = status_of(s["/proc/self/status"])
    check_map("inside", s["/proc/self/uid_map"])
    check_status("inside", status)
    need("inside: CapBnd", status["CapBnd"].strip(), CAPABILITIES)
    need("inside: CapEff", status["CapEff"].strip(), CAPABILITIES)
    devices = [line.split(":")[0].strip() for line in s["/proc/net/dev"] if ":" in line]
    need("inside: network devices", devices, ["lo"])
    mounts = [line.split() for line in s["/proc/self/mountinfo"]]
    types = {m[4]: m[m.index("-") + 1] for m in mounts}
    need("inside: the root's file system", types["/"], "overlay")
    need("inside: /proc/sys", [m[5].split(",")[0] for m in mounts if m[4] == "/proc/sys"], ["ro"])
    if "/proc/kcore" not in types and "/proc/keys" not in types:
        raise NotASandbox("inside: neither /proc/kcore nor /proc/keys is masked")
    need("inside: mount()", s["mount"], ["Operation not permitted"])
    need("inside: writing a sysctl", s["write sysctl"][0] in ("Permission denied", "Read-only file system"), True)


def read(path):
    with open(path, encoding="ascii", errors="replace") as f:
        return f.read()


def cgroup_folders(pid):
    """Folders of the hierarchies that the process is in: {controller or "": folder}."""
    places = {}
    for line in read("/proc/self/mountinfo").splitlines():
        head, tail = line.split(" - ", 1)
        kind, _, options = tail.split(" ", 2)
        if kind == "cgroup2":
            places.setdefault("", head.split()[4])
        elif kind == "cgroup":
            for word in options.split(","):
                places.setdefault(word, head.split()[4])
    out = {}
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        for c in controllers.split(","):
            if c in places:
                out[c] = places[c] + path
    return out


def limit(folders, controller, v1_file, v2_file):
    if controller in folders and os.path.exists(f"{folders[controller]}/{v1_file}"):
        return read(f"{folders[controller]}/{v1_file}").split()[0]
    folder = folders.get("", "")
    while folder.startswith("/sys/fs/cgroup/") or os.path.basename(folder):
        if os.path.exists(f"{folder}/{v2_file}"):
            return read(f"{folder}/{v2_file}").split()[0]
        folder = os.path.dirname(folder)
    return "max"


def check_outside(pid):
    check_map("outside", [read(f"/proc/{pid}/uid_map")])
    check_status("outside", status_of(read(f"/proc/{pid}/status").splitlines()))
    for name in ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"):
        if os.stat(f"/proc/{pid}/ns/{name}").st_ino == os.stat(f"/proc/self/ns/{name}").st_ino:
            raise NotASandbox(f"outside: the {name} namespace is the host's")
    devices = [line.split(":")[0].strip() for line in read(f"/proc/{pid}/net/dev").splitlines() if ":" in line]
    need("outside: network devices", devices, ["lo"])
    folders = cgroup_folders(pid)
    need("outside: memory limit", limit(folders, "memory", "memory.limit_in_bytes", "memory.max"), str(1 << 30))
    need("outside: pids limit", limit(folders, "pids", "pids.max", "pids.max"), "4096")
    need("outside: cpu limit", limit(folders, "cpu", "cpu.cfs_quota_us", "cpu.max"), "100000")


def check_local(lines):
    """The report of the floor and of the runtime: a line "pid N", then the probe's output."""
    need("the report's first line", lines[0].split()[0], "pid")
    check_inside(lines[1:])
    check_outside(int(lines[0].split()[1]))


def init_of(sid):
    """The first process of a sandbox that is known by its id: the cgroup's name has it."""
    for place in ("/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        for top in os.listdir(place) if os.path.isdir(place) else []:
            folder = f"{place}/{top}/{sid}"
            if re.match(r"orw-[0-9a-f]{8}$", top) and os.path.isdir(folder):
                pids = read(f"{folder}/cgroup.procs").split()
                if pids:
                    return int(pids[0])
    return None


def check_http(lines):
    """The report of the HTTP client: "sid ID", "json RESULT"."""
    result = json.loads(lines[1][5:])
    check_inside(base64.b64decode(result["output"]).decode().splitlines())
    pid = init_of(lines[0][4:])
    # Where the host has no cgroup v2 mounted, the spawner's own mount is out of sight from here.
    if pid:
        check_outside(pid)
