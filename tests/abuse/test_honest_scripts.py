"""Honest scripts, which every tier has to let through: a false alarm would be paid for by the policy."""

# ruff: noqa: E501 - scripts in strings

from __future__ import annotations

import textwrap

import pytest
from test_abuse import tiers

from mlagent_lib.core.limits import Limits
from mlagent_lib.environment.isolation import landlock
from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.runner import Runner, RunRequest, RunResult, probe

pytestmark = pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")

HONEST = {
    "joblib": """
        import numpy as np
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.model_selection import cross_val_score
        x = np.random.rand(120, 4)
        print(cross_val_score(RandomForestClassifier(5), x, (x[:, 0] > .5).astype(int), n_jobs=2, cv=3).mean() > .5)
    """,
    "threads": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool: print(list(pool.map(abs, [-1, -2])) == [1, 2])
    """,
    "temporary files": """
        import os, tempfile
        with tempfile.TemporaryDirectory() as folder:
            open(folder + "/x", "w").write("1"); ok = os.listdir(folder) == ["x"]
        with tempfile.NamedTemporaryFile() as handle: handle.write(b"x")
        print(ok)
    """,
    "tables and arrays": """
        import joblib, numpy as np, pandas as pd
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}).to_pickle("a.pkl"); joblib.dump(np.arange(9), "m.joblib", compress=3)
        m = np.memmap("m.dat", dtype="f4", mode="w+", shape=(10,)); m[:] = 1; m.flush()
        print(pd.read_pickle("a.pkl").shape == (2, 2) and joblib.load("m.joblib").sum() == 36 and m.sum() == 10)
    """,
    "subprocesses": """
        import subprocess, sys
        a = subprocess.run([sys.executable, "-c", "import json; print(6 * 7)"], capture_output=True, text=True).stdout
        b = subprocess.run("echo hi | tr a-z A-Z", shell=True, capture_output=True, text=True).stdout
        print((a, b) == ("42\\n", "HI\\n"))
    """,
    "copies and moves": """
        import os, shutil
        open("s.txt", "w").write("x"); shutil.copy2("s.txt", "t.txt"); os.makedirs("d/e"); shutil.copytree("d", "d2")
        os.replace("t.txt", "u.txt"); os.rename("u.txt", "d/u.txt"); shutil.move("d/u.txt", "v.txt"); shutil.rmtree("d2")
        os.chmod("v.txt", 0o644); left = sorted(os.listdir("."))
        shutil.make_archive("z", "zip", "d"); shutil.unpack_archive("z.zip", "zz")
        print(left == ["d", "data", "s.txt", "train.py", "v.txt"] and os.path.isdir("zz/e"))
    """,
    "database and log": """
        import logging, sqlite3
        c = sqlite3.connect("x.db"); c.execute("create table t(a)"); c.execute("insert into t values(1)"); c.commit()
        logging.basicConfig(filename="l.log", level=20); logging.info("hi"); logging.shutdown()
        print(c.execute("select count(*) from t").fetchone() == (1,) and "hi" in open("l.log").read())
    """,
    "asyncio": """
        import asyncio
        async def five():
            await asyncio.sleep(0.01)
            return 5
        print(asyncio.run(five()) == 5)
    """,
    "the machine": """
        import datetime, getpass, locale, os, platform, secrets, threadpoolctl, uuid
        import sklearn.svm
        print(all([os.cpu_count(), platform.platform(), getpass.getuser(), uuid.uuid4().version == 4, threadpoolctl.threadpool_info()]))
    """,
    "models": """
        import numpy as np
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.neural_network import MLPClassifier
        from sklearn.svm import SVC
        x = np.random.rand(300, 5); y = (x[:, 0] + x[:, 1] > 1).astype(int)
        print(all(m.fit(x, y).predict(x).shape == (300,) for m in (HistGradientBoostingClassifier(max_iter=5), SVC(), MLPClassifier(max_iter=5))))
    """,
    "datasets made, not loaded": """
        from sklearn.datasets import make_classification
        import statsmodels.api
        print(make_classification(20)[0].shape == (20, 20))
    """,
    "network that is not there": """
        import urllib.request
        try: urllib.request.urlopen("http://127.0.0.1:9", timeout=2)
        except OSError as error: print("clean error" in f"clean error {error}")
    """,
    "the task's data": """
        import csv, os, numpy as np, pandas as pd
        frame = pd.read_csv("data/train.csv")
        rows = list(csv.DictReader(open(os.path.realpath("data/train.csv"))))
        print(frame.shape == (4, 2) and len(rows) == 4 and np.loadtxt("data/train.csv", delimiter=",", skiprows=1).sum() == 12)
    """,
    "a figure": """
        import os
        import matplotlib.pyplot as plt
        plt.plot([1, 2]); plt.title("loss"); plt.savefig("loss.png"); print(os.path.getsize("loss.png") > 100)
    """,
    "a queue and a lock": """
        import queue, threading
        box, lock, total = queue.Queue(), threading.Lock(), []
        def work():
            with lock: total.append(box.get())
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads: thread.start()
        for number in range(4): box.put(number)
        for thread in threads: thread.join()
        print(sorted(total) == [0, 1, 2, 3])
    """,
    "a socket pair and a pipe": """
        import multiprocessing, os, socket
        one, other = socket.socketpair(); one.sendall(b"x"); here, there = multiprocessing.Pipe(); here.send([1])
        child = multiprocessing.get_context("fork").Process(target=os._exit, args=(7,)); child.start(); child.join()
        print(other.recv(1) == b"x" and there.recv() == [1] and child.exitcode == 7)
    """,
    "a mapping of a deleted file": """
        import mmap, os, tempfile, time
        kept = []
        for _ in range(12):
            handle = tempfile.TemporaryFile(); handle.write(b"x" * 4096); handle.flush()
            kept.append(mmap.mmap(handle.fileno(), 4096)); handle.close()
        time.sleep(0.6)
        print(all(m[:1] == b"x" for m in kept))
    """,
    "threads that end while others run": """
        import threading, time
        for _ in range(20):
            threads = [threading.Thread(target=time.sleep, args=(0.02,)) for _ in range(8)]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        print(True)
    """,
    "its own memory use": """
        import importlib.util, resource
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if importlib.util.find_spec("psutil"):  # not a dependency of the kit
            import psutil
            used = min(used, psutil.virtual_memory().total, psutil.Process().memory_info().rss)
        print(used > 0)
    """,
}  # fmt: skip
WORKERS = {
    "pools of all kinds": """
        import multiprocessing, os
        from concurrent.futures import ProcessPoolExecutor
        def square(x): return x * x
        if __name__ == "__main__":
            with ProcessPoolExecutor(2) as pool: made = [list(pool.map(square, range(3)))]
            for kind in ("fork", "spawn", "forkserver"):
                with multiprocessing.get_context(kind).Pool(2) as pool: made.append(pool.map(square, range(3)))
            print(made == [[0, 1, 4]] * 4 and multiprocessing.Pool(1).apply(os.getpid) != os.getpid())
    """,
    "locks, events and shared values": """
        import multiprocessing, queue
        def count(number, numbers, lock, start, done):
            start.wait()
            for _ in range(300):
                with number.get_lock(): number.value += 1
                with lock, lock: numbers[0] += 0.5
            done.put(multiprocessing.current_process().name)
        number, numbers, lock = multiprocessing.Value("i"), multiprocessing.Array("d", 2, lock=False), multiprocessing.RLock()
        start, done = multiprocessing.Event(), multiprocessing.Queue()
        workers = [multiprocessing.Process(target=count, args=(number, numbers, lock, start, done)) for _ in range(3)]
        for worker in workers: worker.start()
        try: late = done.get(timeout=0.2)
        except queue.Empty: late = None
        start.set()
        names = {done.get() for _ in workers}
        for worker in workers: worker.join()
        print((late, len(names), number.value, list(numbers)) == (None, 3, 900, [450.0, 0.0]))
    """,
    "a manager and a listener": """
        import multiprocessing, os
        from multiprocessing.connection import Client, Listener
        def fill(table, key): table[key] = key * key
        def call():
            with Client("door", authkey=b"secret") as line:
                line.send(b"x" * 300_000)
                try: line.recv()
                except EOFError: os._exit(7)
        with multiprocessing.Manager() as manager:
            table = manager.dict()
            workers = [multiprocessing.Process(target=fill, args=(table, key)) for key in range(3)]
            for worker in workers: worker.start()
            for worker in workers: worker.join()
            made = dict(table)
        with Listener("door", authkey=b"secret") as listener:
            caller = multiprocessing.Process(target=call)
            caller.start()
            with listener.accept() as line: size = len(line.recv())
            caller.join()
        print((made, size, caller.exitcode, os.path.exists("door")) == ({0: 0, 1: 1, 2: 4}, 300_000, 7, False))
    """,
    "loaders of PyTorch": """
        import torch
        from torch.utils.data import DataLoader, TensorDataset
        rows = torch.arange(1000.0).reshape(500, 2)
        total = sum(float(batch.sum()) for batch, in DataLoader(TensorDataset(rows), 32, shuffle=True, num_workers=2))
        views = DataLoader(TensorDataset(rows), 100, num_workers=2, persistent_workers=True, collate_fn=lambda rows: rows)
        big = DataLoader(TensorDataset(torch.ones(4, 3, 1500, 1500)), 4, num_workers=1)  # 108 MB: more than /dev/shm has
        print(total == 499_500 and sum(len(batch) for _ in range(2) for batch in views) == 1000
              and sum(int(batch.sum()) for batch, in big) == 27_000_000)
    """,
    "tensors on their way between processes": """
        import torch, torch.multiprocessing as mp
        def double(tensor): return tensor * 2
        square = torch.arange(9.0).reshape(3, 3)
        sent = [square[1], square.T, torch.empty(0, 3), torch.tensor(2), square.to(torch.bfloat16), square > 3]
        with mp.Pool(2) as pool: right = [torch.equal(a * 2, b) for a, b in zip(sent, pool.map(double, sent))]
        mp.set_sharing_strategy("file_system")
        line = mp.Queue()
        line.put([square, square.view(9), torch.nn.Linear(2, 1), square.untyped_storage()])
        one, same, layer, memory = line.get()
        one.add_(1)
        print(all(right) and same[0] == 1 and square[0, 0] == 0 and layer.weight.shape == (1, 2) and memory.nbytes() == 36)
    """,
    "a data set mapped by two processes": """
        from datasets import Dataset
        table = Dataset.from_dict({"a": list(range(100))})
        print(sum(table.map(lambda row: {"b": 2 * row["a"]}, num_proc=2)["b"]) == 9900)
    """,
}  # fmt: skip
LIMITS = Limits(seconds=60.0)  # several processes share the memory of a run, so an ordinary budget


@pytest.fixture(scope="module", params=tiers())
def runner(request):
    if request.param not in probe().available:
        pytest.skip(f"{request.param} does not work here: {probe().failed.get(request.param)}")
    with Runner(workers=1, tier=request.param) as pool:
        pool.warm()
        yield pool


def run(runner: Runner, script: str, data) -> RunResult:
    source = textwrap.dedent(script).encode()
    return runner.run(RunRequest({"train.py": source}, data, "train.py", LIMITS, ()))


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_script_works(runner, tmp_path, name):
    if name == "copies and moves" and landlock.abi() < 2:
        pytest.skip("this kernel's Landlock refuses to move files between folders")
    (tmp_path / "train.csv").write_text("x,y\n1,0\n2,1\n3,1\n4,0\n")
    result = run(runner, HONEST[name], tmp_path)
    assert (result.status, "True" in result.output) == ("ok", True), result.output


@pytest.mark.parametrize("name", WORKERS)
def test_workers_of_a_script_work(runner, name):
    result = run(runner, WORKERS[name], None)
    assert (result.status, result.output.strip().split("\n")[-1]) == ("ok", "True"), result.output


def test_an_error_of_a_loaders_worker_ends_the_run(runner):
    script = """
        from torch.utils.data import DataLoader
        class Rows:
            def __len__(self): return 4
            def __getitem__(self, number): raise KeyError("bad row")
        next(iter(DataLoader(Rows(), num_workers=2)))
    """
    result = run(runner, script, None)
    assert (result.status, result.error_type) == ("error", "KeyError"), result.output


def test_a_loader_draws_the_same_numbers_each_time_and_works_where_pytorch_is_warm(runner):
    script = """
        import random
        import numpy as np, torch
        class Rows:
            def __len__(self): return 4
            def __getitem__(self, number):
                return torch.rand(1).item(), np.random.rand(), random.random(), np.random.default_rng().random()
        print(torch.rand(2).tolist())
        print(list(torch.utils.data.DataLoader(Rows(), 2, shuffle=True, num_workers=2)))
    """
    results = [run(runner, script, None) for _ in range(2)]
    with Runner(workers=1, tier=runner.tier, modules=("numpy", "torch")) as warm:
        elsewhere = run(warm, script, None)
    assert {result.status for result in (*results, elsewhere)} == {"ok"}, results
    assert results[0].output == results[1].output
    # what torch.manual_seed(0) gives
    first = [float(number) for number in elsewhere.output.split("\n")[0].strip("[]").split(", ")]
    assert first == pytest.approx([0.49625659, 0.76822180], abs=1e-7)
    assert results[0].output.split("\n")[0] == elsewhere.output.split("\n")[0]


def test_memory_that_pytorch_shares_is_shared_or_refused(runner):
    script = """
        import torch, torch.multiprocessing as mp
        def add(numbers): numbers.add_(1)
        if __name__ == "__main__":
            numbers = torch.zeros(2).share_memory_()
            for kind in ("fork", "spawn"):
                worker = mp.get_context(kind).Process(target=add, args=(numbers,))
                worker.start()
                worker.join()
            print(numbers.tolist())
    """
    result = run(runner, script, None)
    if "T3" in runner.tier:
        assert (result.status, result.output) == ("ok", "[2.0, 2.0]\n"), result.output
    else:  # it would lie in /dev/shm, which every process of the machine shares
        assert (result.status, result.error_type) == ("error", "RuntimeError"), result.output
        assert "shared memory" in result.output and "Permission denied" in result.output
