"""Rules of this project that no compiler checks. Each check is a function of the tree and returns findings.

    python3 tests/tidy/tidy.py          checks the tree; every finding is a line `path:line: what is wrong`
"""

import dataclasses
import pathlib
import re
import subprocess
import sys

COLUMNS_MAX = 120
FUNCTION_LINES_MAX = 70
BLOB_BYTES_MAX = 300_000

# Larger files that are meant to be there, as path prefixes, each with its reason.
LARGE_FILES = {
    "worker/demo_model/model/": "the model that the quickstart draws with; kept below 8 MB by its own test",
    "tests/golden/": "reference tensors that the engine is compared with",
    "tests/worker/tokenizer/": "reference ids of thousands of prompts",
    "docs/images/": "pictures in the documents",
}

CPP = (".cc", ".h")
TEXT = CPP + (".py", ".sh", ".md", ".txt", ".proto", ".cmake", ".json", ".yaml", ".yml", ".toml", ".in")
SCRIPTS = (".py", ".sh")

# Debian's Abseil and the C++20 standard library of GCC 12, as far as anybody would want them.
STANDARD_HEADERS = set("""
algorithm any array atomic barrier bit bitset cassert cctype cerrno cfenv cfloat charconv chrono cinttypes climits
clocale cmath codecvt compare complex concepts condition_variable coroutine csetjmp csignal cstdarg cstddef cstdint
cstdio cstdlib cstring ctime cuchar cwchar cwctype deque exception execution filesystem forward_list fstream functional
future initializer_list iomanip ios iosfwd iostream istream iterator latch limits list locale map memory
memory_resource mutex new numbers numeric optional ostream queue random ranges ratio regex scoped_allocator semaphore
set shared_mutex source_location span sstream stack stdexcept stop_token streambuf string string_view syncstream
system_error thread tuple type_traits typeindex typeinfo unordered_map unordered_set utility valarray variant vector
version""".split())
POSIX_HEADERS = set("""
dirent.h dlfcn.h fcntl.h glob.h grp.h netdb.h poll.h pthread.h pwd.h sched.h signal.h spawn.h termios.h unistd.h""".split())
POSIX_FOLDERS = ("sys/", "netinet/", "arpa/", "linux/")

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]')


@dataclasses.dataclass(frozen=True)
class Finding:
    path: str
    line: int
    what: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.what}"


class Tree:
    """Files by their path from the root, as bytes."""

    def __init__(self, files):
        self.files = {path: data if isinstance(data, bytes) else data.encode() for path, data in files.items()}

    def lines(self, path):
        return self.files[path].decode(errors="replace").splitlines()

    def paths(self, *suffixes):
        return [path for path in sorted(self.files) if path.endswith(suffixes)]


def read_tree(root):
    """What git tracks or would track; without git, everything but build folders."""
    root = pathlib.Path(root)
    listing = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root,
                             capture_output=True, check=False)
    if listing.returncode == 0:
        paths = [path for path in listing.stdout.decode().split("\0") if path]
    else:
        paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
        paths = [path for path in paths if not path.startswith(("build/", "out/", ".git/")) and "__pycache__" not in path]
    return Tree({path: (root / path).read_bytes() for path in paths if (root / path).is_file()})


# --- Include layers


class Layers:
    """The table of layers.txt."""

    def __init__(self, text):
        self.groups = {}
        self.rules = {}
        for number, line in enumerate(text.splitlines(), 1):
            line = line.split("#")[0].strip()
            if not line:
                continue
            if line.startswith("@"):
                name, items = line[1:].split("=", 1)
                self.groups[name.strip()] = items.split()
            elif ":" in line:
                path, items = line.split(":", 1)
                if path in self.rules:
                    raise ValueError(f"layers.txt:{number}: second rule for {path}")
                self.rules[path] = self._expand(items.split(), number)
            else:
                raise ValueError(f"layers.txt:{number}: neither a group nor a rule")

    def _expand(self, items, number):
        expanded = []
        for item in items:
            negation, name = ("!", item[1:]) if item.startswith("!") else ("", item)
            if name.startswith("@"):
                if name[1:] not in self.groups:
                    raise ValueError(f"layers.txt:{number}: no group {name}")
                expanded += [negation + member for member in self.groups[name[1:]]]
            else:
                expanded.append(item)
        return expanded

    def rule_of(self, path):
        """The rule of the longest prefix that ends at a folder, at a dot, or in the name of a file's family."""
        fitting = [prefix for prefix in self.rules
                   if path == prefix or path.startswith((prefix + "/", prefix + ".", prefix + "_"))]
        return max(fitting, key=len, default=None)

    def allows(self, rule, header):
        items = self.rules[rule]
        if any(matches(item[1:], header) for item in items if item.startswith("!")):
            return False
        return any(matches(item, header) for item in items if not item.startswith("!"))


def matches(item, header):
    if item == "std":
        return header in STANDARD_HEADERS
    if item == "posix":
        return header in POSIX_HEADERS or header.startswith(POSIX_FOLDERS)
    return header == item or header.startswith(item + "/") or (
        "/" in item and "." not in item.rsplit("/", 1)[-1] and header.startswith((item + ".", item + "_")))


def check_layers(tree, table):
    layers = Layers(table)
    findings = []
    for path in tree.paths(*CPP):
        rule = layers.rule_of(path)
        if rule is None:
            findings.append(Finding(path, 1, "no rule of tests/tidy/layers.txt covers this file"))
            continue
        for number, line in enumerate(tree.lines(path), 1):
            found = INCLUDE.match(line)
            if found and not layers.allows(rule, found[1]):
                findings.append(Finding(path, number, f"{found[1]} is not for {rule} (tests/tidy/layers.txt)"))
    return findings


def check_torch_wall(tree):
    """The torch wheel brings old protobuf headers: no source may see both, not even through our own headers."""
    torch = ("torch/", "ATen/", "c10/", "caffe2/")
    wire = ("grpc/", "grpcpp/", "google/protobuf/", "google/rpc/", "turbofleet/v1/", "turbofleet/internal/")
    includes = {path: [found[1] for line in tree.lines(path) if (found := INCLUDE.match(line))]
                for path in tree.paths(*CPP)}
    findings = []
    for path in includes:
        seen, todo = set(), [path]
        while todo:
            for header in includes.get(todo.pop(), []):
                if header not in seen:
                    seen.add(header)
                    todo += [header, "client/lib/include/" + header]
        both = [next((h for h in sorted(seen) if h.startswith(side)), None) for side in (torch, wire)]
        if all(both):
            findings.append(Finding(path, 1, f"sees both {both[0]} and {both[1]}"))
    return findings


# --- Tests that never run


def check_dead_tests(tree):
    """Every test file is named by the CMakeLists.txt of its folder or of one above it."""
    findings = []
    for path in tree.paths("_test.cc", "_test.py"):
        name = path.rsplit("/", 1)[-1]
        stem = name.rsplit(".", 1)[0]
        folder, named = path.rsplit("/", 1)[0], False
        while not named:
            lists = tree.files.get(folder + "/CMakeLists.txt", b"").decode(errors="replace")
            lists = re.sub(r"#.*", "", lists)
            named = re.search(rf"(?<![\w-]){re.escape(stem)}(?![\w-])", lists) is not None
            if "/" not in folder:
                break
            folder = folder.rsplit("/", 1)[0]
        if not named:
            findings.append(Finding(path, 1, "no CMakeLists.txt names this test, so it never runs"))
    for path in tree.paths("_test.cc"):
        for number, line in enumerate(tree.lines(path), 1):
            if re.search(r"\bDISABLED_\w|\bGTEST_SKIP\(\)\s*;", line):
                findings.append(Finding(path, number, "a test that is switched off, or skipped without a reason"))
    return findings


# --- Words


@dataclasses.dataclass(frozen=True)
class Ban:
    pattern: str
    why: str
    suffixes: tuple = CPP + SCRIPTS
    folder: str = ""
    apart_from: tuple = ()


# In two halves, so that this file passes its own test.
BANS = (
    Ban(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", "finish it, or open an issue", TEXT),
    Ban(r"\b(sleep_" r"for|sleep_" r"until|Sleep" r"For|u?sleep) ?\(|time\.sle" r"ep\(",
        "wait for the condition instead, or use the simulated clock", CPP + (".py",), "tests/",
        ("tests/integration/cluster.py",)),  # The one polling loop, with a condition and a deadline.
    Ban(r"\bstd::\w+_distri" r"bution\b", "its results differ between standard libraries", CPP),
    Ban(r"\busing name" r"space (?!std::\w*literals;)", "name what is used", CPP),
    Ban(r"\bstd::(thread|jthread)\b.*\.det" r"ach\(", "own the thread and join it", CPP, "",
        ("tests/sanitizers/tsan_grpc.cc",)),  # In place of gRPC's executor; a server waits for the calls on them.
    Ban(r"\babsl/l" r"og\b", "Debian's Abseil has none; log through common/log.h", CPP),
    Ban(r"#include <(format|print|generator|expected)>", "GCC 12 lacks it, or it is C++23", CPP),
    Ban(r"(?<![\w.$}/])/(ho" r"me|ro" r"ot|wo" r"rk|Us" r"ers)/\w", "a path of one machine", TEXT),
)


def check_words(tree):
    findings = []
    for ban in BANS:
        pattern = re.compile(ban.pattern)
        for path in tree.paths(*ban.suffixes):
            if not path.startswith(ban.folder) or path in ban.apart_from or path.startswith("proto/google/"):
                continue
            for number, line in enumerate(tree.lines(path), 1):
                found = pattern.search(line)
                if found:
                    findings.append(Finding(path, number, f'"{found[0].strip()}": {ban.why}'))
    return findings


# --- Shape


def check_columns(tree):
    findings = []
    for path in tree.paths(*CPP, ".proto", ".cmake", "CMakeLists.txt"):
        for number, line in enumerate(tree.lines(path), 1):
            if len(line) > COLUMNS_MAX:
                findings.append(Finding(path, number, f"{len(line)} columns; {COLUMNS_MAX} fit"))
    return findings


def blank_literals(text):
    """C++ with comments and literals blanked out, so that braces in them do not count. Keeps every line end."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"(?P<tag>[^()\\\s]{0,16})\(.*?\)(?P=tag)"|"(?:\\.|[^"\\\n])*"|(?<![\w])\'(?:\\.|[^\'\\\n])+\'',
        re.DOTALL)
    return pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)


def functions(text):
    """(first line, last line) of each function body, found by braces. Bodies of namespaces, classes and the like are
    looked into; what a function contains, lambdas too, belongs to it."""
    text = blank_literals(text)
    # Lines of the preprocessor may hold half of a pair.
    text = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", lambda found: re.sub(r"[^\n]", " ", found[0]), text, flags=re.M)
    found, stack, start, line = [], [], 0, 1
    for position, character in enumerate(text):
        if character == "\n":
            line += 1
        elif character in ";" and "function" not in stack:
            start = position + 1
        elif character == "{":
            head = text[start:position]
            if position > 0 and (text[position - 1].isalnum() or text[position - 1] in "_>"):
                stack.append("initializer")  # Of a member in a constructor's list: the body is still to come.
                continue
            container = re.search(r"\b(namespace|class|struct|union|enum)\b[^()=]*$|\bextern\s*$", head)
            is_function = not container and ")" in head and not re.search(r"=\s*$", head)
            stack.append("container" if container else "function" if is_function else "other")
            if is_function and stack.count("function") == 1:
                begin = line - head.lstrip().count("\n")
                found.append([begin, None])
            start = position + 1
        elif character == "}":
            ended = stack.pop() if stack else ""
            if ended == "function" and "function" not in stack:
                found[-1][1] = line
            if "function" not in stack and ended != "initializer":
                start = position + 1
    return [(first, last) for first, last in found if last is not None]


def check_function_length(tree):
    findings = []
    for path in tree.paths(*CPP):
        for first, last in functions(tree.files[path].decode(errors="replace")):
            if last - first + 1 > FUNCTION_LINES_MAX:
                findings.append(Finding(path, first, f"a function of {last - first + 1} lines; {FUNCTION_LINES_MAX} "
                                                     "fit on a screen"))
    return findings


def check_blobs(tree):
    return [Finding(path, 1, f"{len(data):,} bytes; above {BLOB_BYTES_MAX:,} a file needs a reason in tidy.py")
            for path, data in sorted(tree.files.items())
            if len(data) > BLOB_BYTES_MAX and not path.startswith(tuple(LARGE_FILES))]


def check_file_ends(tree):
    findings = []
    for path in tree.paths(*TEXT, "CMakeLists.txt"):
        if path.startswith("worker/demo_model/model/"):
            continue  # As the exporter writes it; its digest is part of every picture's record.
        data = tree.files[path]
        if data and (not data.endswith(b"\n") or data.endswith(b"\n\n")):
            findings.append(Finding(path, data.count(b"\n") + 1, "a text ends with one line end"))
        for number, line in enumerate(data.split(b"\n"), 1):
            if line.endswith((b" ", b"\t", b"\r")) and not path.endswith(".md"):
                findings.append(Finding(path, number, "white space at the end of the line"))
            if path.endswith(CPP + (".proto",)) and b"\t" in line:
                findings.append(Finding(path, number, "a tab"))
    return findings


def check_headers(tree):
    """A header says once that it is included once."""
    return [Finding(path, 1, "#pragma once is missing") for path in tree.paths(".h")
            if b"\n#pragma once\n" not in b"\n" + tree.files[path]]


def check_links(tree):
    """What a document points at is there."""
    findings = []
    folders = {"/".join(path.split("/")[:depth]) for path in tree.files for depth in range(path.count("/") + 1)}
    for path in tree.paths(".md"):
        for number, line in enumerate(tree.lines(path), 1):
            for target in re.findall(r"\]\(([^)\s]+)\)", line):
                target = target.split("#")[0]
                if not target or "://" in target or target.startswith("mailto:"):
                    continue
                parts = []
                for part in (path.rsplit("/", 1)[0] if "/" in path else "").split("/") + target.split("/"):
                    if part == "..":
                        parts = parts[:-1]
                    elif part not in ("", "."):
                        parts.append(part)
                if "/".join(parts) not in tree.files and "/".join(parts) not in folders:
                    findings.append(Finding(path, number, f"points at {target}, which is not there"))
    return findings


def all_checks(tree, table):
    return (check_layers(tree, table) + check_torch_wall(tree) + check_dead_tests(tree) + check_words(tree) +
            check_columns(tree) + check_function_length(tree) + check_blobs(tree) + check_file_ends(tree) +
            check_headers(tree) + check_links(tree))


def main():
    here = pathlib.Path(__file__).resolve().parent
    findings = all_checks(read_tree(here.parents[1]), (here / "layers.txt").read_text())
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
