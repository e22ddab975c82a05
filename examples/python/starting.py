# SPDX-License-Identifier: MIT
"""Many short processes: by the fork server, with what they import loaded beforehand."""

import json

import sidestep as mp


def work(number, results):
    results.put(json.dumps({"number": number, "square": number * number}))


def main():
    ctx = mp.get_context("forkserver")
    ctx.set_forkserver_preload(["json"], on_error="fail")
    results = ctx.Queue()
    workers = [ctx.Process(target=work, args=(i, results)) for i in range(8)]
    ctx.start_all(workers)
    print(sum(json.loads(results.get())["square"] for _ in workers))
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
