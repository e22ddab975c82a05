# SPDX-License-Identifier: MIT
"""torch.multiprocessing over sidestep; needs torch."""

import importlib.util
import subprocess
import sys

import pytest

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs torch", allow_module_level=True)

PROGRAM = """if 1:
    import multiprocessing, sys
    import torch, torch.multiprocessing as mp
    def work(requests, replies, shared, done):
        shared += 1
        for tensor in iter(requests.get, None):
            tensor += 1
            replies.put((tensor.is_shared(), torch.ones(3)))
        done.wait()
    def add(i, shared):
        shared[i] += 10
    if __name__ == "__main__":
        assert multiprocessing.__name__ == "sidestep"
        method, strategy = sys.argv[1:]
        mp.set_sharing_strategy(strategy)
        ctx = mp.get_context(method)
        requests, replies, done = ctx.Queue(), ctx.Queue(), ctx.Event()
        shared, tensor = torch.zeros(2).share_memory_(), torch.zeros(1000)
        worker = ctx.Process(target=work, args=(requests, replies, shared, done))
        worker.start()
        requests.put(tensor)
        is_shared, ones = replies.get(timeout=60)
        print(is_shared, ones.sum().item(), tensor.sum().item(), shared.tolist())
        requests.put(None)
        done.set()
        worker.join()
        if method == "spawn":
            mp.spawn(add, args=(shared,), nprocs=2)
            print(shared.tolist())
"""

COPIES = """if 1:
    import sidestep, torch
    q = sidestep.Queue()
    q.put(torch.arange(3))
    print(q.get().tolist())
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("strategy", ["file_descriptor", "file_system"])
def test_tensors_share_their_memory(tmp_path, method, strategy):
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    lines = subprocess.check_output(
        [sys.executable, "-m", "sidestep", str(script), method, strategy],
        text=True,
        timeout=120,
    ).splitlines()
    assert lines[0] == "True 3.0 1000.0 [1.0, 1.0]"
    assert lines[1:] == (["[11.0, 11.0]"] if method == "spawn" else [])


def test_without_the_alias_they_are_copied():
    out = subprocess.check_output([sys.executable, "-c", COPIES], text=True, timeout=60)
    assert out.split("\n")[0] == "[0, 1, 2]"
