"""What the handlers of the HTTP routes read and answer, from the text of the sources: for tools/check-openapi.

A route's handler and everything that it names, and what that names in turn, is what may run for a request: callbacks too,
because they are named where they are handed over. In those functions the calls that read a request are looked for. Nothing
is executed, so a rare path counts as much as a common one; a table of functions (engine->ops) is not followed."""
import os
import re

ROOT = os.path.realpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
FUNCTION = re.compile(r"^(?:[A-Za-z_][^\n;=#]*?)\b([a-z_][a-z0-9_]*)\(((?:[^;{}])*?)\)\n\{\n(.*?)^\}", re.M | re.S)
TABLE = re.compile(r"^[^\n;(]*\b(\w+)\[\w*\] = \{(.*?)\};", re.M | re.S)  # of a file: its functions are called through it
NAME = re.compile(r"\b[a-z_][a-z0-9_]*\b")
USED = re.compile(r"(?<!struct )(?<!enum )(?<!->)(?<![.\w])([a-z_][a-z0-9_]*)\b")  # no type's and no member's
CALL = re.compile(r"\b([a-z_][a-z0-9_]*)\(")
ROUTE = re.compile(r'http_router_add\(\w+, "(\w+)", "([^"]+)", (\w+),')
STRING = re.compile(r'"((?:\\.|[^"\\])*)"')

ABOVE = {"daemon", "cli"}
# What they write goes its own way: no request waits for it, and none is told when it fails.
NOT_TOLD = {"auth_audit_begin", "store_key_used"}

# What reads a request, and which argument (from 0) is the name.
READERS = {
    "http_req_query": ("query", 1), "http_req_header": ("header", 1),
    **{"json_" + f: ("body", 1) for f in ("get_str", "get_bool", "get_i64", "get_double", "get_object", "get_array", "need_str",
                                          "object_get")},
}
# api/common/errors.c's table is read from the source; these beside it are of files alone.
ERROR_SET = re.compile(r"err_set\([^;]*?, -(E[A-Z0-9]+),|\.code = -(E[A-Z0-9]+)")
REPLY_ERROR = re.compile(r"http_reply_error\((?:[^;,]|\([^;]*?\))*?, (\d{3}),")
ROW = re.compile(r"\{ -(E[A-Z0-9]+), (\d{3}) \}")


class Function:
    def __init__(self, name, path, params, body, is_static):
        self.name, self.path, self.body, self.is_static = name, path, body, is_static
        self.params = [NAME.findall(p)[-1] if NAME.findall(p) else "" for p in split(params)]
        self.names = set(USED.findall(STRING.sub('""', body)))  # with those of the tables that it uses

    @property
    def module(self):
        return self.path.split("/")[1]


def split(text):
    """The arguments in text, at commas that no bracket and no string encloses."""
    parts, depth, at, in_string = [], 0, 0, False
    for i, c in enumerate(text):
        if in_string:
            in_string = c != '"' or text[i - 1] == "\\"
        elif c == '"':
            in_string = True
        elif c in "([{":
            depth += 1
        elif c in ")]}":
            depth -= 1
        elif c == "," and not depth:
            parts.append(text[at:i].strip())
            at = i + 1
    return [*parts, text[at:].strip()]


def calls(body):
    """(name, arguments) of every call."""
    for found in CALL.finditer(body):
        depth, i, in_string = 1, found.end(), False
        while i < len(body) and depth:
            c = body[i]
            if in_string:
                i += c == "\\"
                in_string = c != '"'
            elif c == '"':
                in_string = True
            else:
                depth += (c == "(") - (c == ")")
            i += 1
        yield found.group(1), split(body[found.end():i - 1])


class Sources:
    def __init__(self, top=os.path.join(ROOT, "src")):
        self.functions, self.texts = {}, {}
        for folder, _, names in sorted(os.walk(top)):
            for name in sorted(names):
                if name.endswith(".c"):
                    self._load(os.path.join(folder, name))
        self.readers = dict(READERS)
        while self._find_wrappers():
            pass
        with open(os.path.join(top, "api", "common", "errors.c"), encoding="utf-8") as f:
            common, files = f.read().split("int api_file_status_of")
        self.statuses = {code: int(status) for code, status in ROW.findall(common)}
        self.file_statuses = {**self.statuses, **{code: int(status) for code, status in ROW.findall(files)}}

    def _load(self, path):
        with open(path, encoding="utf-8") as f:
            text = re.sub(r"/\*.*?\*/", lambda m: re.sub(r"[^\n]", " ", m.group(0)), f.read(), flags=re.S)
        path = os.path.relpath(path, ROOT)
        self.texts[path] = text
        tables = {m.group(1): NAME.findall(STRING.sub('""', m.group(2))) for m in TABLE.finditer(text)}
        for m in FUNCTION.finditer(text):
            function = Function(m.group(1), path, m.group(2), m.group(3), text[m.start():].startswith("static"))
            function.names |= {n for table, names in tables.items() if table in function.names for n in names}
            self.functions.setdefault(function.name, []).append(function)

    def _find_wrappers(self):
        """A function that hands a parameter of its own on as the name is a reader, too. True if one was found."""
        found = False
        for function in [f for group in self.functions.values() for f in group]:
            for name, args in calls(function.body):
                kind, at = self._reader(name, function.path)
                if kind and at < len(args) and args[at] in function.params:
                    key = (function.name, function.path if function.is_static else None)
                    if key not in self.readers:
                        self.readers[key] = (kind, function.params.index(args[at]))
                        found = True
        return found

    def _reader(self, name, path):
        return self.readers.get((name, path)) or self.readers.get((name, None)) or self.readers.get(name) or (None, 0)

    def routes(self):
        """(method, pattern, handler's name, file), in the order of the files."""
        return [(*m.groups(), path) for path, text in sorted(self.texts.items()) for m in ROUTE.finditer(text)]

    def odd_routes(self):
        """Calls that ROUTE does not understand: file and text."""
        return [(path, line.strip()) for path, text in self.texts.items() for line in text.split("\n")
                if "http_router_add(" in line and not ROUTE.search(line) and not line.startswith(("void ", "static "))]

    def resolve(self, name, path):
        group = self.functions.get(name, [])
        return [f for f in group if f.path == path] or [f for f in group if not f.is_static]

    def reach(self, name, path, modules=None):
        """The functions that may run, by (name, file); modules: only these folders."""
        todo, seen = [(name, path)], {}
        while todo:
            for f in self.resolve(*todo.pop()):
                if (f.name, f.path) in seen or (modules and f.module not in modules):
                    continue
                if f.module in ABOVE or f.name in NOT_TOLD or "http_router_add(" in f.body:
                    continue  # the wiring: it names everything
                seen[f.name, f.path] = f
                todo += [(n, f.path) for n in f.names if n in self.functions]
        return seen

    def reads(self, functions):
        """{(kind, name): [function...]} of what they read; a name that is no text here is None."""
        found = {}
        for f in functions.values():
            for name, args in calls(f.body):
                kind, at = self._reader(name, f.path)
                if not kind or at >= len(args) or args[at] in f.params:
                    continue
                for text in self._texts(args[at], f):
                    found.setdefault((kind, text), []).append(f)
        return found

    def _texts(self, arg, function):
        """The names that an argument can be: a text, or the rows of a table in the same file."""
        plain = re.fullmatch(STRING, arg)
        if plain:
            return [plain.group(1)]
        table = re.match(r"(\w+)\[", arg)
        rows = table and re.search(r"\b%s\[\w*\] = \{\n?(.*?)\n?\s*\};" % table.group(1), self.texts[function.path], re.S)
        if not rows:
            return [None]
        inner = re.findall(r'\{ "([^"]+)"', rows.group(1))
        return inner or STRING.findall(rows.group(1))

    def errors(self, functions):
        """{status: function} of the answers below 500, 502 and 503 that these functions make."""
        found = {}
        table = self.file_statuses if ("api_reply_file_err", "src/api/common/errors.c") in functions else self.statuses
        takes_body = any("http_req_body(" in f.body for f in functions.values())
        for f in functions.values():
            if f.module == "json" and not takes_body:
                continue  # it reads files and other servers' answers
            for status in REPLY_ERROR.findall(f.body):
                found.setdefault(int(status), f)
            for code in re.findall(r"-(E[A-Z]+)\b", f.body) if "err_set(" in f.body or ".code = -" in f.body else []:
                if code in table and any(code in m for m in ERROR_SET.findall(f.body)):
                    found.setdefault(table[code], f)
            if "http_req_body(" in f.body and f.module != "http":
                found.setdefault(413, f)
        return {s: f for s, f in found.items() if s != 500}
