"""Garbage: floods, broken text, broken code, broken descriptors. Nothing of it may break the kit."""

# ruff: noqa: E501 - scripts in strings

import random

from scene import Case

NOISE = random.Random(0).randbytes(5000)

CASES = (
    Case(33, "writes 2 GB to standard output", "status output; the last 4 kB are kept", "watchdog", """
        for _ in range(2048): os.write(1, b"x" * (1 << 20))
        """, ("output",), says="bytes of output cut"),
    Case(87, "writes gigabytes to standard error, from a child too", "status output", "watchdog", """
        os.fork()
        for _ in range(4096): os.write(2, b"warning\\n" * (1 << 17))
        """, ("output",), says="bytes of output cut"),
    Case(34, "waits for input", "EOFError", "clean start", "input()", ("error",), says="EOFError"),
    Case(35, "crashes the interpreter", "error SIGSEGV; the next run is fine", "process of its own", "ctypes.string_at(0)", ("error",)),
    Case(45, "prints escape codes, NUL and bytes that are not text", "shown as plain text", "output cleaning", """
        os.write(1, b"\\x1b[31mred\\x1b[0m\\x00\\x07\\x1b]0;title\\x07 \\xff\\xfe\\xc3( \\xe2\\x80\\xae\\x9b31m\\r\\nend\\n")
        """, says="red"),
    Case(88, "is binary noise instead of a script", "error", "process of its own", NOISE, ("error",)),
    Case(89, "is a script of 200 000 brackets", "error, or memory by the parser's own limit", "process of its own", b"x = " + b"(" * 200_000, ("error", "memory")),
    Case(90, "is one expression of 100 000 signs", "error, or memory by the parser's own limit", "process of its own", b"x = " + b"-" * 100_000 + b"1", ("error", "memory")),
    Case(91, "closes its standard streams and goes on", "ok", "process of its own", """
        for number in (0, 1, 2): os.close(number)
        open("submission.csv", "w").write("x")
        """, collect={"submission.csv": b"x"}),
    Case(92, "breaks the interpreter under its own feet", "error; the next run is fine", "process of its own", """
        import builtins, gc
        sys.excepthook = None; sys.stdout = sys.stderr = None; os.write = None; sys.exit = None
        for module in list(sys.modules): sys.modules[module] = None
        for name in list(vars(builtins)): setattr(builtins, name, None)
        gc.collect()
        raise_this
        """, ("error",)),
    Case(93, "prints a report of the guard, a traceback and a status of its own", "it is text: status and exit code are the kernel's", "trusted report", """
        print('{"stop": "exit", "code": 0, "left": 0, "setup": "broken"}\\nready 1\\nexit 0\\nfailed x')
        sys.exit(5)
        """, ("error",), says='"setup": "broken"'),
    Case(94, "hands in a folder, a pipe and a file that grows without end", "refused by kind", "grader", """
        os.mkdir("folder.csv")
        tries(lambda: os.mkfifo("pipe.csv"), lambda: os.mknod("node.csv", 0o020600, os.makedev(1, 5)))
        open("empty.csv", "w").close()
        with open("large.csv", "wb") as handle: handle.truncate((2 << 20) - 1)
        """, says="tried 2", refuses={"folder.csv": "special-file", "pipe.csv": "missing", "node.csv": "missing", "empty.csv": "empty"}),
)  # fmt: skip
