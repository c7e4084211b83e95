"""System calls of a save: recorded, made to fail one by one, and replayed as a lost power supply.

The replay follows ALICE and CrashMonkey: what has not been fsynced may be missing after the power
comes back, each write and each change of a name for itself, in any combination.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DRIVER = Path(__file__).with_name("crash_driver.py")
STRACE = shutil.which("strace")
CHANGING = (
    "write,pwrite64,writev,pwritev,fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat,"
    "openat,creat,unlink,unlinkat,rmdir,chmod,fchmod,ftruncate,truncate,link,linkat,symlink"
)
RAW, PATHS = ("-xx", "-s", "10000000"), ("-y", "-s", "1")
"""All bytes, for a replay; or the path of each file and folder, for a look."""
LINE = re.compile(r"(?P<pid>\d+)\s+(?P<name>\w+)\((?P<args>.*)\)\s+= (?P<result>-?\d+)")
MANY_PENDING = 11
"""Up to so many, all combinations of missing operations are tried; beyond, some at random."""


class Driver:
    """The warm process of `crash_driver.py`, or of another program that talks as it does."""

    def __init__(self, program=DRIVER, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, program, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def run(self, command, fault="", point=None, calls=CHANGING, show=RAW, always=()):
        """Work under strace; give the exit status, and the lines of the child's trace.

        Args:
            command: what the child is to do.
            fault: what is injected, in strace's words; nothing when empty.
            point: at which call: its name, and how many of that name come first.
            calls: what is recorded.
            show: how strace shows what is recorded.
            always: faults of every call, in strace's words.
        """
        options = ["-f", *show, "-e", f"trace={calls}"]
        options += [item for each in always for item in ("-e", f"inject={each}")]
        if fault:
            options += ["-e", f"inject={point[0]}:{fault}:when={point[1] + 1}"]
        self.tell(json.dumps(command))
        child = self.process.stdout.readline().strip()
        with tempfile.NamedTemporaryFile("r") as trace:
            options += ["-o", trace.name, "-p", child]
            strace = subprocess.Popen([STRACE, *options], stderr=subprocess.PIPE, text=True)
            strace.stderr.readline()  # it says so when it is attached, or why it cannot be
            self.tell("go")
            status = int(self.process.stdout.readline())
            strace.communicate()
            lines = trace.read().splitlines()
        return status, [line for line in lines if line.split()[0] == child and "(" in line]

    def close(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


class Fresh:
    """Starts a stage anew for each crash point: what computes by MLX does not survive a fork."""

    def run(self, given, fault="", point=None, calls=CHANGING, show=RAW, always=(), root=None):
        """Work under strace; as `Driver.run`, for the name of a stage and its arguments.

        Args:
            given: the name of the stage, and its arguments.
            fault: as for `Driver.run`, like those that follow.
            point: at which call.
            calls: what is recorded.
            show: how strace shows it.
            always: faults of every call.
            root: where the stage keeps what it has done; the repository if None.
        """
        name, arguments = given
        environment = {**os.environ, **({"DVC_ROOT": str(root)} if root else {})}
        options = ["-f", *show, "-e", f"trace={calls}"]
        options += [item for each in always for item in ("-e", f"inject={each}")]
        if fault:
            options += ["-e", f"inject={point[0]}:{fault}:when={point[1] + 1}"]
        command = [sys.executable, "-m", f"stages.{name}", *arguments]
        with tempfile.NamedTemporaryFile("r") as trace:
            words = [STRACE, *options, "-o", trace.name, *command]
            done = subprocess.run(
                words, cwd=DRIVER.parents[2], env=environment, capture_output=True, check=False
            )
            lines = trace.read().splitlines()
        child = lines[0].split()[0]
        return done.returncode, [line for line in lines if line.split()[0] == child and "(" in line]


def points(trace):
    """List each call of a trace by its name, and how many of that name came before it."""
    seen, found = Counter(), []
    for line in trace:
        name = line.split()[1].split("(")[0]
        found.append((name, seen[name]))
        seen[name] += 1
    return found


def readable(line):
    """Give a line of a trace with its strings as text."""
    return ascii(re.sub(r"\\x([0-9a-f]{2})", lambda found: chr(int(found[1], 16)), line))


@dataclass(frozen=True)
class Operation:
    """One change of one inode, or the fsync that makes all changes of it durable.

    Attributes:
        kind: `data`, `names` or `sync`.
        inode: what is changed; a new name is a change of the folder that it is in.
        change: for data, offset and bytes; for names, a new content by name, None where it goes.
        label: what the call was, for messages.
    """

    kind: str
    inode: int
    change: object
    label: str


class Recording:
    """The operations on a folder, from traces of the processes that worked in it.

    Inode 0 is the folder. An inode is `bytes` or, as a folder, a dictionary of inodes by name.
    """

    def __init__(self, base, before, traces):
        """Replay traces.

        Args:
            base: the folder that the processes worked in.
            before: a copy of it, made before they did.
            traces: lines of strace, one list for each process.
        """
        self.base, self.operations, self.initial = str(base), [], {}
        self.load(before)
        self.live = {key: self.copy(value) for key, value in self.initial.items()}
        for trace in traces:
            self.descriptors = {}
            for line in trace:
                if found := LINE.match(line):
                    self.call(found["name"], found["args"], int(found["result"]))

    @staticmethod
    def copy(value):
        return dict(value) if isinstance(value, dict) else value

    def load(self, path):
        """Take a file or folder that was there before; give its inode."""
        inode = len(self.initial)
        self.initial[inode] = None
        if path.is_dir():
            self.initial[inode] = {item.name: self.load(item) for item in sorted(path.iterdir())}
        else:
            self.initial[inode] = path.read_bytes()
        return inode

    def parts(self, path):
        """Split a path into names below the folder; None where it lies outside."""
        if path == self.base:
            return []
        if not path.startswith(f"{self.base}/"):
            return None
        return path[len(self.base) + 1 :].split("/")

    def find(self, parts):
        inode = 0
        for part in parts:
            inode = self.live[inode].get(part)
            if inode is None:
                return None
        return inode

    def new(self, value):
        inode = len(self.live)
        self.live[inode] = value
        return inode

    def add(self, kind, inode, change, label):
        self.operations.append(Operation(kind, inode, change, label))
        apply(self.live, self.operations[-1])

    def call(self, name, args, result):
        """Note what a call has changed; one that failed has changed nothing."""
        strings = [bytes.fromhex(text.replace("\\x", "")) for text in re.findall(r'"(.*?)"', args)]
        if result >= 0:
            getattr(self, f"on_{name}")(args, strings, result)

    def place(self, args, path):
        """Give folder inode and name of a path, which may be relative to a descriptor."""
        text = path.decode()
        if not text.startswith("/"):
            folder = self.descriptors.get(int(args.split(",")[0]))
            return (None if folder is None else folder[0]), text
        parts = self.parts(text)
        return (self.find(parts[:-1]), parts[-1]) if parts else (None, text)

    def on_openat(self, args, strings, result):
        parts = self.parts(strings[0].decode()) if strings[0].startswith(b"/") else None
        if parts is None:
            folder, name = self.place(args, strings[0])
            inode = None if folder is None else self.live[folder].get(name)
        else:
            inode = self.find(parts)
            if inode is None:
                inode = self.new(b"")
                self.add("names", self.find(parts[:-1]), {parts[-1]: inode}, f"create {parts[-1]}")
            elif "O_TRUNC" in args:
                raise NotImplementedError(f"an existing file is overwritten: {parts}")
        self.descriptors.pop(result, None)
        if inode is not None:
            self.descriptors[result] = [inode, 0]

    def on_write(self, args, strings, result):
        if (entry := self.descriptors.get(int(args.split(",")[0]))) is not None:
            change = (entry[1], strings[-1][:result])
            self.add("data", entry[0], change, f"write {result} bytes")
            entry[1] += result

    def on_fsync(self, args, strings, result):
        if (entry := self.descriptors.get(int(args))) is not None:
            self.add("sync", entry[0], None, "fsync")

    on_fdatasync = on_fsync

    def on_mkdir(self, args, strings, result):
        folder, name = self.place(args, strings[0])
        if folder is not None:
            self.add("names", folder, {name: self.new({})}, f"mkdir {name}")

    def on_rename(self, args, strings, result):
        (folder, old), (target, new) = (self.place(args, text) for text in strings)
        assert folder == target, "a rename into another folder"
        if folder is not None:
            change = {old: None, new: self.live[folder][old]}
            self.add("names", folder, change, f"rename {old} {new}")

    def on_unlink(self, args, strings, result):
        folder, name = self.place(args, strings[0])
        if folder is not None:
            self.add("names", folder, {name: None}, f"remove {name}")

    on_unlinkat = on_rmdir = on_unlink

    def on_chmod(self, args, strings, result):
        """A mode is no content."""

    def pending(self, length):
        """List the operations, among the first `length`, that a power loss may undo."""
        synced, found = set(), []
        for index in reversed(range(length)):
            operation = self.operations[index]
            if operation.kind == "sync":
                synced.add(operation.inode)
            elif operation.inode not in synced:
                found.append(index)
        return found[::-1]

    def state(self, length, missing, damage):
        """Give the tree after a power loss, as bytes by path, None for a folder.

        Args:
            length: so many operations were begun.
            missing: those of them that did not reach the disk.
            damage: what stands in a file instead of a missing write: `absent`, `zeros`, `half`.
        """
        inodes = {key: self.copy(value) for key, value in self.initial.items()}
        for key, value in self.live.items():
            inodes.setdefault(key, {} if isinstance(value, dict) else b"")
        for index, operation in enumerate(self.operations[:length]):
            if index not in missing:
                apply(inodes, operation)
            elif operation.kind == "data" and damage != "absent":
                apply(inodes, spoilt(operation, damage))
        return frozenset(walk(inodes, 0, ""))

    def losses(self, length, thorough):
        """List the sets of pending operations that a test lets go missing together."""
        pending = self.pending(length)
        if thorough and len(pending) <= MANY_PENDING:
            subsets = range(len(pending) + 1)
            return [set(c) for size in subsets for c in itertools.combinations(pending, size)]
        losses = [set(), set(pending)]
        losses += [{index} for index in pending] + [set(pending) - {index} for index in pending]
        if thorough:
            picks = np.random.default_rng(length).random((200, len(pending))) < 0.5
            losses += [set(np.array(pending)[pick].tolist()) for pick in picks]
        return losses


def apply(inodes, operation):
    """Carry out an operation on inodes."""
    if operation.kind == "names":
        names = inodes[operation.inode]
        names.update(operation.change)
        for name in [name for name, inode in names.items() if inode is None]:
            del names[name]
    if operation.kind == "data":
        offset, data = operation.change
        old = inodes[operation.inode].ljust(offset, b"\0")
        inodes[operation.inode] = old[:offset] + data + old[offset + len(data) :]


def spoilt(operation, damage):
    """Put zeros in the place of what was written, or of its second half."""
    offset, data = operation.change
    good = data[: len(data) // 2] if damage == "half" else b""
    return Operation("data", operation.inode, (offset, good.ljust(len(data), b"\0")), "spoilt")


def walk(inodes, inode, path):
    """Yield path and content of everything that has a name."""
    value = inodes[inode]
    yield path, None if isinstance(value, dict) else value
    if isinstance(value, dict):
        for name, child in value.items():
            yield from walk(inodes, child, f"{path}/{name}")


def write_state(state, folder):
    """Put a tree on a real disk."""
    for path, content in sorted(state):
        place = Path(f"{folder}{path}")
        if content is None:
            place.mkdir()
        else:
            place.write_bytes(content)
